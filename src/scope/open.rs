//! Opening a scope, and spawning into it: [`scope`], [`Scope`], [`JobBuilder`].
//!
//! # Promises
//!
//! 1. A scope returns after its last job, whatever happened (S1); so borrowing locals is safe. The proof is in
//!    `raw/tether.rs`.
//! 2. Nothing is lost: every failure, also a panic of the body, is in the group.
//!
//! # Does not know
//!
//! How jobs run and wait.

use crate::{
    cancel::{
        callback::Registration,
        current::{self, Frame, Ground, Line, Seed, Strand},
        deadline::Deadline,
        node::{Hook, Node, Parents, Terms},
        reason::{Cancelled, Label, Reason, ReasonKind},
        roots::Listed,
        token::{self, CancelToken},
    },
    error::{ErrorGroup, Failure, JobId, Leaf, Log, Origin, Role, ScopeInfo, thread_name},
    park::clock::Clock,
    pool::{self, Refused},
    raw::{self, Face, Tally, Tether},
    scope::{
        core::{Core, Setup},
        handle::JobHandle,
        job::Facts,
        options::{OnFailure, OnPanic, ScopeOptions},
        run,
    },
};
use smol_str::SmolStr;
use std::{
    convert::Infallible,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, Location, catch_unwind},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// What a body or a job may return: [`anyhow::Result<T>`] or `()`.
///
/// Sealed. A closure that never returns (`|| panic!()`) will do as well.
///
/// The type of the error is fixed, so that `?` takes every error and a closure needs no annotation. What to write where
/// the compiler complains all the same:
///
/// | it says | write |
/// |---|---|
/// | `the trait Return is not implemented for Result<_, E>` | `Ok(call()?)` instead of `call()` |
/// | ``cannot use the `?` operator in a closure that returns `()` `` | `Ok(())` at the end |
/// | ``cannot use the `?` operator in a closure that returns `!` ``: a loop that only `?` leaves | <code>\|\| -> tassel::Result<()> { loop { .. } }</code> |
/// | `type annotations needed`: the closure only ever fails | <code>\|\| -> tassel::Result<()> { Err(..) }</code> |
#[diagnostic::on_unimplemented(
    message = "a job or a scope's body returns `tassel::Result<T>` or `()`, not `{Self}`",
    note = "end the closure with `Ok(value)`, and use `?` for errors: a call with an error type of its own is `Ok(call()?)`",
    note = "where nothing fixes the type, as in a loop that only `?` leaves, write `|| -> tassel::Result<()> {{ .. }}`"
)]
pub trait Return: sealed::Sealed {
    /// What [`join`](JobHandle::join) and [`scope`] give back.
    type Value;

    #[doc(hidden)]
    fn into_result(self) -> anyhow::Result<Self::Value>;
}

mod sealed {
    #[expect(unnameable_types, reason = "sealed: nobody outside may name it")]
    pub trait Sealed {}
    impl<T> Sealed for anyhow::Result<T> {}
    impl Sealed for () {}
    impl Sealed for super::Never {}
}

impl<T> Return for anyhow::Result<T> {
    type Value = T;

    fn into_result(self) -> anyhow::Result<T> {
        self
    }
}

impl Return for () {
    type Value = ();

