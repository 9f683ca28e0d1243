//! Virtual time: one job moves at a time, and the clock jumps when nobody can.
//!
//! All code below one `testing::virtual_time` call shares a [`Run`]. It has one *baton*. Who holds it moves; who parks
//! or ends hands it on: to whoever has been ready for longest in virtual time, then in order of spawning. When nobody
//! is ready, the clock jumps to the next instant that somebody waits for. So a program's order does not depend on the
//! machine, and hours pass in milliseconds.
//!
//! | entry | means |
//! |---|---|
//! | `ready`, a thread | wants the baton |
//! | `ready`, a source | the first of its queued jobs has a turn, which *summons* a thread that claims just this job |
//! | `stuck` | a source for whose jobs no thread could be had; it is ready again when one may be, or one more is queued |
//! | `parked` | waits, perhaps until an instant |
//! | `guests` | threads that move without the baton: bound closures on foreign threads, which hold the clock |
//! | `invited` | bound closures that are not running yet: they hold the clock, too, but not for ever |
//! | `outside` | holders that the kernel showed asleep outside the library: they lost the baton, and do not hold the clock |
//!
//! # Promises
//!
//! 1. Between two waits, code of the run is alone (but for guests and those `outside`).
//! 2. The order of turns is that of (instant of becoming ready, spawn order).
//! 3. The clock moves only when nobody is ready, nobody moves and no guest is about, and then to the earliest instant
//!    that anybody waits for.
//! 4. If there is none, and nobody outside, the run reports a deadlock: also with queued jobs, if all threads that could
//!    take one are parked in the run.
//! 5. Before the clock moves or stands for ever, a thread is asked for again for what is `stuck`, and, if in vain, the
//!    pool is asked whether it *starves*. So that, too, comes at its place in the order.
//!
//! # Does not know
//!
//! Jobs, scopes, nodes: it sees seats, numbers and instants, and something to [`Summon`].
//!
//! # Why no wake-up is lost
//!
//! A seat swaps to `PARKED_IN_RUN` before it calls [`park`](Baton::park), a poke swaps to `POKED` before it calls
//! [`wake`](Baton::wake), and both take the run's lock. If `wake` comes first, `park` finds the seat poked and enters it as
//! ready; if `park` comes first, `wake` finds it parked. The baton itself goes through `holder`, read under the lock
//! by the thread that rests until it is its own; a parker keeps a token that comes early.

use crate::{
    park::{
        alarm::{Due, Watch, Watches},
        seat::{Baton, Chair, Seat, with_chair},
    },
    prim::{self, Mutex},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    fmt, fs, mem,
    path::PathBuf,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

/// Something queued whose turn has come: it finds itself a thread.
pub(crate) trait Summon: Send + Sync {
    /// Called outside the run's lock. The thread that comes calls [`Run::begin`]; if none can be had, [`Run::refuse`].
    fn summon(self: Arc<Self>);

    /// Called outside the run's lock: nobody moves, and no thread can be had. Whoever can prove that none ever can
    /// cancels what starves. Returns the seats of all threads that might get free for it; `None` if others may, too.
    fn strand(self: Arc<Self>) -> Option<Vec<u64>>;
}

/// Called once when a run can never move again, with a text that says who waits.
pub(crate) type OnDeadlock = Box<dyn FnOnce(usize) + Send>;

/// When somebody became ready, how often it has yielded since (as the run counts), and its spawn order.
type Turn = (Instant, u64, u64);

enum Who {
    Thread(Arc<Seat>),
    /// What stands at that address has queued jobs.
    Source(usize),
}

/// Jobs that no thread has claimed, of one source. By source, so that it costs little to put them all aside.
struct Source {
    summon: Arc<dyn Summon>,
    turns: BTreeSet<Turn>,
    /// The one by which the source is among those who are ready: the first, unless it is stuck.
    shown: Option<Turn>,
}

enum Holder {
    Nobody,
    /// A thread, with the kernel's name for it.
    Seat(u64),
    /// A queued job that waits for a thread to claim it.
    Summoned(u64, Turn, Arc<dyn Summon>),
    /// This thread, which jumped, or found nobody to move, and tells whom it concerns.
    Telling(u64),
}

/// What is known of the jobs that are stuck, since anybody moved last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stranded {
    Unknown,
    /// They have been told.
    Told,
    /// And all threads that might get free for them are parked here.
    ForEver,
}

