//! The pool proper: [`PoolCore`].
//!
//! A scope that wants a thread puts a *ticket* here: it is listed, once, as a [`Source`]. Workers take listed sources in
//! turn, one job each time, so that scopes share fairly. As many *unblocked* workers run as the parallelism says; a
//! worker that announces a wait does not count while it waits, and its place is filled if there is work.
//!
//! # Promises
//!
//! 1. A listed source with queued jobs is served: by an idle worker, a new one, whoever gets free, or, where no thread
//!    can be had, its own owner and joiners, who are told ([`Source::rescue`]).
//! 2. Counts are right at any moment under the lock: `active` workers are alive, not idle, not blocked.
//! 3. A refused thread undoes its reservation and loses nothing (D18).
//! 4. Jobs that can never start are found and their scopes told ([`Source::starve`]).
//! 5. Blocking that nobody announces is outlasted: without a finished job for a while, workers are added regardless.
//! 6. A source whose queue is empty is not kept for long, even if no worker ever comes.
//! 7. An idle pool uses no CPU, and after the keep-alive it has no thread.
//!
//! # Does not know
//!
//! Scopes, errors, what a job does.
//!
//! # Why no ticket is lost
//!
//! A job is queued before its source asks. A worker unlists a source under the lock before it claims a job of it, and
//! lists it again if more are queued. So an ask that finds the source listed is served by a claim that comes later.
//! A worker goes idle only when, under the lock, there is nothing that it may take; whoever lists something after that
//! finds it idle.

use crate::{
    park::{
        alarm::{self, Due},
        seat::{Seat, with_chair},
        standstill::{Party, is_standstill},
    },
    pool::roster::{Bed, Roster},
    prim::{self, Condvar, Mutex, Stack, Unparker, with_stack},
    raw::{PerProcess, generation},
};
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    mem::{self, ManuallyDrop},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A scope as the pool sees it: queued jobs that a worker may run.
pub(crate) trait Source: Send + Sync + 'static {
    /// Claims one queued job, if there is one, and runs or sweeps it to its end. Does not unwind.
    fn run_one(&self) -> bool;
    /// How many jobs are queued.
    fn queued(&self) -> usize;
    /// How many workers it could use now: as many as jobs are queued, or in a virtual run as have their turn.
    fn wanted(&self) -> usize {
        self.queued()
    }
    /// Whether it is listed. Touched only under the pool's lock.
    fn listed(&self) -> &AtomicBool;
    /// No thread can be had now: owner and joiners are to help themselves.
    fn rescue(&self);
    /// The thread that opened it.
    fn owner(&self) -> Arc<dyn Party>;
    /// The threads that run code of the scopes around it.
    fn around(&self) -> Vec<Arc<dyn Party>>;
    /// Names its queued jobs, and says what the others wait in; for a message.
    fn picture(&self) -> (Vec<String>, Vec<String>);
    /// Its queued jobs can never start, for this reason.
    fn starve(&self, text: &str);
    /// How to speak to its virtual run, if it is in one.
    fn turns(&self) -> Option<&dyn Turns> {
        None
    }
}

/// What the pool tells a virtual run, in which it gives a thread only to the job whose turn it is.
pub(crate) trait Turns {
    /// No worker can be on its way: the turn of a job of this source is given up. Called under the pool's lock; the
    /// result, after it.
    fn give_up(&self) -> Option<Box<dyn FnOnce() + '_>>;
    /// Time has passed, and a thread may be had now: if the run stands still, it tries again.
    fn retry(&self);
}

/// Says, for the n-th start of a thread, whether to refuse it. For tests.
pub(crate) type Refuse = Arc<dyn Fn(u64) -> bool + Send + Sync>;

/// How a pool was built.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) parallelism: usize,
    pub(crate) max_threads: usize,
    pub(crate) keep_alive: Duration,
    pub(crate) stack_size: Option<usize>,
    pub(crate) name_prefix: String,
    pub(crate) refuse: Option<Refuse>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            parallelism: thread::available_parallelism().map_or(2, usize::from),
            max_threads: MAX_THREADS,
            keep_alive: KEEP_ALIVE,
            stack_size: None,
            name_prefix: "tassel".into(),
            refuse: None,
        }
    }
}

