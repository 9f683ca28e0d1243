//! What a pool knows, under its lock: [`State`]; and how it was built: [`Config`].
//!
//! # Promises
//!
//! 1. Counts are right at any moment under the lock: `active` workers are alive or being started, and neither idle, nor
//!    blocked, nor apart; `unseen` of these are blocked as the kernel says.
//! 2. Whoever decides under the lock that a worker comes has counted it when the lock is let go; what is to be done for it
//!    after that is a [`Then`].
//! 3. Nobody is called for a job for which somebody is coming already.
//!
//! # Does not know
//!
//! Threads: it counts them.

use crate::{
    park::{alarm::Watch, kernel::kernel_thread, seat::Seat},
    pool::{limits::thread_cap, roster::Roster, source::Source, watch::Sight},
    prim::{JoinHandle, Unparker},
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
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
            max_threads: thread_cap(),
            keep_alive: KEEP_ALIVE,
            stack_size: None,
            name_prefix: "tassel".into(),
            refuse: None,
        }
    }
}

/// How long a worker stays without work: what tokio and Trio use.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A worker, as the pool and its watch see it. Ordered by the pool's lock, unless it says otherwise.
pub(super) struct Post {
    pub(super) seat: Arc<Seat>,
    /// The kernel's folder of its thread; empty where there is none.
    pub(super) thread: PathBuf,
    /// Where it stands in `State::busy`.
    at: AtomicUsize,
    /// How often it has become busy: two equal readings show that it has stayed so.
    pub(super) stint: AtomicU64,
    /// Counted as on its way to a job.
    coming: AtomicBool,
    /// The kernel showed it asleep at the last look.
    pub(super) asleep: AtomicBool,
    /// Taken for blocked: asleep at two looks running. Its worker reads it without the lock, as a hint.
    pub(super) unseen: AtomicBool,
    /// How many jobs it has run. Written by its worker alone, without the lock: that it moves is all that is asked.
    pub(super) finished: AtomicU64,
}

/// In no place of `State::busy`.
const NOWHERE: usize = usize::MAX;

impl Post {
    /// Of the calling thread, who is on its way to its first job.
    pub(super) fn new(seat: Arc<Seat>) -> Arc<Self> {
        Arc::new(Post {
            seat,
            thread: if cfg!(any(tassel_loom, tassel_shuttle)) { PathBuf::new() } else { kernel_thread() },
            at: AtomicUsize::new(NOWHERE),
            stint: AtomicU64::new(0),
            coming: AtomicBool::new(true),
            asleep: AtomicBool::new(false),
            unseen: AtomicBool::new(false),
            finished: AtomicU64::new(0),
        })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.at.load(Ordering::Relaxed) != NOWHERE
    }

    /// Tells whether it was coming before.
    pub(super) fn set_coming(&self) -> bool {
        self.coming.swap(true, Ordering::Relaxed)
    }
}

/// A source in the list.
pub(super) struct Listed {
    pub(super) source: Arc<dyn Source>,
    /// The number of the job that stood last in its queue at the last look: what stood before it has waited since.
    pub(super) mark: u64,
    /// The number of the job that stood first then.
    pub(super) front: u64,
    /// Since when those who spawn into it, or run its jobs, are left alone: a look saw that they do so fast, or a worker that it
    /// was in their way.
    pub(super) alone: Option<Instant>,
    /// When a worker last went to rest because it was in their way; forgotten after a while.
    pub(super) rested: Option<Instant>,
}

