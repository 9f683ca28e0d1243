//! Many jobs wait, one fails: how soon is nobody left?

use std::{
    sync::{Condvar, Mutex},
    thread,
};

use async_executor::Task;
use async_io::{Timer, block_on};
use criterion::Criterion;
use futures_concurrency::prelude::*;
use tassel::{Error, Result, scope, sleep};
use tokio::task::JoinSet;

use crate::{
    HOUR,
    common::{Race, group},
    runtimes::{smol, tokio},
};

const JOBS: u64 = 1000;
const FAILURE: &str = "disk full";

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = group(c, "failure");
    Race::new(FAILURE.to_owned())
        .program("tassel", by_tassel)
        .program("std", by_std)
        .program("tokio tasks", by_tokio)
        .program("smol tasks", by_smol)
        .program("futures-concurrency", by_futures_concurrency)
        .program("moro", by_moro)
        .run(&mut group, JOBS);
    group.finish();
}

fn by_tassel() -> String {
    let ended = scope(|s| {
        for _ in 0..JOBS {
            s.spawn(|| Ok(sleep(HOUR)?));
        }
        s.spawn(fail);
        Ok(())
    });
    let group = ended.expect_err("a job fails");
    group.primary().error().expect("it failed with an error").to_string()
}

/// By hand: a flag that all wait at, and a place for the first failure.
fn by_std() -> String {
    let (failure, told) = (Mutex::new(None), Condvar::new());
    thread::scope(|s| {
        for _ in 0..JOBS {
            s.spawn(|| {
                let guard = failure.lock().expect("nobody panics");
                drop(told.wait_timeout_while(guard, HOUR, |failure| failure.is_none()).expect("nobody panics"));
            });
        }
        s.spawn(|| {
            if let Err(error) = fail() {
                failure.lock().expect("nobody panics").get_or_insert(error);
                told.notify_all();
            }
        });
    });
    failure.into_inner().expect("nobody panics").expect("a job fails").to_string()
}

fn by_tokio() -> String {
    tokio().block_on(async {
        let mut set = JoinSet::new();
        for _ in 0..JOBS {
            set.spawn(async {
                tokio::time::sleep(HOUR).await;
                Ok(())
            });
        }
        set.spawn(async { fail() });
        while let Some(ended) = set.join_next().await {
            if let Err(error) = ended.expect("no job panics") {
                set.shutdown().await;
                return error.to_string();
            }
        }
        String::new()
    })
}

fn by_smol() -> String {
    let (failed, failures) = async_channel::bounded(1);
    let mut tasks: Vec<_> = (0..JOBS)
        .map(|_| {
            smol().spawn(async {
                Timer::after(HOUR).await;
            })
        })
        .collect();
    tasks.push(smol().spawn(async move {
        if let Err(error) = fail() {
            failed.send(error).await.expect("somebody listens");
        }
    }));
    block_on(async {
        let error = failures.recv().await.expect("a job fails");
        tasks.into_iter().map(Task::cancel).collect::<Vec<_>>().join().await;
        error.to_string()
    })
}

fn by_futures_concurrency() -> String {
    let job = |n| async move {
        if n == JOBS {
            return fail();
        }
        Timer::after(HOUR).await;
        Ok(())
    };
    let jobs: Vec<_> = (0..=JOBS).map(job).collect();
    block_on(async { jobs.try_join().await.expect_err("a job fails").to_string() })
}

fn by_moro() -> String {
    block_on(moro::async_scope!(|scope| {
        for _ in 0..JOBS {
            drop(scope.spawn(async {
                Timer::after(HOUR).await;
            }));
        }
        drop(scope.spawn(async {
            if let Err(error) = fail() {
                scope.terminate::<()>(error.to_string()).await;
            }
        }));
        String::new() // unless one fails
    }))
}

fn fail() -> Result<()> {
    Err(Error::msg(FAILURE))
}
