//! How a job is run to its end, swept, or given up.
//!
//! # Promises
//!
//! 1. The order of the end (S11): closure and captures gone, leaf recorded, outcome visible, siblings cancelled (D21),
//!    count lowered (by giving the entry back, last).
//! 2. A job whose scope or handle was cancelled before it started never runs: its captures are dropped under a
//!    guard, and its outcome is `Cancelled { started: false }` (D6).
//!
//! # Does not know
//!
//! Which thread runs it, and why.

use crate::{
    cancel::{
        current::{self, Frame, Line},
        reason::{Cancelled, ReasonKind, TimedOut},
    },
    error::{Failure, Origin, Role, around_stop, drop_guarded, stop_in, thread_name},
    park::{seat::with_chair, virtual_run::Run},
    pool,
    raw::{Ended, Tally},
    scope::{
        core::{Claimed, Core, Queued},
        job::{self, Job, JobRef, Outcome},
    },
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

/// Decides that an unstarted job whose scope or own node is stopping never starts, so that handles can say so before its
/// captures are gone. If its own time is over, that is a failure. `false` if there was nothing to decide.
pub(crate) fn give_up(core: &Tally<Core>, job: &Job) -> bool {
    let reason = || job.own().and_then(|own| own.reason()).or_else(|| core.node.reason());
    let reason = if job.is_queued() { reason() } else { None };
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
            tells = record(core, job, None, failure, Vec::new());
            Outcome::Failed(text)
        }),
    };
    if let Some(tells) = tells {
        core.fail_siblings(&job.label(), tells);
    }
    given_up
}

/// Gives up as [`give_up`] does, and lets somebody come to drop the captures.
pub(crate) fn give_up_now(core: &Tally<Core>, job: &Job) {
    if give_up(core, job) {
        core.ask();
    }
}

/// Has the job given up when its time is over, or its token is cancelled, even if nobody comes for it before.
pub(crate) fn watch(core: &Arc<Tally<Core>>, job: &JobRef) {
    // The job keeps what keeps it, until its node is closed: at its end.
    let (weak_core, this) = (Arc::downgrade(core), job.clone());
    job.keep(job.seed.strand(&core.ground).node().on_cancel(Box::new(move || {
        if let Some(core) = weak_core.upgrade() {
            give_up_now(&core, &this);
        }
    })));
}

/// Ends a job that is not even queued: the scope is cancelled. Its captures are dropped before any handle says so (D6); a
/// panic of theirs is the spawner's.
pub(crate) fn refuse(core: &Tally<Core>, tied: &Queued) {
    let dropped = tied.try_discard();
    core.note_cut(None);
    give_up(core, tied.shared());
    if let Err(payload) = dropped {
        resume_unwind(payload);
    }
}

impl Claimed {
    /// Runs the job to its end, or sweeps it if it may not start. Does not unwind. The caller [leaves](Tally::leave) the result, if
    /// it was not given back already to `core`, which is the job's.
    ///
    /// `inline` on a thread that goes on with code of the same scope; else the thread is a worker, and free after.
    pub(crate) fn run(self, core: &Tally<Core>, inline: bool) -> Option<Claimed> {
        match core.node.clock().run().cloned() {
            None => {
                self.run_now(core, inline);
                Some(self)
            }
            Some(run) => {
                self.run_in_turn(core, &run, inline);
                None
            }
        }
    }

    /// Runs it when its turn in a virtual run has come, and hands the baton on.
    fn run_in_turn(mut self, core: &Tally<Core>, run: &Run, inline: bool) {
        let order = self.lent.shared().seed.order();
        pool::while_blocked(|| with_chair(|chair| run.begin(chair, order)));
        let outer = current::with(|frame| frame.map_or(0, |frame| frame.line.order()));
        // The baton is handed on after the count was lowered, so that an owner woken by that is in the order.
        self.since = run.now();
        core.set_since(&self);
        self.run_now(core, inline);
        core.leave(self);
        if inline {
            pool::while_blocked(|| with_chair(|chair| run.pass(chair, outer, false)));
        } else {
            pool::set_coming();
            with_chair(|chair| run.end(chair.seat()));
        }
    }

    /// Runs it on a thread that goes on with code of the same scope, and gives it back.
    pub(crate) fn run_and_leave(self, core: &Tally<Core>) {
        if let Some(over) = self.run(core, true) {
            core.leave(over);
        }
    }

    #[inline]
    fn run_now(&self, core: &Tally<Core>, inline: bool) {
        let job: &Job = self.lent.shared();
        let inlined = if inline { current::with(|frame| frame.map_or(0, |frame| frame.inlined + 1)) } else { 0 };
        let line = Line::Seed(&job.seed, &core.ground);
        core.nearest(job).expire();
        let frame = Frame { line, base: &core.node, is_region: false, scope: core.id, inlined, uses: Some(&core.pool) };
        let run = || {
            // The look after the claim (D6): a cancel from here on finds a started job.
            // Both nodes: a cancel marks the scope's before a job's own.
            let stopping = core.node.is_stopping() || job.own().is_some_and(|own| own.is_stopping());
            if (!stopping || mutant!("start_without_a_look")) && job.start() {
                execute(core, job, self);
            } else {
                sweep(core, job, self);
            }
        };
        core.inherited.run(|| current::enter(frame, run));
        if let Some(own) = job.own() {
            own.close();
        }
        self.lent.spend();
    }
}