/// Far from where systems fail badly: Linux' default limit on memory maps allows about 16,000 threads.
const MAX_THREADS: usize = 8192;

/// How long a worker stays without work: what tokio and Trio use.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How soon a pool looks again while tickets wait: first for starvation, then for blocking that nobody announced.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// Without a finished job for this long, workers are added regardless. Doubles each time it happens.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    listed: VecDeque<Arc<dyn Source>>,
    roster: Roster,
    /// Workers alive, by number: their seats, and their handles once they are started.
    workers: HashMap<u64, Arc<Seat>>,
    handles: HashMap<u64, Hand>,
    /// Workers that have left, or are about to: still to be joined.
    left: Vec<Hand>,
    /// Workers that left before whoever started them could store their handle.
    early: HashSet<u64>,
    /// Alive or being started.
    threads: usize,
    active: usize,
    /// Of these, those on their way to a job: woken, started, or about to be free.
    coming: usize,
    blocked: usize,
    /// Places beyond the parallelism, given for blocking that nobody announced.
    extra: usize,
    /// Places beyond the parallelism, for queued jobs that are to start at once.
    forced: usize,
    peak: usize,
    refused: u64,
    starts: u64,
    /// Why the last start failed; cleared by one that does not.
    refusal: Option<String>,
    scopes: usize,
    closed: bool,
    /// The look that is due, if the alarm has one of ours.
    armed: bool,
    look: Duration,
    patience: Duration,
    add: usize,
    finished_seen: u64,
    quiet_since: Option<Instant>,
}

/// The shared part of a pool.
pub(crate) struct PoolCore {
    /// Unique in the process, from 1.
    id: u64,
    /// Of the process that it was made in.
    generation: u64,
    config: Config,
    state: Mutex<State>,
    /// Notified when the last scope leaves, and as threads of a closed pool do.
    changed: Condvar,
    /// Held by who shuts the pool down: a second one returns no earlier.
    winding_up: Mutex<()>,
    finished: AtomicU64,
}

/// A worker's thread.
struct Hand {
    thread: JoinHandle<()>,
    /// Set when its thread-locals are destroyed.
    gone: Arc<AtomicBool>,
}

impl Hand {
    /// Whether to join it is to wait for nobody's code. `JoinHandle::is_finished` says so too early: destructors of
    /// thread-locals may still run, for long, and they may open scopes, so the joiner may be the thread itself.
    fn is_gone(&self) -> bool {
        // Publishes nothing: a join follows.
        self.gone.load(Ordering::Relaxed)
    }
}

/// Tells that a worker's thread-locals are destroyed.
#[derive(Default)]
struct Gone(RefCell<Option<Arc<AtomicBool>>>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(gone) = self.0.get_mut() {
            gone.store(true, Ordering::Relaxed);
        }
    }
}

thread_local! {
    /// The first that a worker touches, so the last that is destroyed.
    static GONE: Gone = Gone::default();
    /// Whose worker the thread is, or was, in the destructors of its thread-locals. Without drop glue, so never gone.
    static WORKS_FOR: Cell<u64> = const { Cell::new(0) };
}

/// What is to be done after unlocking.
#[derive(Default)]
#[must_use]
struct Then {
    wake: Option<Unparker>,
    start: Option<(u64, u64)>,
    /// No thread can be had.
    none: bool,
}

impl Then {
    fn is_nothing(&self) -> bool {
        self.wake.is_none() && self.start.is_none() && !self.none
    }
}

/// Gives a worker's place back if its source unwinds, which it must not.
struct Unwound<'a> {
    core: &'a Arc<PoolCore>,
    worker: u64,
}

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.core.lose(self.worker);
        }
    }
}

/// Why a pool takes no scope.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    Closed,
    /// It was made by a process of which this one is a forked child.
    Forked,
}

/// Numbers for the public statistics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) workers: usize,
    pub(crate) idle: usize,
    pub(crate) blocked: usize,
    pub(crate) peak: usize,
    pub(crate) refused: u64,
}

