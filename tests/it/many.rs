//! Very many of everything: what it costs in memory and in work, and that nothing is left behind.
//!
//! Each test is a process of its own, whose allocator counts. Work is counted in its calls, not timed: a quarter of the
//! jobs must take about a quarter of them.

use crate::{child, child_side, guarded};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::{
    alloc::System,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};
use tassel::{CancelToken, OnFailure, ScopeOptions, pool::Pool, sleep, sync::Event};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const HOUR: Duration = Duration::from_secs(3600);
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes that are allocated now.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// How often the allocator was called so far.
fn calls() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// A million, or in a debug build, where that takes too long, a tenth.
const MILLION: usize = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };

#[track_caller]
fn passes(half: &str) {
    let output = child(half, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{half}: {}\n{text}", output.status);
}

// S23, D25:
#[test]
fn a_hundred_thousand_child_tokens_are_made_cancelled_and_dropped() {
    guarded(|| passes("many::children"));
}

#[test]
#[ignore = "a child process of `a_hundred_thousand_child_tokens_are_made_cancelled_and_dropped`"]
fn children() {
    child_side(|| {
        const N: usize = 100_000;
        let work = |n: usize, cancel: bool, parent_first: bool| {
            let (before, parent) = (live(), CancelToken::new());
            let made: Vec<_> = (0..n).map(|_| parent.child()).collect();
            let each = (live() - before) / n;
            assert!(each < 768, "a token takes {each} bytes");
            let called = calls();
            if cancel {
                parent.cancel();
            }
            assert!(made.iter().all(|token| token.is_cancelled() == cancel));
            let called = calls() - called;
            if parent_first {
                drop(parent);
                drop(made);
            } else {
                drop(made);
                // The list of those below keeps no room for them.
                assert!(live() - before < 16 * KIB, "{} bytes are left", live() - before);
                let again: Vec<_> = (0..n).map(|_| parent.child()).collect();
                drop(again);
                assert!(live() - before < 16 * KIB, "{} bytes are left", live() - before);
                drop(parent);
            }
            let left = live() - before;
            assert!(left < 16 * KIB, "{left} bytes are left");
            called
        };
        for parent_first in [false, true] {
            work(N, false, parent_first);
            let (few, many) = (work(N / 4, true, parent_first), work(N, true, parent_first));
            assert!(many <= 5 * few.max(1) && many <= 4 * N, "{few} allocations, then {many}");
        }
    });
}

// S23:
#[test]
fn a_hundred_thousand_tokens_that_are_nobody_s_children_are_made_cancelled_and_dropped() {
    guarded(|| passes("many::tokens"));
}

#[test]
#[ignore = "a child process of `a_hundred_thousand_tokens_that_are_nobody_s_children_are_made_cancelled_and_dropped`"]
fn tokens() {
    child_side(|| {
        const N: usize = 100_000;
        let before = live();
        let tokens: Vec<_> = (0..N).map(|_| CancelToken::new()).collect();
        let each = (live() - before) / N;
        assert!(each < 768, "a token takes {each} bytes");
        // One changes nothing for the others.
        tokens[N / 2].cancel();
        assert_eq!(tokens.iter().filter(|token| token.is_cancelled()).count(), 1);
        let called = calls();
        tokens.iter().for_each(CancelToken::cancel);
        let called = calls() - called;
        assert!(called <= 8 * N && tokens.iter().all(CancelToken::is_cancelled), "{called} allocations");
        drop(tokens);
        let left = live() - before;
        assert!(left < 16 * KIB, "{left} bytes are left");
    });
}

/// Spawns `n` jobs, each hundredth of which fails if `failing`, and returns what is allocated when all are spawned, and
/// nearly all have ended.
fn keeps_going(n: usize, failing: bool) -> usize {
    let pool = Pool::builder().parallelism(2).build().unwrap();
    let ended = AtomicUsize::new(0);
    let before = live();
    let mut held = 0;
    let options = ScopeOptions::new().pool(&pool).inline(false).on_failure(OnFailure::KeepGoing).keep_failures(100);
    let result = options.open(|s| {
        for round in 0..n / 1000 {
            for job in 0..1000 {
                let (ended, text) = (&ended, format!("{round}.{job}"));
                s.spawn(move || {
                    ended.fetch_add(1, SeqCst);
                    anyhow::ensure!(!failing || job % 100 != 99, "job {text} failed");
                    Ok(text)
                });
            }
            // Jobs start in order, so all before it have started.
            s.spawn(|| Ok(())).join()?;
        }
        held = live().saturating_sub(before);
        Ok(())
    });
    assert_eq!(ended.into_inner(), n);
    if failing {
        let group = result.unwrap_err();
        assert_eq!((group.len(), group.dropped()), ((n / 100).min(100), (n as u64 / 100).saturating_sub(100)));
    } else {
        result.unwrap();
    }
    pool.shutdown().unwrap();
    held
}

// D12:
#[test]
fn a_scope_of_a_million_jobs_that_keeps_going_holds_less_than_a_mebibyte() {
    guarded(|| passes("many::long_lived"));
}

#[test]
#[ignore = "a child process of `a_scope_of_a_million_jobs_that_keeps_going_holds_less_than_a_mebibyte`"]
fn long_lived() {
    child_side(|| {
        keeps_going(1000, true);
        for failing in [false, true] {
            let before = live();
            let held = keeps_going(MILLION, failing);
            assert!(held < MIB, "{held} bytes are held");
            let left = live().saturating_sub(before);
            assert!(left < 64 * KIB, "{left} bytes are left");
        }
    });
}

/// What a cancel of many queued jobs has cost.
#[derive(Debug)]
struct Cost {
    /// Calls of the allocator from the cancel to the end of the scope.
    calls: usize,
    /// Bytes for each queued job.
    each: usize,
}

/// Queues `n` jobs, none of which can start, and cancels them by what `cancel` says.
fn cancels(n: usize, cancel: impl FnOnce(&CancelToken)) -> Cost {
    let pool = Pool::builder().parallelism(1).max_threads(1).build().unwrap();
    let (dropped, token, there) = (AtomicUsize::new(0), CancelToken::new(), Event::new());
    let before = live();
    let (mut called, mut each) = (0, 0);
    let group = ScopeOptions::new()
        .pool(&pool)
        .inline(false)
        .under(&token)
        .open(|s| {
            s.spawn(|| {
                there.set();
                Ok(sleep(HOUR)?)
            });
            there.wait()?;
            let queued = live();
            for _ in 0..n {
                let dropped = crate::edges::OnDrop(|| _ = dropped.fetch_add(1, SeqCst));
                s.spawn(move || drop(dropped));
            }
            each = (live() - queued) / n;
            called = calls();
            cancel(&token);
            while dropped.load(SeqCst) < n {
                thread::yield_now();
            }
            let held = live().saturating_sub(queued);
            assert!(held < MIB, "{held} bytes are held by a scope without jobs");
            Ok(())
        })
        .unwrap_err();
    let called = calls() - called;
    assert_eq!((group.len(), dropped.into_inner()), (1, n));
    drop(group);
    pool.shutdown().unwrap();
    drop((pool, token));
    let left = live().saturating_sub(before);
    assert!(left < 64 * KIB, "{left} bytes are left");
    Cost { calls: called, each }
}

// S42, D6:
#[test]
fn a_million_queued_jobs_are_cancelled_at_once() {
    guarded(|| passes("many::queued"));
}

#[test]
#[ignore = "a child process of `a_million_queued_jobs_are_cancelled_at_once`"]
fn queued() {
    child_side(|| {
        cancels(1000, CancelToken::cancel);
        let (few, many) = (cancels(MILLION / 4, CancelToken::cancel), cancels(MILLION, CancelToken::cancel));
        assert!(many.calls <= 5 * few.calls.max(1000), "{few:?}, then {many:?}");
        assert!(many.each < 2 * KIB, "{many:?}");
    });
}
