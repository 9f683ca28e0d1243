//! One job: what it is called, how far it is, how it ended; and how it is run.
//!
//! | state | means | next |
//! |---|---|---|
//! | `QUEUED` | stands in its scope's queue, or was just claimed | `RUNNING` by its claimer, `DROPPED` by a cancel |
//! | `RUNNING` | its claimer found no cancel after the claim | `ENDED` |
//! | `DROPPED` | will never start; its handle says so already, its captures may still be there | `ENDED` |
//! | `ENDED` | has an outcome, nothing it captured is left | |
//!
//! # Promises
//!
//! 1. Exactly one outcome (S41), visible to joiners before the siblings are cancelled (D21).
//! 2. The order of the end (S11): closure and captures gone, leaf recorded, outcome visible, siblings cancelled,
//!    count lowered (by the [`Tied`], last).
//! 3. A job whose scope or handle was cancelled before it started never runs: its captures are dropped, each under a
//!    guard, and its outcome is `Cancelled { started: false }` (D6).
//!
//! # Does not know
//!
//! Which thread runs it, and why.

use crate::{
    cancel::{
        callback::Registration,
        current::{self, Frame, Strand},
        reason::{Cancelled, Reason, ReasonKind, TimedOut},
    },
    error::{Failure, JobId, JoinError, Origin, Role, around_stop, drop_guarded, stop_in, thread_name},
    park::seat::{Seat, with_chair},
    pool::{self, UsePool},
    prim::{AtomicU8, Mutex, Ordering},
    raw::{Tally, Tied},
    scope::core::Core,
};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const DROPPED: u8 = 2;
const ENDED: u8 = 3;

/// What a job's closure reports to its runner; a value has gone to the handle by then.
pub(crate) type Ending = Result<(), Failure>;

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
    /// Where it runs, from its claim on.
    seat: OnceLock<Arc<Seat>>,
    started: OnceLock<Instant>,
    shared: Mutex<Shared>,
    /// Gives it up when its time is over.
    deadline: OnceLock<Registration>,
}

impl Job {
    pub(crate) fn new(strand: Arc<Strand>, isolated: bool, own_thread: bool) -> Arc<Self> {
        let state = AtomicU8::new(QUEUED);
        Arc::new(Job {
            strand,
            isolated,
            own_thread,
            state,
            seat: OnceLock::new(),
            started: OnceLock::new(),
            shared: Mutex::default(),
            deadline: OnceLock::new(),
        })
    }

    pub(crate) fn id(&self) -> JobId {
        JobId::new(self.strand.id)
    }

    pub(crate) fn number(&self) -> u64 {
        self.strand.label.number
    }