impl PoolCore {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let state = State { look: FIRST_LOOK, patience: PATIENCE, add: 1, ..State::default() };
        Arc::new(PoolCore {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            generation: generation(),
            config,
            state: Mutex::new(state),
            changed: Condvar::default(),
            winding_up: Mutex::new(()),
            finished: AtomicU64::new(0),
        })
    }

    /// Lists a source that has queued jobs.
    pub(crate) fn ask(self: &Arc<Self>, source: Arc<dyn Source>) {
        let mut state = self.state.lock();
        if !source.listed().swap(true, Ordering::Relaxed) {
            state.listed.push_back(source);
        }
        let then = state.find_worker(&self.config);
        self.arm(&mut state);
        drop(state);
        self.follow(then);
    }

    /// Makes room for a job that is about to be queued and is to start at once; see [`unforce`](PoolCore::unforce).
    pub(crate) fn force(&self) {
        self.state.lock().forced += 1;
    }

    /// The job has been claimed, by whomever.
    pub(crate) fn unforce(&self) {
        self.state.lock().forced -= 1;
    }

    /// Counts a scope in.
    pub(crate) fn enter_scope(&self) -> Result<(), Refused> {
        if self.generation != generation() {
            // Its threads are elsewhere. Before the lock, which one of them may have held.
            return Err(Refused::Forked);
        }
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        state.scopes += 1;
        Ok(())
    }

    pub(crate) fn leave_scope(&self) {
        let mut state = self.state.lock();
        state.scopes -= 1;
        let wake = if state.closed && state.scopes == 0 { state.roster.take_all() } else { Vec::new() };
        state.active += wake.len();
        state.coming += wake.len();
        let last = state.scopes == 0;
        drop(state);
        for worker in wake {
            worker.unpark();
        }
        if last {
            self.changed.notify_all();
        }
    }

    /// Refuses new scopes; idle workers leave once the last scope has.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let wake = if state.scopes == 0 { state.roster.take_all() } else { Vec::new() };
        state.active += wake.len();
        state.coming += wake.len();
        drop(state);
        for worker in wake {
            worker.unpark();
        }
    }

    /// Closes, waits for the scopes that run, and joins every thread.
    pub(crate) fn shut_down(&self) {
        self.close();
        // Its caller may be a worker of another pool.
        while_blocked(|| self.wind_up());
    }

    fn wind_up(&self) {
        let _one = self.winding_up.lock();
        let mut state = self.state.lock();
        while state.scopes > 0 {
            self.changed.wait(&mut state);
        }
        let wake = state.roster.take_all();
        state.active += wake.len();
        state.coming += wake.len();
        drop(state);
        for worker in wake {
            worker.unpark();
        }
        let mut state = self.state.lock();
        while state.threads > 0 || !state.early.is_empty() {
            self.changed.wait(&mut state);
        }
        let left = mem::take(&mut state.left);
        drop(state);
        for hand in left {
            drop(hand.thread.join());
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state.lock();
        Counts {
            workers: state.threads,
            idle: state.roster.len(),
            blocked: state.blocked,
            peak: state.peak,
            refused: state.refused,
        }
    }

    /// How many jobs are queued in scopes that wait for a worker.
    pub(crate) fn queued(&self) -> usize {
        let listed: Vec<_> = self.state.lock().listed.iter().cloned().collect();
        listed.iter().map(|source| source.queued()).sum()
    }

    fn follow(self: &Arc<Self>, then: Then) {
        if let Some(worker) = then.wake {
            worker.unpark();
        }
        if let Some((worker, nth)) = then.start {
            self.start(worker, nth);
        }
        if then.none {
            self.rescue();
        }
    }

    /// Tells all who wait for a worker that there is none to be had.
    fn rescue(&self) {
        let mut state = self.state.lock();
        let done = state.unlist_done();
        let listed: Vec<_> = state.listed.iter().cloned().collect();
        drop(state);
        drop(done);
        for source in &listed {
            source.rescue();
        }
        // Who is poked is in the run's order by now. An active worker might be on its way.
        self.give_up(&listed, |state| state.active == 0);
    }

    /// Has virtual runs go on without the jobs of `sources` that wait for a worker, if nobody comes.
    fn give_up(&self, sources: &[Arc<dyn Source>], nobody_comes: impl FnOnce(&State) -> bool) {
        let turns: Vec<_> = sources.iter().filter_map(|source| source.turns()).collect();
        if turns.is_empty() {
            return;
        }
        // Under the lock: nobody sets out meanwhile.
        let state = self.state.lock();
        let given_up: Vec<_> =
            if nobody_comes(&state) { turns.iter().filter_map(|turns| turns.give_up()).collect() } else { Vec::new() };
        drop(state);
        for go_on in given_up {
            go_on();
        }
    }

    /// Starts a worker whose place is reserved.
    fn start(self: &Arc<Self>, worker: u64, nth: u64) {
        let core = Arc::clone(self);
        let refused = self.config.refuse.as_ref().is_some_and(|refuse| refuse(nth));
        let started = if refused {
            Err(std::io::Error::other("refused by a test"))
        } else {
            let name = thread_name(&self.config.name_prefix, worker);
            let gone = Arc::new(AtomicBool::new(false));
            let tells = Arc::clone(&gone);
            let started = prim::start_thread(name, self.config.stack_size, move || {
                GONE.with(|gone| gone.0.replace(Some(tells)));
                core.work(worker);
            });
            started.map(|thread| Hand { thread, gone })
        };
        let mut state = self.state.lock();
        match started {
            Ok(hand) => {
                state.refusal = None;
                state.peak = state.peak.max(state.threads);
                if state.early.remove(&worker) {
                    state.left.push(hand);
                } else {
                    state.handles.insert(worker, hand);
                }
                let done: Vec<_> = {
                    let (done, rest) = mem::take(&mut state.left).into_iter().partition(Hand::is_gone);
                    state.left = rest;
                    done
                };
                drop(state);
                self.changed.notify_all();
                for hand in done {
                    drop(hand.thread.join());
                }
            }
            Err(error) => {
                state.threads -= 1;
                state.active -= 1;
                state.coming -= 1;
                state.refused += 1;
                state.refusal = Some(error.to_string());
                // A worker may have gone idle because this place was reserved.
                let free = state.needs_worker() && state.active < state.places(&self.config);
                let idle = if free { state.roster.take() } else { None };
                state.active += usize::from(idle.is_some());
                state.coming += usize::from(idle.is_some());
                self.arm(&mut state);
                drop(state);
                self.changed.notify_all();
                if let Some(idle) = idle {
                    idle.unpark();
                }
                self.rescue();
            }
        }
    }

    /// A worker's life.
    fn work(self: Arc<Self>, worker: u64) {
        let bed = Bed::new();
        WORKS_FOR.set(self.id);
        COMING.with(|coming| coming.set(true));
        CURRENT.with(|current| *current.borrow_mut() = Some(Arc::downgrade(&self)));
        with_chair(|chair| self.state.lock().workers.insert(worker, Arc::clone(chair.seat())));
        while let Some(source) = self.next_source(worker, &bed) {
            let unwound = Unwound { core: &self, worker };
            let ran = source.run_one();
            drop(unwound);
            if ran {
                self.finished.fetch_add(1, Ordering::Relaxed);
            }
            if source.wanted() > 0 {
                self.ask(source);
            }
        }
        CURRENT.with(|current| current.borrow_mut().take());
    }

    /// A worker dies of a bug in a source: its place must not die with it.
    fn lose(self: &Arc<Self>, worker: u64) {
        let mut state = self.state.lock();
        state.arrive();
        state.active -= 1;
        state.depart(worker);
        let then = state.find_worker(&self.config);
        self.arm(&mut state);
        drop(state);
        self.changed.notify_all();
        self.follow(then);
    }

    /// Gives a worker its next source; `None` when it is to leave.
    fn next_source(self: &Arc<Self>, worker: u64, bed: &Bed) -> Option<Arc<dyn Source>> {
        let mut state = self.state.lock();
        loop {
            let spare = state.active > state.places(&self.config) && state.active > 1;
            if !spare {
                if let Some(source) = state.take_listed() {
                    source.listed().store(false, Ordering::Relaxed);
                    if source.turns().is_none() {
                        state.arrive();
                    }
                    // More than this worker can do at once: somebody else may be needed.
                    let wanted = source.wanted();
                    let more = !state.listed.is_empty() || wanted > 1;
                    if wanted > 1 && !source.listed().swap(true, Ordering::Relaxed) {
                        state.listed.push_back(Arc::clone(&source));
                    }
                    let then = if more { state.find_worker(&self.config) } else { Then::default() };
                    drop(state);
                    self.follow(Then { none: false, ..then });
                    return Some(source);
                }
                state.extra = 0;
            }
            if state.closed && state.scopes == 0 {
                state.active -= 1;
                state.arrive();
                state.depart(worker);
                self.changed.notify_all();
                return None;
            }
            state.active -= 1;
            state.arrive();
            state.roster.lie_down(worker, bed);
            let until = Instant::now().checked_add(self.config.keep_alive);
            loop {
                drop(state);
                bed.sleep(until);
                state = self.state.lock();
                if !state.roster.is_idle(worker) {
                    COMING.with(|coming| coming.set(true));
                    break; // taken: whoever took it counted it as active, and coming
                }
                if until.is_some_and(|until| Instant::now() >= until) && state.roster.leave(worker) {
                    state.depart(worker);
                    self.changed.notify_all();
                    return None;
                }
            }
        }
    }

    /// Sees to it that the pool looks again while tickets wait.
    fn arm(self: &Arc<Self>, state: &mut State) {
        if state.armed || state.listed.is_empty() {
            return;
        }
        let now = Instant::now();
        if state.quiet_since.is_none() {
            state.quiet_since = Some(now);
            state.finished_seen = self.finished.load(Ordering::Relaxed);
        }
        let Some(at) = now.checked_add(state.look) else { return };
        let target: Weak<PoolCore> = Arc::downgrade(self);
        let target: Weak<dyn Due> = target;
        alarm::watch_anyhow(at, &target);
        state.armed = true;
    }

    /// The seats of all workers, if no further one can be had.
    pub(crate) fn all_taken(&self) -> Option<Vec<u64>> {
        let state = self.state.lock();
        state.no_thread(&self.config).map(|_| state.workers.values().map(|seat| seat.id).collect())
    }

    /// Finds scopes whose queued jobs can never start, and tells them: no thread can be had, and everybody who could take
    /// one stands in a wait that only such jobs can end.
    pub(crate) fn starve(self: &Arc<Self>, of: impl Fn(&dyn Source) -> bool) {
        if let Some((sources, text)) = self.starving(of) {
            for source in sources {
                source.starve(&text);
            }
        }
    }

    fn starving(self: &Arc<Self>, of: impl Fn(&dyn Source) -> bool) -> Option<(Vec<Arc<dyn Source>>, String)> {
        let (listed, no_thread) = {
            let state = self.state.lock();
            let no_thread = state.no_thread(&self.config)?;
            (state.listed.iter().cloned().collect::<Vec<_>>(), no_thread)
        };
        // Who may open a barrier, or set an event, that is waited for: the owners, and who has opened their scopes.
        let mut owners: Vec<_> = listed.iter().map(|source| source.owner()).collect();
        owners.extend(listed.iter().flat_map(|source| source.around()));
        let pool: Arc<dyn Party> = Arc::clone(self) as Arc<dyn Party>;
        // One who moves among the workers is enough for all, and need not be found for each.
        if !is_standstill(vec![Arc::clone(&pool)], &owners) {
            return None;
        }
        let mut starving = listed;
        starving.retain(|source| {
            let parties = vec![Arc::clone(&pool), source.owner()];
            of(&**source) && source.queued() > 0 && is_standstill(parties, &owners)
        });
        let queued: usize = starving.iter().map(|source| source.queued()).sum();
        if queued == 0 {
            return None;
        }
        let (mut names, mut waits) = (Vec::new(), Vec::new());
        for source in &starving {
            let (queued, waiting) = source.picture();
            names.extend(queued);
            waits.extend(waiting);
        }
        let text = format!(
            "starved: {queued} queued {} never start ({}): {no_thread}, and all threads wait for jobs of these scopes \
             ({}); allow more threads, or let jobs not wait for each other",
            if queued == 1 { "job can" } else { "jobs can" },
            first_few(&names),
            first_few(&waits),
        );
        Some((starving, text))
    }
}