    fn into_result(self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The type `!`, which has no name on stable: what `fn() -> !` returns.
type Never = <fn() -> ! as Output>::Output;

/// Names what a function pointer returns.
#[expect(unnameable_types, reason = "a way to write `!`, for nobody outside")]
pub trait Output {
    /// That.
    type Output;
}

impl<R> Output for fn() -> R {
    type Output = R;
}

#[doc(hidden)]
#[diagnostic::do_not_recommend]
impl Return for Never {
    type Value = Never;

    fn into_result(self) -> anyhow::Result<Never> {
        self
    }
}

/// Opens a scope: runs `body`, which may spawn jobs, and returns when everybody is home.
///
/// The body runs on this thread. Jobs run on a pool of threads, or on this thread while it waits. Whatever outlives the
/// call can be borrowed by all of them.
///
/// The first failure cancels the scope: the other jobs and the body meet a [`Cancelled`] at their next
/// [`checkpoint`](crate::checkpoint), and jobs that have not started never do. [`ScopeOptions`] has other ways.
///
/// It may be opened anywhere: on a thread of rayon or tokio, in a `Drop` while the thread unwinds (then no job runs on this
/// thread), in the destructor of a thread-local. Two things to know there:
///
/// * A job that runs on this thread, while the thread waits at the end or in a `join`, sees its thread-locals: a `RefCell`
///   borrowed around the scope, a runtime that has been entered. Where that matters, use
///   [`ScopeOptions::inline`]`(false)` or [`own_thread`](JobBuilder::own_thread).
/// * A thread of somebody else's pool that waits here is blocked, as that pool sees it: a job that waits for something which
///   only that thread would do waits for ever.
///
/// # Cancellation
///
/// Not a checkpoint by itself: an empty scope in a cancelled place returns the body's value. A cancel from outside stops
/// the jobs; the call goes on waiting for them.
///
/// # Errors
///
/// Returns an [`ErrorGroup`] with every failure, if there was one: an `Err`, or a panic, of a job or of the body. Also
/// if nothing failed, but a deadline, a token or a cancel from outside stopped anything before it was done.
///
/// # Panics
///
/// A panic in the body or in a job is caught and becomes a leaf of the group, with its payload; so `scope` asserts
/// that what the closures capture is unwind safe. With `panic = "abort"` nothing is caught: the process ends. If
/// something of the library itself panics while jobs are running, the process is aborted, since borrowed memory would
/// go away under them.
///
/// # Examples
///
/// ```
/// let words = ["to", "be", "or"];
/// let total = tassel::scope(|s| {
///     let jobs: Vec<_> = words.iter().map(|w| s.spawn(|| Ok(w.len()))).collect();
///     let mut total = 0;
///     for job in jobs {
///         total += job.join()?;
///     }
///     Ok(total)
/// })?;
/// assert_eq!(total, 6);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[track_caller]
pub fn scope<'env, F, R>(body: F) -> Result<R::Value, ErrorGroup>
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
    R: Return,
{
    ScopeOptions::new().open(body)
}

impl ScopeOptions {
    /// Opens the scope: see [`scope`].
    ///
    /// # Errors
    ///
    /// As [`scope`]; and if the pool was shut down, in which case the body does not run.
    ///
    /// # Panics
    ///
    /// With [`OnPanic::Resume`], after the join, if anything in the scope panicked.
    #[track_caller]
    pub fn open<'env, F, R>(self, body: F) -> Result<R::Value, ErrorGroup>
    where
        F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
        R: Return,
    {
        let on_panic = self.on_panic;
        let result = match self.prepare(Location::caller()) {
            Ok(open) => open.run(body),
            Err(group) => Err(group),
        };
        match (result, on_panic) {
            (Err(group), OnPanic::Resume) => Err(group.resume_panic()),
            (result, _) => result,
        }
    }

    /// Everything before the body. Not generic, and not inlined: a nested scope should cost little stack and code.
    #[inline(never)]
    fn prepare(&self, place: &'static Location<'static>) -> Result<Open, ErrorGroup> {
        let label = Label::new("scope", self.name.clone(), place);
        let pool = self.pool.as_ref().map_or_else(pool::in_use, |pool| Arc::clone(pool.core()));
        let here = current::node();
        let clock = here.as_ref().map_or_else(current::clock, |node| node.clock().clone());
        if let Err(why) = pool.enter_scope() {
            return Err(refused(&label, &clock, why));
        }
        let deadline = self.deadline.map(|at| Deadline { at, limit: None, place });
        let timeout = self.timeout.and_then(|timeout| Deadline::after(&clock, timeout, place));
        let parents = Parents { parent: here.as_ref(), also: self.under.as_ref().map(CancelToken::node) };
        let terms = Terms { deadline: Deadline::earlier(deadline, timeout), grace: self.grace, ..Terms::default() };
        let node = Node::with(&parents, label.clone(), clock, terms);
        let (order, inlined) = current::with(|frame| frame.map_or((0, 0), |frame| (frame.line.order(), frame.inlined)));
        let body_label = Label { what: "body", ..label };
        let ground = Ground::new(node, None);
        let body = Strand::on(&ground, body_label, order);
        let fail_fast = self.on_failure == OnFailure::FailFast;
        let core =
            Core::new(Setup { ground, pool, body, fail_fast, inline: !self.no_inline, inlined, keep: self.keep });
        let hook: Weak<Tally<Core>> = Arc::downgrade(&core);
        let hook: Weak<dyn Hook> = hook;
        core.node.set_hook(hook);
        let is_root = !here.is_some_and(|here| here.is_observed());
        let listed = is_root.then(|| Listed::new(core.id, &core.node));
        Ok(Open { core, listed })
    }
}

/// The group of a scope that a pool refuses.
#[cold]
fn refused(label: &Label, clock: &Clock, why: Refused) -> ErrorGroup {
    let reason = Reason::new(ReasonKind::Shutdown, label.clone(), clock.now());
    let reason = match why {
        Refused::Closed => reason,
        Refused::Forked => reason.text_is(
            "the pool's threads stayed in the parent of this process, which is a fork: build a pool after the fork, and \
             open no scope inside a scope of the parent",
        ),
    };
    let origin = Origin {
        id: JobId::new(0),
        name: None,
        role: Role::Body,
        place: label.place,
        number: 0,
        path: label.name().into(),
        offset: Duration::ZERO,
        took: Duration::ZERO,
        thread: thread_name(),
    };
    let mut log = Log::new();
    log.push(origin, Failure::Stopped(Cancelled::new(reason.clone())), false);
    let info =
        ScopeInfo { name: label.name.clone(), place: label.place, jobs: 0, reason: Some(reason), stopped: false };
    log.into_group(info)
}

/// A scope that is open.
struct Open {
    core: Arc<Tally<Core>>,
    /// A picture of everything begins there, if it stands below no other.
    listed: Option<Listed>,
}

impl Open {
    fn run<'env, F, R>(self, body: F) -> Result<R::Value, ErrorGroup>
    where
        F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
        R: Return,
    {
        let core = &self.core;
        let line = Line::Made(&core.body);
        let frame = Frame {
            line,
            base: &core.node,
            is_region: false,
            scope: core.id,
            inlined: core.inlined,
            uses: Some(&core.pool),
        };
        let ended = current::enter(frame, || {
            raw::tether::<ScopeFace, _, _>(
                core,
                |frame| body(frame.0),
                |result| core.body_ended(result.map(Return::into_result)),
                || core.settle(),
            )
        });
        match ended {
            Ok(body) => core.result(body),
            // `body_ended` is ours and catches the user's panics; a panic of its own goes on, after the join.
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Tells others that a scope is over.
impl Drop for Open {
    fn drop(&mut self) {
        self.listed = None;
        self.core.inherited.end();
        self.core.pool.leave_scope(&*self.core);
    }
}

struct ScopeFace;

impl Face for ScopeFace {
    type Home = Core;
    type Of<'t, 'env>
        = Scope<'t, 'env>
    where
        'env: 't;

    fn wrap<'t, 'env>(tether: Tether<'t, 'env, Core>) -> Scope<'t, 'env> {
        Scope { tether }
    }
}

/// A scope that is open: what a body, and the jobs that capture it, spawn into.
///
/// Made by [`scope`] and [`ScopeOptions::open`]. The lifetimes are those of [`std::thread::Scope`]: `'scope` is that of
/// the scope, `'env` that of what it may borrow.
///
/// # Examples
///
/// A function that spawns takes `&'scope Scope<'scope, '_>`, and borrows for `'scope` what its jobs need:
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// use tassel::Scope;
///
/// fn count<'scope>(s: &'scope Scope<'scope, '_>, depth: u32, calls: &'scope AtomicU32) {
///     calls.fetch_add(1, Relaxed);
///     if depth > 0 {
///         s.spawn(move || count(s, depth - 1, calls));
///         s.spawn(move || count(s, depth - 1, calls));
///     }
/// }
///
/// let calls = AtomicU32::new(0);
/// tassel::scope(|s| count(s, 3, &calls))?;
/// assert_eq!(calls.into_inner(), 15);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
pub struct Scope<'scope, 'env: 'scope> {
    tether: Tether<'scope, 'env, Core>,
}

impl<'scope, 'env> Scope<'scope, 'env> {
    pub(crate) fn core(&self) -> &'scope Arc<Tally<Core>> {
        self.tether.tally()
    }

    /// Spawns a job that ends before this scope does.
    ///
    /// The job waits in the queue until a worker or the scope's own thread takes it: when this thread waits, in a join or at the
    /// end of the body say, and else in a fraction of a millisecond, if the pool's parallelism is not used up. Where the
    /// system refuses a thread, it waits longer; it is never lost. It may borrow anything that outlives the scope
    /// (so not a local of the body: move that in), and may spawn more jobs into it. It belongs to the scope, not to the place
    /// of this call: a region around the call does not stop it, so use [`job`](Scope::job)`(..).timeout(..)`, or a scope inside
    /// the region; and a [value](crate::value) bound around it is not seen in it, so bind it inside the closure.
    ///
    /// What a closure may return, and what to write where the compiler is not content, stands at [`Return`].
    ///
    /// A job that waits in a call of this library lets another worker start at once. One that waits elsewhere, in a read
    /// of a socket, a lock of std or for a child process, looks busy at first: where as many of these run as the pool's
    /// parallelism says, the next job waits until the pool has found one asleep, for part of a millisecond. Where the system
    /// does not tell (only Linux does), it waits until one ends, or for a tenth of a second and more: spawn such jobs with
    /// [`own_thread`](JobBuilder::own_thread), which starts them at once.
    ///
    /// Dropping the returned handle does not detach the job. Its value is then dropped by the worker, and its failure
    /// still counts. A handle that is leaked leaks the value.
    ///
    /// A panic in the `Drop` of what the closure captured, or of a value that nobody took, is a panic of the job: a leaf. One
    /// in the `Drop` of a value that was there when its handle is dropped is a panic of whoever drops it.
    ///
    /// # Cancellation
    ///
    /// Not a checkpoint. A job that has not started when the scope is cancelled never starts: its handle says
    /// [`JoinError::Cancelled`](crate::JoinError::Cancelled). In a scope that is cancelled already, the closure is
    /// dropped before this returns. A running job is told the reason at its next
    /// [`checkpoint`](crate::checkpoint).
    ///
    /// # Examples
    ///
    /// ```
    /// let mut lines = vec!["b", "a"];
    /// tassel::scope(|s| {
    ///     s.spawn(|| lines.sort());
    ///     Ok(())
    /// })?;
    /// assert_eq!(lines, ["a", "b"]);
    /// # Ok::<(), tassel::ErrorGroup>(())
    /// ```
    #[track_caller]
    pub fn spawn<F, R>(&'scope self, f: F) -> JobHandle<'scope, R::Value>
    where
        F: FnOnce() -> R + Send + 'scope,
        R: Return,
        R::Value: Send + 'scope,
    {
        JobBuilder::new(self, None).spawn_at(f, Location::caller())
    }

    /// Spawns as [`spawn`](Scope::spawn) does, unless the scope is cancelled: then the closure comes back.
    ///
    /// For loops that spawn from a source and must see the end.
    ///
    /// # Errors
    ///
    /// Returns [`ScopeCancelled`] with the closure if the scope is cancelled.
    #[track_caller]
    pub fn try_spawn<F, R>(&'scope self, f: F) -> Result<JobHandle<'scope, R::Value>, ScopeCancelled<F>>
    where
        F: FnOnce() -> R + Send + 'scope,
        R: Return,
        R::Value: Send + 'scope,
    {
        let node = &self.core().node;
        let stop = if node.is_cancelled() { node.reason() } else { None };
        match stop {
            Some(reason) => Err(ScopeCancelled { closure: f, reason }),
            None => Ok(JobBuilder::new(self, None).spawn_at(f, Location::caller())),
        }
    }

    /// Names a job that is to be spawned, and gives access to its options.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let answer = tassel::scope(|s| {
    ///     let job = s.job("answer").timeout(Duration::from_secs(60)).spawn(|| Ok(42));
    ///     Ok(job.join()?)
    /// })?;
    /// assert_eq!(answer, 42);
    /// # Ok::<(), tassel::ErrorGroup>(())
    /// ```
    pub fn job(&'scope self, name: impl AsRef<str>) -> JobBuilder<'scope, 'env> {
        JobBuilder::new(self, Some(name.as_ref().into()))
    }

    /// Stops the scope quietly: the body or a job says that it has what it needs.
    ///
    /// Jobs are cancelled, also those not started. A body that then returns `Ok(value)` gives `Ok(value)`. From any
    /// thread, any number of times.
    ///
    /// The body is below the scope, too: its next checkpoint fails, and a join that must wait gives
    /// [`JoinError::You`](crate::JoinError::You). To stop the jobs, and then join them and report, put the joins in a
    /// [`shield`](crate::region::shield) or [`cleanup`](crate::region::cleanup), as a [recipe](crate::docs::recipes) shows,
    /// or let the jobs report themselves.
    #[track_caller]
    pub fn cancel(&self) {
        token::cancel(&self.core().node, ReasonKind::Explicit, None, Location::caller(), true);
    }

    /// Stops as [`cancel`](Scope::cancel) does, with a text for the [`Reason`].
    #[track_caller]
    pub fn cancel_with(&self, text: impl Into<String>) {
        token::cancel(&self.core().node, ReasonKind::Explicit, Some(text.into()), Location::caller(), true);
    }

    /// Stops as [`cancel`](Scope::cancel) does, and ends [`cleanup`](crate::region::cleanup) in the scope after `grace`: one
    /// budget for all of it, which runs from this call. See
    /// [`CancelToken::cancel_with_grace`].
    #[track_caller]
    pub fn cancel_with_grace(&self, grace: Duration) {
        token::cancel_within(&self.core().node, grace, Location::caller(), true);
    }

    /// Stops as [`cancel`](Scope::cancel) does, and ends [`cleanup`](crate::region::cleanup) in the scope at once.
    #[track_caller]
    pub fn cancel_now(&self) {
        token::cancel_within(&self.core().node, Duration::ZERO, Location::caller(), true);
    }

    /// Moves the scope's own deadline: earlier, later, or with `None` away. From any thread, also while jobs wait.
    ///
    /// As [`CancelToken::set_deadline`] of the scope's [`token`](Scope::token).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tassel::{ScopeOptions, now, sleep};
    /// let options = ScopeOptions::new().timeout(Duration::from_secs(3600));
    /// let group = options
    ///     .open(|s| {
    ///         s.spawn(|| s.set_deadline(Some(now())));
    ///         Ok(sleep(Duration::MAX)?)
    ///     })
    ///     .unwrap_err();
    /// assert!(group.find::<tassel::region::TimedOut>().is_some());
    /// ```
    #[track_caller]
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        let place = Location::caller();
        self.core().node.set_deadline(deadline.map(|at| Deadline { at, limit: None, place }));
    }

    /// Tells whether the scope is cancelled, by whatever reason.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.core().node.is_cancelled()
    }

    /// Returns the token of this scope, by which other threads can stop it, against its will.
    #[must_use]
    pub fn token(&self) -> CancelToken {
        CancelToken::of(&self.core().node)
    }

    /// Has `callback` called once when this scope is cancelled, or now if it is already; it may borrow.
    ///
    /// As [`CancelToken::on_cancel`], but it counts like a job: the scope does not return while it is registered or
    /// running. So let the result go, or leak it and wait for ever. A panic in it is a failure of the scope.
    pub fn on_cancel(&'scope self, callback: impl FnOnce() + Send + 'scope) -> ScopeOnCancel<'scope> {
        let callback = move || {
            callback();
            Ok::<(), Infallible>(())
        };
        let (tied, value) = self.tether.tie((), callback, |_, tied| tied);
        drop(value);
        let run = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| tied.run()));
            if let Err(payload) = outcome {
                tied.tally().callback_panicked(payload);
            }
            drop(tied);
        };
        let registration = self.core().node.on_cancel(Box::new(run));
        ScopeOnCancel { _registration: registration, _lifetime: std::marker::PhantomData }
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.core();
        f.debug_struct("Scope").field("name", &core.label().name()).field("live", &core.live()).finish()
    }
}

