//! What do jobs cost that block, and those that compute, in a pool that grows?
//!
//! *Asleep*: N jobs that sleep for 50 ms and return a number, until all are joined. *Cold* is a pool without a thread,
//! *warm* one that has just done the same. A *told* pool knows that its jobs wait, as with every wait of the library; the
//! *untold* one must find out. *Barrier*: 64 jobs meet at one `std::sync::Barrier`, which none can leave before all have a
//! thread. *Computing*: 64 jobs of 5 ms of CPU, where more threads than cores are a waste; 200 jobs of 20 us, and two of
//! them, where help may cost more than it brings. The *beside six* are the same while six other threads of the process
//! compute. Pools are made and ended outside the time. Caps on threads, of this library as of tokio, are
//! raised above N.
//!
//! *Threads* are the most that a pool had at once, for jobs that compute.
//!
//! Bad numbers: asleep and cold, more than a tenth above `std::thread::scope`, or above 0.75 of tokio's `spawn_blocking` at
//! 10,000; warm, more than 0.95 of it at 1000, or 0.7 at 10,000. A barrier that takes more than 1.1 of std. Computing that
//! takes more than 1.05 of rayon, or two small jobs that take longer than one after the other. More than 6 threads for 64 jobs
//! of 5 ms, and more than 8 ever.

mod common;

