//! Calls that may be left behind: [`abandon`], [`Options`], [`Limit`], [`stats`].
//!
//! A call runs on a thread of its own and owns all that it needs. Who made it waits, and may be stopped; then the call goes
//! on alone. A [`Handover`] is between the two.
//!
//! # Promises
//!
//! 1. *One owner.* What the call ends with goes to who waits, or, if nobody does, is dropped by the call's own thread, in a
//!    guard; never both, never neither.
//! 2. A stop ends the wait at once. What the call had ended with by then is returned all the same (D24).
//! 3. A permit is held from before the call to its true end: until what it ended with is taken, or dropped. Permits are
//!    given in the order of asking, and one that comes to somebody who is stopped goes on to the next.
//! 4. Nobody waits for a call that was left behind: no scope, no pool, no run.
//! 5. A forked child has no calls of its parent.
//!
//! # Does not know
//!
//! What is called, and how long it takes.
//!
//! # Why no wake-up is lost
//!
//! The caller leaves its seat there under the lock under which the end of the call is stored, and looks for that
//! before it parks; the seat is poked after it. Permits are a [`Turnstile`]'s.

use crate::{
    cancel::{
        current::{self, Activity, Look, On, Thing},
        reason::{Cancelled, Label, Reason},
    },
    error::drop_guarded,
    park::{clock::Hold, seat::Seat, standstill::Wait},
    prim::{self, Mutex},
    raw::{PerProcess, generation},
    value,
    wait::{
        self, Call, End,
        blocking::announced,
        turnstile::{Rule, Turnstile},
    },
};
use slab::Slab;
use smol_str::SmolStr;
use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind},
    sync::Arc,
    thread,
    time::Instant,
};

/// What calls without a [`Limit`] of their own share: far above what a sound program needs, and below what does harm.
const DEFAULT_LIMIT: usize = 512;

/// The name of each thread. Linux keeps 15 bytes.
pub(crate) const THREAD: &str = "tassel-abandon";

/// Runs a call that may hang on a thread of its own, and waits for it, unless told to stop: then the call is left behind.
///
/// For what cannot be interrupted and may take for ever: the look-up of a name, a file system that does not answer, a library
/// of somebody else's. The call owns all that it needs, as it may go on when everybody else has left. Nobody waits for it
/// then, no scope and no [`Pool`](crate::pool::Pool); at the end of the process it is cut off. So it should do nothing that
/// must not be torn apart.
///
/// This has the default [`Options`]: no name, and a limit of 512 calls at once that all such calls of the process share. A call
/// costs about as much as starting a thread. Where waiting is all right, [`blocking`](crate::blocking) is cheaper, and may
/// borrow.
///
/// In the call there is no scope: its checkpoints never fail, and its clock is the real one. [Values](crate::value) that are
/// bound here are bound there.
///
/// Blocks until the call has returned; a cancel or a deadline ends that at once. In virtual time the clock stands while this
/// waits, so a limit on time does not pass meanwhile, but a cancel comes through.
///
/// # Cancellation
///
/// Always a checkpoint. A stop before the call has begun, also while this waits for a permit, has no effect but that: the
/// closure is dropped. If a stop and the end of the call come together, the call's result is returned. What a call that was
/// left behind returns is dropped on its own thread.
///
/// # Errors
///
/// Returns [`Cancelled`] if the code here is to stop.
///
/// # Panics
///
/// A panic of `f` is raised again here, with its payload. If nobody waits any more it is counted: [`Stats::panicked`]; so is
/// one in the `Drop` of what `f` returns.
///
/// # Examples
///
/// ```
/// use std::{net::ToSocketAddrs, time::Duration};
/// use tassel::{abandon, region::fail_after};
/// let found = fail_after(Duration::from_secs(60), || {
///     Ok(abandon(|| ("127.0.0.1", 80).to_socket_addrs())??.next())
/// })?;
/// assert_eq!(found, Some(([127, 0, 0, 1], 80).into()));
/// # Ok::<(), tassel::Error>(())
/// ```
#[track_caller]
pub fn abandon<T, F>(f: F) -> Result<T, Cancelled>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Options::new().call(f)
}

/// How a call is made that may be left behind; see [`abandon`].
///
/// # Examples
///
/// ```
/// use tassel::abandon::{Limit, Options};
/// let limit = Limit::new(4);
/// let size = Options::new().name("size of a file").limit(&limit).call(|| std::fs::metadata("Cargo.toml"))??.len();
/// assert!(size > 0);
/// # Ok::<(), tassel::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until `call`"]
pub struct Options {
    name: Option<SmolStr>,
    limit: Option<Limit>,
    stack_size: Option<usize>,
}