    pub(crate) fn is_queued(&self) -> bool {
        // Pairs with the exchanges below; what decides is an exchange, never this look.
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

    /// Returns the seat of the thread that has claimed it.
    pub(crate) fn seat(&self) -> Option<&Arc<Seat>> {
        self.seat.get()
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
    fn end(&self, outcome: Outcome) {
        let mut shared = self.shared.lock();
        if shared.outcome.is_none() {
            shared.outcome = Some(outcome);
        }
        let joiners = std::mem::take(&mut shared.joiners);
        drop(shared);
        for joiner in joiners {
            joiner.poke();
        }
    }

    /// Decides that an unstarted job whose scope or own node is stopping never starts, so that handles can say so
    /// before its captures are gone. If its own time is over, that is a failure. `false` if there was nothing to decide.
    ///
    /// When it returns, what was decided is on record, whoever did it: so the job may be counted out.
    pub(crate) fn give_up(&self, core: &Core) -> bool {
        let node = self.strand.nearest();
        let reason = if self.is_queued() { node.reason().or_else(|| core.node.reason()) } else { None };
        let mut shared = self.shared.lock();
        let Some(reason) = reason else { return false };
        let timed_out = self.own_deadline_passed();
        // Against `start`: one of the two exchanges succeeds.
        if self.state.compare_exchange(QUEUED, DROPPED, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        let mut tells = None;
        let outcome = if timed_out {
            let failure = Failure::TimedOut(TimedOut::new(reason));
            let text = failure.text();
            tells = record(core, self, failure, Vec::new());
            Outcome::Failed(text)
        } else {
            Outcome::Cancelled { reason, started: false }
        };
        shared.outcome = Some(outcome);
        let joiners = std::mem::take(&mut shared.joiners);
        drop(shared);
        for joiner in joiners {
            joiner.poke();
        }
        if let Some(tells) = tells {
            core.fail_siblings(&self.strand.label, tells);
        }
        true
    }

    /// Has the job given up when its time is over, even if nobody comes for it before.
    pub(crate) fn watch_deadline(self: &Arc<Self>, core: &Arc<Tally<Core>>) {
        let (job, core) = (Arc::downgrade(self), Arc::downgrade(core));
        let registration = self.strand.node().on_cancel(Box::new(move || {
            if let (Some(job), Some(core)) = (job.upgrade(), core.upgrade()) {
                job.give_up(&core);
            }
        }));
        let _ = self.deadline.set(registration);
    }

    /// Whether it will be given up by its own timeout if nobody comes for it, and that is still to come.
    pub(crate) fn ends_by_itself(&self, now: Instant) -> bool {
        let deadline = || self.strand.own().and_then(|node| node.deadline());
        self.deadline.get().is_some() && self.is_queued() && deadline().is_some_and(|at| at > now)
    }

    /// Whether its handle, or the job itself, asked for its stop: the scope's will (D2).
    fn is_cancelled_by_handle(&self) -> bool {
        self.strand.own().and_then(|node| node.own()).is_some_and(|own| own.by_will)
    }

    fn own_deadline_passed(&self) -> bool {
        let own = self.strand.own().filter(|node| node.outside().is_none()).and_then(|node| node.own());
        own.is_some_and(|own| own.reason.kind() == ReasonKind::Deadline)
    }

    /// Decides that the job starts. The claimer has looked for a cancel after its claim.
    pub(crate) fn start(&self) -> bool {
        self.state.compare_exchange(QUEUED, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
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

    fn origin(&self, core: &Core) -> Origin {
        let now = core.node.clock().now();
        Origin {
            id: self.id(),
            name: self.strand.label.name.clone(),
            role: Role::Job,
            place: self.strand.label.place,
            number: self.number(),
            path: self.strand.path(),
            offset: now.saturating_duration_since(core.opened),
            took: self.started.get().map_or(Duration::ZERO, |started| now.saturating_duration_since(*started)),
            thread: thread_name(),
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("strand", &self.strand).finish_non_exhaustive()
    }
}

/// An entry of a scope's queue. It holds the scope open until it is dropped.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) job: Arc<Job>,
    pub(crate) tied: Tied<Core, Ending>,
}

impl Queued {
    /// Runs a claimed job to its end, or sweeps it if it may not start. Does not unwind.
    ///
    /// `inline` on a thread that goes on with code of the same scope; else the thread is a worker, and free after.
    pub(crate) fn run(self, inline: bool) {
        let Queued { job, mut tied } = self;
        let tally = Arc::clone(tied.tally());
        let core: &Core = &tally;
        let _ = with_chair(|chair| job.seat.set(Arc::clone(chair.seat())));
        let run = core.node.clock().run().cloned();
        if let Some(run) = &run {
            pool::while_blocked(|| with_chair(|chair| run.begin(chair, job.strand.order)));
        }
        let node = job.strand.nearest();
        node.expire();
        let (inlined, outer) = current::with(|frame| match frame {
            Some(frame) if inline => (frame.inlined + 1, frame.strand.order),
            _ => (0, 0),
        });
        let strand = Arc::clone(&job.strand);
        let frame = current::enter(Frame { strand, region: None, scope: core.id, inlined });
        let pool = UsePool::new(&core.pool);
        // The look after the claim (D6): a cancel from here on finds a started job.
        // Both nodes: a cancel marks the scope's before a job's own.
        if !core.node.is_stopping() && !job.strand.nearest().is_stopping() && job.start() {
            execute(&tally, &job, &mut tied);
        } else {
            sweep(core, &job, &mut tied);
        }
        if let Some(own) = job.strand.own() {
            own.close();
        }
        drop(pool);
        drop(frame);
        // Last: lower the count. The baton is handed on after it, so that an owner woken by it is in the order.
        drop(tied);
        if let Some(run) = run {
            if inline {
                pool::while_blocked(|| with_chair(|chair| run.pass(chair, outer, false)));
            } else {
                pool::set_coming();
                with_chair(|chair| run.end(chair.seat()));
            }
        }
    }
}

fn execute(tally: &Arc<Tally<Core>>, job: &Arc<Job>, tied: &mut Tied<Core, Ending>) {
    let core: &Core = tally;
    let _ = job.started.set(core.node.clock().now());
    // The closure catches the user's panics itself; what comes out here is a defect of ours, kept as a failure.
    let ending = match catch_unwind(AssertUnwindSafe(|| tied.run())) {
        Ok(ending) => ending.unwrap_or(Ok(())),
        Err(payload) => Err(Failure::Panic(payload)),
    };
    job.strand.nearest().expire();
    match ending {
        Ok(()) => finish(core, job, Outcome::Value, None),
        Err(Failure::Error(error)) => match judge(core, job, &error) {
            Verdict::Failure => fail(core, job, Failure::Error(error), Vec::new()),
            Verdict::TimedOut(timed_out) => {
                let notes = around_stop(&error);
                drop_guarded(error);
                fail(core, job, Failure::TimedOut(timed_out), notes);
            }
            Verdict::Stopped(stop) => {
                if core.node.is_stopping() && !job.is_cancelled_by_handle() {
                    core.note_stop(&job.strand.label, &error);
                    core.note_cut();
                }
                drop_guarded(error);
                finish(core, job, Outcome::Cancelled { reason: stop.reason().clone(), started: true }, None);
            }
        },
        Err(failure) => fail(core, job, failure, Vec::new()),
    }
}

enum Verdict {
    Failure,
    Stopped(Cancelled),
    TimedOut(TimedOut),
}

/// D16: is it the stop of this job or of its scope, or a failure?
fn judge(core: &Core, job: &Job, error: &anyhow::Error) -> Verdict {
    let Some(stop) = stop_in(error) else { return Verdict::Failure };
    if core.node.is_stopping() {
        return Verdict::Stopped(stop);
    }
    match job.strand.own().and_then(|node| node.own()) {
        None => Verdict::Failure,
        Some(own) if own.reason.kind() == ReasonKind::Deadline => Verdict::TimedOut(TimedOut::new(own.reason)),
        Some(_) => Verdict::Stopped(stop),
    }
}

/// Records a failure, then makes it known: leaf, outcome, siblings.
fn fail(core: &Core, job: &Job, failure: Failure, notes: Vec<String>) {
    let text = failure.text();
    let outcome = if matches!(failure, Failure::Panic(_)) { Outcome::Panicked(text) } else { Outcome::Failed(text) };
    let tells = record(core, job, failure, notes);
    finish(core, job, outcome, tells);
}

/// Records a failure; returns what it tells the siblings, if it cancels them.
fn record(core: &Core, job: &Job, failure: Failure, notes: Vec<String>) -> Option<String> {
    let origin = job.origin(core);
    let tells = (core.fail_fast && !job.isolated).then(|| origin.tells(&failure));
    core.record(origin, failure, notes, job.isolated);
    tells
}

/// Gives the outcome and, with `tells`, cancels the siblings.
fn finish(core: &Core, job: &Job, outcome: Outcome, tells: Option<String>) {
    end(core, job);
    job.end(outcome);
    if let Some(tells) = tells {
        core.fail_siblings(&job.strand.label, tells);
    }
}

/// Nothing is left of the job but its outcome.
fn end(core: &Core, job: &Job) {
    core.leave(job);
    // Only the number of the state matters from here: the outcome is read under its lock.
    job.state.store(ENDED, Ordering::Release);
}

/// Drops a job that may not start.
fn sweep(core: &Core, job: &Job, tied: &mut Tied<Core, Ending>) {
    job.give_up(core);
    // Not if its own time was over before: that is a failure, which its handle may have taken.
    let stopped = matches!(job.outcome(), Some(Outcome::Cancelled { .. }));
    if stopped && core.node.is_stopping() && !job.is_cancelled_by_handle() {
        core.note_cut();
    }
    if let Err(payload) = tied.discard() {
        core.record(job.origin(core), Failure::Panic(payload), Vec::new(), job.isolated);
    }
    end(core, job);
}
