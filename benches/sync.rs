//! What does a lock cost that nobody else wants, and is everybody served where all want it?
//!
//! *Uncontended*: a job takes and lets go [`TIMES`] times, beside `std`'s and `parking_lot`'s. A bad number is more than twice
//! `parking_lot`'s for a mutex or an `RwLock`.
//!
//! *Contended*: [`THREADS`] jobs add to one number, [`EACH`] times each.
//!
//! *Fair*: [`THREADS`] threads take one lock, as often as they can, for [`FOR`], and a line for each kind says how often the
//! least and the most lucky had it. A bad number is a ratio of more than two. `--quick` does that for a tenth of the time.

#![expect(clippy::print_stdout, reason = "shares of a lock are no times, which criterion would print")]

mod common;

use common::{Race, group, is_quick, is_test};
use criterion::Criterion;
use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use tassel::{
    scope,
    sync::{Mutex, RwLock, Semaphore},
};

const TIMES: u32 = 1000;
const THREADS: usize = 8;
const EACH: u64 = 2000;
const FOR: Duration = Duration::from_secs(10);

/// What a job does with each of them: to unlock is part of it.
fn times<R>(mut once: impl FnMut() -> R) -> u32 {
    for _ in 0..TIMES {
        black_box(once());
    }
    TIMES
}

fn uncontended(c: &mut Criterion) {
    let (mutex, lot, std) = (Mutex::new(0), parking_lot::Mutex::new(0), std::sync::Mutex::new(0));
    let (lock, lot_lock, std_lock) = (RwLock::new(0), parking_lot::RwLock::new(0), std::sync::RwLock::new(0));
    let semaphore = Semaphore::new(1);
    scope(|_| {
        let mut group = group(c, "sync/uncontended");
        Race::new(TIMES)
            .elements(u64::from(TIMES))
            .program("tassel", || times(|| *mutex.lock().unwrap() += 1))
            .program("parking_lot", || times(|| *lot.lock() += 1))
            .program("std", || times(|| *std.lock().unwrap() += 1))
            .program("semaphore", || times(|| drop(semaphore.acquire())))
            .run(&mut group, "mutex");
        Race::new(TIMES)
            .elements(u64::from(TIMES))
            .program("tassel", || times(|| *lock.read().unwrap()))
            .program("parking_lot", || times(|| *lot_lock.read()))
            .program("std", || times(|| *std_lock.read().unwrap()))
            .run(&mut group, "read");
        Race::new(TIMES)
            .elements(u64::from(TIMES))
            .program("tassel", || times(|| *lock.write().unwrap() += 1))
            .program("parking_lot", || times(|| *lot_lock.write() += 1))
            .program("std", || times(|| *std_lock.write().unwrap() += 1))
            .run(&mut group, "write");
        group.finish();
        Ok(())
    })
    .unwrap();
}

/// The same number of threads for each, started by the race.
fn crowd(add: impl Fn() + Sync) -> u64 {
    scope(|s| {
        for _ in 0..THREADS {
            s.job("adds").own_thread().spawn(|| (0..EACH).for_each(|_| add()));
        }
        Ok(())
    })
    .unwrap();
    EACH * THREADS as u64
}

fn contended(c: &mut Criterion) {
    let (mutex, lot, std) = (Mutex::new(0_u64), parking_lot::Mutex::new(0_u64), std::sync::Mutex::new(0_u64));
    let semaphore = Semaphore::new(1);
    let mut group = group(c, "sync/contended");
    Race::new(EACH * THREADS as u64)
        .elements(EACH * THREADS as u64)
        .program("tassel", || crowd(|| *mutex.lock().unwrap() += 1))
        .program("parking_lot", || crowd(|| *lot.lock() += 1))
        .program("std", || crowd(|| *std.lock().unwrap() += 1))
        .program("semaphore", || crowd(|| drop(semaphore.acquire())))
        .run(&mut group, THREADS);
    group.finish();
}

/// Prints how often the least and the most lucky of the threads had it.
fn fair(what: &str, take: impl Fn(usize) + Sync) {
    // Who starts first has it alone for a while: that does not count.
    let (counts, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut had: Vec<u64> = thread::scope(|s| {
        let threads: Vec<_> = (0..THREADS)
            .map(|at| {
                let (counts, over, take) = (&counts, &over, &take);
                s.spawn(move || {
                    let mut had = 0;
                    while !over.load(Ordering::Relaxed) {
                        take(at);
                        had += u64::from(counts.load(Ordering::Relaxed));
                    }
                    had
                })
            })
            .collect();
        let took = if is_test() {
            FOR / 1000
        } else if is_quick() {
            FOR / 10
        } else {
            FOR
        };
        thread::sleep(took / 10);
        counts.store(true, Ordering::Relaxed);
        thread::sleep(took);
        over.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    had.sort_unstable();
    let (least, most) = (had[0], had[THREADS - 1]);
    let percent = 100 * most / least.max(1);
    println!("sync/fair/{what}: least {least}, most {most}, the most has {percent} % of the least");
}

fn fairness(_: &mut Criterion) {
    /// About as long as a small update of a map.
    fn work() {
        (0..50).for_each(|n| _ = black_box(n));
    }
    let (mutex, lot, std) = (Mutex::new(()), parking_lot::Mutex::new(()), std::sync::Mutex::new(()));
    let (lock, semaphore) = (RwLock::new(()), Semaphore::new(2));
    fair("mutex", |_| {
        let _guard = mutex.lock().unwrap();
        work();
    });
    fair("semaphore", |_| {
        let _permit = semaphore.acquire().unwrap();
        work();
    });
    fair("writers", |_| {
        let _guard = lock.write().unwrap();
        work();
    });
    fair("readers and writers", |at| {
        if at % 2 == 0 {
            let _guard = lock.write().unwrap();
            work();
        } else {
            let _guard = lock.read().unwrap();
            work();
        }
    });
    fair("parking_lot's mutex", |_| {
        let _guard = lot.lock();
        work();
    });
    fair("std's mutex", |_| {
        let _guard = std.lock().unwrap();
        work();
    });
}

fn main() {
    common::run(&[uncontended, contended, fairness]);
}