impl Options {
    /// Starts with the defaults.
    pub fn new() -> Self {
        Options::default()
    }

    /// Names the call, for [snapshots](crate::snapshot). Without a name it is called after its place.
    pub fn name(mut self, name: impl AsRef<str>) -> Self {
        self.name = Some(name.as_ref().into());
        self
    }

    /// Has the call count under `limit`, not under that of the process.
    pub fn limit(mut self, limit: &Limit) -> Self {
        self.limit = Some(limit.clone());
        self
    }

    /// Sets the stack size of the call's thread, in bytes. The default is std's.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Makes the call: see [`abandon`].
    ///
    /// Where the system refuses a thread, `f` runs on this one, so that nothing is lost but the way to leave it behind: a stop
    /// is met after it, as in [`blocking`](crate::blocking). [`Stats::refused`] counts that.
    ///
    /// # Errors
    ///
    /// As [`abandon`].
    ///
    /// # Panics
    ///
    /// As [`abandon`].
    #[track_caller]
    pub fn call<T, F>(self, f: F) -> Result<T, Cancelled>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        wait::enter()?;
        let place = Location::caller();
        let permit = self.limit.unwrap_or_else(Limit::of_the_process).acquire(place)?;
        // A permit that came together with a stop: the call has not begun, so it never does.
        wait::enter()?;
        let entry = Entry::new(permit, Label::new("abandoned call", self.name.clone(), place));
        let (key, name) = (entry.key, self.name);
        let handover = Arc::new(Handover::new());
        // Where no thread can be had, the closure is still here.
        let work = Arc::new(Mutex::new(Some((f, entry))));
        let start = {
            let (handover, work, values) = (Arc::clone(&handover), Arc::clone(&work), value::here());
            move || {
                let work = work.lock().take();
                if let Some((f, entry)) = work {
                    run(&handover, f, values, entry);
                }
            }
        };
        if prim::start_thread(THREAD.into(), self.stack_size, start).is_err() {
            let work = work.lock().take();
            return Ok(run_here(place, work.unwrap_or_else(|| unreachable!("no thread has taken it"))));
        }
        drop(work);
        let (ended, entry) = await_end(&handover, place, key, name)?;
        drop(entry);
        ended.or_else(|payload| resume_unwind(payload))
    }
}

/// Runs a call on a thread of its own.
fn run<T, F: FnOnce() -> T>(
    handover: &Handover<(thread::Result<T>, Entry)>,
    f: F,
    values: Option<Arc<value::Binding>>,
    entry: Entry,
) {
    let ended = catch_unwind(AssertUnwindSafe(move || {
        let values = values;
        value::instead(values.as_ref(), f)
    }));
    let Err((ended, entry)) = handover.end((ended, entry)) else { return };
    // Nobody waits. The entry goes last: the call has not ended before.
    let dropped = match ended {
        Ok(value) => catch_unwind(AssertUnwindSafe(|| drop(value))),
        Err(payload) => Err(payload),
    };
    if let Err(payload) = dropped {
        CALLS.get().lock().panicked += 1;
        drop_guarded(payload);
    }
    drop(entry);
}

/// Runs a call for which no thread can be had.
#[cold]
fn run_here<T, F: FnOnce() -> T>(place: &'static Location<'static>, (f, _entry): (F, Entry)) -> T {
    CALLS.get().lock().refused += 1;
    let values = value::here();
    announced(Activity::Abandon, place, || current::detached(|| value::instead(values.as_ref(), f)))
}

/// Waits for the end of a call, or leaves it behind.
fn await_end<T>(
    handover: &Handover<T>,
    place: &'static Location<'static>,
    key: usize,
    name: Option<SmolStr>,
) -> Result<T, Cancelled> {
    let _hold = Hold::new(current::clock());
    let on = name.map(|name| On::Thing(Arc::new(Named(name))));
    let call = Call { activity: Activity::Abandon, place, on, ends: Wait::Open };
    let stop = match wait::wait(&call, None, |seat| handover.look(seat)) {
        Ok(ended) => return Ok(ended),
        Err(end) => end.stop(),
    };
    // Before it is left: from then on the call may end and give up its entry.
    let known = |live: &mut Live| live.left = Some(stop.reason().clone());
    CALLS.get().lock().live.get_mut(key).map(known);
    let ended = handover.leave();
    CALLS.get().lock().left += u64::from(ended.is_none());
    ended.ok_or(stop)
}

/// A call that is waited for, as it shows where it has a name.
struct Named(SmolStr);

impl Thing for Named {
    fn look(&self) -> Look {
        Look { name: Some(self.0.clone()), waiting: 1, ..Look::default() }
    }
}

