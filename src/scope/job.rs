//! One job: what it is called, how far it is, how it ended.
//!
//! | state | means | next |
//! |---|---|---|
//! | `QUEUED` | stands in its scope's queue, or was just claimed | `RUNNING` by its claimer, `DROPPED` by a cancel |
//! | `RUNNING` | its claimer found no cancel after the claim | |
//! | `DROPPED` | will never start; its handle says so already, its captures may still be there | |
//!
//! That it has ended, its outcome says.
//!
//! # Promises
//!
//! 1. Exactly one outcome (S41).
//! 2. When the outcome of a job that never starts is there, whatever goes with it is on record.
//!
//! # Does not know
//!
//! Its scope, which thread runs it, and why: that is `run.rs`.

use crate::{
    cancel::{
        callback::Registration,
        current::Strand,
        node::Own,
        reason::{Reason, ReasonKind},
    },
    error::{JobId, JoinError, Origin, Role, thread_name},
    park::seat::Seat,
    prim::{AtomicU8, Mutex, MutexGuard, Ordering},
};
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const DROPPED: u8 = 2;

/// How a job ended, for its joiners. The error itself belongs to the scope.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Value,
    Failed(Arc<str>),
    Panicked(Arc<str>),
    Cancelled { reason: Reason, started: bool },
}

#[derive(Debug, Default)]
struct Shared {
    outcome: Option<Outcome>,
    joiners: Vec<Arc<Seat>>,
}

/// What its scope, its runner and its handle share of a job.
pub(crate) struct Job {
    pub(crate) strand: Arc<Strand>,
    /// The handle owns its failure (D5).
    pub(crate) isolated: bool,
    /// Never run on the thread of a scope's owner or joiner.
    pub(crate) own_thread: bool,
    state: AtomicU8,
    started: OnceLock<Instant>,
    shared: Mutex<Shared>,
    /// Gives it up when its own node stops before it starts.
    watch: OnceLock<Registration>,
}

impl Job {
    pub(crate) fn new(strand: Arc<Strand>, isolated: bool, own_thread: bool) -> Arc<Self> {
        let state = AtomicU8::new(QUEUED);
        Arc::new(Job {
            strand,
            isolated,
            own_thread,
            state,
            started: OnceLock::new(),
            shared: Mutex::default(),
            watch: OnceLock::new(),
        })
    }

    pub(crate) fn id(&self) -> JobId {
        JobId::new(self.strand.id)
    }

    pub(crate) fn number(&self) -> u64 {
        self.strand.label.number
    }

    pub(crate) fn is_queued(&self) -> bool {
        // Pairs with the exchanges in `start` and `drop_unstarted`; what decides is an exchange, never this look.
        self.state.load(Ordering::Acquire) == QUEUED
    }

    /// Tells whether its code has begun.
    pub(crate) fn has_started(&self) -> bool {
        self.started.get().is_some()
    }

