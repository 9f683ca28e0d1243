//! One failure, and where it came from.
//!
//! # Promises
//!
//! 1. A leaf is what its scope recorded: it gains notes while it travels, and loses nothing.
//! 2. Making one runs nobody's code, so a scope may do it under its lock.
//! 3. Dropping one never unwinds, whatever the error or payload does.
//!
//! # Does not know
//!
//! The group that it is in. Its texts are in `render`.

use smol_str::SmolStr;
use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    borrow::Cow,
    error::Error,
    fmt, mem,
    panic::Location,
    sync::Arc,
    thread,
    time::Duration,
};

use super::panic::{Payload, drop_guarded};
use crate::cancel::reason::{Cancelled, TimedOut, is_looked_for};

/// Identifies a job, or the body of a scope, among all of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

impl JobId {
    pub(crate) fn new(id: u64) -> Self {
        JobId(id)
    }

    /// Returns the number, which is what `Display` shows.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Whose failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Job,
    /// The body of the scope, which is called `body`.
    Body,
    /// Code that was given a part of a group, and is called `handler`.
    Handler,
}

/// Where a failure came from, as the scope knows it.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) id: JobId,
    /// A job without a name is called after its place and number.
    pub(crate) name: Option<SmolStr>,
    pub(crate) role: Role,
    /// Where the job was spawned; for the body, where the scope was opened; for a handler, where it was called.
    pub(crate) place: &'static Location<'static>,
    /// Counts the spawns of the scope, from one.
    pub(crate) number: u64,
    /// The names from the root on, such as `crawl/B/parse/B.1`.
    pub(crate) path: Arc<str>,
    /// From the opening of the scope to the recording of the failure.
    pub(crate) offset: Duration,
    /// From the start of the job to its end.
    pub(crate) took: Duration,
    pub(crate) thread: Arc<str>,
}

impl Origin {
    /// What the job is called, without quotes.
    pub(crate) fn name(&self) -> Cow<'_, str> {
        match (self.role, &self.name) {
            (Role::Body, _) => Cow::Borrowed("body"),
            (Role::Handler, _) => Cow::Borrowed("handler"),
            (Role::Job, Some(name)) => Cow::Borrowed(name),
            (Role::Job, None) => Cow::Owned(format!("{}:{}#{}", self.place.file(), self.place.line(), self.number)),
        }
    }
}

/// The name of this thread, or its number.
pub(crate) fn thread_name() -> Arc<str> {
    let thread = thread::current();
    match thread.name() {
        Some(name) => name.into(),
        None => format!("{:?}", thread.id()).into(),
    }
}

/// How a job failed.
pub(crate) enum Failure {
    Error(anyhow::Error),
    Panic(Box<dyn Any + Send>),
    /// It was told to stop, and the stop goes on outwards.
    Stopped(Cancelled),
    TimedOut(TimedOut),
}

pub(super) enum Cause {
    Error(anyhow::Error),
    Panic(Payload),
    Stopped(Cancelled),
    TimedOut {
        error: TimedOut,
        /// The same, as the source of the leaf.
        source: TimedOut,
    },
    /// Taken out of a leaf that is about to go.
    Gone,
}

/// Tells of one failure: what happened, in which job, where and when.
///
/// An error or a panic of a job, or of the body of a scope. Leaves come in an [`ErrorGroup`](crate::ErrorGroup).
///
/// `Display` says who failed, such as ``job `b` failed``; the job's error is the [`source`](Error::source), and `{:#}`
/// shows both. `Debug` adds place, time and notes, and in the form `{:#?}` the backtrace if one was captured.
///
/// # Examples
///
/// ```
/// let group = tassel::scope(|s| {
///     s.job("load").spawn(|| -> tassel::Result<()> { panic!("no such word") });
///     Ok(())
/// })
/// .unwrap_err();
///
/// let leaf = group.primary();
/// assert_eq!(leaf.name(), "load");
/// assert_eq!(leaf.panic_message(), Some("no such word"));
/// assert_eq!(leaf.payload_ref::<&str>(), Some(&"no such word"));
/// ```
pub struct Leaf(Box<Facts>);

struct Facts {
    origin: Origin,
    cause: Cause,
    primary: bool,
    during_cancellation: bool,
    notes: Vec<String>,
    also: Vec<JobId>,
    joined: Option<JobId>,
}