/// Stands between a call and who waits for it: what it ends with is for one of the two.
pub(crate) struct Handover<T> {
    state: Mutex<State<T>>,
}

enum State<T> {
    /// It runs; the seat of who waits, once it does.
    Runs(Option<Arc<Seat>>),
    Ended(T),
    /// Nobody waits: not any more, or for nothing.
    Left,
}

impl<T> Handover<T> {
    pub(crate) fn new() -> Self {
        Handover { state: Mutex::new(State::Runs(None)) }
    }

    /// Takes what the call has ended with, or leaves the seat, to be poked at the end.
    pub(crate) fn look(&self, seat: &Arc<Seat>) -> Option<T> {
        let mut state = self.state.lock();
        if let State::Runs(waiting) = &mut *state {
            waiting.get_or_insert_with(|| Arc::clone(seat));
            return None;
        }
        take(&mut state)
    }

    /// Nobody waits any more. What the call has ended with until now comes back.
    pub(crate) fn leave(&self) -> Option<T> {
        let mut state = self.state.lock();
        mutant!("left_without_a_look" => let gone = mem::replace(&mut *state, State::Left); drop(state); drop(gone); return None);
        take(&mut state)
    }

    /// The call has ended. `Err` if nobody waits.
    pub(crate) fn end(&self, with: T) -> Result<(), T> {
        let mut state = self.state.lock();
        if matches!(*state, State::Left) {
            return Err(with);
        }
        let before = mem::replace(&mut *state, State::Ended(with));
        drop(state);
        if let State::Runs(Some(seat)) = before {
            seat.poke();
        }
        Ok(())
    }
}

/// Leaves nothing there.
fn take<T>(state: &mut State<T>) -> Option<T> {
    match mem::replace(state, State::Left) {
        State::Ended(with) => Some(with),
        State::Runs(_) | State::Left => None,
    }
}

/// What is known of all calls of the process.
#[derive(Default)]
struct Calls {
    live: Slab<Live>,
    begun: u64,
    left: u64,
    panicked: u64,
    refused: u64,
}

static CALLS: PerProcess<Mutex<Calls>> = PerProcess::new(Mutex::default);

/// A call that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// The how manyth it is.
    nth: u64,
    pub(crate) label: Label,
    pub(crate) since: Instant,
    /// Why it was left, if it was.
    pub(crate) left: Option<Reason>,
}

/// A call's place among all, and its permit.
struct Entry {
    generation: u64,
    key: usize,
    _permit: Permit,
}

impl Entry {
    fn new(permit: Permit, label: Label) -> Self {
        let since = current::clock().now();
        let mut calls = CALLS.get().lock();
        calls.begun += 1;
        let nth = calls.begun;
        Entry {
            generation: generation(),
            key: calls.live.insert(Live { nth, label, since, left: None }),
            _permit: permit,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // In a child that the call has forked it is no call: what counts it stayed with the parent.
        if self.generation == generation() {
            let gone = CALLS.get().lock().live.try_remove(self.key);
            drop(gone);
        }
    }
}

/// Returns the calls that were left behind and have not ended, in the order of their beginning.
pub(crate) fn left_behind() -> Vec<Live> {
    let calls = CALLS.get().lock();
    let mut left: Vec<_> =
        calls.live.iter().map(|(_, live)| live).filter(|live| live.left.is_some()).cloned().collect();
    drop(calls);
    left.sort_by_key(|live| live.nth);
    left
}

/// Returns numbers about all calls of [`abandon`] in this process.
///
/// # Examples
///
/// ```
/// assert_eq!(tassel::abandon::stats().abandoned, 0);
/// ```
#[must_use]
pub fn stats() -> Stats {
    let calls = CALLS.get().lock();
    let abandoned = calls.live.iter().filter(|(_, live)| live.left.is_some()).count();
    Stats { running: calls.live.len(), abandoned, left: calls.left, panicked: calls.panicked, refused: calls.refused }
}

/// Numbers about calls that may be left behind, at one moment; see [`stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that have not ended.
    pub running: usize,
    /// Of these, those that were left behind. [`snapshot::all`](crate::snapshot::all) shows each.
    pub abandoned: usize,
    /// How many have been left behind so far.
    pub left: u64,
    /// How many of those that were left behind have panicked.
    pub panicked: u64,
    /// How often the system refused a thread, so that the caller ran the call itself.
    pub refused: u64,
}