struct Parked {
    seat: Arc<Seat>,
    order: u64,
    until: Option<Instant>,
}

struct State {
    now: Instant,
    holder: Holder,
    /// Counts hand-overs, so that a look at the holder can tell whether it is still the same turn.
    turns: u64,
    /// The turn whose thread is known to have awoken: before, it sleeps because its wake-up is on the way.
    begun: u64,
    yields: u64,
    ready: BTreeMap<Turn, Who>,
    /// By address.
    sources: HashMap<usize, Source>,
    /// Queued jobs by spawn order: turn and source.
    queued: HashMap<u64, (Turn, usize)>,
    stuck: HashSet<usize>,
    /// Jobs that were claimed before their spawner could enter them here.
    early: HashSet<u64>,
    /// A thread has been asked for again for all that is stuck, since one came last, or the clock moved.
    retried: bool,
    stranded: Stranded,
    parked: HashMap<u64, Parked>,
    timers: BTreeSet<(Instant, u64, u64)>,
    watches: Watches,
    guests: HashSet<u64>,
    /// Bound closures that have not begun, by number.
    invited: HashSet<u64>,
    /// Runs within this one, on the thread of its holder: it stands meanwhile.
    inner: usize,
    outside: HashSet<u64>,
    threads: HashMap<u64, PathBuf>,
    on_deadlock: Option<OnDeadlock>,
    orders: u64,
    over: bool,
}

/// What is to be done once the lock is released.
#[derive(Default)]
struct Then {
    unpark: Option<Arc<Seat>>,
    summon: Option<Arc<dyn Summon>>,
    strand: Vec<Arc<dyn Summon>>,
    tell: Vec<Weak<dyn Due>>,
    deadlock: Option<(OnDeadlock, usize)>,
}

/// One virtual-time run: the clock and the baton.
pub(crate) struct Run {
    state: Mutex<State>,
}

impl Run {
    /// Starts a run whose baton the calling thread holds.
    pub(crate) fn start(seat: &Arc<Seat>) -> Arc<Self> {
        let mut threads = HashMap::new();
        threads.insert(seat.id, kernel_thread());
        let run = Arc::new(Run {
            state: Mutex::new(State {
                now: Instant::now(),
                holder: Holder::Seat(seat.id),
                turns: 0,
                begun: 0,
                yields: 0,
                ready: BTreeMap::new(),
                sources: HashMap::new(),
                queued: HashMap::new(),
                stuck: HashSet::new(),
                early: HashSet::new(),
                retried: false,
                stranded: Stranded::Unknown,
                parked: HashMap::new(),
                timers: BTreeSet::new(),
                watches: Watches::default(),
                guests: HashSet::new(),
                invited: HashSet::new(),
                inner: 0,
                outside: HashSet::new(),
                threads,
                on_deadlock: None,
                orders: 0,
                over: false,
            }),
        });
        let watched = Arc::downgrade(&run);
        // Without the observer, a holder that blocks outside the library keeps the baton; nothing else depends on it.
        drop(prim::start_thread("tassel-virtual".into(), None, move || observe(&watched)));
        run
    }

    pub(crate) fn set_on_deadlock(&self, hook: OnDeadlock) {
        self.state.lock().on_deadlock = Some(hook);
    }

    /// Ends the run: its observer leaves.
    pub(crate) fn finish(&self) {
        let mut state = self.state.lock();
        state.over = true;
        let hook = state.on_deadlock.take();
        drop(state);
        drop(hook);
    }

    pub(crate) fn now(&self) -> Instant {
        self.state.lock().now
    }

    pub(crate) fn watch(&self, at: Instant, target: Weak<dyn Due>) -> Watch {
        self.state.lock().watches.insert(at, target)
    }

    pub(crate) fn unwatch(&self, watch: Watch) {
        let gone = self.state.lock().watches.remove(watch);
        drop(gone);
    }

    /// Gives out the next spawn order, from 1; the run's first code has 0.
    pub(crate) fn next_order(&self) -> u64 {
        let mut state = self.state.lock();
        state.orders += 1;
        state.orders
    }

