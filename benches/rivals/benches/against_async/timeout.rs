//! Many jobs wait under one limit: how soon after it is nobody left?

use std::{
    sync::{Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use async_executor::Task;
use async_io::{Timer, block_on};
use criterion::Criterion;
use futures_concurrency::prelude::*;
use futures_lite::FutureExt;
use tassel::{ScopeOptions, region::TimedOut, sleep};
use tokio::task::JoinSet;

use crate::{
    HOUR,
    common::{Race, group},
    runtimes::{smol, tokio},
};

const JOBS: u64 = 1000;
const LIMIT: Duration = Duration::from_millis(10);

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = group(c, "timeout");
    Race::new(true)
        .program("tassel", by_tassel)
        .program("std", by_std)
        .program("tokio tasks", by_tokio)
        .program("smol tasks", by_smol)
        .program("futures-concurrency", by_futures_concurrency)
        .program("moro", by_moro)
        .run(&mut group, JOBS);
    group.finish();
}

fn by_tassel() -> bool {
    let ended = ScopeOptions::new().timeout(LIMIT).open(|s| {
        for _ in 0..JOBS {
            s.spawn(|| Ok(sleep(HOUR)?));
        }
        Ok(())
    });
    ended.is_err_and(|group| group.find::<TimedOut>().is_some())
}

/// By hand: the body waits for its limit, then tells all.
fn by_std() -> bool {
    let (over, told) = (Mutex::new(false), Condvar::new());
    let deadline = Instant::now() + LIMIT;
    thread::scope(|s| {
        for _ in 0..JOBS {
            s.spawn(|| {
                let guard = over.lock().expect("nobody panics");
                drop(told.wait_timeout_while(guard, HOUR, |over| !*over).expect("nobody panics"));
            });
        }
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        *over.lock().expect("nobody panics") = true;
        told.notify_all();
    });
    over.into_inner().expect("nobody panics")
}

fn by_tokio() -> bool {
    tokio().block_on(async {
        let mut set = JoinSet::new();
        let ended = tokio::time::timeout(LIMIT, async {
            for _ in 0..JOBS {
                set.spawn(tokio::time::sleep(HOUR));
            }
            while set.join_next().await.is_some() {}
        });
        let timed_out = ended.await.is_err();
        set.shutdown().await;
        timed_out
    })
}

fn by_smol() -> bool {
    block_on(async {
        let limit = Timer::after(LIMIT);
        let mut tasks: Vec<_> = (0..JOBS).map(|_| smol().spawn(nap())).collect();
        let all = async {
            for task in &mut tasks {
                task.await;
            }
            false
        };
        let over = async {
            limit.await;
            true
        };
        let timed_out = all.or(over).await;
        tasks.into_iter().map(Task::cancel).collect::<Vec<_>>().join().await;
        timed_out
    })
}

fn by_futures_concurrency() -> bool {
    let all = async {
        let naps: Vec<_> = (0..JOBS).map(|_| nap()).collect();
        naps.join().await;
        false
    };
    let over = async {
        Timer::after(LIMIT).await;
        true
    };
    block_on((all, over).race())
}

fn by_moro() -> bool {
    block_on(moro::async_scope!(|scope| {
        let limit = Timer::after(LIMIT);
        for _ in 0..JOBS {
            drop(scope.spawn(nap()));
        }
        limit.await;
        scope.terminate::<()>(true).await;
        false
    }))
}

async fn nap() {
    Timer::after(HOUR).await;
}