use std::{
    hint::black_box,
    iter,
    sync::{
        Arc, Barrier, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::{
    Race,
    figure::{self, Unit, figure},
    group, is_test, run,
};
use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use tassel::{ScopeOptions, checkpoint, pool::Pool};

const NAP: Duration = Duration::from_millis(50);
const SLEEPERS: [usize; 2] = [1000, 10_000];

/// How many jobs meet, and how many compute for long.
const MEETING: usize = 64;
const LONG: Duration = Duration::from_millis(5);
const SHORT: Duration = Duration::from_micros(20);

/// Other threads of the process that compute.
const OTHERS: usize = 6;

/// Jobs that compute for so long that a pool has time to grow, and how long it is watched.
const LONGEST: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(10);

fn main() {
    run(&[asleep, meeting, computing]);
    figure::run(Unit("threads"), &[threads]);
}

fn asleep(c: &mut Criterion) {
    let mut cold = group(c, "asleep, cold");
    for jobs in SLEEPERS {
        let mut race = Race::new(jobs).timed("tassel", move || in_new_pool(|pool| asleep_in(pool, jobs)));
        if jobs == SLEEPERS[0] {
            race = race.timed("tassel, untold", move || in_new_pool(|pool| asleep_untold_in(pool, jobs)));
        }
        race = race.timed("std", move || timed(|| asleep_in_threads(jobs)));
        race = race.timed("tokio spawn_blocking", move || {
            let runtime = runtime(jobs);
            timed(|| asleep_in_runtime(&runtime, jobs))
        });
        race.run(&mut cold, jobs);
    }
    cold.finish();

    let mut warm = group(c, "asleep, warm");
    for jobs in SLEEPERS {
        let race = Race::new(jobs)
            .timed("tassel", move || {
                in_new_pool(|pool| {
                    asleep_in(pool, jobs);
                    asleep_in(pool, jobs)
                })
            })
            .timed("std", move || timed(|| asleep_in_threads(jobs)))
            .timed("tokio spawn_blocking", move || {
                let runtime = runtime(jobs);
                asleep_in_runtime(&runtime, jobs);
                timed(|| asleep_in_runtime(&runtime, jobs))
            });
        race.run(&mut warm, jobs);
    }
    warm.finish();
}

fn meeting(c: &mut Criterion) {
    let mut group = group(c, "barrier");
    meet(&mut group, "64 jobs");
    let others = Others::start();
    meet(&mut group, "64 jobs beside six");
    drop(others);
    group.finish();
}

fn meet(group: &mut BenchmarkGroup<'_, WallTime>, parameter: &str) {
    Race::new(MEETING)
        .timed("tassel", || in_new_pool(meet_in))
        .timed("std", || timed(meet_in_threads))
        .timed("tokio spawn_blocking", || {
            let runtime = runtime(MEETING);
            timed(|| meet_in_runtime(&runtime))
        })
        .run(group, parameter);
}

fn computing(c: &mut Criterion) {
    let mut group = group(c, "computing");
    compute(&mut group, 64, LONG, "64 x 5 ms");
    compute(&mut group, 200, SHORT, "200 x 20 us");
    compute(&mut group, 2, SHORT, "2 x 20 us");
    let others = Others::start();
    compute(&mut group, 64, LONG, "64 x 5 ms beside six");
    drop(others);
    group.finish();
}

fn compute(group: &mut BenchmarkGroup<'_, WallTime>, jobs: usize, each: Duration, parameter: &str) {
    let steps = steps(each);
    let places = || iter::repeat_n(0, jobs).collect::<Vec<u64>>();
    let expected = work(steps).wrapping_mul(jobs as u64);
    let (mut tassel, mut rayon, mut in_place) = (places(), places(), places());
    let pool = pool();
    Race::new(expected)
        .program("tassel", move || {
            let done = ScopeOptions::new().pool(&pool).open(|s| {
                for place in &mut tassel {
                    s.spawn(move || *place = work(steps));
                }
                Ok(())
            });
            done.expect("no job fails");
            sum(&tassel)
        })
        .program("rayon::scope", move || {
            rayon::scope(|s| {
                for place in &mut rayon {
                    s.spawn(move |_| *place = work(steps));
                }
            });
            sum(&rayon)
        })
        .program("rayon::in_place_scope", move || {
            rayon::in_place_scope(|s| {
                for place in &mut in_place {
                    s.spawn(move |_| *place = work(steps));
                }
            });
            sum(&in_place)
        })
        .program("serial", move || (0..jobs).fold(0, |sum, _| work(steps).wrapping_add(sum)))
        .run(group, parameter);
}

fn sum(values: &[u64]) -> u64 {
    values.iter().fold(0, |sum, &value| value.wrapping_add(sum))
}

fn threads(c: &mut Criterion<Unit>) {
    let mut group = figure::group(c, "threads at most");
    figure(&mut group, "tassel", "64 x 5 ms", || peak_of_computing(LONG));
    let others = Others::start();
    figure(&mut group, "tassel", "64 x 5 ms beside six", || peak_of_computing(LONG));
    drop(others);
    if !is_test() {
        figure(&mut group, "tassel", "64 x 2 s", || peak_of_computing(LONGEST));
    }
    group.finish();
}

/// The most threads of a new pool while 64 jobs compute, at the most for a while.
#[expect(clippy::cast_precision_loss, reason = "threads")]
fn peak_of_computing(each: Duration) -> f64 {
    let (pool, steps) = (pool(), steps(each) / 100);
    let ended = ScopeOptions::new().pool(&pool).timeout(WATCHED).open(|s| {
        for _ in 0..MEETING {
            s.spawn(move || {
                for _ in 0..100 {
                    checkpoint()?;
                    black_box(work(steps));
                }
                Ok(())
            });
        }
        Ok(())
    });
    assert!(ended.is_ok() || each == LONGEST, "64 jobs of 5 ms end in time");
    let peak = pool.stats().peak;
    pool.shutdown().expect("nothing runs");
    peak as f64
}

/// A pool that may have a thread for every job, and otherwise what all have.
fn pool() -> Pool {
    Pool::builder().max_threads(2 * SLEEPERS[1]).build().expect("there may be threads")
}

/// A pool that is made before the program, and ended after it; the program says when it began what matters.
fn in_new_pool(program: impl FnOnce(&Pool) -> (Instant, usize)) -> (Duration, usize) {
    let pool = pool();
    let (began, value) = program(&pool);
    let time = began.elapsed();
    pool.shutdown().expect("nothing runs");
    (time, value)
}

fn timed<V>(program: impl FnOnce() -> V) -> (Duration, V) {
    let began = Instant::now();
    let value = program();
    (began.elapsed(), value)
}

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(2 * threads)
        .build()
        .expect("a runtime can be had")
}

fn asleep_in(pool: &Pool, jobs: usize) -> (Instant, usize) {
    let began = Instant::now();
    let woken = ScopeOptions::new().pool(pool).open(|s| {
        let handles: Vec<_> = (0..jobs).map(|_| s.spawn(|| Ok(tassel::sleep(NAP).map(|()| 1)?))).collect();
        let mut woken = 0;
        for handle in handles {
            woken += handle.join()?;
        }
        Ok(woken)
    });
    (began, woken.expect("no job fails"))
}

fn asleep_untold_in(pool: &Pool, jobs: usize) -> (Instant, usize) {
    let began = Instant::now();
    let woken = ScopeOptions::new().pool(pool).open(|s| {
        let nap = || {
            thread::sleep(NAP);
            Ok(1)
        };
        let handles: Vec<_> = (0..jobs).map(|_| s.spawn(nap)).collect();
        let mut woken = 0;
        for handle in handles {
            woken += handle.join()?;
        }
        Ok(woken)
    });
    (began, woken.expect("no job fails"))
}

fn asleep_in_threads(jobs: usize) -> usize {
    thread::scope(|s| {
        let nap = || {
            thread::sleep(NAP);
            1
        };
        let handles: Vec<_> = (0..jobs).map(|_| s.spawn(nap)).collect();
        handles.into_iter().map(|handle| handle.join().expect("no job panics")).sum()
    })
}

fn asleep_in_runtime(runtime: &tokio::runtime::Runtime, jobs: usize) -> usize {
    let nap = || {
        thread::sleep(NAP);
        1
    };
    runtime.block_on(async {
        let handles: Vec<_> = (0..jobs).map(|_| tokio::task::spawn_blocking(nap)).collect();
        let mut woken = 0;
        for handle in handles {
            woken += handle.await.expect("no job panics");
        }
        woken
    })
}

fn meet_in(pool: &Pool) -> (Instant, usize) {
    let (began, barrier) = (Instant::now(), Barrier::new(MEETING));
    let met = ScopeOptions::new().pool(pool).open(|s| {
        let come = || {
            barrier.wait();
            Ok(1)
        };
        let handles: Vec<_> = (0..MEETING).map(|_| s.spawn(come)).collect();
        let mut met = 0;
        for handle in handles {
            met += handle.join()?;
        }
        Ok(met)
    });
    (began, met.expect("no job fails"))
}

fn meet_in_threads() -> usize {
    let barrier = Barrier::new(MEETING);
    thread::scope(|s| {
        let come = || {
            barrier.wait();
            1
        };
        let handles: Vec<_> = (0..MEETING).map(|_| s.spawn(come)).collect();
        handles.into_iter().map(|handle| handle.join().expect("no job panics")).sum()
    })
}

fn meet_in_runtime(runtime: &tokio::runtime::Runtime) -> usize {
    let barrier = Arc::new(Barrier::new(MEETING));
    let come = || {
        let barrier = Arc::clone(&barrier);
        move || {
            barrier.wait();
            1
        }
    };
    runtime.block_on(async {
        let handles: Vec<_> = (0..MEETING).map(|_| tokio::task::spawn_blocking(come())).collect();
        let mut met = 0;
        for handle in handles {
            met += handle.await.expect("no job panics");
        }
        met
    })
}

/// Computes for so many steps, each of which needs the one before it.
fn work(steps: u64) -> u64 {
    (0..steps).fold(1, |x, step| black_box(x ^ step).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// How many steps take so long on a core that has nothing else to do.
fn steps(time: Duration) -> u64 {
    const PROBE: u64 = 100_000;
    static PROBED: OnceLock<Duration> = OnceLock::new();
    let probed = PROBED.get_or_init(|| {
        let probe = || timed(|| black_box(work(PROBE))).0;
        (0..20).map(|_| probe()).min().expect("there were some")
    });
    let steps = time.as_nanos() * u128::from(PROBE) / probed.as_nanos();
    u64::try_from(steps).expect("seconds of work")
}

/// Threads of the process that compute and are none of anybody's jobs, until dropped.
struct Others {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Others {
    fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let other = |_| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                while !over.load(Relaxed) {
                    black_box(work(1000));
                }
            })
        };
        let threads = (0..OTHERS).map(other).collect();
        Others { over, threads }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("work does not panic");
        }
    }
}