    /// Enters a queued job: it is ready from now on.
    pub(crate) fn queue(&self, order: u64, job: Arc<dyn Summon>) {
        let mut state = self.state.lock();
        if state.early.remove(&order) {
            return; // a worker that was about has claimed it already
        }
        let turn = (state.now, 0, order);
        let spare = state.enter(turn, job);
        let then = state.hand_on();
        drop(state);
        drop(spare);
        self.follow(then);
    }

    /// Which job of `of` a thread that comes is to claim: the one whose turn it is.
    pub(crate) fn turn_of(&self, of: *const ()) -> Option<u64> {
        match &self.state.lock().holder {
            Holder::Summoned(order, _, job) if address(job) == of.addr() => Some(*order),
            _ => None,
        }
    }

    /// Takes a queued job's turn on this thread: returns once the baton is here. The caller has claimed the job.
    pub(crate) fn begin(&self, chair: &Chair, order: u64) {
        let seat = chair.seat();
        let mut state = self.state.lock();
        state.threads.entry(seat.id).or_insert_with(kernel_thread);
        state.let_go(seat.id);
        match &state.holder {
            Holder::Summoned(summoned, ..) if *summoned == order => {
                state.holder = Holder::Seat(seat.id);
                state.turns += 1;
                state.begun = state.turns;
                state.try_anew();
                return;
            }
            _ => {}
        }
        state.try_anew();
        let (turn, gone) = state.take_out(order).unwrap_or_else(|| {
            state.early.insert(order);
            ((state.now, 0, order), None)
        });
        state.ready.insert(turn, Who::Thread(Arc::clone(seat)));
        let then = state.hand_on();
        drop(state);
        drop(gone);
        self.follow(then);
        self.await_baton(chair);
    }

    /// Says that no thread can be had for the job whose turn it is, if it was summoned of `of`: others go on, by the
    /// result, until somebody claims it or a thread may be had. May be called under a lock that [`Summon::summon`] takes;
    /// the result not.
    pub(crate) fn refuse(&self, of: *const ()) -> Option<impl FnOnce()> {
        let mut state = self.state.lock();
        let holder = mem::replace(&mut state.holder, Holder::Nobody);
        let (turn, job) = match holder {
            Holder::Summoned(_, turn, job) if address(&job) == of.addr() => (turn, job),
            other => {
                state.holder = other;
                return None;
            }
        };
        // With all that its source has queued.
        state.stuck.insert(of.addr());
        // The caller has the source, too: what is dropped here is not the last of it.
        drop(state.put(turn, job));
        let then = state.hand_on();
        Some(move || self.follow(then))
    }

    /// Asks again for threads, if nobody moves and jobs are stuck: the system may have refused one for a while.
    pub(crate) fn retry(&self) {
        let mut state = self.state.lock();
        if state.stuck.is_empty() || !matches!(state.holder, Holder::Nobody) {
            return;
        }
        state.try_anew();
        let then = state.hand_on();
        drop(state);
        self.follow(then);
    }

    /// Hands the baton on and returns when it is this thread's turn again: at once if nobody else is ready.
    ///
    /// With `behind`, everybody who is ready now goes first; else only those who come before `order`.
    pub(crate) fn pass(&self, chair: &Chair, order: u64, behind: bool) {
        let seat = chair.seat();
        let mut state = self.state.lock();
        state.let_go(seat.id);
        let yields = if behind {
            state.yields += 1;
            state.yields
        } else {
            0
        };
        let turn = (state.now, yields, order);
        state.ready.insert(turn, Who::Thread(Arc::clone(seat)));
        let then = state.hand_on();
        drop(state);
        self.follow(then);
        self.await_baton(chair);
    }

    /// Leaves the run: this thread's job has ended.
    pub(crate) fn end(&self, seat: &Seat) {
        let mut state = self.state.lock();
        state.let_go(seat.id);
        state.threads.remove(&seat.id);
        // A thread gets free: what none could be had for may have this one.
        state.unstick();
        let then = state.hand_on();
        drop(state);
        self.follow(then);
    }

