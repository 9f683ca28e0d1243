//! How a job is run to its end, swept, or given up.
//!
//! # Promises
//!
//! 1. The order of the end (S11): closure and captures gone, leaf recorded, outcome visible, siblings cancelled (D21),
//!    count lowered (by the [`Tied`], last).
//! 2. A job whose scope or handle was cancelled before it started never runs: its captures are dropped under a
//!    guard, and its outcome is `Cancelled { started: false }` (D6).
//!
//! # Does not know
//!
//! Which thread runs it, and why.

use crate::{
    cancel::{
        current::{self, Frame},
        reason::{Cancelled, ReasonKind, TimedOut},
    },
    error::{Failure, around_stop, drop_guarded, stop_in},
    park::seat::with_chair,
    pool::{self, UsePool},
    raw::{Tally, Tied},
    scope::{
        core::{Core, Ending, Queued},
        job::{Job, Outcome},
    },
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Decides that an unstarted job whose scope or own node is stopping never starts, so that handles can say so before its
/// captures are gone. If its own time is over, that is a failure. `false` if there was nothing to decide.
pub(crate) fn give_up(core: &Core, job: &Job) -> bool {
    let reason = if job.is_queued() { job.strand.nearest().reason().or_else(|| core.node.reason()) } else { None };
    let mut tells = None;
    let given_up = match reason {
        None => {
            job.await_decision();
            false
        }
        Some(reason) => job.drop_unstarted(|timed_out| {
            if !timed_out {
                return Outcome::Cancelled { reason, started: false };
            }
            let failure = Failure::TimedOut(TimedOut::new(reason));
            let text = failure.text();
            tells = record(core, job, failure, Vec::new());
            Outcome::Failed(text)
        }),
    };
    if let Some(tells) = tells {
        core.fail_siblings(&job.strand.label, tells);
    }
    given_up
}

/// Gives up as [`give_up`] does, and lets somebody come to drop the captures.
pub(crate) fn give_up_now(core: &Core, job: &Job) {
    if give_up(core, job) {
        core.ask();
    }
}

/// Has the job given up when its time is over, or its token is cancelled, even if nobody comes for it before.
pub(crate) fn watch(core: &Arc<Tally<Core>>, job: &Arc<Job>) {
    let (weak_core, weak_job) = (Arc::downgrade(core), Arc::downgrade(job));
    job.keep(job.strand.node().on_cancel(Box::new(move || {
        if let (Some(core), Some(job)) = (weak_core.upgrade(), weak_job.upgrade()) {
            give_up_now(&core, &job);
        }
    })));
}

/// Ends a job that was not even queued: the scope is cancelled.
pub(crate) fn refuse(core: &Core, job: &Job) {
    core.note_cut(None);
    give_up(core, job);
}

impl Queued {
    /// Runs a claimed job to its end, or sweeps it if it may not start. Does not unwind.
    ///
    /// `inline` on a thread that goes on with code of the same scope; else the thread is a worker, and free after.
    pub(crate) fn run(self, inline: bool) {
        let Queued { job, mut tied } = self;
        let tally = Arc::clone(tied.tally());
        let core: &Core = &tally;
        with_chair(|chair| job.strand.set_seat(chair.seat()));
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
        let stopping = core.node.is_stopping() || job.strand.nearest().is_stopping();
        if (!stopping || mutant!("start_without_a_look")) && job.start(|| core.node.clock().now()) {
            execute(core, &job, &mut tied);
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

fn execute(core: &Core, job: &Job, tied: &mut Tied<Core, Ending>) {
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
                cut(core, job, Some(&error));
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

/// D2: takes note that the job was stopped, with that error, or kept from starting, unless its handle or itself asked for it.
fn cut(core: &Core, job: &Job, error: Option<&anyhow::Error>) {
    let alone = job.cancelled_alone();
    if alone.as_ref().is_some_and(|own| own.by_will) {
        return;
    }
    if let Some(error) = error {
        core.note_stop(&job.strand.label, error);
    }
    core.note_cut(alone.map(|own| own.reason));
}

/// Records a failure, then makes it known: leaf, outcome, siblings.
fn fail(core: &Core, job: &Job, failure: Failure, notes: Vec<String>) {
    let text = failure.text();
    let outcome = if matches!(failure, Failure::Panic(_)) { Outcome::Panicked(text) } else { Outcome::Failed(text) };
    mutant!("cancel_before_record" => core.fail_siblings(&job.strand.label, String::new()));
    let tells = record(core, job, failure, notes);
    finish(core, job, outcome, tells);
}

/// Records a failure; returns what it tells the siblings, if it cancels them.
fn record(core: &Core, job: &Job, failure: Failure, notes: Vec<String>) -> Option<String> {
    let origin = job.origin(core.node.clock().now(), core.opened);
    let tells = (core.fail_fast && !job.isolated).then(|| origin.tells(&failure));
    core.record(origin, failure, notes, job.isolated);
    tells
}

/// Gives the outcome and, with `tells`, cancels the siblings.
fn finish(core: &Core, job: &Job, outcome: Outcome, tells: Option<String>) {
    mutant!("cancel_before_outcome" => if tells.is_some() { core.fail_siblings(&job.strand.label, String::new()) });
    core.leave(job);
    job.end(outcome);
    if let Some(tells) = tells {
        core.fail_siblings(&job.strand.label, tells);
    }
}

/// Drops a job that may not start.
fn sweep(core: &Core, job: &Job, tied: &mut Tied<Core, Ending>) {
    give_up(core, job);
    // Not if its own time was over before: that is a failure, which its handle may have taken.
    if matches!(job.outcome(), Some(Outcome::Cancelled { .. })) {
        cut(core, job, None);
    }
    if let Err(payload) = tied.discard() {
        core.record(
            job.origin(core.node.clock().now(), core.opened),
            Failure::Panic(payload),
            Vec::new(),
            job.isolated,
        );
    }
    core.leave(job);
}