impl Leaf {
    pub(crate) fn new(origin: Origin, failure: Failure, during_cancellation: bool) -> Self {
        let cause = match failure {
            Failure::Error(error) => Cause::Error(error),
            Failure::Panic(payload) => Cause::Panic(Payload::new(payload)),
            Failure::Stopped(stop) => Cause::Stopped(stop),
            Failure::TimedOut(error) => Cause::TimedOut { source: error.behind_leaf(), error },
        };
        Leaf(Box::new(Facts {
            origin,
            cause,
            primary: false,
            during_cancellation,
            notes: Vec::new(),
            also: Vec::new(),
            joined: None,
        }))
    }

    /// With what was said around the failure before it was recorded, oldest first.
    pub(crate) fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.0.notes = notes;
        self
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.0.origin
    }

    pub(super) fn cause(&self) -> &Cause {
        &self.0.cause
    }

    pub(super) fn cause_mut(&mut self) -> &mut Cause {
        &mut self.0.cause
    }

    pub(super) fn set_primary(&mut self, primary: bool) {
        self.0.primary = primary;
    }

    pub(super) fn notes_mut(&mut self) -> &mut Vec<String> {
        &mut self.0.notes
    }

    /// Jobs whose failure was that this one had failed: their leaves are not in the group.
    pub(super) fn also(&self) -> &[JobId] {
        &self.0.also
    }

    pub(super) fn also_mut(&mut self) -> &mut Vec<JobId> {
        &mut self.0.also
    }

    /// The job whose failure this leaf only tells again.
    pub(super) fn joined(&self) -> Option<JobId> {
        self.0.joined
    }

    pub(super) fn set_joined(&mut self, joined: Option<JobId>) {
        self.0.joined = joined;
    }

    /// Returns the id of the job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.0.origin.id
    }

    /// Returns what the job is called.
    ///
    /// A job that was given no name is called after its place and number, such as `src/main.rs:12#3`; the body of a
    /// scope is called `body`, what failed in [`ErrorGroup::handle`](crate::ErrorGroup::handle) is called `handler`.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        self.0.origin.name()
    }

    /// Returns the names on the way to the job, such as `crawl/B/parse/B.1`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.origin.path
    }

    /// Returns where the job was spawned; for a body, where its scope was opened.
    #[must_use]
    pub fn place(&self) -> &'static Location<'static> {
        self.0.origin.place
    }

    /// Returns when the failure was recorded, counted from the opening of the scope.
    #[must_use]
    pub fn offset(&self) -> Duration {
        self.0.origin.offset
    }

    /// Returns how long the job ran.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.0.origin.took
    }

    /// Returns the name of the thread that ran the job, or its id if it has none.
    #[must_use]
    pub fn thread(&self) -> &str {
        &self.0.origin.thread
    }

    /// Returns whether this is the first failure of its scope.
    ///
    /// Where the first failure of a scope came as the group of an inner scope, it is the inner scope's first. Taking a
    /// group apart does not change it.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.0.primary
    }

    /// Returns whether the scope was already being cancelled when the job failed.
    #[must_use]
    pub fn during_cancellation(&self) -> bool {
        self.0.during_cancellation
    }

    /// Returns what was said about the failure while it travelled, oldest first.
    ///
    /// If a job fails only because another had failed, the context that it added becomes notes of that other's leaf.
    /// Where a scope, or a job with a time limit of its own, was told to stop, the contexts around its
    /// [`Cancelled`](crate::Cancelled) are notes of its leaf: all that the body added, and a few of those that jobs did.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// Appends a note, which trees show below the leaf.
    ///
    /// Leaves inside a group are given notes by [`ErrorGroup::note_leaves`](crate::ErrorGroup::note_leaves).
    pub fn add_note(&mut self, note: impl Into<String>) {
        self.0.notes.push(note.into());
    }

    /// Returns the error that the job returned.
    ///
    /// There is none if the job panicked, was stopped or timed out.
    #[must_use]
    pub fn error(&self) -> Option<&anyhow::Error> {
        match &self.0.cause {
            Cause::Error(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the job's error as an `E`, if it is one beneath its contexts.
    ///
    /// Finds [`Cancelled`](crate::Cancelled) and [`TimedOut`] too.
    /// Panics are asked for by [`payload_ref`](Self::payload_ref).
    #[must_use]
    pub fn downcast_ref<E>(&self) -> Option<&E>
    where
        E: fmt::Display + fmt::Debug + Send + Sync + 'static,
    {
        match &self.0.cause {
            Cause::Error(error) => error.downcast_ref::<E>(),
            Cause::Stopped(stop) => (stop as &dyn Any).downcast_ref::<E>(),
            Cause::TimedOut { error, .. } => (error as &dyn Any).downcast_ref::<E>(),
            Cause::Panic(_) | Cause::Gone => None,
        }
    }

    /// Turns the leaf into its job's error, with the notes as contexts.
    ///
    /// A stop becomes the [`Cancelled`](crate::Cancelled) that it was. A panic has no error of its own: there the leaf
    /// itself becomes the error, and can be had back by `downcast::<Leaf>()`.
    #[must_use]
    pub fn into_error(mut self) -> anyhow::Error {
        let error = match mem::replace(&mut self.0.cause, Cause::Gone) {
            Cause::Error(error) => error,
            Cause::Stopped(stop) => stop.into(),
            Cause::TimedOut { error, .. } => error.into(),
            cause @ (Cause::Panic(_) | Cause::Gone) => {
                self.0.cause = cause;
                return self.into();
            }
        };
        mem::take(&mut self.0.notes).into_iter().fold(error, anyhow::Error::context)
    }

    /// Returns the stop, if the job did nothing else than to stop when told.
    #[must_use]
    pub fn stop(&self) -> Option<&Cancelled> {
        match &self.0.cause {
            Cause::Stopped(stop) => Some(stop),
            _ => None,
        }
    }

    /// Returns whether the job panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.0.cause, Cause::Panic(_))
    }

    /// Returns the message of the panic, if the job panicked.
    ///
    /// It is `Box<dyn Any>` for payloads other than strings.
    #[must_use]
    pub fn panic_message(&self) -> Option<&str> {
        match &self.0.cause {
            Cause::Panic(payload) => Some(payload.text().as_str()),
            _ => None,
        }
    }

    /// Returns the payload of the panic, if the job panicked with a `P`.
    #[must_use]
    pub fn payload_ref<P: Any + Send + Sync>(&self) -> Option<&P> {
        match &self.0.cause {
            Cause::Panic(payload) => payload.get(),
            _ => None,
        }
    }

    /// Returns the payload of the panic, if the job panicked.
    #[must_use]
    pub fn payload_mut(&mut self) -> Option<&mut (dyn Any + Send)> {
        match &mut self.0.cause {
            Cause::Panic(payload) => payload.get_mut(),
            _ => None,
        }
    }

    /// Takes the payload of the panic.
    ///
    /// # Errors
    ///
    /// Returns the leaf itself if the job did not panic.
    pub fn into_payload(mut self) -> Result<Box<dyn Any + Send>, Leaf> {
        match &mut self.0.cause {
            Cause::Panic(payload) => payload.take().ok_or(self),
            _ => Err(self),
        }
    }

    /// Returns the backtrace of the job's error, if one was captured.
    #[must_use]
    pub fn backtrace(&self) -> Option<&Backtrace> {
        self.error().map(anyhow::Error::backtrace).filter(|trace| trace.status() == BacktraceStatus::Captured)
    }
}

impl Error for Leaf {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0.cause {
            _ if is_looked_for() => Some(self),
            Cause::Error(error) => Some(&**error),
            Cause::Panic(payload) => Some(payload.text()),
            Cause::Stopped(stop) => Some(stop),
            Cause::TimedOut { source, .. } => Some(source),
            Cause::Gone => None,
        }
    }
}