    /// Enters a foreign thread that runs bound code. It moves at once, and the clock stands until it waits or ends.
    ///
    /// `false` if the thread moves in this run already.
    pub(crate) fn enter_guest(&self, seat: &Seat) -> bool {
        let mut state = self.state.lock();
        let holds = matches!(state.holder, Holder::Seat(holder) if holder == seat.id);
        if holds || state.guests.contains(&seat.id) || state.outside.contains(&seat.id) {
            return false;
        }
        state.threads.insert(seat.id, kernel_thread());
        state.guests.insert(seat.id)
    }

    /// A bound closure is made: until it runs, or is gone, the clock stands.
    pub(crate) fn invite(&self) -> u64 {
        let mut state = self.state.lock();
        state.orders += 1;
        let number = state.orders;
        state.invited.insert(number);
        number
    }

    /// The bound closure runs (as a guest) or is gone.
    pub(crate) fn uninvite(&self, number: u64) {
        let mut state = self.state.lock();
        if !state.invited.remove(&number) {
            return;
        }
        let then = state.hand_on();
        drop(state);
        self.follow(then);
    }

    /// A run of its own begins on the thread of the holder, or has ended.
    pub(crate) fn set_inner(&self, begins: bool) {
        let mut state = self.state.lock();
        state.inner = if begins { state.inner + 1 } else { state.inner - 1 };
    }

    fn await_baton(&self, chair: &Chair) {
        let id = chair.seat().id;
        loop {
            let mut state = self.state.lock();
            if matches!(state.holder, Holder::Seat(seat) if seat == id) {
                state.begun = state.turns;
                state.stranded = Stranded::Unknown;
                return;
            }
            drop(state);
            chair.rest();
        }
    }

    /// Does what was decided under the lock. Telling what is due may run user code; the baton is kept meanwhile, unless
    /// that code itself waits in this run.
    fn follow(&self, mut then: Then) {
        loop {
            if let Some(seat) = then.unpark {
                seat.unpark();
            }
            if let Some(job) = then.summon {
                job.summon();
            }
            if then.deadlock.is_none() && then.tell.is_empty() && then.strand.is_empty() {
                return;
            }
            let mut taken = if then.strand.is_empty() { None } else { Some(Vec::new()) };
            for job in then.strand {
                taken = match (taken, job.strand()) {
                    (Some(taken), Some(threads)) => Some([taken, threads].concat()),
                    _ => None,
                };
            }
            if let Some((hook, waiting)) = then.deadlock {
                hook(waiting);
            }
            for target in then.tell.iter().filter_map(Weak::upgrade) {
                target.due();
            }
            let mut state = self.state.lock();
            if taken.is_some_and(|taken| taken.iter().all(|seat| state.parked.contains_key(seat))) {
                state.stranded = Stranded::ForEver;
            }
            if matches!(state.holder, Holder::Telling(seat) if seat == here()) {
                state.holder = Holder::Nobody;
            }
            let next = state.hand_on();
            drop(state);
            then = next;
        }
    }
}

impl Baton for Run {
    fn park(&self, chair: &Chair, order: u64, until: Option<Instant>) {
        let seat = chair.seat();
        let mut state = self.state.lock();
        state.threads.entry(seat.id).or_insert_with(kernel_thread);
        state.let_go(seat.id);
        if seat.is_poked() || until.is_some_and(|until| until <= state.now) {
            let turn = (state.now, 0, order);
            state.ready.insert(turn, Who::Thread(Arc::clone(seat)));
        } else {
            if let Some(until) = until {
                state.timers.insert((until, order, seat.id));
            }
            state.parked.insert(seat.id, Parked { seat: Arc::clone(seat), order, until });
        }
        let then = state.hand_on();
        drop(state);
        self.follow(then);
        self.await_baton(chair);
    }

    fn wake(&self, seat: u64) {
        let mut state = self.state.lock();
        let now = state.now;
        if !state.unpark(seat, now) {
            return;
        }
        let then = state.hand_on();
        drop(state);
        self.follow(then);
    }
}

impl State {
    /// Takes the baton, or the place outside the order, from `seat`.
    fn let_go(&mut self, seat: u64) {
        if matches!(self.holder, Holder::Seat(holder) | Holder::Telling(holder) if holder == seat) {
            self.holder = Holder::Nobody;
        }
        self.guests.remove(&seat);
        self.outside.remove(&seat);
    }

    /// What is known of threads that cannot be had is known no more.
    fn try_anew(&mut self) {
        self.retried = false;
        self.stranded = Stranded::Unknown;
    }

