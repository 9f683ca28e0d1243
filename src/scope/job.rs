//! One job: what it is called, how far it is, how it ended.
//!
//! | stage | means | next |
//! |---|---|---|
//! | `QUEUED` | stands in its scope's queue, or was just claimed | `RUNNING` by its claimer, `DROPPED` by a cancel |
//! | `RUNNING` | its claimer found no cancel after the claim | `DONE`, `ENDED` by its runner |
//! | `DONE` | it has ended, with a value | |
//! | `ENDED` | it has ended otherwise, as its outcome says | |
//! | `DROPPED` | will never start; its handle says so already, its captures may still be there | |
//!
//! Beside the stage a bit tells that somebody joins it. A job that nobody waits for ends with the exchange that publishes its value.
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
        current::Seed,
        node::{Node, Own},
        reason::{Label, Reason, ReasonKind},
    },
    error::{Failure, JobId, JoinError},
    park::seat::Seat,
    prim::{Mutex, MutexGuard},
    raw::{Head, Shared},
};
use once_cell::race::OnceBox;
use std::sync::{Arc, OnceLock};

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const DROPPED: u8 = 2;
pub(crate) const DONE: u8 = 3;
const ENDED: u8 = 4;
const STAGE: u8 = 7;

/// Somebody may have registered as a joiner.
const JOINED: u8 = 8;

/// How a job ended, for its joiners. The error itself belongs to the scope.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Value,
    Failed(Arc<str>),
    Panicked(Arc<str>),
    Cancelled { reason: Reason, started: bool },
}

/// What few jobs need.
#[derive(Debug, Default)]
struct Rest {
    told: Mutex<Told>,
    /// Gives it up when its own node stops before it starts.
    watch: OnceLock<Registration>,
}

#[derive(Debug, Default)]
struct Told {
    outcome: Option<Outcome>,
    joiners: Vec<Arc<Seat>>,
}

/// What its scope, its runner and its handle share of a job. The state is in the cell's word.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) seed: Seed,
    /// The handle owns its failure (D5).
    pub(crate) isolated: bool,
    /// Never run on the thread of a scope's owner or joiner.
    pub(crate) own_thread: bool,
    rest: OnceBox<Rest>,
}

impl Facts {
    pub(crate) fn new(seed: Seed, isolated: bool, own_thread: bool) -> Self {
        Facts { seed, isolated, own_thread, rest: OnceBox::new() }
    }
}

/// A job, as everybody sees it.
pub(crate) type Job = Head<Facts>;

/// A job, for whoever needs it, for as long as they like.
pub(crate) type JobRef = Shared<Facts, Failure>;

impl Job {
    fn rest(&self) -> &Rest {
        self.rest.get_or_init(Box::default)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.rest().told.lock()
    }

    pub(crate) fn id(&self) -> JobId {
        JobId::new(self.seed.id)
    }

    pub(crate) fn label(&self) -> Label {
        self.seed.label()
    }

    pub(crate) fn number(&self) -> u64 {
        self.seed.number
    }

    /// Returns its own node, if anybody has needed one.
    pub(crate) fn own(&self) -> Option<&Arc<Node>> {
        self.seed.own()
    }

    fn stage(&self) -> u8 {
        self.state() & STAGE
    }

    /// Leaves `QUEUED`; `false` if that has happened. Of those who try, one succeeds.
    fn leave_queued(&self, to: u8) -> bool {
        self.set_state(|now| (now & STAGE == QUEUED).then_some(now | to)).is_ok()
    }

    pub(crate) fn is_queued(&self) -> bool {
        self.stage() == QUEUED
    }