impl Due for PoolCore {
    /// Tickets have waited for a while.
    fn due(self: Arc<Self>) {
        let mut state = self.state.lock();
        state.armed = false;
        let done = state.unlist_done();
        let finished = self.finished.load(Ordering::Relaxed);
        if state.listed.is_empty() {
            state.calm(finished);
            drop(state);
            drop(done);
            return;
        }
        let now = Instant::now();
        if finished != state.finished_seen || !state.needs_worker() {
            state.calm(finished);
            state.quiet_since = Some(now);
        }
        let quiet = state.quiet_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let mut add = 0;
        if quiet >= state.patience {
            add = state.add;
            state.add = state.add.saturating_mul(2);
            state.patience = state.patience.saturating_mul(2);
            state.quiet_since = Some(now);
            state.extra = state.extra.saturating_add(add);
        }
        state.look = (state.look * 2).min(PATIENCE);
        let mut todo = Vec::new();
        let turns: Vec<_> = state.listed.iter().filter(|source| source.turns().is_some()).cloned().collect();
        // A refused start is tried again here, too.
        for _ in 0..add.max(1) {
            let then = state.find_worker(&self.config);
            if then.is_nothing() {
                break;
            }
            let last = then.none;
            todo.push(then);
            if last {
                break;
            }
        }
        if add > 0 && todo.is_empty() && state.is_used_up(&self.config) {
            // The workers may wait, unseen, for the very jobs that are queued. Sooner would be wrong: a joiner with a time
            // limit is not to run a job for which a worker gets free in a moment (D14).
            todo.push(Then { none: true, ..Then::default() });
        }
        self.arm(&mut state);
        drop(state);
        drop(done);
        for then in todo {
            self.follow(then);
        }
        if add > 0 {
            // The workers that run may wait, unseen, for what the run does next.
            self.give_up(&turns, |state| state.coming == 0);
        }
        // After the new try: one refusal that is over is no starvation.
        self.starve(|source| source.turns().is_none());
        for source in turns {
            if let Some(turns) = source.turns() {
                turns.retry();
            }
        }
    }
}