/// How many calls may run at once, those that were left behind included.
///
/// A call holds its permit until it truly ends. So where calls hang, as many threads are lost as the limit says, and no more:
/// a further call waits until one ends, first come, first served, and can be stopped while it waits. With a limit of zero
/// no call ever runs. Clones are the same limit. In a forked child all of it is free, as the calls of the parent do not run there.
///
/// A call that makes another one under the same limit, and waits for it, may wait for ever.
///
/// # Examples
///
/// ```
/// use tassel::abandon::{Limit, Options};
/// let look_ups = Limit::new(2);
/// let answer = Options::new().limit(&look_ups).call(|| 42)?;
/// assert_eq!((answer, look_ups.running()), (42, 0));
/// # Ok::<(), tassel::Cancelled>(())
/// ```
#[derive(Clone)]
pub struct Limit {
    calls: usize,
    turns: Arc<PerProcess<Turnstile<Running>>>,
}

/// How many calls run.
#[derive(Default)]
struct Running(usize);

impl Rule for Running {
    /// The limit.
    type Want = usize;
    type Pass = ();

    fn admit(&mut self, limit: &usize) -> bool {
        let is_room = self.0 < *limit;
        self.0 += usize::from(is_room);
        is_room
    }

    fn enter(&mut self, _: &usize) {}

    fn give_back(&mut self, _: &usize) {
        self.0 -= 1;
    }
}

impl Limit {
    /// Makes a limit of so many calls at once.
    #[must_use]
    pub fn new(calls: usize) -> Self {
        Limit { calls, turns: Arc::new(PerProcess::new(|| Turnstile::new(Running::default()))) }
    }

    fn of_the_process() -> Self {
        static LIMIT: PerProcess<Limit> = PerProcess::new(|| Limit::new(DEFAULT_LIMIT));
        LIMIT.get().clone()
    }

    /// Returns how many calls run under it, those that were left behind included. Never blocks.
    #[must_use]
    pub fn running(&self) -> usize {
        self.turns.get().look(|running, _| running.0)
    }

    /// Waits for a permit.
    fn acquire(self, place: &'static Location<'static>) -> Result<Permit, Cancelled> {
        let turns = self.turns.get();
        if turns.try_pass(&self.calls).is_none() {
            // Calls that hold permits may run outside.
            let _hold = Hold::new(current::clock());
            let on = Some(On::Thing(Arc::new(self.clone())));
            let call = Call { activity: Activity::AbandonLimit, place, on, ends: Wait::Open };
            turns.pass(&call, None, &self.calls).map_err(End::stop)?;
        }
        Ok(Permit { generation: generation(), limit: self })
    }
}

impl Thing for Limit {
    fn look(&self) -> Look {
        let (running, waiting) = self.turns.get().look(|running, waiting| (running.0, waiting));
        Look { used: Some((running, self.calls)), waiting, ..Look::default() }
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (running, waiting) = self.turns.get().look(|running, waiting| (running.0, waiting));
        let mut f = f.debug_struct("Limit");
        f.field("calls", &self.calls).field("running", &running).field("waiting", &waiting).finish()
    }
}

/// One of a limit's permits.
struct Permit {
    generation: u64,
    limit: Limit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        // A forked child has all of them.
        if self.generation == generation() {
            self.limit.turns.get().change(|running| running.give_back(&self.limit.calls));
        }
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::{
        cancel::node::{Node, Parents},
        park::{clock::Clock, seat::with_chair, virtual_run::Run},
        wait::given::{SHORT, node, soon, stand},
    };

    fn place() -> &'static Location<'static> {
        Location::caller()
    }

    /// As `given::stopped_after`, in real time: these waits hold the clock of a run.
    fn stopped_after<R>(change: impl FnOnce() + Send + 'static, wait: impl FnOnce() -> R) -> R {
        let node = node(Some(SHORT));
        // Of another clock, so that nobody watches the limit for it, and marks it before.
        let clock = Clock::Virtual(with_chair(|chair| Run::start(chair.seat())));
        let below = Node::new(&Parents { parent: Some(&node), also: None }, node.label().clone(), clock, None);
        let _registration = below.on_cancel(Box::new(change));
        stand(&node, || {
            let result = wait();
            assert!(node.is_stopping());
            result
        })
    }

    #[test]
    fn what_a_call_ends_with_between_the_last_look_and_the_stop_is_returned() {
        soon(|| {
            let handover = Arc::new(Handover::new());
            let calls = Arc::clone(&handover);
            let key = usize::MAX; // of no call
            assert_eq!(
                stopped_after(move || assert!(calls.end(7).is_ok()), || await_end(&handover, place(), key, None)).ok(),
                Some(7)
            );
            let handover = Handover::new();
            assert!(stopped_after(|| (), || await_end(&handover, place(), key, None)).is_err());
            assert_eq!(handover.end(8), Err(8));
        });
    }
}