    /// Tells whether it has started and ended.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage(), DONE | ENDED)
    }

    /// Tells whether its code has begun.
    pub(crate) fn has_started(&self) -> bool {
        !matches!(self.stage(), QUEUED | DROPPED)
    }

    /// Returns how the job ended, if it has.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.stage() {
            QUEUED | RUNNING => None,
            DONE => Some(Outcome::Value),
            // Whoever dropped it gives the outcome in the same lock.
            _ => self.told().outcome.clone(),
        }
    }

    /// Registers a joiner, who looks for the outcome after that.
    pub(crate) fn add_joiner(&self, seat: &Arc<Seat>) {
        let mut told = self.told();
        if !told.joiners.iter().any(|joiner| joiner.id == seat.id) {
            told.joiners.push(Arc::clone(seat));
        }
        drop(told);
        // Against `has_value` and `end`: who ends it finds the bit and then the joiner, or the look that follows finds the end.
        let _ = self.set_state(|now| Some(now | JOINED));
    }

    pub(crate) fn remove_joiner(&self, seat: &Seat) {
        let mut told = self.told();
        if let Some(at) = told.joiners.iter().position(|joiner| joiner.id == seat.id) {
            let gone = told.joiners.swap_remove(at);
            drop(told);
            drop(gone);
        }
    }

    /// Pokes the joiners without a change of state: no thread can be had for the job.
    pub(crate) fn poke_joiners(&self) {
        let joiners = self.told().joiners.clone();
        for joiner in joiners {
            joiner.poke();
        }
    }

    /// The job has ended with a value; that was published with [`DONE`], and this was the state before.
    #[inline]
    pub(crate) fn has_value(&self, before: u8) {
        if before & JOINED != 0 {
            poke_all(self.told());
        }
    }

    /// Gives the outcome of a job that has started, but for a value, once, and tells the joiners.
    pub(crate) fn end(&self, outcome: Outcome) {
        let mut told = self.told();
        told.outcome = Some(outcome);
        // In the lock, so the joiners are taken after it.
        let _ = self.set_state(|_| Some(ENDED));
        poke_all(told);
    }

    /// Decides that a job that has not started never starts. `outcome` makes the outcome, and records what goes with it; it is
    /// called under the job's lock, and told whether the job's own time is over. `false` if that was decided already, or
    /// the job starts.
    ///
    /// When this returns, what was decided is on record, whoever did it: so the job may be counted out.
    pub(crate) fn drop_unstarted(&self, outcome: impl FnOnce(bool) -> Outcome) -> bool {
        let mut told = self.told();
        let timed_out = self.own_deadline_passed();
        // Against `start`.
        if !self.leave_queued(DROPPED) {
            return false;
        }
        mutant!("record_after_unlock" => drop(told); told = self.told());
        told.outcome = Some(outcome(timed_out));
        poke_all(told);
        true
    }

    /// Waits until whoever decides that the job never starts has what goes with it on record.
    pub(crate) fn await_decision(&self) {
        if self.stage() == DROPPED {
            drop(self.told());
        }
    }

    /// Keeps what gives it up when its own node stops.
    pub(crate) fn keep(&self, watch: Registration) {
        let _ = self.rest().watch.set(watch);
    }

    /// Whether something is kept that gives it up.
    pub(crate) fn is_watched(&self) -> bool {
        self.rest.get().is_some_and(|rest| rest.watch.get().is_some())
    }

    /// Whether it will be given up by its own timeout if nobody comes for it. Also if that is over, and who watches it is late:
    /// then it is about to be.
    pub(crate) fn ends_by_itself(&self) -> bool {
        self.is_watched() && self.is_queued() && self.own().is_some_and(|node| node.deadline().is_some())
    }

    /// How it was cancelled alone, before its scope was: by its handle or itself, which is the scope's will, or by its
    /// token (D2). A time of its own that is over is no cancel.
    pub(crate) fn cancelled_alone(&self) -> Option<Own> {
        let own = self.own().and_then(|node| node.own_first());
        own.filter(|own| own.reason.kind() != ReasonKind::Deadline)
    }

    fn own_deadline_passed(&self) -> bool {
        let own = self.own().filter(|node| node.outside().is_none()).and_then(|node| node.own());
        own.is_some_and(|own| own.reason.kind() == ReasonKind::Deadline)
    }

    /// Decides that the job starts. The claimer has looked for a cancel after its claim.
    pub(crate) fn start(&self) -> bool {
        // Against `drop_unstarted`.
        self.leave_queued(RUNNING)
    }

    pub(crate) fn join_error(&self, outcome: Outcome) -> Option<JoinError> {
        let id = self.id();
        let name = || self.label().name().into();
        match outcome {
            Outcome::Value => None,
            Outcome::Failed(text) => Some(JoinError::Failed { id, name: name(), text }),
            Outcome::Panicked(text) => Some(JoinError::Panicked { id, name: name(), text }),
            Outcome::Cancelled { reason, started } => Some(JoinError::Cancelled { id, name: name(), reason, started }),
        }
    }
}

/// Tells the joiners.
fn poke_all(mut told: MutexGuard<'_, Told>) {
    let joiners = std::mem::take(&mut told.joiners);
    drop(told);
    for joiner in joiners {
        joiner.poke();
    }
}