/// Keeps a callback registered; see [`Scope::on_cancel`].
#[derive(Debug)]
#[must_use = "dropping the registration unregisters the callback"]
pub struct ScopeOnCancel<'scope> {
    _registration: Registration,
    _lifetime: std::marker::PhantomData<&'scope ()>,
}

/// The answer of [`Scope::try_spawn`] in a cancelled scope. It holds the closure.
pub struct ScopeCancelled<F> {
    closure: F,
    reason: Reason,
}

impl<F> ScopeCancelled<F> {
    /// Returns the closure that was not spawned.
    pub fn into_closure(self) -> F {
        self.closure
    }

    /// Returns why the scope is cancelled.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
}

impl<F> fmt::Display for ScopeCancelled<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not spawned: {}", Cancelled::new(self.reason.clone()))
    }
}

impl<F> fmt::Debug for ScopeCancelled<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopeCancelled({})", self.reason)
    }
}

impl<F> Error for ScopeCancelled<F> {}

/// Options for one job; see [`Scope::job`].
#[derive(Debug)]
#[must_use = "a job is spawned by `spawn`"]
pub struct JobBuilder<'scope, 'env: 'scope> {
    scope: &'scope Scope<'scope, 'env>,
    name: Option<SmolStr>,
    timeout: Option<Duration>,
    own_thread: bool,
}

