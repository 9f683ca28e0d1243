//! D2 as a table: what a scope returns, by how its body ended, what became of its jobs, and what stopped it.
//!
//! 36 rows. A job `x` stands for the jobs: it is *done* before anything stops, is *cut off* in a sleep, or has *never
//! started*. The cause is the scope's own `cancel`, a token it stands under, its own time limit, or a job `f` that fails.
//! The body meets the cause and then returns `Ok(7)`, an error of its own, or the stop.

use crate::virtually;
use anyhow::Context as _;
use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, ErrorGroup, ReasonKind, ScopeOptions, checkpoint,
    region::{self, TimedOut},
    sleep,
};

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Body {
    Ok,
    Err,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Jobs {
    Done,
    CutOff,
    NeverStarted,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cause {
    OwnCancel,
    OuterCancel,
    OwnTimeout,
    Failure,
}

fn row(body: Body, jobs: Jobs, cause: Cause) -> String {
    let (started, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let outer = CancelToken::new();
    let mut options = ScopeOptions::new().name("s").under(&outer);
    if cause == Cause::OwnTimeout {
        // A time limit keeps a job from starting only if it has passed before anybody could claim the job.
        options = options.timeout(if jobs == Jobs::NeverStarted { Duration::ZERO } else { HOUR });
    }
    let at_once = jobs == Jobs::NeverStarted;
    let result = options.open(|s| {
        if cause == Cause::Failure {
            // Before `x`, so that it has its turn first.
            s.job("f").spawn(move || -> tassel::Result<()> {
                if !at_once {
                    sleep(HOUR)?;
                }
                anyhow::bail!("disk full")
            });
        }
        s.job("x").spawn(|| {
            started.store(true, Ordering::SeqCst);
            if jobs == Jobs::CutOff {
                sleep(10 * HOUR)?;
            }
            ended.store(true, Ordering::SeqCst);
            Ok(())
        });
        match cause {
            Cause::OwnCancel | Cause::OuterCancel => {
                if !at_once {
                    sleep(HOUR)?;
                }
                if cause == Cause::OwnCancel { s.cancel() } else { outer.cancel() }
            }
            // The body is woken by the cause, and swallows the stop: what it makes of it follows.
            Cause::OwnTimeout | Cause::Failure => assert!(sleep(2 * HOUR).is_err()),
        }
        match body {
            Body::Ok => Ok(7),
            Body::Err => anyhow::bail!("body broke"),
            Body::Stopped => {
                checkpoint()?;
                unreachable!("the cause was met before")
            }
        }
    });
    let expected = match jobs {
        Jobs::Done => (true, true),
        Jobs::CutOff => (true, false),
        Jobs::NeverStarted => (false, false),
    };
    assert_eq!((started.into_inner(), ended.into_inner()), expected, "the row is not what it says");
    match result {
        Ok(value) => format!("Ok({value})"),
        Err(group) => told(&group),
    }
}

fn told(group: &ErrorGroup) -> String {
    assert_eq!(group.len(), group.iter().len(), "there is no inner scope, so no inner group: {group:?}");
    assert_eq!(group.name(), "s");
    let leaf = group.primary();
    if let Some(stop) = leaf.stop() {
        assert_eq!((group.len(), leaf.name().as_ref()), (1, "body"), "{group:?}");
        let reason = stop.reason();
        assert_eq!(reason.kind(), ReasonKind::Explicit);
        // The token has no name: it is called after the place that made it.
        let who = reason.who();
        let who = if who.starts_with("token `tests/it/table_result.rs:") { "token" } else { who.as_str() };
        let stopped = if group.stopped() { "stopped" } else { "not stopped" };
        return format!("Cancelled by {who}, {stopped}");
    }
    assert!(!group.stopped(), "{group:?}");
    if let Some(error) = leaf.downcast_ref::<TimedOut>() {
        assert_eq!((group.len(), error.reason().kind()), (1, ReasonKind::Deadline));
        return format!("TimedOut: {}", error.reason().who());
    }
    let leaves: Vec<_> = group
        .leaves()
        .map(|leaf| format!("{leaf:#}{}", if leaf.during_cancellation() { ", while being cancelled" } else { "" }))
        .collect();
    format!("failures [{}]", leaves.join("; "))
}

macro_rules! rows {
    ($($name:ident: $body:ident, $jobs:ident, $cause:ident => $expected:expr;)*) => {$(
        // D2:
        #[test]
        fn $name() {
            let result = virtually(|| row(Body::$body, Jobs::$jobs, Cause::$cause));
            assert_eq!(result, $expected);
        }
    )*};
}

// The scope's own `cancel` is its will: what it stops does not spoil a value (D2). A body that stops is the one
// `Cancelled` leaf of D17's last row. An error of the body is a failure (S15), and real failures push the stops out (S34).
rows! {
    ok_all_done_own_cancel: Ok, Done, OwnCancel => "Ok(7)";
    ok_cut_off_own_cancel: Ok, CutOff, OwnCancel => "Ok(7)";
    ok_never_started_own_cancel: Ok, NeverStarted, OwnCancel => "Ok(7)";
    err_all_done_own_cancel: Err, Done, OwnCancel
        => "failures [the body failed: body broke, while being cancelled]";
    err_cut_off_own_cancel: Err, CutOff, OwnCancel
        => "failures [the body failed: body broke, while being cancelled]";
    err_never_started_own_cancel: Err, NeverStarted, OwnCancel
        => "failures [the body failed: body broke, while being cancelled]";
    stopped_all_done_own_cancel: Stopped, Done, OwnCancel => "Cancelled by scope `s`, stopped";
    stopped_cut_off_own_cancel: Stopped, CutOff, OwnCancel => "Cancelled by scope `s`, stopped";
    stopped_never_started_own_cancel: Stopped, NeverStarted, OwnCancel => "Cancelled by scope `s`, stopped";
}

// A token above is against the scope's will: if it cut anything off, the value is gone (D2); if it came too late to, the
// value stays (S7). The stop is passed on, so the scope is not `stopped` (D17, first row). Real errors go first (S35).
rows! {
    ok_all_done_outer_cancel: Ok, Done, OuterCancel => "Ok(7)";
    ok_cut_off_outer_cancel: Ok, CutOff, OuterCancel => "Cancelled by token, not stopped";
    ok_never_started_outer_cancel: Ok, NeverStarted, OuterCancel => "Cancelled by token, not stopped";
    err_all_done_outer_cancel: Err, Done, OuterCancel
        => "failures [the body failed: body broke, while being cancelled]";
    err_cut_off_outer_cancel: Err, CutOff, OuterCancel
        => "failures [the body failed: body broke, while being cancelled]";
    err_never_started_outer_cancel: Err, NeverStarted, OuterCancel
        => "failures [the body failed: body broke, while being cancelled]";
    stopped_all_done_outer_cancel: Stopped, Done, OuterCancel => "Cancelled by token, not stopped";
    stopped_cut_off_outer_cancel: Stopped, CutOff, OuterCancel => "Cancelled by token, not stopped";
    stopped_never_started_outer_cancel: Stopped, NeverStarted, OuterCancel => "Cancelled by token, not stopped";
}

// The same for its own time limit, but that the leaf is a `TimedOut` (D17, second row). A body that swallowed the stop
// and returned a value keeps it if nothing was cut off (S61); its own real error is that error (S61).
rows! {
    ok_all_done_own_timeout: Ok, Done, OwnTimeout => "Ok(7)";
    ok_cut_off_own_timeout: Ok, CutOff, OwnTimeout => "TimedOut: scope `s`";
    ok_never_started_own_timeout: Ok, NeverStarted, OwnTimeout => "TimedOut: scope `s`";
    err_all_done_own_timeout: Err, Done, OwnTimeout
        => "failures [the body failed: body broke, while being cancelled]";
    err_cut_off_own_timeout: Err, CutOff, OwnTimeout
        => "failures [the body failed: body broke, while being cancelled]";
    err_never_started_own_timeout: Err, NeverStarted, OwnTimeout
        => "failures [the body failed: body broke, while being cancelled]";
    stopped_all_done_own_timeout: Stopped, Done, OwnTimeout => "TimedOut: scope `s`";
    stopped_cut_off_own_timeout: Stopped, CutOff, OwnTimeout => "TimedOut: scope `s`";
    stopped_never_started_own_timeout: Stopped, NeverStarted, OwnTimeout => "TimedOut: scope `s`";
}

// A failure is always the result, whatever else there is; what it stopped is no leaf (S34), and what failed after it is
// one more, behind it (S14, D8). *All done* means all but `f`, which is the cause.
rows! {
    ok_all_done_failure: Ok, Done, Failure => "failures [job `f` failed: disk full]";
    ok_cut_off_failure: Ok, CutOff, Failure => "failures [job `f` failed: disk full]";
    ok_never_started_failure: Ok, NeverStarted, Failure => "failures [job `f` failed: disk full]";
    err_all_done_failure: Err, Done, Failure
        => "failures [job `f` failed: disk full; the body failed: body broke, while being cancelled]";
    err_cut_off_failure: Err, CutOff, Failure
        => "failures [job `f` failed: disk full; the body failed: body broke, while being cancelled]";
    err_never_started_failure: Err, NeverStarted, Failure
        => "failures [job `f` failed: disk full; the body failed: body broke, while being cancelled]";
    stopped_all_done_failure: Stopped, Done, Failure => "failures [job `f` failed: disk full]";
    stopped_cut_off_failure: Stopped, CutOff, Failure => "failures [job `f` failed: disk full]";
    stopped_never_started_failure: Stopped, NeverStarted, Failure => "failures [job `f` failed: disk full]";
}

/// A job `x` hands out its own token and is cancelled by it: by the body, a sibling, a thread of nobody's, a callback of
/// the job's own, a job of its own inner scope, or itself.
fn own_token(by: &str) -> String {
    let cancel = |token: &CancelToken| token.cancel_with("enough");
    let (give, given) = mpsc::channel::<CancelToken>();
    let cut = AtomicBool::new(false);
    let sibling = AtomicBool::new(false);
    let result = ScopeOptions::new().name("s").open(|s| {
        s.job("x").spawn(|| {
            let token = CancelToken::current();
            let trigger = CancelToken::new();
            let registered = trigger.on_cancel({
                let token = token.clone();
                move || cancel(&token)
            });
            match by {
                "itself" => cancel(&token),
                "a region in it" => region::shield(HOUR, || {
                    cancel(&token);
                    Ok(())
                })?,
                "its inner scope" => tassel::scope(|s| {
                    s.spawn(|| cancel(&token));
                    Ok(())
                })?,
                "its callback" => trigger.cancel(),
                _ => give.send(token.clone())?,
            }
            drop(registered);
            cut.store(true, Ordering::SeqCst);
            sleep(5 * HOUR).context("in x")
        });
        sleep(HOUR)?;
        match by {
            "the body" => cancel(&given.recv()?),
            "the body, below the token" => {
                let token = given.recv()?;
                token.enter(|| cancel(&token));
            }
            "a sibling" => {
                let token = given.recv()?;
                s.spawn(move || cancel(&token));
            }
            "a thread" => {
                let token = given.recv()?;
                thread::spawn(move || cancel(&token)).join().unwrap();
            }
            "the body, before the scope" => {
                cancel(&given.recv()?);
                s.cancel();
            }
            "the body, after the scope" => {
                s.cancel();
                cancel(&given.recv()?);
            }
            _ => {}
        }
        s.spawn(|| {
            sibling.store(true, Ordering::SeqCst);
            Ok(())
        });
        Ok(7)
    });
    assert!(cut.into_inner(), "`x` has met its cancel");
    assert!(sibling.into_inner() || by.ends_with("the scope"), "the siblings go on (S47)");
    match result {
        Ok(value) => format!("Ok({value})"),
        Err(group) => format!("{}, notes {:?}", told(&group), group.primary().notes()),
    }
}

// A job's token in the hands of others is not the scope's will; in its own it is.
//
// D2, D17, S47:
#[test]
fn a_job_that_others_stop_by_its_token_spoils_the_value_and_one_that_stops_itself_does_not() {
    let own = |by| virtually(|| own_token(by));
    let stopped = r#"Cancelled by job `x`, not stopped, notes ["job `x`: in x"]"#;
    for by in ["the body", "the body, below the token", "a sibling", "a thread", "its callback"] {
        assert_eq!(own(by), stopped, "{by}");
    }
    for by in ["itself", "a region in it", "its inner scope"] {
        assert_eq!(own(by), "Ok(7)", "{by}");
    }
    // What came first counts.
    assert_eq!(own("the body, before the scope"), stopped);
    assert_eq!(own("the body, after the scope"), "Ok(7)");
}
