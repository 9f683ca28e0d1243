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
//! 2. An idle pool uses no CPU, and after the keep-alive it has no thread.
//! 3. A shutdown returns when every thread has been joined, also to a second caller.
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
    pool::{
        source::Source,
        state::{Config, FIRST_LOOK, PATIENCE, State, Then},
    },
    prim::{Condition, Mutex},
    raw::generation,
};
use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The shared part of a pool.
pub(crate) struct PoolCore {
    /// Unique in the process, from 1.
    pub(super) id: u64,
    /// Of the process that it was made in.
    pub(super) generation: u64,
    pub(super) config: Config,
    pub(super) state: Mutex<State>,
    /// For who shuts the pool down: told when the last scope has left, and as threads do.
    pub(super) changed: Condition,
    pub(super) finished: AtomicU64,
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
            changed: Condition::default(),
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
        let over = state.closed && state.scopes == 0;
        let wake = if over { state.take_all_idle() } else { Vec::new() };
        drop(state);
        for worker in wake {
            worker.unpark();
        }
        if over {
            self.changed.tell();
        }
    }

    /// Refuses new scopes; idle workers leave once the last scope has.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
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
        let mut state = self.state.lock();
        while state.scopes > 0 {
            state = self.changed.wait(&self.state, state);
        }
        let wake = state.take_all_idle();
        drop(state);
        for worker in wake {
            worker.unpark();
        }
        let mut state = self.state.lock();
        while state.threads > 0 || !state.early.is_empty() || state.joining {
            state = self.changed.wait(&self.state, state);
        }
        let left = mem::take(&mut state.left);
        state.joining = true;
        drop(state);
        for hand in left {
            drop(hand.thread.join());
        }
        self.state.lock().joining = false;
        self.changed.tell();
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