impl<'scope, 'env> JobBuilder<'scope, 'env> {
    fn new(scope: &'scope Scope<'scope, 'env>, name: Option<SmolStr>) -> Self {
        JobBuilder { scope, name, timeout: None, own_thread: false }
    }

    /// Makes the handle the owner of the job's failure: it cancels nobody, and `join` returns it.
    ///
    /// If the handle is dropped, leaked or not joined by the end of the scope, the failure comes back in the group, so
    /// nothing is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// let tried = tassel::scope(|s| {
    ///     let job = s.job("optional").isolated().spawn(|| -> tassel::Result<u32> { anyhow::bail!("no luck") });
    ///     match job.join()? {
    ///         Ok(value) => Ok(value.to_string()),
    ///         Err(leaf) => Ok(leaf.to_string()),
    ///     }
    /// })?;
    /// assert_eq!(tried, "job `optional` failed");
    /// # Ok::<(), tassel::ErrorGroup>(())
    /// ```
    pub fn isolated(self) -> IsolatedBuilder<'scope, 'env> {
        IsolatedBuilder { builder: self }
    }

    /// Stops the job this long after it was *spawned*: time in the queue counts.
    ///
    /// A job that is stopped by it, or could not start before, fails with a [`TimedOut`](crate::region::TimedOut). A
    /// job that returns a value all the same has that value.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Has the job run on a worker, never on the thread of the scope's opener or of a joiner, with a place of its own
    /// beside the pool's parallelism: a worker is called for it even if as many run as that allows. Jobs that were spawned
    /// before it still start first.
    ///
    /// For jobs that block outside this library, such as in a read of a socket, for those that compute for long, and for
    /// those that use thread-locals.
    pub fn own_thread(mut self) -> Self {
        self.own_thread = true;
        self
    }

