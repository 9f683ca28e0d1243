//! The pool proper: [`PoolCore`].
//!
//! A scope is *listed* here, once, as a [`Source`], while it may have queued jobs. To be listed wakes nobody: the owner
//! works before it waits, and a wake-up costs as much as a hundred short jobs. A worker is called when there is work that
//! who is awake cannot do:
//!
//! | who calls | when |
//! |---|---|
//! | a thread that announces a wait | what its pools have listed (`here.rs`) |
//! | an owner at its exit | it has helped for as long as a wake-up costs, and much is left (`scope/threads.rs`) |
//! | a worker that takes a job | more is queued, and there is a place: so one call grows as far as the work does; but where the jobs may be too short to share, it goes alone |
//! | the watch | a job has stood in the queue for two looks: whoever spawned it computes (`watch.rs`) |
//! | whoever cannot wait | for a job with a thread of its own, a turn of a virtual run, the backlog of a cancelled scope |
//!
//! Workers take listed sources in turn, one job each time, so that scopes share fairly; one that finds no other source
//! listed goes on with the same without this lock; and one that is in the way of others, who spawn and claim jobs too short
//! to share, rests until the watch calls it. As many *unblocked* workers run as the parallelism says; a worker that
//! announces a wait, or that the watch finds blocked, does not count, and its place is filled if there is work.
//!
//! # Promises
//!
//! 1. A listed source with queued jobs is served: by an idle worker, a new one, whoever gets free, or, where no thread
//!    can be had, its own owner and joiners, who are told ([`Source::rescue`]).
//! 2. An idle pool uses no CPU, and after the keep-alive it has no thread.
//! 3. A shutdown returns when every thread has been joined, also to a second caller.
//! 4. A spawn into a listed scope touches nothing of the pool.
//!
//! # Does not know
//!
//! Scopes, errors, what a job does.
//!
//! # Why no ticket is lost
//!
//! *Queued is listed.* Whether a source is listed is noted under the lock of its queue. Who queues a job finds it noted,
//! or notes it and lists the source after; who takes a source off the list, under the pool's lock, does so only if under
//! the queue's lock, too, nothing is queued, and notes that. So a queue with jobs is listed, or somebody is about to list
//! it. (A source may be listed late, when it is over. It is found empty like any other.) The pool's lock is always taken
//! first.
//!
//! *Listed is watched.* Who lists a source arms the watch, under the same lock, unless it is armed; the watch arms itself
//! again as long as anything is listed; and it calls a worker for whatever has waited. So every other call may be missed,
//! or see too little, as it is made without order by hints: it only comes sooner. Where the alarm has no thread to watch
//! with, to be listed is to ask.
//!
//! *Called is served.* A worker goes idle only when, under the lock, there is nothing that it may take, or to rest while others
//! take what there is; whoever calls after that finds it idle. Who called just before is made up for by the watch, which is
//! armed as it rests.
//!
//! *Out of the lock is not out of reach.* A worker that goes on with its source looks at `recall`, which whoever lets the
//! lock go sets if another source is listed or too many are active. It is a hint, and looked at after each job.

