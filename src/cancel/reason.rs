//! Why code was told to stop: [`Reason`], and [`Cancelled`], the stop on its way out.
//!
//! # Promises
//!
//! 1. A reason is made once, where the stop was asked for, and shared from there: every node below shows the
//!    same origin, never the relay.
//! 2. A [`Cancelled`] names the scope, job, region or token that was told to stop, why, and where.
//!
//! # Does not know
//!
//! Nodes, jobs, threads. It is data.

use smol_str::SmolStr;
use std::{
    cell::Cell,
    error::Error,
    fmt, io,
    panic::Location,
    sync::Arc,
    time::{Duration, Instant},
};

/// What a node of the cancellation tree stands for, with its name and the place that made it.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    pub(crate) what: &'static str,
    pub(crate) name: Option<SmolStr>,
    pub(crate) place: &'static Location<'static>,
    /// A job's number in its scope, from 1; tells apart what one line makes.
    pub(crate) number: u64,
}

impl Label {
    pub(crate) fn new(what: &'static str, name: Option<SmolStr>, place: &'static Location<'static>) -> Self {
        Label { what, name, place, number: 0 }
    }

    /// The name, or the place and number instead.
    pub(crate) fn name(&self) -> SmolStr {
        match (&self.name, self.number) {
            (Some(name), _) => name.clone(),
            (None, 0) => format!("{}:{}", self.place.file(), self.place.line()).into(),
            (None, number) => format!("{}:{}#{number}", self.place.file(), self.place.line()).into(),
        }
    }

    /// The names from the root to what this is, if those above are `path`. A job adds its own.
    pub(crate) fn path_below(&self, path: &Arc<str>) -> Arc<str> {
        match self.number {
            0 => Arc::clone(path),
            _ => format!("{path}/{}", self.name()).into(),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.what, self.name())
    }
}

/// Kinds of [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReasonKind {
    /// Somebody called a `cancel` method of a scope, a job's handle or a token.
    Explicit,
    /// A timeout or deadline passed.
    Deadline,
    /// A job, or the body, of the scope failed.
    Failure,
    /// A signal such as Ctrl-C arrived.
    Signal,
    /// The scope or region was left, and this hung below it still.
    Closed,
    /// Queued jobs can never start: no thread can be had, and all threads wait for these jobs.
    Starved,
    /// The pool is shutting down, or was made before this process was forked.
    Shutdown,
    /// In a virtual-time run, everybody waits and nothing can end the waits.
    Deadlock,
}

/// Tells why something was cancelled, by whom, where and when.
///
/// The first cause wins: a later cancel of the same scope does not change its reason. Below a cancelled scope every
/// job and token shows the same reason, that of the origin.
///
/// `Display` gives one line, such as ``deadline of 2s (src/main.rs:4)`` or ``job `b` failed``.
#[derive(Clone)]
pub struct Reason(Arc<Origin>);

struct Origin {
    kind: ReasonKind,
    who: Label,
    text: Option<Box<str>>,
    limit: Option<Duration>,
    place: Option<&'static Location<'static>>,
    at: Instant,
}

impl Reason {
    pub(crate) fn new(kind: ReasonKind, who: Label, at: Instant) -> Self {
        Reason(Arc::new(Origin { kind, who, text: None, limit: None, place: None, at }))
    }

    fn edit(mut self, change: impl FnOnce(&mut Origin)) -> Self {
        if let Some(origin) = Arc::get_mut(&mut self.0) {
            change(origin);
        }
        self
    }

    pub(crate) fn text_is(self, text: impl Into<Box<str>>) -> Self {
        let text = text.into();
        self.edit(|o| o.text = Some(text))
    }

    pub(crate) fn limit_is(self, limit: Option<Duration>) -> Self {
        self.edit(|o| o.limit = limit)
    }

    pub(crate) fn place_is(self, place: &'static Location<'static>) -> Self {
        self.edit(|o| o.place = Some(place))
    }

    /// Tells whether both come from one cancel.
    pub(crate) fn is_same(&self, other: &Reason) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the kind of cause.
    #[must_use]
    pub fn kind(&self) -> ReasonKind {
        self.0.kind
    }