impl Party for PoolCore {
    /// Stands if no thread can be had.
    fn still(&self) -> Option<u64> {
        let state = self.state.lock();
        state.no_thread(&self.config).map(|_| state.starts)
    }

    fn enders(&self) -> Option<Vec<Arc<dyn Party>>> {
        let state = self.state.lock();
        Some(state.workers.values().map(|seat| Arc::clone(seat) as Arc<dyn Party>).collect())
    }

    /// A refusal may be over by now: that of another pool than the one that looks was perhaps never tried again. A virtual
    /// run does that itself.
    fn try_again(self: Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.refusal.is_none() {
            return false;
        }
        let then = state.find_worker(&self.config);
        drop(state);
        let tries = !then.is_nothing();
        self.follow(then);
        tries
    }
}

impl State {
    /// Why no thread can be had, if none can: nobody is idle or on the way, and no further one may be started.
    fn no_thread(&self, config: &Config) -> Option<String> {
        if self.roster.len() > 0 || self.workers.len() != self.threads {
            return None;
        }
        match &self.refusal {
            Some(error) => Some(format!("the system refused a thread ({error})")),
            None if self.threads >= config.max_threads => {
                Some(format!("the pool's max_threads is {}", config.max_threads))
            }
            None => None,
        }
    }

    /// How many workers may be active.
    fn places(&self, config: &Config) -> usize {
        config.parallelism.saturating_add(self.extra).saturating_add(self.forced)
    }

