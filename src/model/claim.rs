//! Claim against cancel and join: `scope/job.rs`, `scope/run.rs`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_claimed_job_starts_or_is_dropped` | exactly one outcome, of runner, cancel and joiner | a drop that stores where it should exchange |
//! | `a_job_cancelled_by_its_handle_starts_or_is_dropped` | the same for a cancel of the job's own node | as above |
//! | `a_timeout_in_the_queue_is_on_record_when_the_scope_ends` | whoever decides records before anybody counts the job out | a record after the lock is let go |
//! | `a_joiner_is_told_of_the_end` | outcome and joiners change under one lock | joiners taken before the outcome is there |
//! | `a_joiner_is_told_of_a_drop` | the same where a cancel drops the job | as above |
//! | `a_job_that_waits_at_its_scope_s_node_is_stopped_by_its_handle` | who makes a job its own node tells the waiter | a node that is made in silence |
//!
//! # Does not know
//!
//! Where a job gets its thread.

use super::{Bare, Plain, Touches, cancel, cancel_as, check, check_with, checker::thread, label, node};
use crate::{
    cancel::{
        current::{self, Activity, Frame, Ground, Line, Seed, Strand},
        reason::ReasonKind,
    },
    park::{seat::Chair, standstill::Wait},
    pool::Pool,
    raw::{Tether, tether},
    scope::{
        core::{Core, Queued, Setup},
        job::{Facts, Outcome},
        run,
    },
    wait::{Call, wait_in},
};
use std::{panic::Location, sync::Arc};

/// How a thread of a model stops a job.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    Scope,
    Handle,
    Timeout,
    Not,
}

/// Who of the three is there at once. All three take loom minutes, so that is left to shuttle.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cast {
    All,
    /// The owner joins the job when the others have done their part.
    LateJoiner,
    /// The owner runs the job itself, when it has joined it.
    LateRunner,
}

const ALL: Cast = if cfg!(tassel_loom) { Cast::LateJoiner } else { Cast::All };