    /// Returns the text given to `cancel_with`, or the message that goes with the kind.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.0.text.as_deref()
    }

    /// What stands behind *was cancelled*: the reason, but without that word of its own.
    pub(crate) fn behind_cancelled(&self) -> String {
        let text = self.to_string();
        match text.strip_prefix("cancelled").filter(|_| self.kind() == ReasonKind::Explicit) {
            Some(rest) => rest.to_owned(),
            None => format!(": {text}"),
        }
    }

    /// Returns what was stopped first, such as ``scope `crawl` ``: the origin, from which it spread downwards.
    #[must_use]
    pub fn who(&self) -> String {
        self.0.who.to_string()
    }

    /// Returns the place of the cancelling call, or where the deadline was set, if known.
    #[must_use]
    pub fn place(&self) -> Option<&'static Location<'static>> {
        self.0.place
    }

    /// Returns when it happened, by the clock of the cancelled scope (see [`now`](crate::now)).
    #[must_use]
    pub fn at(&self) -> Instant {
        self.0.at
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &*self.0;
        match (o.kind, o.text.as_deref(), o.limit) {
            (ReasonKind::Explicit, Some(text), _) => write!(f, "cancelled: {text}")?,
            (ReasonKind::Explicit, None, _) => f.write_str("cancelled")?,
            (ReasonKind::Deadline, _, Some(limit)) => write!(f, "deadline of {limit:?}")?,
            (ReasonKind::Deadline, _, None) => f.write_str("deadline")?,
            (ReasonKind::Closed, _, _) => write!(f, "{} was left", o.who)?,
            (_, Some(text), _) => f.write_str(text)?,
            (ReasonKind::Failure, None, _) => f.write_str("a job failed")?,
            (ReasonKind::Signal, None, _) => f.write_str("signal")?,
            (ReasonKind::Starved, None, _) => f.write_str("starved")?,
            (ReasonKind::Shutdown, None, _) => f.write_str("the pool is shutting down")?,
            (ReasonKind::Deadlock, None, _) => f.write_str("deadlock")?,
        }
        match o.place {
            Some(place) => write!(f, " ({}:{})", place.file(), place.line()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reason({:?}: {self})", self.0.kind)
    }
}

/// The error by which code that was told to stop unwinds: every checkpoint below a cancelled scope returns it.
///
/// Pass it on with `?`. The scope (or region) that was cancelled takes it in; see the table in
/// [`design`](crate::docs::design). It converts into an [`io::Error`] and back, never of kind
/// [`Interrupted`](io::ErrorKind::Interrupted), which std retries for ever.
///
/// It may travel inside other errors, as long as it stays in the chain of their sources: beneath contexts of `anyhow`, in
/// an `io::Error`, in a variant of your own, with `#[source]`, `#[from]` or `#[error(transparent)]`. The scope looks for
/// it there, and keeps what was wrapped around it as [notes](crate::Leaf::notes). If an error that was caused by a cancel
/// is to count as a failure, return it without the `Cancelled` in its chain.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::{Cancelled, region::move_on_after, sleep};
///
/// #[derive(Debug, thiserror::Error)]
/// enum FetchError {
///     #[error("no route to {0}")]
///     NoRoute(String),
///     #[error(transparent)]
///     Stopped(#[from] Cancelled),
/// }
///
/// fn fetch(url: &str) -> Result<String, FetchError> {
///     sleep(Duration::from_secs(3600))?;
///     Err(FetchError::NoRoute(url.to_owned()))
/// }
///
/// let page = move_on_after(Duration::from_millis(1), || Ok(fetch("a.example")?));
/// assert_eq!(page?, None);
/// # Ok::<(), tassel::Error>(())
/// ```
#[derive(Clone)]
pub struct Cancelled(Reason);

impl Cancelled {
    pub(crate) fn new(reason: Reason) -> Self {
        Cancelled(reason)
    }

    /// Returns why.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.0
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was stopped: {}", self.0.0.who, self.0)
    }
}

impl fmt::Debug for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancelled({self})")
    }
}

impl Error for Cancelled {
    /// None; to the library's own search, itself.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if is_looked_for() { Some(self) } else { None }
    }
}

thread_local! {
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `ask`, a call of some error's `source`, so that an error of the library which is asked in it answers with itself.
///
/// An error that forwards `source`, such as an `io::Error` or a `transparent` enum of `thiserror`, hides what it holds:
/// its source is already the source of that. Only the hidden error can tell that it is there.
pub(crate) fn looking<R>(ask: impl FnOnce() -> R) -> R {
    LOOKING.set(true);
    let answer = ask();
    LOOKING.set(false);
    answer
}

/// Whether this call of `source` comes from the library's search.
///
/// True once for each question: a `source` of the user that walks down a chain by itself comes to an end.
pub(crate) fn is_looked_for() -> bool {
    LOOKING.replace(false)
}

impl From<Cancelled> for io::Error {
    fn from(stop: Cancelled) -> Self {
        io::Error::other(stop)
    }
}

impl TryFrom<io::Error> for Cancelled {
    type Error = io::Error;

    /// Takes the stop out of an `io::Error` that holds one.
    ///
    /// # Errors
    ///
    /// Returns the error unchanged if it holds anything else.
    fn try_from(error: io::Error) -> Result<Self, io::Error> {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Cancelled>()) {
            Some(stop) => Ok(stop.clone()),
            None => Err(error),
        }
    }
}

/// The error of a time limit that passed: `fail_after`, `fail_at`, a job's `timeout`, a scope's `timeout` or `deadline`.
///
/// An ordinary failure, never mistaken for a [`Cancelled`].
#[derive(Clone)]
pub struct TimedOut {
    reason: Reason,
    /// Who timed out has been said.
    who_is_told: bool,
}

impl TimedOut {
    pub(crate) fn new(reason: Reason) -> Self {
        TimedOut { reason, who_is_told: false }
    }

    /// The same, as it stands behind the text of its leaf: only the deadline is new there.
    pub(crate) fn behind_leaf(&self) -> Self {
        TimedOut { who_is_told: true, ..self.clone() }
    }

    /// Returns the deadline that passed, as a reason.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.who_is_told {
            write!(f, "{} timed out: ", self.reason.0.who)?;
        }
        write!(f, "{}", self.reason)
    }
}

impl fmt::Debug for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimedOut({self})")
    }
}

impl Error for TimedOut {}

impl From<TimedOut> for io::Error {
    fn from(error: TimedOut) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, error)
    }
}
