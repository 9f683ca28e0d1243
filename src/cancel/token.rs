//! A public handle on a node: [`CancelToken`].
//!
//! # Promises
//!
//! 1. Dropping a token never cancels.
//! 2. A token of a scope or region that was left says that it is cancelled, and changes nothing any more.
//!
//! # Does not know
//!
//! What its node stands for.

use crate::{
    cancel::{
        callback::Registration,
        current::{self, Frame, Strand},
        deadline::Deadline,
        node::{Node, Parents},
        reason::{Label, Reason, ReasonKind},
    },
    park::{clock::Clock, seat},
    value,
};
use crossbeam::channel::Receiver;
use std::{
    convert::Infallible,
    fmt,
    ops::Deref,
    panic::Location,
    sync::Arc,
    time::{Duration, Instant},
};

/// A handle by which any thread can stop, or see stopped, a scope, a job, a region, or a tree of tokens of its own.
///
/// Cheap to clone; clones are the same token. A cancel is sticky and reaches everything below: child tokens, and
/// the scopes, jobs and regions whose token this is or that were opened with
/// [`ScopeOptions::under`](crate::ScopeOptions::under); but nothing behind a [`shield`](crate::region::shield), and code in
/// [`cleanup`](crate::region::cleanup) only when its time is over. Dropping a token never cancels anything.
///
/// A scope that a *token* stops was stopped against its will: its result is an `Err`, also if the token is a clone of
/// its own. So it is if somebody else stops one of its jobs by the job's token. For the quiet stop of a scope that has what it needs there is [`Scope::cancel`](crate::Scope::cancel).
///
/// # Examples
///
/// ```
/// use tassel::{CancelToken, ScopeOptions, sleep};
/// # use std::time::Duration;
/// let token = CancelToken::new();
/// token.cancel_with("closing time");
/// let group = ScopeOptions::new()
///     .name("shop")
///     .under(&token)
///     .open(|_| Ok(sleep(Duration::from_secs(3600))?))
///     .unwrap_err();
/// assert!(group.to_string().contains("closing time"));
/// ```
#[derive(Clone)]
pub struct CancelToken {
    node: Arc<Node>,
}