    /// Whether there is no idle worker and may be no further one.
    fn is_used_up(&self, config: &Config) -> bool {
        self.roster.len() == 0 && self.threads >= config.max_threads
    }

    /// Unlists sources whose owners did their jobs; the caller drops them after unlocking.
    ///
    /// Nothing is lost: what is queued after the look asks after it, and finds the source unlisted.
    #[must_use]
    fn unlist_done(&mut self) -> Vec<Arc<dyn Source>> {
        let mut done = Vec::new();
        for _ in 0..self.listed.len() {
            let Some(source) = self.listed.pop_front() else { break };
            if source.queued() > 0 {
                self.listed.push_back(source);
            } else {
                source.listed().store(false, Ordering::Relaxed);
                done.push(source);
            }
        }
        done
    }

    /// The calling worker is no more on its way: it has work, or lies down.
    fn arrive(&mut self) {
        self.coming -= usize::from(COMING.with(|coming| coming.replace(false)));
    }

    /// Whether anything that is listed could use a worker. A virtual run has one turn at a time, and whoever is coming
    /// anyway will do: else the number of threads, and what is refused, would depend on how fast they come.
    fn needs_worker(&self) -> bool {
        self.listed.iter().any(|source| source.turns().is_none() || (self.coming == 0 && source.wanted() > 0))
    }