impl Drop for Leaf {
    /// Drops the error or payload under a guard: a panic there goes no further.
    fn drop(&mut self) {
        drop_guarded(mem::replace(&mut self.0.cause, Cause::Gone));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{UnwindSafe, resume_unwind};

    use super::*;
    use crate::error::given::{body, failed, job, panicked, stop, timeout, unnamed};

    fn leaf(failure: Failure) -> Leaf {
        Leaf::new(job(7, "load"), failure, false)
    }

    #[derive(Debug)]
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            resume_unwind(Box::new(Bomb));
        }
    }

    impl fmt::Display for Bomb {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            resume_unwind(Box::new(Bomb));
        }
    }

    impl Error for Bomb {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            resume_unwind(Box::new(Bomb));
        }
    }

    #[test]
    fn a_leaf_goes_everywhere_and_is_one_pointer() {
        fn anywhere<T: Error + Send + Sync + UnwindSafe + 'static>() {}
        anywhere::<Leaf>();
        assert_eq!(size_of::<Leaf>(), size_of::<usize>());
    }

    #[test]
    fn a_job_without_a_name_is_called_after_its_place() {
        let place = unnamed(3).place;
        assert_eq!(unnamed(3).name(), format!("{}:{}#3", place.file(), place.line()));
        assert_eq!(job(3, "load").name(), "load");
        assert_eq!(body(1).name(), "body");
    }

    #[test]
    fn a_leaf_tells_where_it_came_from() {
        let leaf = leaf(failed("disk full"));
        assert_eq!((leaf.id().get(), leaf.id().to_string()), (7, "7".to_owned()));
        assert_eq!((leaf.name(), leaf.path(), leaf.thread()), (Cow::Borrowed("load"), "crawl/job", "main"));
        assert_eq!((leaf.offset(), leaf.took()), (Duration::from_secs(7), Duration::from_secs(1)));
        assert_eq!(leaf.place(), job(7, "load").place);
        assert!(!leaf.during_cancellation() && !leaf.is_primary() && !leaf.is_panic() && leaf.stop().is_none());
    }

    #[test]
    fn an_error_is_lent_downcast_and_had_by_value_with_the_notes_as_contexts() {
        let mut leaf = leaf(Failure::Error(anyhow::Error::new(fmt::Error).context("inner")));
        assert_eq!(leaf.error().unwrap().to_string(), "inner");
        assert!(leaf.downcast_ref::<fmt::Error>().is_some());
        leaf.notes_mut().extend(["older".to_owned(), "newer".to_owned()]);
        let error = leaf.into_error();
        assert!(error.is::<fmt::Error>());
        assert!(format!("{error:#}").starts_with("newer: older: inner: "));
    }

    #[test]
    fn stops_and_timeouts_are_errors_too() {
        assert!(leaf(Failure::Stopped(stop("s"))).downcast_ref::<Cancelled>().is_some());
        assert!(leaf(Failure::Stopped(stop("s"))).stop().is_some());
        assert!(leaf(Failure::Stopped(stop("s"))).into_error().is::<Cancelled>());
        assert!(leaf(Failure::TimedOut(timeout("s"))).downcast_ref::<TimedOut>().is_some());
        assert!(leaf(Failure::TimedOut(timeout("s"))).into_error().is::<TimedOut>());
        assert!(leaf(Failure::TimedOut(timeout("s"))).stop().is_none());
    }

    #[test]
    fn a_panic_keeps_its_payload_also_as_an_error() {
        let mut leaf = leaf(panicked("boom"));
        assert!(leaf.is_panic() && leaf.error().is_none());
        assert_eq!(leaf.panic_message(), Some("boom"));
        assert_eq!(leaf.source().unwrap().to_string(), "boom");
        assert_eq!(leaf.payload_ref::<&'static str>(), Some(&"boom"));
        *leaf.payload_mut().unwrap().downcast_mut::<&'static str>().unwrap() = "bang";
        let leaf = leaf.into_error().downcast::<Leaf>().unwrap();
        assert_eq!(*leaf.into_payload().unwrap().downcast::<&'static str>().unwrap(), "bang");
    }

    #[test]
    fn a_leaf_that_is_no_panic_has_no_payload() {
        let mut leaf = leaf(failed("disk full"));
        assert!(leaf.payload_mut().is_none() && leaf.payload_ref::<String>().is_none());
        assert!(leaf.panic_message().is_none());
        assert_eq!(leaf.into_payload().unwrap_err().error().unwrap().to_string(), "disk full");
    }

    #[test]
    fn an_error_that_panics_wherever_it_can_does_not_get_through() {
        let leaf = leaf(Failure::Error(anyhow::Error::new(Bomb)));
        assert_eq!(leaf.to_string(), "job `load` failed");
        assert_eq!(format!("{leaf:#}"), "job `load` failed: <the error's Display panicked>");
        drop(leaf);
        drop(self::leaf(Failure::Panic(Box::new(Bomb))));
    }
}