impl CancelToken {
    pub(crate) fn of(node: &Arc<Node>) -> Self {
        CancelToken { node: Arc::clone(node) }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Makes a token that is nobody's child.
    ///
    /// Inside a virtual-time run it belongs to the run's clock.
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "a default would not know the place that made it")]
    pub fn new() -> Self {
        let label = Label::new("token", None, Location::caller());
        CancelToken { node: Node::new(&Parents::default(), label, current::clock(), None) }
    }

    /// Returns the token of the code that runs here: of the innermost region, else the job, else (in a body) the scope.
    ///
    /// Outside all of these it is a fresh token that is nobody's parent.
    #[must_use]
    #[track_caller]
    pub fn current() -> Self {
        match current::node() {
            Some(node) => CancelToken { node },
            None => CancelToken::new(),
        }
    }

    /// Makes a token below this one: it is cancelled with it, and can be cancelled alone.
    ///
    /// A child of a token that is cancelled, or of a scope that was left, is born cancelled.
    #[must_use]
    #[track_caller]
    pub fn child(&self) -> Self {
        let label = Label::new("token", None, Location::caller());
        let parents = Parents { parent: Some(&self.node), also: None };
        CancelToken { node: Node::new(&parents, label, self.node.clock().clone(), None) }
    }

    /// Cancels everything below this token, from any thread, at any time.
    ///
    /// When it returns, everything below is marked, and every wait of the library below comes to its end: where many wait,
    /// those who wake up first wake the others, so the call does not take longer for them. It runs no code of yours but
    /// callbacks of [`on_cancel`](CancelToken::on_cancel). The first cause wins; a second cancel changes nothing.
    ///
    /// A job that cancels its own token, in an inner scope or not, stops by the will of its scope: quietly, as if by
    /// [`JobHandle::cancel`](crate::JobHandle::cancel). If anybody else does, and the job stops or never starts because of
    /// it, the scope's result is an `Err`; its siblings go on.
    #[track_caller]
    pub fn cancel(&self) {
        self.cancel_for(ReasonKind::Explicit, None, Location::caller());
    }

    /// Cancels as [`cancel`](CancelToken::cancel) does, with a text for the [`Reason`].
    #[track_caller]
    pub fn cancel_with(&self, text: impl Into<String>) {
        self.cancel_for(ReasonKind::Explicit, Some(text.into()), Location::caller());
    }

    /// Cancels as [`cancel_with`](CancelToken::cancel_with) does, with a reason of kind
    /// [`Signal`](ReasonKind::Signal). Not to be called *in* a signal handler (it takes locks), but by the thread that
    /// the handler tells.
    #[track_caller]
    pub fn cancel_by_signal(&self, name: impl Into<String>) {
        self.cancel_for(ReasonKind::Signal, Some(name.into()), Location::caller());
    }

    /// Cancels as [`cancel`](CancelToken::cancel) does, and ends [`cleanup`](crate::region::cleanup) below after `grace`.
    ///
    /// The grace is one budget for all cleanup below, and runs from this call. It takes the place of the one that
    /// [`ScopeOptions::grace`](crate::ScopeOptions::grace) gave to the cancelled scope itself; those of inner scopes stay,
    /// and the earliest end counts. Called on what is cancelled already, it can bring the end nearer, and nothing else.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tassel::{CancelToken, checkpoint, region::cleanup};
    /// let token = CancelToken::new();
    /// token.cancel_with_grace(Duration::from_secs(3600));
    /// token.enter(|| {
    ///     assert!(checkpoint().is_err());
    ///     assert!(cleanup(Duration::from_secs(60), || Ok(checkpoint()?)).is_ok());
    ///     token.cancel_now();
    ///     assert!(cleanup(Duration::from_secs(60), || Ok(checkpoint()?)).is_err());
    /// });
    /// ```
    #[track_caller]
    pub fn cancel_with_grace(&self, grace: Duration) {
        cancel_within(&self.node, grace, Location::caller(), self.is_of_this_job());
    }

    /// Cancels as [`cancel`](CancelToken::cancel) does, [`cleanup`](crate::region::cleanup) included: what is still being
    /// cleaned up below ends now.
    ///
    /// For the second Ctrl-C. The reason stays that of the first cancel. Shields are not reached.
    #[track_caller]
    pub fn cancel_now(&self) {
        cancel_within(&self.node, Duration::ZERO, Location::caller(), self.is_of_this_job());
    }

    fn cancel_for(&self, kind: ReasonKind, text: Option<String>, place: &'static Location<'static>) {
        // A signal is nobody's will here, whoever passes it on.
        let by_will = kind == ReasonKind::Explicit && self.is_of_this_job();
        cancel(&self.node, kind, text, place, by_will);
    }

    /// Whether a cancel by the code here is that of a job by itself: the will of its scope (D2).
    fn is_of_this_job(&self) -> bool {
        current::is_in_job_of(&self.node)
    }

    /// Tells whether this token, or anything above it, was cancelled, or its deadline has passed.
    ///
    /// One atomic load, also below a deadline (after the first look). Never blocks.
    #[must_use]
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.node.is_cancelled()
    }

    /// Returns why it is cancelled; `None` if it is not.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        if self.is_cancelled() { self.node.reason() } else { None }
    }

    /// Returns the earliest deadline in force: this token's own or one above, up to a shield. Readable after it has passed.
    ///
    /// In a [`cleanup`](crate::region::cleanup) region the end of the grace is one, too, once it is known.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.node.deadline()
    }

    /// Moves this token's own deadline: earlier, later, or with `None` away. From any thread, at any time.
    ///
    /// The deadline is that of the scope, job or region whose token this is. One above stays in force: see
    /// [`deadline`](CancelToken::deadline) for the earliest. When this returns, it holds for everything below, also for code
    /// that waits there: an earlier deadline ends the wait when it comes, a later one disturbs nobody.
    ///
    /// An instant that has passed cancels before this returns. A deadline that has passed already is not moved any more: what
    /// it cancelled stays cancelled. On a token that was cancelled, or whose scope was left, it changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tassel::{CancelToken, now, region::move_on_after, sleep};
    /// let slept = move_on_after(Duration::from_secs(3600), || {
    ///     // Less time, after all.
    ///     CancelToken::current().set_deadline(Some(now() + Duration::from_millis(1)));
    ///     Ok(sleep(Duration::from_secs(60))?)
    /// })?;
    /// assert_eq!(slept, None);
    /// # Ok::<(), tassel::Error>(())
    /// ```
    #[track_caller]
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        let place = Location::caller();
        self.node.set_deadline(deadline.map(|at| Deadline { at, limit: None, place }));
    }

    /// Returns a channel that never has a message and disconnects on the cancel, for a `select!` of your own.
    ///
    /// It tells of this token. Inside a `fail_after`, a `shield` or a `cleanup`, take that of
    /// [`current`](CancelToken::current) *there*: one from outside does not know of the limit, and behind a shield it is
    /// disconnected when [`checkpoint`](crate::checkpoint) has nothing to say, so that a loop would spin. The other arms pass
    /// what they get through [`channel::received`](crate::channel::received).
    ///
    /// # Examples
    ///
    /// ```
    /// use tassel::channel::{received, select, unbounded};
    /// let token = tassel::CancelToken::new();
    /// let (_sender, work) = unbounded::<u32>();
    /// let stop = token.receiver();
    /// token.cancel();
    /// let got = select! {
    ///     recv(work) -> message => Some(received(message)?),
    ///     recv(stop) -> _ => None,
    /// };
    /// assert_eq!(got, None);
    /// # Ok::<(), tassel::Error>(())
    /// ```
    #[must_use]
    pub fn receiver(&self) -> CancelReceiver {
        CancelReceiver { receiver: self.node.receiver(), _node: Arc::clone(&self.node) }
    }

    /// Has `callback` called once when this token is cancelled, or now if it is already.
    ///
    /// It runs on the cancelling thread (for a deadline: on a thread of the library or of a waiter), outside any scope,
    /// and when everything below is marked and all waiters are waking up, whatever it does; a panic in it is isolated. It must
    /// be short. It is not called for a scope or region that is merely left. Dropping the result unregisters the callback;
    /// afterwards it is not running, unless it is dropped inside the callback itself.
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) -> OnCancel {
        OnCancel { _registration: self.node.on_cancel(Box::new(callback)) }
    }

    /// Runs `f` on this thread as code below this token: its checkpoints see this token's cancel and deadline.
    ///
    /// What it returns is returned, whether cancelled or not. [Values](crate::value) do not come along: those that are bound
    /// where it is called are seen in `f`, not those of where the token is from. [`bind`](CancelToken::bind) carries them.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        self.enter_as(&Guest::new(self.node.clock()), f)
    }

    fn enter_as<R>(&self, guest: &Guest, f: impl FnOnce() -> R) -> R {
        let path = self.node.label().name();
        let label = Label { what: "token", number: 0, ..self.node.label().clone() };
        let strand = Strand::at(label, path, guest.order, &self.node);
        let inlined = current::with(|frame| frame.map_or(0, |frame| frame.inlined));
        current::enter(Frame { inlined, ..Frame::of(&strand) }, f)
    }

    /// Carries the token to another thread: the result runs `f` as [`enter`](CancelToken::enter) would, wherever it is
    /// called. [Values](crate::value) that are bound here are bound there, too.
    ///
    /// It does not hold a scope open. On a stealing pool such as rayon's every closure must be bound: an unbound one
    /// may see the context of whatever it was stolen beneath.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{thread, time::Duration};
    /// use tassel::{CancelToken, sleep};
    /// let token = CancelToken::new();
    /// let sleeper = thread::spawn(token.bind(|| sleep(Duration::from_secs(3600))));
    /// token.cancel();
    /// assert!(sleeper.join().unwrap().is_err());
    /// ```
    pub fn bind<R, F: FnOnce() -> R>(&self, f: F) -> impl FnOnce() -> R + use<R, F> {
        let token = self.clone();
        let invitation = Invitation::new(self.node.clock());
        let values = value::here();
        move || {
            let guest = Guest::new(token.node.clock());
            drop(invitation);
            value::instead(values.as_ref(), || token.enter_as(&guest, f))
        }
    }
}