/// One thread claims and runs the only job, another stops it, the scope's owner waits as a joiner (but for
/// [`Stop::Timeout`]), then for the count.
fn claim_against(stop: Stop, cast: Cast) {
    let chair = Chair::new();
    let node = node(None, None);
    let pool = Pool::builder().parallelism(1).build().unwrap();
    let ground = Ground::new(Arc::clone(&node), None);
    let core = Core::new(Setup {
        body: Strand::on(&ground, label("body"), 0),
        ground: Arc::clone(&ground),
        pool: Arc::clone(pool.core()),
        fail_fast: stop != Stop::Timeout,
        inline: true,
        inlined: 0,
        keep: None,
    });
    let seed = Seed::new(None, label("job").place, 1);
    if matches!(stop, Stop::Handle | Stop::Timeout) {
        // Made here: loom does not know that a std cell publishes what it holds.
        seed.strand(&ground).node();
    }
    let mut seed = Some(seed);
    let mut job = None;
    let (ran, captures) = (Plain::default(), Plain::default());
    let mut threads = Vec::new();
    let (mut stopper, mut dropped) = (None, false);
    let mut joined = None;
    let result = tether::<Bare<Core>, _, _>(
        &core,
        |frame| {
            let (ran, captures) = (&ran, Touches(&captures));
            let tether: &Tether<'_, '_, Core> = frame.0;
            let work = move || {
                captures.touch();
                ran.touch();
                Ok(())
            };
            let facts = Facts::new(seed.take().unwrap(), false, false);
            let (tied, _): (Queued, _) = tether.tie(facts, work, |_, tied| tied);
            let job = job.insert(tied.shared().clone());
            let claimed = core.claim_new(tied).unwrap();
            let runs_in = Arc::clone(&core);
            let mut run = Some(move || runs_in.leave(claimed.run(&runs_in, false).unwrap()));
            if cast != Cast::LateRunner {
                threads.extend(run.take().map(thread::spawn));
            }
            if stop != Stop::Not {
                let (job, node, core) = (job.clone(), Arc::clone(&node), Arc::clone(&core));
                let ground = Arc::clone(&ground);
                stopper = Some(thread::spawn(move || {
                    match stop {
                        Stop::Scope => cancel(&node),
                        Stop::Timeout => cancel_as(ReasonKind::Deadline, job.seed.strand(&ground).node()),
                        _ => cancel(job.seed.strand(&ground).node()),
                    }
                    let dropped = run::give_up(&core, &job);
                    // A job that is dropped says so at once, and that it never started.
                    let outcome = job.outcome();
                    let never = matches!(outcome, Some(Outcome::Cancelled { started: false, .. } | Outcome::Failed(_)));
                    assert!(never || !dropped);
                    dropped
                }));
            }
            if stop == Stop::Timeout {
                return; // a joiner would wait until it is on record
            }
            if cast == Cast::LateJoiner {
                for thread in threads.drain(..) {
                    thread.join().unwrap();
                }
                dropped = stopper.take().is_some_and(|thread| thread.join().unwrap());
            }
            joined = Some(loop {
                job.add_joiner(chair.seat());
                if let Some(outcome) = job.outcome() {
                    break outcome;
                }
                chair.park(None);
            });
            if let Some(run) = run {
                run();
            }
        },
        drop,
        || {
            // The count's poke goes to the core's owner, whom a model cannot be: see `with_chair`.
            while core.live() > 0 {
                thread::yield_now();
            }
        },
    );
    assert!(result.is_ok());
    let job = job.unwrap();
    // The scope has ended: what is not on record by now is lost.
    let failed = core.take_leaf(job.id()).is_some();
    let ran = ran.seen();
    assert_eq!(captures.seen(), ran + 1);
    dropped |= stopper.is_some_and(|thread: thread::JoinHandle<bool>| thread.join().unwrap());
    for thread in threads {
        thread.join().unwrap();
    }
    for outcome in joined.into_iter().chain(job.outcome()) {
        match outcome {
            Outcome::Value => assert!(ran == 1 && !dropped),
            Outcome::Cancelled { started: false, .. } => {
                assert!(ran == 0 && matches!(stop, Stop::Scope | Stop::Handle))
            }
            Outcome::Failed(_) => assert!(ran == 0 && failed && stop == Stop::Timeout),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_claimed_job_starts_or_is_dropped() {
    check(|| claim_against(Stop::Scope, ALL));
}

#[test]
fn a_job_cancelled_by_its_handle_starts_or_is_dropped() {
    check(|| claim_against(Stop::Handle, ALL));
}

#[test]
fn a_timeout_in_the_queue_is_on_record_when_the_scope_ends() {
    // Three threads: with one preemption more it takes minutes.
    check_with(2, || claim_against(Stop::Timeout, Cast::All));
}

#[test]
fn a_joiner_is_told_of_the_end() {
    check(|| claim_against(Stop::Not, Cast::All));
}

#[test]
fn a_joiner_is_told_of_a_drop() {
    check(|| claim_against(Stop::Scope, Cast::LateRunner));
}

#[test]
fn a_job_that_waits_at_its_scope_s_node_is_stopped_by_its_handle() {
    check(|| {
        let scope = node(None, None);
        let (ground, seed) = (Ground::new(Arc::clone(&scope), None), Seed::new(None, Location::caller(), 1));
        let strand = Arc::clone(seed.strand(&ground));
        let waiter = thread::spawn(move || {
            let chair = Chair::new();
            let (line, base) = (Line::Seed(&seed, &ground), &ground.node);
            let frame = Frame { line, base, is_region: false, scope: 0, inlined: 0, uses: None };
            let call = Call::new(Activity::Sleep, Wait::Open);
            current::enter(frame, || wait_in(&chair, &call, None, &mut |_| None::<()>).is_err())
        });
        cancel(strand.node());
        assert!(waiter.join().unwrap());
        assert!(!scope.is_stopping());
    });
}
