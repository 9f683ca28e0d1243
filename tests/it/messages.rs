//! What errors say, to the letter; places by their file alone, since lines move.

use crate::virtually;
use anyhow::{Context, bail};
use std::time::Duration;
use tassel::{
    CancelToken, ErrorGroup, JobHandle, JoinError, OnFailure, ScopeOptions, checkpoint,
    pool::Pool,
    region::{TimedOut, fail_after},
    scope, sleep,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Takes the line numbers out of places in this file.
fn plain(text: &str) -> String {
    let mut parts = text.split("tests/it/messages.rs:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += "FILE";
        out += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out
}

fn crawl() -> ErrorGroup {
    ScopeOptions::new()
        .name("crawl")
        .on_failure(OnFailure::KeepGoing)
        .open(|s| {
            s.job("a").spawn(|| -> tassel::Result<()> {
                sleep(HOUR)?;
                Err(anyhow::anyhow!("no route")).context("fetching a")
            });
            s.job("b").spawn(|| {
                scope_of_b()?;
                Ok(())
            });
            s.spawn(|| Ok(()));
            Ok(())
        })
        .unwrap_err()
}

fn scope_of_b() -> Result<(), ErrorGroup> {
    ScopeOptions::new().name("parse").open(|s| {
        s.spawn(|| -> tassel::Result<()> { bail!("bad byte") });
        Ok(())
    })
}

// D23, S24:
#[test]
fn a_group_says_it_in_one_line_with_causes_and_as_a_tree() {
    virtually(|| {
        let group = crawl();
        assert_eq!(plain(&group.to_string()), "scope `crawl`: 2 of 3 jobs failed; first: job `b` failed");
        assert_eq!(
            plain(&format!("{group:#}")),
            "scope `crawl`: 2 of 3 jobs failed; first: job `b` failed: job `FILE#1` failed: bad byte"
        );
        assert_eq!(
            plain(&format!("{group:?}")),
            "scope `crawl` (FILE): 2 of 3 jobs failed\n\
             ├─ job `b` (FILE) failed after 0ns: scope `parse` (FILE): 1 of 1 job failed\n\
             │  └─ job `FILE#1` failed after 0ns: bad byte\n\
             └─ job `a` (FILE) failed after 3600s: fetching a: no route"
        );
        let paths: Vec<_> = group.leaves().map(|leaf| plain(leaf.path())).collect();
        assert_eq!(paths, ["crawl/b/parse/FILE#1", "crawl/a"]);
    });
}

// D22, D23, S48:
#[test]
fn a_join_error_names_the_job_and_what_became_of_it() {
    virtually(|| {
        let told = |error: JoinError| plain(&error.to_string());
        let group = ScopeOptions::new().name("s").on_failure(OnFailure::KeepGoing).open(|s| {
            let failed =
                s.job("a").spawn(|| -> tassel::Result<()> { Err(anyhow::anyhow!("disk full")).context("saving") });
            assert_eq!(told(failed.join().unwrap_err()), "job `a` failed: saving: disk full");
            let panicked = s.job("b").spawn(|| -> tassel::Result<()> { panic!("broke") });
            assert_eq!(told(panicked.join().unwrap_err()), "job `b` panicked: broke");
            let cancelled = s.job("c").spawn(|| Ok(sleep(HOUR)?));
            cancelled.cancel_with("not needed");
            let text = told(cancelled.join().unwrap_err());
            assert!(text.starts_with("job `c` was cancelled before it started: "), "{text}");
            let slow = s.job("d").spawn(|| Ok(sleep(10 * HOUR)?));
            let you = fail_after(HOUR, || Ok(slow.join().unwrap_err().to_string()));
            assert_eq!(you.unwrap(), "the joiner was stopped");
            s.cancel();
            Ok(())
        });
        assert_eq!(group.unwrap_err().len(), 2);
    });
}

// D23:
#[test]
fn a_job_that_timed_out_is_named_once_in_each_text() {
    virtually(|| {
        let group = ScopeOptions::new().name("s").open(|s| {
            let slow = s.job("slow").timeout(HOUR).spawn(|| Ok(sleep(10 * HOUR)?));
            let told = slow.join().unwrap_err().to_string();
            assert_eq!(plain(&told), "job `slow` failed: timed out: deadline of 3600s (FILE)");
            Ok(())
        });
        let group = group.unwrap_err();
        assert_eq!(
            plain(&format!("{group:#}")),
            "scope `s`: 1 of 1 job failed; first: job `slow` timed out: deadline of 3600s (FILE)"
        );
        assert_eq!(
            plain(&format!("{group:?}")),
            "scope `s` (FILE): 1 of 1 job failed\n\
             └─ job `slow` (FILE) timed out after 3600s: deadline of 3600s (FILE)"
        );
        assert_eq!(plain(&format!("{:#}", group.primary())), "job `slow` timed out: deadline of 3600s (FILE)");
        let alone = group.find::<TimedOut>().unwrap();
        assert_eq!(plain(&alone.to_string()), "job `slow` timed out: deadline of 3600s (FILE)");
        let error = anyhow::Error::from(group);
        assert_eq!(
            plain(&format!("{error:#}")),
            "scope `s`: 1 of 1 job failed; first: job `slow` timed out: job `slow` timed out: deadline of 3600s (FILE)"
        );
        assert!(error.chain().any(<dyn std::error::Error>::is::<TimedOut>));
        let group = error.downcast::<ErrorGroup>().unwrap();
        let leaf = group.into_leaves().next().unwrap();
        let error = leaf.into_error();
        assert_eq!(plain(&error.to_string()), "job `slow` timed out: deadline of 3600s (FILE)");

        let own = ScopeOptions::new().name("all").timeout(HOUR).open(|_| Ok(sleep(10 * HOUR)?));
        assert_eq!(
            plain(&format!("{:#}", anyhow::Error::from(own.unwrap_err()))),
            "scope `all` timed out: deadline of 3600s (FILE): the body timed out: deadline of 3600s (FILE)"
        );
    });
}

// D22, S51:
#[test]
fn a_join_error_says_cancelled_once() {
    virtually(|| {
        scope(|s| {
            let told = |job: JobHandle<'_, ()>, text: Option<&str>| {
                match text {
                    Some(text) => job.cancel_with(text),
                    None => job.cancel(),
                }
                plain(&job.join().unwrap_err().to_string())
            };
            let spawn = || s.job("x").spawn(|| Ok(sleep(HOUR)?));
            assert_eq!(told(spawn(), None), "job `x` was cancelled before it started (FILE)");
            assert_eq!(
                told(spawn(), Some("closing time")),
                "job `x` was cancelled before it started: closing time (FILE)"
            );
            let (one, two) = (spawn(), spawn());
            sleep(HOUR / 2)?;
            assert_eq!(told(one, None), "job `x` was cancelled (FILE)");
            assert_eq!(told(two, Some("closing time")), "job `x` was cancelled: closing time (FILE)");
            Ok(())
        })
        .unwrap();
    });
}

// S51, D26:
#[test]
fn a_stop_says_what_was_stopped_why_and_where() {
    virtually(|| {
        let token = CancelToken::new();
        token.cancel_with("closing time");
        let stop = token.enter(|| checkpoint().unwrap_err());
        assert_eq!(plain(&stop.to_string()), "token `FILE` was stopped: cancelled: closing time (FILE)");
        let late = ScopeOptions::new().name("parse").timeout(2 * HOUR).open(|_| Ok(sleep(10 * HOUR)?)).unwrap_err();
        assert_eq!(plain(&late.to_string()), "scope `parse` timed out: deadline of 7200s (FILE)");
        let limit = fail_after(HOUR, || Ok(sleep(10 * HOUR)?)).unwrap_err();
        assert_eq!(plain(&limit.to_string()), "region `FILE` timed out: deadline of 3600s (FILE)");
        let seen = scope(|s| {
            s.job("b").spawn(|| -> tassel::Result<()> { bail!("broke") });
            let stop = sleep(HOUR).unwrap_err();
            assert_eq!(stop.reason().to_string(), "job `b` failed");
            Ok(())
        });
        assert_eq!(seen.unwrap_err().reason().map(ToString::to_string).as_deref(), Some("job `b` failed"));
    });
}

#[test]
fn a_bad_pool_says_what_to_give_instead() {
    virtually(|| {
        let told = |builder: tassel::pool::PoolBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(
            told(Pool::builder().parallelism(0)),
            "parallelism is 0: give the number of jobs that may compute at once, at least 1"
        );
        assert_eq!(told(Pool::builder().max_threads(0)), "max_threads is 0: give at least 1");
        assert_eq!(
            Pool::global().shutdown().unwrap_err().to_string(),
            "the global pool cannot be shut down: build one with `Pool::builder()` for that"
        );
    });
}