    /// When its code began.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.started.get().copied()
    }

    /// Returns how the job ended, if it has.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.shared.lock().outcome.clone()
    }

    /// Registers a joiner, unless the job has ended.
    pub(crate) fn add_joiner(&self, seat: &Arc<Seat>) {
        let mut shared = self.shared.lock();
        if shared.outcome.is_none() && !shared.joiners.iter().any(|joiner| joiner.id == seat.id) {
            shared.joiners.push(Arc::clone(seat));
        }
    }

    pub(crate) fn remove_joiner(&self, seat: &Seat) {
        let mut shared = self.shared.lock();
        if let Some(at) = shared.joiners.iter().position(|joiner| joiner.id == seat.id) {
            drop(shared.joiners.swap_remove(at));
        }
    }

    /// Pokes the joiners without a change of state: no thread can be had for the job.
    pub(crate) fn poke_joiners(&self) {
        let joiners = self.shared.lock().joiners.clone();
        for joiner in joiners {
            joiner.poke();
        }
    }

    /// Gives the outcome, once, and tells the joiners.
    pub(crate) fn end(&self, outcome: Outcome) {
        tell(self.shared.lock(), outcome);
    }

    /// Decides that a job that has not started never starts. `outcome` makes the outcome, and records what goes with it; it is
    /// called under the job's lock, and told whether the job's own time is over. `false` if that was decided already, or
    /// the job starts.
    ///
    /// When this returns, what was decided is on record, whoever did it: so the job may be counted out.
    pub(crate) fn drop_unstarted(&self, outcome: impl FnOnce(bool) -> Outcome) -> bool {
        let mut shared = self.shared.lock();
        let timed_out = self.own_deadline_passed();
        // Against `start`: one of the two exchanges succeeds.
        if self.state.compare_exchange(QUEUED, DROPPED, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        mutant!("record_after_unlock" => drop(shared); shared = self.shared.lock());
        tell(shared, outcome(timed_out));
        true
    }

    /// Waits until whoever decides that the job never starts has what goes with it on record.
    pub(crate) fn await_decision(&self) {
        drop(self.shared.lock());
    }

    /// Keeps what gives it up when its own node stops.
    pub(crate) fn keep(&self, watch: Registration) {
        let _ = self.watch.set(watch);
    }

    /// Whether something is kept that gives it up.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.get().is_some()
    }

    /// Whether it will be given up by its own timeout if nobody comes for it, and that is still to come.
    pub(crate) fn ends_by_itself(&self, now: Instant) -> bool {
        let deadline = || self.strand.own().and_then(|node| node.deadline());
        self.watch.get().is_some() && self.is_queued() && deadline().is_some_and(|at| at > now)
    }

    /// How it was cancelled alone, before its scope was: by its handle or itself, which is the scope's will, or by its
    /// token (D2). A time of its own that is over is no cancel.
    pub(crate) fn cancelled_alone(&self) -> Option<Own> {
        let own = self.strand.own().and_then(|node| node.own_first());
        own.filter(|own| own.reason.kind() != ReasonKind::Deadline)
    }

    fn own_deadline_passed(&self) -> bool {
        let own = self.strand.own().filter(|node| node.outside().is_none()).and_then(|node| node.own());
        own.is_some_and(|own| own.reason.kind() == ReasonKind::Deadline)
    }

    /// Decides that the job starts. The claimer has looked for a cancel after its claim.
    pub(crate) fn start(&self, now: impl FnOnce() -> Instant) -> bool {
        // Against `drop_unstarted`.
        let starts = self.state.compare_exchange(QUEUED, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if starts {
            let _ = self.started.set(now());
        }
        starts
    }

    pub(crate) fn join_error(&self, outcome: Outcome) -> Option<JoinError> {
        let id = self.id();
        let name = self.strand.label.name();
        match outcome {
            Outcome::Value => None,
            Outcome::Failed(text) => Some(JoinError::Failed { id, name, text }),
            Outcome::Panicked(text) => Some(JoinError::Panicked { id, name, text }),
            Outcome::Cancelled { reason, started } => Some(JoinError::Cancelled { id, name, reason, started }),
        }
    }

    /// What is said of it in its scope's group, at `now`; the scope was opened at `opened`.
    pub(crate) fn origin(&self, now: Instant, opened: Instant) -> Origin {
        Origin {
            id: self.id(),
            name: self.strand.label.name.clone(),
            role: Role::Job,
            place: self.strand.label.place,
            number: self.number(),
            path: self.strand.path(),
            offset: now.saturating_duration_since(opened),
            took: self.started.get().map_or(Duration::ZERO, |started| now.saturating_duration_since(*started)),
            thread: thread_name(),
        }
    }
}

/// Gives the outcome, unless there is one, and tells the joiners.
fn tell(mut shared: MutexGuard<'_, Shared>, outcome: Outcome) {
    shared.outcome.get_or_insert(outcome);
    let joiners = std::mem::take(&mut shared.joiners);
    drop(shared);
    for joiner in joiners {
        joiner.poke();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("strand", &self.strand).finish_non_exhaustive()
    }
}