    /// Takes the next source out. One of a virtual run stays until it has a turn, or no queued jobs.
    fn take_listed(&mut self) -> Option<Arc<dyn Source>> {
        let at = self.listed.iter().position(|source| source.turns().is_none() || source.wanted() > 0)?;
        self.listed.remove(at)
    }

    /// Finds a worker for what is listed, if one may be active.
    fn find_worker(&mut self, config: &Config) -> Then {
        let mut then = Then::default();
        if !self.needs_worker() || self.active >= self.places(config) {
            return then;
        }
        if let Some(idle) = self.roster.take() {
            self.active += 1;
            self.coming += 1;
            then.wake = Some(idle);
        } else if self.threads < config.max_threads {
            self.threads += 1;
            self.active += 1;
            self.coming += 1;
            self.starts += 1;
            then.start = Some((self.starts, self.starts));
        } else if self.active == 0 {
            then.none = true;
        }
        then
    }

    /// A worker leaves for good.
    fn depart(&mut self, worker: u64) {
        self.workers.remove(&worker);
        self.threads -= 1;
        match self.handles.remove(&worker) {
            Some(hand) => self.left.push(hand),
            None => drop(self.early.insert(worker)),
        }
    }

    /// Jobs finish, or none wait: patience starts anew.
    fn calm(&mut self, finished: u64) {
        self.finished_seen = finished;
        self.quiet_since = None;
        self.look = FIRST_LOOK;
        self.patience = PATIENCE;
        self.add = 1;
    }
}

