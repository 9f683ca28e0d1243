//! Whose turn it is in a virtual run: plain data, under the run's lock.
//!
//! | entry | means |
//! |---|---|
//! | `ready`, a thread | wants the baton |
//! | `ready`, a source | the first of its queued jobs has a turn, which *summons* a thread that claims just this job |
//! | `stuck` | a source for whose jobs no thread could be had; it is ready again when one may be, or one more is queued |
//! | `parked` | waits, perhaps until an instant |
//! | `lookers` | those of them who wait for what pokes nobody, such as a channel of the user's |
//! | `guests` | threads that move without the baton, and hold the clock: bound closures on foreign threads, and holders that the kernel showed asleep in a call that was `announced` |
//! | `invited` | bound closures that are not running yet: they hold the clock, too, but not for ever |
//! | `outside` | holders that the kernel showed asleep outside the library: they lost the baton, and do not hold the clock |
//! | `holds` | how many of those who are parked wait for somebody outside the run: they hold the clock |
//!
//! # Promises
//!
//! 1. The order of turns is that of (instant of becoming ready, yields, spawn order).
//! 2. A looker looks again after all that anybody has done, when nobody else is ready, and before the clock moves.
//! 3. What is to be done for a decision is a [`Then`], carried out once the lock is released.
//!
//! # Does not know
//!
//! How threads wait for their turn, and what happens outside the lock: that is `virtual_run.rs`.

use crate::park::{
    alarm::{Due, Watches},
    seat::{Seat, with_chair},
};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    mem,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Instant,
};

/// Where a thread that has no baton sleeps in a channel which only those can use who are both there at once.
///
/// Whoever moves next would miss it while it is on the way there. So it goes to sleep in a `Select` that has the channel first,
/// then a message to nobody: once that is on offer, it is registered with the channel, too. The next to have the baton looks
/// out for that.
#[cfg_attr(any(tassel_loom, tassel_shuttle), allow(dead_code, reason = "models have channels of their own"))]
pub(crate) struct Meeting {
    /// Where the run says that it is to go on.
    pub(crate) wake: Receiver<()>,
    /// On offer as soon as it sleeps, and never taken.
    pub(crate) asleep: Sender<()>,
}

/// How the run sees a [`Meeting`].
pub(super) struct Met {
    pub(super) wake: Sender<()>,
    /// Has something on offer, or is closed: the thread sleeps, or does not sleep any more.
    pub(super) asleep: Receiver<()>,
}

impl Meeting {
    pub(super) fn new() -> (Self, Met) {
        let ((wake, woken), (offer, asleep)) = (bounded(1), bounded(0));
        (Meeting { wake: woken, asleep: offer }, Met { wake, asleep })
    }
}

/// Something queued whose turn has come: it finds itself a thread.
pub(crate) trait Summon: Send + Sync {
    /// Called outside the run's lock. The thread that comes calls [`Run::begin`](super::virtual_run::Run::begin); if none
    /// can be had, [`Run::refuse`](super::virtual_run::Run::refuse) is called.
    fn summon(self: Arc<Self>);

    /// Called outside the run's lock: nobody moves, and no thread can be had. Whoever can prove that none ever can
    /// cancels what starves. Returns the seats of all threads that might get free for it; `None` if others may, too.
    fn strand(self: Arc<Self>) -> Option<Vec<u64>>;
}

/// Called once when a run can never move again, with the number of threads that wait.
pub(crate) type OnDeadlock = Box<dyn FnOnce(usize) + Send>;

/// When somebody became ready, how often it has yielded since (as the run counts), and its spawn order.
pub(super) type Turn = (Instant, u64, u64);

/// Nobody counts on threads outside the order any more, until something is done.
pub(super) const NO_MORE: u32 = u32::MAX;

pub(super) enum Who {
    Thread(Arc<Seat>),
    /// What stands at that address has queued jobs.
    Source(usize),
}

/// Jobs that no thread has claimed, of one source. By source, so that it costs little to put them all aside.
pub(super) struct Source {
    summon: Arc<dyn Summon>,
    turns: BTreeSet<Turn>,
    /// The one by which the source is among those who are ready: the first, unless it is stuck.
    shown: Option<Turn>,
}