    /// Nobody moves, and the clock stands for bound closures that have not begun.
    fn is_held_by_invited(&self) -> bool {
        let still = matches!(self.holder, Holder::Nobody) && self.ready.is_empty() && self.guests.is_empty();
        still && !self.invited.is_empty()
    }

    /// Enters a queued job. What its source has queued before it goes first, also if no thread could be had for that.
    /// Returns what is to be dropped outside the lock.
    fn enter(&mut self, turn: Turn, job: Arc<dyn Summon>) -> Option<Arc<dyn Summon>> {
        self.stuck.remove(&address(&job));
        self.put(turn, job)
    }

    fn put(&mut self, turn: Turn, job: Arc<dyn Summon>) -> Option<Arc<dyn Summon>> {
        let source = address(&job);
        self.queued.insert(turn.2, (turn, source));
        let spare = match self.sources.entry(source) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().turns.insert(turn);
                Some(job)
            }
            Entry::Vacant(entry) => {
                entry.insert(Source { summon: job, turns: BTreeSet::from([turn]), shown: None });
                None
            }
        };
        self.show(source);
        spare
    }

    /// Takes a queued job out; returns its turn, and its source if that was the last of it.
    fn take_out(&mut self, order: u64) -> Option<(Turn, Option<Arc<dyn Summon>>)> {
        let (turn, at) = self.queued.remove(&order)?;
        if let Some(source) = self.sources.get_mut(&at) {
            source.turns.remove(&turn);
        }
        self.show(at);
        if self.sources.get(&at).is_some_and(|source| !source.turns.is_empty()) {
            return Some((turn, None));
        }
        self.stuck.remove(&at);
        Some((turn, self.sources.remove(&at).map(|source| source.summon)))
    }

    /// Sees to it that a source is among those who are ready by its first job, or, if it is stuck, not at all.
    fn show(&mut self, at: usize) {
        let Some(source) = self.sources.get_mut(&at) else { return };
        let first = if self.stuck.contains(&at) { None } else { source.turns.first().copied() };
        if source.shown == first {
            return;
        }
        if let Some(shown) = mem::replace(&mut source.shown, first) {
            self.ready.remove(&shown);
        }
        if let Some(first) = first {
            self.ready.insert(first, Who::Source(at));
        }
    }

    fn unstick(&mut self) {
        for at in mem::take(&mut self.stuck) {
            self.show(at);
        }
    }

    fn unpark(&mut self, seat: u64, since: Instant) -> bool {
        let Some(parked) = self.parked.remove(&seat) else { return false };
        if let Some(until) = parked.until {
            self.timers.remove(&(until, parked.order, seat));
        }
        self.ready.insert((since, 0, parked.order), Who::Thread(parked.seat));
        true
    }

    /// Gives a free baton to who is next, and moves the clock if nobody is.
    fn hand_on(&mut self) -> Then {
        let mut then = Then::default();
        if !matches!(self.holder, Holder::Nobody) {
            return then;
        }
        loop {
            if let Some((turn, who)) = self.ready.pop_first() {
                self.turns += 1;
                match who {
                    Who::Thread(seat) => {
                        self.holder = Holder::Seat(seat.id);
                        then.unpark = Some(seat);
                    }
                    Who::Source(at) => {
                        let Some(job) = self.sources.get(&at).map(|source| Arc::clone(&source.summon)) else {
                            continue;
                        };
                        // Not the last of it: the holder has it.
                        drop(self.take_out(turn.2));
                        self.holder = Holder::Summoned(turn.2, turn, Arc::clone(&job));
                        then.summon = Some(job);
                    }
                }
                return then;
            }
            if !self.guests.is_empty() || !self.invited.is_empty() {
                return then;
            }
            if !self.stuck.is_empty() && !self.retried {
                self.retried = true;
                self.unstick();
                continue;
            }
            if !self.stuck.is_empty() && self.stranded == Stranded::Unknown {
                self.stranded = Stranded::Told;
                self.holder = Holder::Telling(here());
                let mut stuck: Vec<_> = self.stuck.iter().filter_map(|at| self.sources.get(at)).collect();
                stuck.sort_by_key(|source| source.turns.first().copied());
                then.strand = stuck.into_iter().map(|source| Arc::clone(&source.summon)).collect();
                return then;
            }
            let timer = self.timers.first().map(|(at, ..)| *at);
            let next = [timer, self.watches.earliest()].into_iter().flatten().min();
            let Some(next) = next else {
                if self.outside.is_empty()
                    && (self.stuck.is_empty() || self.stranded == Stranded::ForEver)
                    && !self.parked.is_empty()
                {
                    let waiting = self.parked.len();
                    if let Some(hook) = self.on_deadlock.take() {
                        self.holder = Holder::Telling(here());
                        then.deadlock = Some((hook, waiting));
                    }
                }
                return then;
            };
            self.now = self.now.max(next);
            self.try_anew();
            while let Some((at, _, seat)) = self.timers.first().copied() {
                if at > self.now {
                    break;
                }
                self.unpark(seat, at);
            }
            let due = self.watches.take_due(self.now);
            if !due.is_empty() {
                self.holder = Holder::Telling(here());
                then.tell = due;
                return then;
            }
        }
    }
}

