//! N jobs sleep for a while, and each returns a number.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use async_io::{Timer, block_on};
use criterion::Criterion;
use futures_concurrency::prelude::*;
use tassel::{ScopeOptions, sleep};
use threadpool::ThreadPool;
use tokio::task::JoinSet;

use crate::{
    common::{Race, group},
    runtimes::{pool, smol, tokio, tokio_for_blocking},
};

const NAP: Duration = Duration::from_millis(50);

/// Where all take part, and where only those do that would in earnest.
const FEW: u64 = 1000;
const MANY: u64 = 10_000;

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = group(c, "fan-out");
    for jobs in [FEW, MANY] {
        let mut race = Race::new(jobs * (jobs - 1) / 2)
            .timed("tassel", move || by_tassel(jobs))
            .program("std", move || by_std(jobs))
            .program("tokio tasks", move || by_tokio_tasks(jobs))
            .timed("tokio spawn_blocking", move || by_tokio_blocking(jobs))
            .program("smol tasks", move || by_smol(jobs))
            .program("futures-concurrency", move || by_futures_concurrency(jobs))
            .program("moro", move || by_moro(jobs));
        if jobs == FEW {
            race = race
                .program("smol blocking", move || by_smol_blocking(jobs))
                .program("crossbeam", move || by_crossbeam(jobs))
                .program("threadpool", move || by_threadpool(jobs));
        }
        race.run(&mut group, jobs);
    }
    group.finish();
}

fn by_tassel(jobs: u64) -> (Duration, u64) {
    let pool = pool(usize::try_from(jobs).expect("a few"));
    let began = Instant::now();
    let sum = ScopeOptions::new().pool(&pool).open(|s| {
        let nap = |n| s.spawn(move || Ok(sleep(NAP).map(|()| n)?));
        let handles: Vec<_> = (0..jobs).map(nap).collect();
        let mut sum = 0;
        for handle in handles {
            sum += handle.join()?;
        }
        Ok(sum)
    });
    let time = began.elapsed();
    pool.shutdown().expect("nothing runs");
    (time, sum.expect("no job fails"))
}

fn by_std(jobs: u64) -> u64 {
    thread::scope(|s| {
        let handles: Vec<_> = (0..jobs).map(|n| s.spawn(move || nap(n))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no job panics")).sum()
    })
}

fn by_crossbeam(jobs: u64) -> u64 {
    let sum = crossbeam::scope(|s| {
        let handles: Vec<_> = (0..jobs).map(|n| s.spawn(move |_| nap(n))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no job panics")).sum()
    });
    sum.expect("no job panics")
}

fn by_threadpool(jobs: u64) -> u64 {
    let pool = ThreadPool::new(usize::try_from(jobs).expect("a few"));
    let (values, sum) = mpsc::channel();
    for n in 0..jobs {
        let values = values.clone();
        pool.execute(move || values.send(nap(n)).expect("somebody listens"));
    }
    drop(values);
    sum.iter().sum()
}

fn by_tokio_tasks(jobs: u64) -> u64 {
    tokio().block_on(async {
        let mut set = JoinSet::new();
        for n in 0..jobs {
            set.spawn(async move {
                tokio::time::sleep(NAP).await;
                n
            });
        }
        set.join_all().await.into_iter().sum()
    })
}

fn by_tokio_blocking(jobs: u64) -> (Duration, u64) {
    let runtime = tokio_for_blocking(usize::try_from(jobs).expect("a few"));
    let began = Instant::now();
    let sum = runtime.block_on(async {
        let mut set = JoinSet::new();
        for n in 0..jobs {
            set.spawn_blocking(move || nap(n));
        }
        set.join_all().await.into_iter().sum()
    });
    (began.elapsed(), sum)
}

fn by_smol(jobs: u64) -> u64 {
    let task = |n| {
        smol().spawn(async move {
            Timer::after(NAP).await;
            n
        })
    };
    block_on(async {
        let tasks: Vec<_> = (0..jobs).map(task).collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await;
        }
        sum
    })
}

fn by_smol_blocking(jobs: u64) -> u64 {
    block_on(async {
        let tasks: Vec<_> = (0..jobs).map(|n| blocking::unblock(move || nap(n))).collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await;
        }
        sum
    })
}

fn by_futures_concurrency(jobs: u64) -> u64 {
    let nap = |n| async move {
        Timer::after(NAP).await;
        n
    };
    let naps: Vec<_> = (0..jobs).map(nap).collect();
    block_on(async { naps.join().await.into_iter().sum() })
}

fn by_moro(jobs: u64) -> u64 {
    block_on(moro::async_scope!(|scope| {
        let nap = |n| {
            scope.spawn(async move {
                Timer::after(NAP).await;
                n
            })
        };
        let naps: Vec<_> = (0..jobs).map(nap).collect();
        let mut sum = 0;
        for nap in naps {
            sum += nap.await;
        }
        sum
    }))
}

fn nap(n: u64) -> u64 {
    thread::sleep(NAP);
    n
}