use crate::{
    pool::{
        source::Source,
        state::{Config, State, Then},
    },
    prim::{Condition, Mutex, MutexGuard},
    raw::generation,
};
use std::{
    fmt, mem,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The shared part of a pool.
pub(crate) struct PoolCore {
    /// Unique in the process, from 1.
    pub(super) id: u64,
    /// Of the process that it was made in.
    pub(super) generation: u64,
    pub(super) config: Config,
    state: Mutex<State>,
    /// Whether anything is listed. A hint, written by whoever lets the lock go.
    any_listed: AtomicBool,
    /// Whether workers that run one job after the other are to look at the list: others wait, or too many are active. A
    /// hint, as above.
    pub(super) recall: AtomicBool,
    /// For who shuts the pool down: told when the last scope has left, and as threads do.
    pub(super) changed: Condition,
}

/// The pool's lock. Who lets it go leaves the hints right for those who have not taken it.
pub(super) struct Locked<'a> {
    core: &'a PoolCore,
    state: MutexGuard<'a, State>,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let state = &*self.state;
        // Hints that order nothing. Written only if they change, so that readers keep the line.
        let set = |hint: &AtomicBool, to: bool| {
            if hint.load(Ordering::Relaxed) != to {
                hint.store(to, Ordering::Relaxed);
            }
        };
        set(&self.core.any_listed, !state.listed.is_empty());
        set(&self.core.recall, state.listed.len() > 1 || state.active > state.places(&self.core.config));
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
        Arc::new(PoolCore {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            generation: generation(),
            config,
            state: Mutex::new(State::default()),
            any_listed: AtomicBool::new(false),
            recall: AtomicBool::new(false),
            changed: Condition::default(),
        })
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked { core: self, state: self.state.lock() }
    }

    /// Lists a source that has noted so, because the job of that number was queued. Wakes nobody, if the watch is armed.
    pub(crate) fn list(self: &Arc<Self>, source: Arc<dyn Source>, number: u64) {
        let mut state = self.lock();
        state.put(source);
        self.expect(&mut state, number);
        // Nobody else would.
        let then = if state.unserved { state.find_worker(&self.config, 0) } else { Then::default() };
        drop(state);
        self.follow(then);
    }

    /// Has a worker come now for what a source has queued.
    pub(crate) fn ask(self: &Arc<Self>, source: Arc<dyn Source>) {
        let lists = source.set_listed();
        let mut state = self.lock();
        if lists {
            state.put(source);
            self.arm(&mut state);
        }
        let then = state.find_worker(&self.config, 0);
        drop(state);
        self.follow(then);
    }

    /// Has a worker come now for what is listed, if anything is.
    pub(crate) fn call(self: &Arc<Self>) {
        if self.any_listed() {
            let then = self.lock().find_worker(&self.config, 0);
            self.follow(then);
        }
    }

    /// A hint: who has listed something sees it.
    pub(super) fn any_listed(&self) -> bool {
        self.any_listed.load(Ordering::Relaxed)
    }

    /// Whether a look is due.
    #[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
    pub(super) fn is_watched(&self) -> bool {
        self.lock().watch.is_some()
    }

    /// Makes room for a job that is about to be queued and is to start at once; see [`unforce`](PoolCore::unforce).
    pub(crate) fn force(&self) {
        self.lock().forced += 1;
    }

    /// The job has been claimed, by whomever.
    pub(crate) fn unforce(&self) {
        self.lock().forced -= 1;
    }

    /// Counts a scope in.
    pub(crate) fn enter_scope(&self) -> Result<(), Refused> {
        if self.generation != generation() {
            // Its threads are elsewhere. Before the lock, which one of them may have held.
            return Err(Refused::Forked);
        }
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        state.scopes += 1;
        Ok(())
    }

    /// Counts a scope out, which has no queued jobs and will get none, and takes it off the list.
    pub(crate) fn leave_scope(&self, source: &dyn Source) {
        let mut state = self.lock();
        state.scopes -= 1;
        let gone = state.take_out(source);
        let over = state.closed && state.scopes == 0;
        let wake = if over { state.take_all_idle() } else { Vec::new() };
        drop(state);
        drop(gone);
        for worker in wake {
            worker.unpark();
        }
        if over {
            self.changed.tell();
        }
    }

    /// Refuses new scopes; idle workers leave once the last scope has.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let wake = if state.scopes == 0 { state.take_all_idle() } else { Vec::new() };
        drop(state);
        for worker in wake {
            worker.unpark();
        }
    }

    /// Closes, waits for the scopes that run, and joins every thread.
    pub(crate) fn shut_down(&self) {
        self.close();
        let mut state = self.lock();
        while state.scopes > 0 {
            state = self.changed.wait(state, || self.lock());
        }
        let wake = state.take_all_idle();
        drop(state);
        for worker in wake {
            worker.unpark();
        }
        let mut state = self.lock();
        while state.threads > 0 || !state.early.is_empty() || state.joining {
            state = self.changed.wait(state, || self.lock());
        }
        let left = mem::take(&mut state.left);
        state.joining = true;
        drop(state);
        for hand in left {
            drop(hand.thread.join());
        }
        self.lock().joining = false;
        self.changed.tell();
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            workers: state.alive,
            idle: state.roster.len(),
            blocked: state.blocked,
            peak: state.peak,
            refused: state.refused,
        }
    }

    /// How many jobs are queued in scopes that wait for a worker.
    pub(crate) fn queued(&self) -> usize {
        self.lock().listed.iter().map(|listed| listed.source.queued()).sum()
    }

    pub(super) fn follow(self: &Arc<Self>, then: Then) {
        if let Some(worker) = then.wake {
            worker.unpark();
        }
        if let Some(worker) = then.start {
            self.start(worker);
        }
        if then.none {
            self.rescue(0);
        }
    }
}

impl fmt::Debug for PoolCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCore").field("counts", &self.counts()).finish_non_exhaustive()
    }
}