/// Cancels a node: the one way in which explicit cancels are made.
pub(crate) fn cancel(
    node: &Arc<Node>,
    kind: ReasonKind,
    text: Option<String>,
    place: &'static Location<'static>,
    by_will: bool,
) {
    let reason = Reason::new(kind, node.label().clone(), node.clock().now()).place_is(place);
    let reason = match text {
        Some(text) => reason.text_is(text),
        None => reason,
    };
    node.cancel(&reason, by_will);
}

/// Cancels a node, and ends cleanup below it after `grace`.
pub(crate) fn cancel_within(node: &Arc<Node>, grace: Duration, place: &'static Location<'static>, by_will: bool) {
    let reason = Reason::new(ReasonKind::Explicit, node.label().clone(), node.clock().now()).place_is(place);
    node.cancel_within(&reason, by_will, Some(grace));
}

/// Holds the clock of a virtual run until bound code begins, or is dropped.
struct Invitation {
    run: Option<(Clock, u64)>,
}

impl Invitation {
    fn new(clock: &Clock) -> Self {
        Invitation { run: clock.run().map(|run| (clock.clone(), run.invite())) }
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        if let Some((clock, number)) = &self.run {
            if let Some(run) = clock.run() {
                run.uninvite(*number);
            }
        }
    }
}