fn execute(core: &Tally<Core>, job: &Job, claimed: &Claimed) {
    // The closure catches the user's panics itself; what comes out here is a defect of ours, kept as a failure.
    let ended = match catch_unwind(AssertUnwindSafe(|| claimed.lent.run())) {
        Ok(ended) => ended.unwrap_or(Ended::Value),
        Err(payload) => Ended::DropPanicked(payload),
    };
    core.nearest(job).expire();
    let failure = match ended {
        Ended::Value => match claimed.lent.publish(job::DONE) {
            Ok(before) => return job.has_value(before),
            Err(payload) => Failure::Panic(payload), // of the value's drop: its handle went this moment
        },
        Ended::DropPanicked(payload) => Failure::Panic(payload),
        Ended::Failed(failure) => failure,
    };
    without_value(core, job, claimed, failure);
}

/// The job has ended with a failure or a stop. Apart, so that a job that waits has less of its thread's stack in memory.
#[inline(never)]
fn without_value(core: &Tally<Core>, job: &Job, claimed: &Claimed, failure: Failure) {
    let Failure::Error(error) = failure else { return fail(core, job, claimed, failure, Vec::new()) };
    match judge(core, job, &error) {
        Verdict::Failure => fail(core, job, claimed, Failure::Error(error), Vec::new()),
        Verdict::TimedOut(timed_out) => {
            let notes = around_stop(&error);
            drop_guarded(error);
            fail(core, job, claimed, Failure::TimedOut(timed_out), notes);
        }
        Verdict::Stopped(stop) => {
            cut(core, job, Some(&error));
            drop_guarded(error);
            finish(core, job, Outcome::Cancelled { reason: stop.reason().clone(), started: true }, None);
        }
    }
}

enum Verdict {
    Failure,
    Stopped(Cancelled),
    TimedOut(TimedOut),
}

/// D16: is it the stop of this job or of its scope, or a failure?
fn judge(core: &Tally<Core>, job: &Job, error: &anyhow::Error) -> Verdict {
    let Some(stop) = stop_in(error) else { return Verdict::Failure };
    if core.node.is_stopping() {
        return Verdict::Stopped(stop);
    }
    match job.own().and_then(|node| node.own()) {
        None => Verdict::Failure,
        Some(own) if own.reason.kind() == ReasonKind::Deadline => Verdict::TimedOut(TimedOut::new(own.reason)),
        Some(_) => Verdict::Stopped(stop),
    }
}

/// D2: takes note that the job was stopped, with that error, or kept from starting, unless its handle or itself asked for it.
fn cut(core: &Tally<Core>, job: &Job, error: Option<&anyhow::Error>) {
    let alone = job.cancelled_alone();
    if alone.as_ref().is_some_and(|own| own.by_will) {
        return;
    }
    if let Some(error) = error {
        core.note_stop(&job.label(), error);
    }
    core.note_cut(alone.map(|own| own.reason));
}

/// Records a failure, then makes it known: leaf, outcome, siblings.
#[cold]
fn fail(core: &Tally<Core>, job: &Job, claimed: &Claimed, failure: Failure, notes: Vec<String>) {
    let text = failure.text();
    let outcome = if matches!(failure, Failure::Panic(_)) { Outcome::Panicked(text) } else { Outcome::Failed(text) };
    mutant!("cancel_before_record" => core.fail_siblings(&job.label(), String::new()));
    let tells = record(core, job, Some(claimed.since), failure, notes);
    finish(core, job, outcome, tells);
}

/// Records a failure; returns what it tells the siblings, if it cancels them.
fn record(
    core: &Tally<Core>,
    job: &Job,
    started: Option<Instant>,
    failure: Failure,
    notes: Vec<String>,
) -> Option<String> {
    let origin = origin(core, job, started);
    let tells = (core.fail_fast && !job.isolated).then(|| origin.tells(&failure));
    core.record(origin, failure, notes, job.isolated);
    tells
}

/// What is said of a job in its scope's group.
fn origin(core: &Tally<Core>, job: &Job, started: Option<Instant>) -> Origin {
    let now = core.node.clock().now();
    Origin {
        id: job.id(),
        name: job.seed.name.clone(),
        role: Role::Job,
        place: job.seed.place,
        number: job.number(),
        path: job.label().path_below(&core.ground.path()),
        offset: now.saturating_duration_since(core.opened),
        took: started.map_or(Duration::ZERO, |started| now.saturating_duration_since(started)),
        thread: thread_name(),
    }
}

/// Gives the outcome and, with `tells`, cancels the siblings.
fn finish(core: &Tally<Core>, job: &Job, outcome: Outcome, tells: Option<String>) {
    mutant!("cancel_before_outcome" => if tells.is_some() { core.fail_siblings(&job.label(), String::new()) });
    job.end(outcome);
    if let Some(tells) = tells {
        core.fail_siblings(&job.label(), tells);
    }
}

/// Drops a job that may not start.
#[cold]
fn sweep(core: &Tally<Core>, job: &Job, claimed: &Claimed) {
    give_up(core, job);
    // Not if its own time was over before: that is a failure, which its handle may have taken.
    if matches!(job.outcome(), Some(Outcome::Cancelled { .. })) {
        cut(core, job, None);
    }
    if let Err(payload) = claimed.lent.try_discard() {
        core.record(origin(core, job, None), Failure::Panic(payload), Vec::new(), job.isolated);
    }
}
