//! What a pool knows, under its lock: [`State`]; and how it was built: [`Config`].
//!
//! # Promises
//!
//! 1. Counts are right at any moment under the lock: `active` workers are alive or being started, and neither idle, nor
//!    blocked, nor apart.
//! 2. Whoever decides under the lock that a worker comes has counted it when the lock is let go; what is to be done for it
//!    after that is a [`Then`].
//!
//! # Does not know
//!
//! Threads: it counts them.

use crate::{
    park::seat::Seat,
    pool::{roster::Roster, source::Source},
    prim::Unparker,
};
use std::{
    cell::Cell,
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

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
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(5);

/// Without a finished job for this long, workers are added regardless. Doubles each time it happens.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct State {
    pub(super) listed: VecDeque<Arc<dyn Source>>,
    pub(super) roster: Roster,
    /// Workers that have begun, by number: their seats.
    pub(super) workers: HashMap<u64, Arc<Seat>>,
    /// Of workers alive, once whoever started them has stored it.
    pub(super) handles: HashMap<u64, Hand>,
    /// Workers that have left, or are about to: still to be joined.
    pub(super) left: Vec<Hand>,
    /// Workers that left before whoever started them could store their handle.
    pub(super) early: HashSet<u64>,
    /// Alive or being started.
    pub(super) threads: usize,
    pub(super) active: usize,
    /// Of these, those on their way to a job: woken, started, or about to be free.
    pub(super) coming: usize,
    pub(super) blocked: usize,
    /// Places beyond the parallelism, given for blocking that nobody announced.
    pub(super) extra: usize,
    /// Places beyond the parallelism, for queued jobs that are to start at once.
    pub(super) forced: usize,
    pub(super) peak: usize,
    pub(super) refused: u64,
    /// How many threads were asked for; a worker's number is that of its start.
    pub(super) starts: u64,
    /// Why the last start failed; cleared by one that does not.
    pub(super) refusal: Option<String>,
    pub(super) scopes: usize,
    pub(super) closed: bool,
    /// Somebody who shuts the pool down joins its threads: a second one returns no earlier.
    pub(super) joining: bool,
    /// The look that is due, if the alarm has one of ours.
    pub(super) armed: bool,
    pub(super) look: Duration,
    pub(super) patience: Duration,
    pub(super) add: usize,
    pub(super) finished_seen: u64,
    pub(super) quiet_since: Option<Instant>,
}

/// A worker's thread.
pub(super) struct Hand {
    pub(super) thread: JoinHandle<()>,
    /// Set when its thread-locals are destroyed.
    pub(super) gone: Arc<AtomicBool>,
}

impl Hand {
    /// Whether to join it is to wait for nobody's code. `JoinHandle::is_finished` says so too early: destructors of
    /// thread-locals may still run, for long, and they may open scopes, so the joiner may be the thread itself.
    pub(super) fn is_gone(&self) -> bool {
        // Publishes nothing: a join follows.
        self.gone.load(Ordering::Relaxed)
    }
}

/// What is to be done after unlocking.
#[derive(Default)]
#[must_use]
pub(super) struct Then {
    pub(super) wake: Option<Unparker>,
    /// The number of the worker.
    pub(super) start: Option<u64>,
    /// No thread can be had.
    pub(super) none: bool,
}

impl Then {
    pub(super) fn is_nothing(&self) -> bool {
        self.wake.is_none() && self.start.is_none() && !self.none
    }
}

impl State {
    /// Why no thread can be had, if none can: nobody is idle or on the way, and no further one may be started.
    pub(super) fn no_thread(&self, config: &Config) -> Option<String> {
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
    pub(super) fn places(&self, config: &Config) -> usize {
        config.parallelism.saturating_add(self.extra).saturating_add(self.forced)
    }

    /// Whether there is no idle worker and may be no further one.
    pub(super) fn is_used_up(&self, config: &Config) -> bool {
        self.roster.len() == 0 && self.threads >= config.max_threads
    }

    /// Unlists sources whose owners did their jobs; the caller drops them after unlocking.
    ///
    /// Nothing is lost: what is queued after the look asks after it, and finds the source unlisted.
    #[must_use]
    pub(super) fn unlist_done(&mut self) -> Vec<Arc<dyn Source>> {
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
    pub(super) fn arrive(&mut self) {
        self.coming -= usize::from(COMING.with(|coming| coming.replace(false)));
    }

    /// Whether anything that is listed could use a worker. A virtual run has one turn at a time, and whoever is coming
    /// anyway will do: else the number of threads, and what is refused, would depend on how fast they come.
    pub(super) fn needs_worker(&self) -> bool {
        self.listed.iter().any(|source| source.turns().is_none() || (self.coming == 0 && source.wanted() > 0))
    }

    /// Takes the next source out. One of a virtual run stays until it has a turn, or no queued jobs.
    pub(super) fn take_listed(&mut self) -> Option<Arc<dyn Source>> {
        let at = self.listed.iter().position(|source| source.turns().is_none() || source.wanted() > 0)?;
        self.listed.remove(at)
    }

    /// Finds a worker for what is listed, if one may be active.
    pub(super) fn find_worker(&mut self, config: &Config) -> Then {
        let mut then = Then::default();
        if !self.needs_worker() || self.active >= self.places(config) {
            return then;
        }
        if let Some(idle) = self.take_idle() {
            then.wake = Some(idle);
        } else if self.threads < config.max_threads {
            self.threads += 1;
            self.active += 1;
            self.coming += 1;
            self.starts += 1;
            then.start = Some(self.starts);
        } else if self.active == 0 {
            then.none = true;
        }
        then
    }

    /// Takes the worker that lay down last, who is on its way from now on; the caller wakes it after unlocking.
    pub(super) fn take_idle(&mut self) -> Option<Unparker> {
        let idle = self.roster.take()?;
        self.active += 1;
        self.coming += 1;
        Some(idle)
    }

    /// As [`take_idle`](State::take_idle), everybody.
    pub(super) fn take_all_idle(&mut self) -> Vec<Unparker> {
        let idle = self.roster.take_all();
        self.active += idle.len();
        self.coming += idle.len();
        idle
    }

    /// A worker leaves for good.
    pub(super) fn depart(&mut self, worker: u64) {
        self.workers.remove(&worker);
        self.threads -= 1;
        match self.handles.remove(&worker) {
            Some(hand) => self.left.push(hand),
            None => drop(self.early.insert(worker)),
        }
    }

    /// Jobs finish, or none wait: patience starts anew.
    pub(super) fn calm(&mut self, finished: u64) {
        self.finished_seen = finished;
        self.quiet_since = None;
        self.look = FIRST_LOOK;
        self.patience = PATIENCE;
        self.add = 1;
    }
}

thread_local! {
    /// Whether this worker is counted as coming.
    pub(super) static COMING: Cell<bool> = const { Cell::new(false) };
}