pub(super) enum Holder {
    Nobody,
    /// The thread at that seat.
    Seat(u64),
    /// A queued job that waits for a thread to claim it.
    Summoned(u64, Turn, Arc<dyn Summon>),
    /// This thread, which jumped, or found nobody to move, and tells whom it concerns.
    Telling(u64),
}

/// What is known of the jobs that are stuck, since anybody moved last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stranded {
    Unknown,
    /// They have been told.
    Told,
    /// And all threads that might get free for them are parked here.
    ForEver,
}

pub(super) struct Parked {
    pub(super) seat: Arc<Seat>,
    pub(super) order: u64,
    pub(super) until: Option<Instant>,
    /// The stirs before its last look, if it is one who looks.
    pub(super) looked: Option<u64>,
}

pub(super) struct State {
    pub(super) now: Instant,
    pub(super) holder: Holder,
    /// Counts hand-overs, so that a look at the holder can tell whether it is still the same turn.
    pub(super) turns: u64,
    /// The turn whose thread is known to have awoken: before, it sleeps because its wake-up is on the way.
    pub(super) begun: u64,
    pub(super) yields: u64,
    pub(super) ready: BTreeMap<Turn, Who>,
    /// By address.
    pub(super) sources: HashMap<usize, Source>,
    /// Queued jobs by spawn order: turn and source.
    pub(super) queued: HashMap<u64, (Turn, usize)>,
    pub(super) stuck: HashSet<usize>,
    /// Jobs that were claimed before their spawner could enter them here.
    pub(super) early: HashSet<u64>,
    /// A thread has been asked for again for all that is stuck, since one came last, or the clock moved.
    pub(super) retried: bool,
    pub(super) stranded: Stranded,
    pub(super) parked: HashMap<u64, Parked>,
    pub(super) timers: BTreeSet<(Instant, u64, u64)>,
    /// Counts what was done in the run, by anybody, that others may find when they look.
    pub(super) stirs: u64,
    /// The stirs before its last look, spawn order and seat of each who looks.
    pub(super) lookers: BTreeSet<(u64, u64, u64)>,
    /// Those of them who sleep in a channel, by seat.
    pub(super) met: HashMap<u64, Sender<()>>,
    /// Those of them who are on the way there.
    pub(super) going: Vec<Receiver<()>>,
    /// All in the order wait, and some look: for how many looks of the observer.
    pub(super) strangers: Option<u32>,
    pub(super) watches: Watches,
    pub(super) guests: HashSet<u64>,
    /// Bound closures that have not begun, by number.
    pub(super) invited: HashSet<u64>,
    /// Runs within this one, on the thread of its holder: it stands meanwhile.
    pub(super) inner: usize,
    /// Waits that somebody outside of the run is to end.
    pub(super) holds: usize,
    /// Threads whose code is in a call of which it was announced that it may sleep outside the library.
    pub(super) announced: HashSet<u64>,
    pub(super) outside: HashSet<u64>,
    /// The kernel's folder of each thread of the run, by seat.
    pub(super) threads: HashMap<u64, PathBuf>,
    pub(super) on_deadlock: Option<OnDeadlock>,
    pub(super) orders: u64,
    pub(super) over: bool,
}

/// What is to be done once the lock is released.
#[derive(Default)]
pub(super) struct Then {
    pub(super) unpark: Option<Arc<Seat>>,
    /// The same thread sleeps in a channel.
    pub(super) wake: Option<Sender<()>>,
    pub(super) summon: Option<Arc<dyn Summon>>,
    pub(super) strand: Vec<Arc<dyn Summon>>,
    pub(super) tell: Vec<Weak<dyn Due>>,
    pub(super) deadlock: Option<(OnDeadlock, usize)>,
}

impl Then {
    /// Whether code of the user's may run.
    pub(super) fn tells(&self) -> bool {
        self.deadlock.is_some() || !self.tell.is_empty()
    }
}

impl State {
    /// That of a run whose baton the thread at that seat holds.
    pub(super) fn new(now: Instant, seat: u64, thread: PathBuf) -> Self {
        State {
            now,
            holder: Holder::Seat(seat),
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
            stirs: 0,
            lookers: BTreeSet::new(),
            met: HashMap::new(),
            going: Vec::new(),
            strangers: None,
            watches: Watches::default(),
            guests: HashSet::new(),
            invited: HashSet::new(),
            inner: 0,
            holds: 0,
            announced: HashSet::new(),
            outside: HashSet::new(),
            threads: HashMap::from([(seat, thread)]),
            on_deadlock: None,
            orders: 0,
            over: false,
        }
    }

