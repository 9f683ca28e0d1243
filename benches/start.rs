//! How long until a job runs?
//!
//! *Idle*: a scope with one job, opened, run and left, by a thread that has slept for 2 or 20 ms before, as has the pool.
//! *Beside a body that computes*: the time from the spawn to the first line of the job, while the body computes and does not
//! join until the job has begun. *Cold* is a pool without a thread. Each round is one hand-off, so the samples show what
//! happens once in a hundred.
//!
//! Bad numbers: idle for 2 ms, more than 0.12 of tokio's `spawn_blocking`; for 20 ms, more than 12 us. Beside a body that
//! computes, a median above 200 us, or more than 1 ms once in a hundred.

mod common;

use std::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Race, group, run};
use criterion::Criterion;
use tassel::{ScopeOptions, pool::Pool};

/// Hand-offs a program: what happens once in a hundred should happen.
const HAND_OFFS: usize = 300;

const IDLE: [(Duration, &str); 2] = [(Duration::from_millis(2), "2 ms"), (Duration::from_millis(20), "20 ms")];

/// A body that computes for longer than this waits for the job after all: the figure is that bad.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() {
    run(&[idle, beside]);
}

fn idle(c: &mut Criterion) {
    let mut group = group(c, "start, idle");
    for (pause, parameter) in IDLE {
        let pool = pool();
        let runtime = runtime();
        let after = move |program: &dyn Fn() -> u64| {
            thread::sleep(pause);
            let began = Instant::now();
            let value = program();
            (began.elapsed(), value)
        };
        Race::new(1)
            .rounds(HAND_OFFS)
            .timed("tassel", || {
                after(&|| {
                    let done = ScopeOptions::new().pool(&pool).open(|s| Ok(s.spawn(|| Ok(1)).join()?));
                    done.expect("no job fails")
                })
            })
            .timed("tokio spawn_blocking", || {
                after(&|| runtime.block_on(async { tokio::task::spawn_blocking(|| 1).await.expect("no job panics") }))
            })
            .timed("rayon::scope", || {
                after(&|| {
                    let mut value = 0;
                    rayon::scope(|s| s.spawn(|_| value = 1));
                    value
                })
            })
            .timed("std", || after(&|| thread::scope(|s| s.spawn(|| 1).join().expect("no job panics"))))
            .run(&mut group, parameter);
    }
    group.finish();
}

fn beside(c: &mut Criterion) {
    let mut group = group(c, "start, beside a body that computes");
    let warm = pool();
    let runtime = runtime();
    Race::new(true)
        .rounds(HAND_OFFS)
        .timed("tassel, warm", || begun_in(&warm))
        .timed("tassel, cold", || {
            let cold = pool();
            let begun = begun_in(&cold);
            cold.shutdown().expect("nothing runs");
            begun
        })
        .timed("tokio spawn_blocking", || {
            let hand_off = HandOff::new();
            let begin = hand_off.begin();
            runtime.block_on(async {
                let job = tokio::task::spawn_blocking(begin);
                hand_off.compute();
                job.await.expect("no job panics");
            });
            hand_off.time()
        })
        .timed("rayon::in_place_scope", || {
            let hand_off = HandOff::new();
            let begin = hand_off.begin();
            rayon::in_place_scope(|s| {
                s.spawn(move |_| begin());
                hand_off.compute();
            });
            hand_off.time()
        })
        .timed("std", || {
            let hand_off = HandOff::new();
            thread::scope(|s| {
                s.spawn(hand_off.begin());
                hand_off.compute();
            });
            hand_off.time()
        })
        .run(&mut group, "1 job");
    group.finish();
}

fn begun_in(pool: &Pool) -> (Duration, bool) {
    let hand_off = HandOff::new();
    let done = ScopeOptions::new().pool(pool).open(|s| {
        s.spawn(hand_off.begin());
        hand_off.compute();
        Ok(())
    });
    done.expect("no job fails");
    hand_off.time()
}

/// When a job was spawned, and when it began.
struct HandOff {
    spawned: Instant,
    /// Nanoseconds from the one to the other; 0 until then.
    begun: Arc<AtomicU64>,
}

impl HandOff {
    fn new() -> Self {
        HandOff { begun: Arc::new(AtomicU64::new(0)), spawned: Instant::now() }
    }

    /// The job. tokio's may not borrow.
    fn begin(&self) -> impl FnOnce() + Send + 'static {
        let (spawned, begun) = (self.spawned, Arc::clone(&self.begun));
        move || {
            let time = u64::try_from(spawned.elapsed().as_nanos()).expect("no century");
            begun.store(time.max(1), Relaxed);
        }
    }

    /// The body: it computes until the job has begun, or its patience is at an end.
    fn compute(&self) {
        while self.begun.load(Relaxed) == 0 && self.spawned.elapsed() < PATIENCE {
            hint::spin_loop();
        }
    }

    fn time(&self) -> (Duration, bool) {
        let time = self.begun.load(Relaxed);
        (Duration::from_nanos(time), time > 0)
    }
}

fn pool() -> Pool {
    Pool::builder().build().expect("the defaults are good")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be had")
}
