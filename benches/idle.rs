//! What does a pool cost that has nothing to do?
//!
//! 64 threads are made for jobs that meet, and have nothing to do any more. *CPU of an idle second* is what all threads of the
//! process but this one use then, in nanoseconds. *Threads after the keep-alive* are those of the process, of which this one
//! is the first: its pool lets a thread go that was idle for 50 ms, and the alarm, which looks after a pool, goes a second after
//! its last look. Where there is no `/proc`, neither is taken.
//!
//! A figure of nothing stands as 1, since the reports have no scale for it.
//!
//! Bad numbers: any but 1.

mod common;

use std::{
    fs,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use common::{
    figure::{self, Unit, figure},
    is_test,
};
use criterion::Criterion;
use tassel::{ScopeOptions, pool::Pool};

const THREADS: usize = 64;
const KEEP_ALIVE: Duration = Duration::from_millis(50);

/// Until the alarm has gone, and everybody sleeps.
const SETTLE: Duration = Duration::from_millis(1500);

const SECOND: Duration = Duration::from_secs(1);

fn main() {
    if cpu_of_others().is_none() {
        return;
    }
    figure::run(Unit("ns"), &[cpu]);
    figure::run(Unit("threads"), &[threads]);
}

fn cpu(c: &mut Criterion<Unit>) {
    let mut group = figure::group(c, "CPU of an idle second");
    figure(&mut group, "tassel", THREADS, || {
        let pool = Pool::builder().build().expect("there may be threads");
        meet(&pool);
        cpu_of_a_second()
    });
    figure(&mut group, "rayon", THREADS, || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().expect("there may be threads");
        let barrier = Barrier::new(THREADS);
        pool.broadcast(|_| barrier.wait());
        cpu_of_a_second()
    });
    figure(&mut group, "tokio spawn_blocking", THREADS, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be had");
        let barrier = Arc::new(Barrier::new(THREADS));
        let come = |_| {
            let barrier = Arc::clone(&barrier);
            runtime.spawn_blocking(move || {
                barrier.wait();
            })
        };
        for come in (0..THREADS).map(come).collect::<Vec<_>>() {
            runtime.block_on(come).expect("no job panics");
        }
        cpu_of_a_second()
    });
    group.finish();
}

fn threads(c: &mut Criterion<Unit>) {
    let mut group = figure::group(c, "threads after the keep-alive");
    figure(&mut group, "tassel", THREADS, || {
        let pool = Pool::builder().keep_alive(KEEP_ALIVE).build().expect("there may be threads");
        meet(&pool);
        settle();
        f64::from(common::threads().expect("the kernel counts them"))
    });
    group.finish();
}

/// Has the pool make its threads.
fn meet(pool: &Pool) {
    let barrier = tassel::sync::Barrier::new(THREADS);
    let met = ScopeOptions::new().pool(pool).open(|s| {
        for _ in 0..THREADS {
            s.spawn(|| {
                barrier.wait()?;
                Ok(())
            });
        }
        Ok(())
    });
    met.expect("no job fails");
}

fn settle() {
    thread::sleep(if is_test() { Duration::ZERO } else { SETTLE });
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a second")]
fn cpu_of_a_second() -> f64 {
    settle();
    let before = cpu_of_others().expect("main looked");
    thread::sleep(if is_test() { Duration::ZERO } else { SECOND });
    cpu_of_others().expect("main looked").saturating_sub(before).max(1) as f64
}

/// The CPU time that all threads of the process but this one have had, in nanoseconds.
fn cpu_of_others() -> Option<u64> {
    let this = fs::read_link("/proc/thread-self").ok()?;
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        if Some(task.file_name().as_os_str()) != this.file_name() {
            // One that is gone meanwhile was not idle, but the next reading would miss all of it: count nothing of it now.
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            sum += stat.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Some(sum)
}