/// Joins the first few texts of a list that may be long.
fn first_few(texts: &[String]) -> String {
    const FEW: usize = 5;
    let shown = texts.iter().take(FEW).cloned().collect::<Vec<_>>().join(", ");
    match texts.len().saturating_sub(FEW) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Fits a worker's name into the 15 bytes that Linux keeps, at the expense of the prefix.
fn thread_name(prefix: &str, worker: u64) -> String {
    let number = format!("-{worker}");
    let mut room = 15_usize.saturating_sub(number.len()).min(prefix.len());
    while !prefix.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{number}", &prefix[..room])
}

thread_local! {
    /// Whether this worker is counted as coming.
    static COMING: Cell<bool> = const { Cell::new(false) };
}

/// Says that the calling worker has claimed a job.
pub(crate) fn set_arrived() {
    if let Some(core) = current() {
        core.state.lock().arrive();
    }
}

/// Says that the calling worker will be free in a moment, before others go on who may need it.
pub(crate) fn set_coming() {
    let Some(core) = current() else { return };
    if !COMING.with(|coming| coming.replace(true)) {
        core.state.lock().coming += 1;
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Weak<PoolCore>>> = const { RefCell::new(None) };
}

/// The pool whose worker the calling thread is.
pub(super) fn current() -> Option<Arc<PoolCore>> {
    CURRENT.try_with(|current| current.borrow().as_ref().and_then(Weak::upgrade)).ok().flatten()
}

thread_local! {
    static IN_USE: Stack<Arc<PoolCore>> = const { RefCell::new(Vec::new()) };
    static SPARE: ManuallyDrop<Stack<Arc<PoolCore>>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

fn in_use<R>(f: impl FnOnce(&Stack<Arc<PoolCore>>) -> R) -> Option<R> {
    with_stack(&IN_USE, &SPARE, f)
}

/// Says that code of a scope on `pool` runs on this thread, for as long as it lives: scopes opened here use that pool,
/// too, and shutting it down here would wait for itself.
#[derive(Debug)]
pub(crate) struct UsePool(());

impl UsePool {
    pub(crate) fn new(pool: &Arc<PoolCore>) -> Self {
        in_use(|in_use| in_use.borrow_mut().push(Arc::clone(pool)));
        UsePool(())
    }

    /// The pool for a scope opened here.
    pub(crate) fn current() -> Arc<PoolCore> {
        let here = in_use(|in_use| in_use.borrow().last().cloned()).flatten();
        here.unwrap_or_else(global)
    }

    /// Whether the code here is that of a scope on `pool`, or called by it, or ends one of its threads.
    pub(crate) fn is_in(pool: &Arc<PoolCore>) -> bool {
        WORKS_FOR.get() == pool.id
            || in_use(|in_use| in_use.borrow().iter().any(|used| Arc::ptr_eq(used, pool))).unwrap_or(false)
    }
}

impl Drop for UsePool {
    fn drop(&mut self) {
        let pool = in_use(|in_use| in_use.borrow_mut().pop());
        drop(pool);
    }
}

/// The pool of scopes that name none. A forked child has another one.
pub(crate) fn global() -> Arc<PoolCore> {
    static GLOBAL: PerProcess<Arc<PoolCore>> = PerProcess::new(|| PoolCore::new(Config::default()));
    Arc::clone(GLOBAL.get())
}

/// How the pool counts a worker's thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Active,
    /// Runs a job that has a place of its own.
    Apart,
    /// In an announced wait.
    Blocked,
}

thread_local! {
    static COUNTED: Cell<Counted> = const { Cell::new(Counted::Active) };
}

/// Announces that the calling thread blocks during `f`: if it is a worker, its place can be filled. Within another
/// announced wait it changes nothing.
pub(crate) fn while_blocked<R>(f: impl FnOnce() -> R) -> R {
    uncounted(Counted::Blocked, f)
}

/// Runs `f` apart from the parallelism: the calling worker's place can be filled meanwhile.
pub(crate) fn apart<R>(f: impl FnOnce() -> R) -> R {
    uncounted(Counted::Apart, f)
}

fn uncounted<R>(how: Counted, f: impl FnOnce() -> R) -> R {
    struct Back {
        core: Arc<PoolCore>,
        how: Counted,
        before: Counted,
    }
    impl Drop for Back {
        fn drop(&mut self) {
            let _ = COUNTED.try_with(|counted| counted.set(self.before));
            let mut state = self.core.state.lock();
            state.blocked -= usize::from(self.how == Counted::Blocked);
            state.active += usize::from(self.before == Counted::Active);
        }
    }
    let Some(core) = current() else { return f() };
    // Where it is gone, in the destructor of a thread-local, waits do not nest.
    let before = COUNTED.try_with(Cell::get).unwrap_or(Counted::Active);
    if before == Counted::Blocked || before == how {
        return f();
    }
    let _ = COUNTED.try_with(|counted| counted.set(how));
    let mut state = core.state.lock();
    state.blocked += usize::from(how == Counted::Blocked);
    state.active -= usize::from(before == Counted::Active);
    let then = state.find_worker(&core.config);
    core.arm(&mut state);
    drop(state);
    let back = Back { core: Arc::clone(&core), how, before };
    core.follow(then);
    let result = f();
    drop(back);
    result
}

impl fmt::Debug for PoolCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCore").field("counts", &self.counts()).finish_non_exhaustive()
    }
}