    /// Takes the baton, or the place outside the order, from `seat`.
    pub(super) fn let_go(&mut self, seat: u64) {
        if matches!(self.holder, Holder::Seat(holder) | Holder::Telling(holder) if holder == seat) {
            self.holder = Holder::Nobody;
        }
        self.guests.remove(&seat);
        self.outside.remove(&seat);
    }

    /// What is known of threads that cannot be had is known no more.
    pub(super) fn try_anew(&mut self) {
        self.retried = false;
        self.stranded = Stranded::Unknown;
    }

    /// Nobody moves, and the clock stands for bound closures that have not begun.
    pub(super) fn is_held_by_invited(&self) -> bool {
        let still = matches!(self.holder, Holder::Nobody) && self.ready.is_empty() && self.guests.is_empty();
        still && !self.invited.is_empty()
    }

    /// Enters a queued job. What its source has queued before it goes first, also if no thread could be had for that.
    /// Returns what is to be dropped outside the lock.
    pub(super) fn enter(&mut self, turn: Turn, job: Arc<dyn Summon>) -> Option<Arc<dyn Summon>> {
        self.stuck.remove(&address(&job));
        self.put(turn, job)
    }

    pub(super) fn put(&mut self, turn: Turn, job: Arc<dyn Summon>) -> Option<Arc<dyn Summon>> {
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
    pub(super) fn take_out(&mut self, order: u64) -> Option<(Turn, Option<Arc<dyn Summon>>)> {
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
    pub(super) fn show(&mut self, at: usize) {
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

    pub(super) fn unstick(&mut self) {
        for at in mem::take(&mut self.stuck) {
            self.show(at);
        }
    }

    pub(super) fn unpark(&mut self, seat: u64, since: Instant) -> bool {
        let Some(parked) = self.parked.remove(&seat) else { return false };
        if let Some(until) = parked.until {
            self.timers.remove(&(until, parked.order, seat));
        }
        if let Some(looked) = parked.looked {
            self.lookers.remove(&(looked, parked.order, seat));
        }
        self.ready.insert((since, 0, parked.order), Who::Thread(parked.seat));
        true
    }

    /// Something was done that others may find when they look.
    pub(super) fn stir(&mut self) {
        self.stirs += 1;
        self.strangers = None;
    }

    /// Has one who parks listed as a looker. Returns the stirs before its last look.
    pub(super) fn list(&mut self, seat: u64, order: u64) -> u64 {
        // It looked with the baton in its hand, so it has seen all that was done before.
        self.lookers.insert((self.stirs, order, seat));
        self.stirs
    }

    /// Has all look who wait for what pokes nobody, and have not looked since anything was done. Tells whether there are any.
    pub(super) fn ask(&mut self) -> bool {
        let mut any = false;
        while let Some((looked, _, seat)) = self.lookers.first().copied() {
            if looked == self.stirs {
                break;
            }
            any |= self.unpark(seat, self.now);
        }
        any
    }

    /// Whether some wait for what a thread outside the order may bring. All others wait as well: from now on it is counted how
    /// long. See `observe`.
    fn counts_on_strangers(&mut self) -> bool {
        let looks = *self.strangers.get_or_insert(0);
        looks != NO_MORE && !self.lookers.is_empty()
    }

    /// Gives a free baton to who is next, and moves the clock if nobody is.
    pub(super) fn hand_on(&mut self) -> Then {
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
                        then.wake = self.met.remove(&seat.id);
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
            if self.ask() {
                continue;
            }
            if !self.guests.is_empty() || !self.invited.is_empty() || self.holds > 0 {
                self.counts_on_strangers();
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
                if self.counts_on_strangers() {
                    return then;
                }
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
pub(super) fn address(job: &Arc<dyn Summon>) -> usize {
    Arc::as_ptr(job).cast::<()>().addr()
}

/// The seat of the calling thread.
pub(super) fn here() -> u64 {
    with_chair(|chair| chair.seat().id)
}