/// A foreign thread's part in a virtual run, for as long as bound code runs there.
struct Guest {
    clock: Option<Clock>,
    order: u64,
}

impl Guest {
    fn new(clock: &Clock) -> Self {
        let Some(run) = clock.run() else { return Guest { clock: None, order: 0 } };
        let order = current::with(|frame| {
            frame.filter(|frame| frame.line.nearest().clock().is_same(clock)).map(|frame| frame.line.order())
        });
        if let Some(order) = order {
            return Guest { clock: None, order }; // a thread of the run itself: it has the baton
        }
        // Not if it moves in this run already, below a frame of another clock: then it keeps the baton at the end.
        let entered = seat::with_chair(|chair| run.enter_guest(chair.seat()));
        Guest { clock: entered.then(|| clock.clone()), order: run.next_order() }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(run) = self.clock.as_ref().and_then(Clock::run) {
            seat::with_chair(|chair| run.end(chair.seat()));
        }
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("CancelToken");
        f.field("of", &self.node.label().to_string());
        f.field("cancelled", &self.node.reason()).finish()
    }
}

/// A channel that never has a message and disconnects when its token is cancelled; see [`CancelToken::receiver`].
///
/// Use it where a `&Receiver` is expected. It keeps its token's place alive.
#[derive(Clone)]
pub struct CancelReceiver {
    receiver: Receiver<Infallible>,
    // Subtle: the sender lives in the node. Without this, dropping all tokens would look like a cancel.
    _node: Arc<Node>,
}

impl Deref for CancelReceiver {
    type Target = Receiver<Infallible>;

    fn deref(&self) -> &Receiver<Infallible> {
        &self.receiver
    }
}

impl fmt::Debug for CancelReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelReceiver").finish_non_exhaustive()
    }
}

/// Keeps a callback registered; see [`CancelToken::on_cancel`].
#[derive(Debug)]
#[must_use = "dropping the registration unregisters the callback"]
pub struct OnCancel {
    _registration: Registration,
}