    /// Spawns the job: see [`Scope::spawn`].
    #[track_caller]
    pub fn spawn<F, R>(self, f: F) -> JobHandle<'scope, R::Value>
    where
        F: FnOnce() -> R + Send + 'scope,
        R: Return,
        R::Value: Send + 'scope,
    {
        self.spawn_at(f, Location::caller())
    }

    fn spawn_at<F, R>(self, f: F, place: &'static Location<'static>) -> JobHandle<'scope, R::Value>
    where
        F: FnOnce() -> R + Send + 'scope,
        R: Return,
        R::Value: Send + 'scope,
    {
        self.start(move || f().into_result(), std::convert::identity, None, false, place)
    }

    /// Spawns `f`; its value reaches the handle through `wrap`, its failure the group, or the handle through
    /// `from_leaf`.
    fn start<T, V>(
        self,
        f: impl FnOnce() -> anyhow::Result<T> + Send + 'scope,
        wrap: impl FnOnce(T) -> V + Send + 'scope,
        from_leaf: Option<fn(Leaf) -> V>,
        isolated: bool,
        place: &'static Location<'static>,
    ) -> JobHandle<'scope, V>
    where
        T: 'scope,
        V: Send + 'scope,
    {
        let core = self.scope.core();
        let has_timeout = self.timeout.is_some();
        let job = prepare(core, self.name, self.timeout, isolated, self.own_thread, place);
        let closure = move || match catch_unwind(AssertUnwindSafe(f)) {
            Ok(Ok(result)) => Ok(wrap(result)),
            Ok(Err(error)) => Err(Failure::Error(error)),
            Err(payload) => Err(Failure::Panic(payload)),
        };
        let tether = &self.scope.tether;
        if core.node.is_cancelled() {
            let (tied, value) = tether.tie(job, closure, |_, tied| tied);
            run::refuse(core, &tied);
            return JobHandle::new(core, value, from_leaf);
        }
        let value = Tally::enqueue(tether, job, closure);
        if has_timeout {
            run::watch(core, value.shared());
        }
        JobHandle::new(core, value, from_leaf)
    }
}