impl Listed {
    /// Whether its jobs may be too short to share.
    pub(super) fn is_crowded(&self) -> bool {
        self.alone.is_some() || self.rested.is_some()
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) listed: VecDeque<Listed>,
    pub(super) roster: Roster,
    /// Workers that have begun, by number.
    pub(super) workers: HashMap<u64, Arc<Post>>,
    /// Those of them that are active, and have not just been woken.
    pub(super) busy: Vec<Arc<Post>>,
    /// Of workers alive, once whoever started them has stored it.
    pub(super) handles: HashMap<u64, Hand>,
    /// Workers that have left, or are about to: still to be joined.
    pub(super) left: Vec<Hand>,
    /// Workers that left before whoever started them could store their handle.
    pub(super) early: HashSet<u64>,
    /// Alive or being started.
    pub(super) threads: usize,
    /// Alive: the system gave a thread, as far as that has been heard of, by the worker or by whoever started it.
    pub(super) alive: usize,
    pub(super) active: usize,
    /// Of these, those on their way to a job: woken, started, or about to be free.
    pub(super) coming: usize,
    pub(super) blocked: usize,
    /// Of the active, those that the kernel shows blocked. Each gives its place to another.
    pub(super) unseen: usize,
    /// Places given before the workers are seen blocked that will take them: the watch has seen so many others.
    pub(super) ahead: usize,
    /// Places given because no job has finished for long.
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
    /// How many jobs those workers have run that are gone.
    finished_before: u64,
    /// Counts sources that were listed: two equal readings show that none was in between.
    pub(super) listings: u64,
    /// The look that is due, if the alarm has one of ours.
    pub(super) watch: Option<Watch>,
    /// That look may be late: the system refuses the alarm its thread.
    pub(super) unserved: bool,
    /// What the watch knows from look to look.
    pub(super) sight: Sight,
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
        self.own_places(config).saturating_add(self.unseen).saturating_add(self.ahead)
    }

    /// How many workers may be active that are not blocked.
    pub(super) fn own_places(&self, config: &Config) -> usize {
        config.parallelism.saturating_add(self.extra).saturating_add(self.forced)
    }

    /// Whether there is no idle worker and may be no further one.
    pub(super) fn is_used_up(&self, config: &Config) -> bool {
        self.roster.len() == 0 && self.threads >= config.max_threads
    }

    /// How many jobs the workers have run.
    pub(super) fn finished(&self) -> u64 {
        let finished = |post: &Arc<Post>| post.finished.load(Ordering::Relaxed);
        self.finished_before.wrapping_add(self.workers.values().map(finished).sum())
    }

    /// Puts a source at the end of the list. It has noted that it is there.
    pub(super) fn put(&mut self, source: Arc<dyn Source>) {
        self.listings = self.listings.wrapping_add(1);
        self.listed.push_back(Listed { source, mark: 0, front: u64::MAX, alone: None, rested: None });
    }

    /// Unlists sources that have no queued jobs; the caller drops them after unlocking.
    #[must_use]
    pub(super) fn unlist_done(&mut self) -> Vec<Arc<dyn Source>> {
        let mut done = Vec::new();
        for _ in 0..self.listed.len() {
            let Some(listed) = self.listed.pop_front() else { break };
            if listed.source.set_unlisted(false) {
                done.push(listed.source);
            } else {
                self.listed.push_back(listed);
            }
        }
        done
    }

    /// Unlists a source that is over; the caller drops it after unlocking. It was listed last, most likely.
    #[must_use]
    pub(super) fn take_out(&mut self, source: &dyn Source) -> Option<Listed> {
        if self.listed.is_empty() || !source.is_listed() || !source.set_unlisted(false) {
            return None;
        }
        let address = ptr::from_ref(source).cast::<()>();
        let at = self.listed.iter().rposition(|listed| Arc::as_ptr(&listed.source).cast::<()>() == address)?;
        self.listed.remove(at)
    }

    /// The worker is no more on its way: it has work, or lies down.
    pub(super) fn arrive(&mut self, post: &Post) {
        self.coming -= usize::from(post.coming.swap(false, Ordering::Relaxed));
    }

    /// The worker, which is counted as active, can be looked at.
    pub(super) fn set_busy(&mut self, post: &Arc<Post>) {
        post.stint.fetch_add(1, Ordering::Relaxed);
        post.at.store(self.busy.len(), Ordering::Relaxed);
        self.busy.push(Arc::clone(post));
    }

    /// The worker is active no more. A place that was given for it goes back.
    pub(super) fn set_inactive(&mut self, post: &Post) {
        self.active -= 1;
        let at = post.at.swap(NOWHERE, Ordering::Relaxed);
        if at < self.busy.len() {
            drop(self.busy.swap_remove(at)); // never the last of it
            if let Some(moved) = self.busy.get(at) {
                moved.at.store(at, Ordering::Relaxed);
            }
        }
        self.set_awake(post);
    }

    /// The worker is not, or no more, seen blocked.
    pub(super) fn set_awake(&mut self, post: &Post) {
        post.asleep.store(false, Ordering::Relaxed);
        self.unseen -= usize::from(post.unseen.swap(false, Ordering::Relaxed));
    }

    /// Whether more is queued than those do who are coming, and `spoken` more jobs that somebody is about to claim. A
    /// virtual run has one turn at a time, and whoever is coming anyway will do: else the number of threads, and what is
    /// refused, would depend on how fast they come.
    pub(super) fn needs_worker(&self, spoken: usize) -> bool {
        let mut queued = 0;
        self.listed.iter().any(|listed| {
            if listed.source.turns().is_some() {
                return self.coming == 0 && listed.source.wanted() > 0;
            }
            queued += listed.source.queued();
            queued > self.coming + spoken
        })
    }

    /// Gives the source whose turn it is, which goes to the end of the list. One of a virtual run stays where it is until one
    /// of its jobs has its turn, and then leaves: it is listed again with the next turn. Those found empty go to `done`, to be
    /// dropped after unlocking.
    pub(super) fn next_listed(&mut self, done: &mut Vec<Arc<dyn Source>>) -> Option<Arc<dyn Source>> {
        for _ in 0..self.listed.len() {
            let listed = self.listed.pop_front()?;
            let source = &listed.source;
            if source.turns().is_none() {
                let empty = source.queued() == 0;
                if empty && source.set_unlisted(mutant!("unlisted_with_a_job")) {
                    done.push(listed.source);
                    continue;
                }
                let next = Arc::clone(source);
                self.listed.push_back(listed);
                return Some(next);
            }
            if source.wanted() > 0 {
                source.set_unlisted(true);
                return Some(listed.source);
            }
            if source.set_unlisted(false) {
                done.push(listed.source);
            } else {
                self.listed.push_back(listed);
            }
        }
        None
    }

    /// Whether all that is listed is one source whose jobs may be too short to share: one worker tries.
    pub(super) fn is_crowded(&self) -> bool {
        let only = self.listed.len() == 1 && self.forced == 0 && self.unseen == 0 && !self.unserved;
        only && self.listed.iter().all(Listed::is_crowded)
    }

    /// Finds a worker for what is listed, but for `spoken` jobs, if one may be active.
    pub(super) fn find_worker(&mut self, config: &Config, spoken: usize) -> Then {
        let mut then = Then::default();
        if self.listed.is_empty() || self.active >= self.places(config) || !self.needs_worker(spoken) {
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

    /// A worker has begun.
    pub(super) fn begin(&mut self, worker: u64, post: &Arc<Post>) {
        self.workers.insert(worker, Arc::clone(post));
        self.set_busy(post);
        if !self.handles.contains_key(&worker) {
            self.count_alive();
        }
    }

    /// The system gave a worker a thread. It may have begun, and even left.
    pub(super) fn started(&mut self, worker: u64, hand: Hand) {
        self.refusal = None;
        if self.early.remove(&worker) {
            self.left.push(hand);
            return;
        }
        if !self.workers.contains_key(&worker) {
            self.count_alive();
        }
        self.handles.insert(worker, hand);
    }

    fn count_alive(&mut self) {
        self.alive += 1;
        self.peak = self.peak.max(self.alive);
    }

    /// A worker, which has begun, leaves for good.
    pub(super) fn depart(&mut self, worker: u64) {
        if let Some(post) = self.workers.remove(&worker) {
            self.finished_before = self.finished_before.wrapping_add(post.finished.load(Ordering::Relaxed));
        }
        self.threads -= 1;
        self.alive -= 1;
        match self.handles.remove(&worker) {
            Some(hand) => self.left.push(hand),
            None => drop(self.early.insert(worker)),
        }
    }
}