/// Where the source of a job stands.
fn address(job: &Arc<dyn Summon>) -> usize {
    Arc::as_ptr(job).cast::<()>().addr()
}

/// The seat of the calling thread.
fn here() -> u64 {
    with_chair(|chair| chair.seat().id)
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Run")
    }
}

/// How often the observer looks at the holder of the baton.
const LOOK: Duration = Duration::from_millis(10);

/// How many looks in a row must show one and the same sleep, times the number of threads that want a CPU: a holder that
/// waits for a lock, of ours or of the allocator, while that lock's holder has no CPU sleeps too. That is over after a
/// few milliseconds for each of these threads.
const LOOKS: u32 = 5;

/// How many threads of the machine run or want to, by `/proc/loadavg`: the part before the slash in `2/345`.
fn runnable() -> u32 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split(' ').nth(3).and_then(|threads| threads.split('/').next()?.parse().ok());
    running.unwrap_or(1)
}

/// Takes the baton from a holder that sleeps outside the library, in a std barrier say. Linux only: elsewhere nothing
/// tells us.
fn observe(run: &Weak<Run>) {
    let mut last = None;
    let mut same = 0;
    let mut waits = 0;
    loop {
        thread::sleep(LOOK);
        let Some(run) = run.upgrade() else { return };
        let mut state = run.state.lock();
        if state.over {
            return;
        }
        if state.is_held_by_invited() {
            // A thread that was started for it would have run by now, so perhaps it is kept for later.
            waits += 1;
            if waits >= LOOKS && waits >= LOOKS.saturating_mul(runnable()) {
                state.invited.clear();
                let then = state.hand_on();
                drop(state);
                run.follow(then);
            }
            continue;
        }
        waits = 0;
        let Holder::Seat(seat) = state.holder else {
            same = 0;
            continue;
        };
        if state.begun != state.turns || state.inner > 0 {
            same = 0;
            continue;
        }
        let turn = state.turns;
        let thread = state.threads.get(&seat).cloned();
        drop(state);
        let sleep = thread.as_deref().and_then(sleep_of);
        let Some(sleep) = sleep else {
            same = 0;
            continue;
        };
        let look = Some((seat, turn, sleep));
        same = if look == last { same + 1 } else { 1 };
        last = look;
        if same < LOOKS || same < LOOKS.saturating_mul(runnable()) {
            continue;
        }
        same = 0;
        state = run.state.lock();
        if state.turns == turn && matches!(state.holder, Holder::Seat(holder) if holder == seat) {
            state.holder = Holder::Nobody;
            state.outside.insert(seat);
            let then = state.hand_on();
            drop(state);
            run.follow(then);
        }
    }
}

/// The kernel's folder for the calling thread; empty where there is none.
fn kernel_thread() -> PathBuf {
    match fs::read_link("/proc/thread-self") {
        Ok(thread) => PathBuf::from("/proc").join(thread),
        Err(_) => PathBuf::new(),
    }
}

/// Names the sleep a thread is in, by the count of its voluntary context switches; `None` if it runs or wants to.
fn sleep_of(thread: &std::path::Path) -> Option<u64> {
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too; the state follows the last one.
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    if state == 'R' {
        return None;
    }
    let status = fs::read_to_string(thread.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}