/// The part of a spawn that does not depend on the closure.
#[inline]
fn prepare(
    core: &Arc<Tally<Core>>,
    name: Option<SmolStr>,
    timeout: Option<Duration>,
    isolated: bool,
    own_thread: bool,
    place: &'static Location<'static>,
) -> Facts {
    let node = &core.node;
    let number = core.next_number();
    let run = node.clock().run();
    let mut seed = Seed::new(name, place, number);
    if timeout.is_some() || run.is_some() {
        let deadline = timeout.and_then(|timeout| Deadline::after(node.clock(), timeout, place));
        seed = seed.grown(run.map_or(0, |run| run.next_order()), deadline, &core.ground);
    }
    Facts::new(seed, isolated, own_thread)
}

/// Options for an isolated job; see [`JobBuilder::isolated`].
#[derive(Debug)]
#[must_use = "a job is spawned by `spawn`"]
pub struct IsolatedBuilder<'scope, 'env: 'scope> {
    builder: JobBuilder<'scope, 'env>,
}

impl<'scope> IsolatedBuilder<'scope, '_> {
    /// As [`JobBuilder::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        IsolatedBuilder { builder: self.builder.timeout(timeout) }
    }

    /// As [`JobBuilder::own_thread`].
    pub fn own_thread(self) -> Self {
        IsolatedBuilder { builder: self.builder.own_thread() }
    }

    /// Spawns the job: see [`Scope::spawn`]. Joining gives its value, or its failure as a [`Leaf`].
    #[track_caller]
    pub fn spawn<F, R>(self, f: F) -> JobHandle<'scope, Result<R::Value, Leaf>>
    where
        F: FnOnce() -> R + Send + 'scope,
        R: Return,
        R::Value: Send + 'scope,
    {
        self.builder.start(move || f().into_result(), Ok, Some(Err), true, Location::caller())
    }
}
