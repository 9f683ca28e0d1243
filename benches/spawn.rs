//! What does a job cost that needs no thread of its own?
//!
//! A scope with N trivial jobs, opened, run and left, back to back. *Plain* jobs have no name and return nothing; *named*
//! jobs have a name, return a value, and are joined in order. Each sum is checked, so nobody gets away with less work.
//! `std::thread::scope` makes a thread per job and is left out beyond a hundred.
//!
//! Bad numbers: more for one plain job than a twentieth of `rayon::scope`'s; more a job, at 10,000, than `rayon::scope`
//! takes; any at all that grow faster than N.

use std::{hint::black_box, thread, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Jobs a scope: alone, a handful, a batch, a flood.
const JOBS: [u64; 4] = [1, 10, 100, 10_000];

/// More threads than this at once measure the system, not the library.
const MOST_THREADS: u64 = 100;

/// Short, as a scope takes microseconds: a quick run that still shows a factor.
const WARM_UP: Duration = Duration::from_millis(200);
const MEASURE: Duration = Duration::from_millis(800);

fn plain(c: &mut Criterion) {
    let mut group = c.benchmark_group("spawn/plain");
    group.warm_up_time(WARM_UP).measurement_time(MEASURE).sample_size(20);
    for jobs in JOBS {
        group.throughput(Throughput::Elements(jobs));
        group.bench_with_input(BenchmarkId::new("tassel", jobs), &jobs, |b, &jobs| {
            b.iter(|| {
                let done = tassel::scope(|s| {
                    for n in 0..jobs {
                        s.spawn(move || {
                            black_box(n);
                        });
                    }
                    Ok(())
                });
                assert!(done.is_ok());
            });
        });
        group.bench_with_input(BenchmarkId::new("rayon", jobs), &jobs, |b, &jobs| {
            b.iter(|| {
                rayon::scope(|s| {
                    for n in 0..jobs {
                        s.spawn(move |_| {
                            black_box(n);
                        });
                    }
                });
            });
        });
        if jobs <= MOST_THREADS {
            group.bench_with_input(BenchmarkId::new("std", jobs), &jobs, |b, &jobs| {
                b.iter(|| {
                    thread::scope(|s| {
                        for n in 0..jobs {
                            s.spawn(move || {
                                black_box(n);
                            });
                        }
                    });
                });
            });
        }
    }
    group.finish();
}

fn named(c: &mut Criterion) {
    let mut group = c.benchmark_group("spawn/named");
    group.warm_up_time(WARM_UP).measurement_time(MEASURE).sample_size(20);
    for jobs in JOBS {
        group.throughput(Throughput::Elements(jobs));
        group.bench_with_input(BenchmarkId::new("tassel", jobs), &jobs, |b, &jobs| {
            b.iter(|| check(jobs, sum_by_tassel(jobs)));
        });
        group.bench_with_input(BenchmarkId::new("rayon", jobs), &jobs, |b, &jobs| {
            b.iter(|| check(jobs, sum_by_rayon(jobs)));
        });
        if jobs <= MOST_THREADS {
            group.bench_with_input(BenchmarkId::new("std", jobs), &jobs, |b, &jobs| {
                b.iter(|| check(jobs, sum_by_std(jobs)));
            });
        }
    }
    group.finish();
}

fn sum_by_tassel(jobs: u64) -> u64 {
    let sum = tassel::scope(|s| {
        let handles: Vec<_> = (0..jobs).map(|n| s.job("trivial").spawn(move || Ok(black_box(n)))).collect();
        let mut sum = 0;
        for handle in handles {
            sum += handle.join()?;
        }
        Ok(sum)
    });
    sum.expect("no job fails")
}

/// rayon's jobs return nothing, so each is given a place for its value.
fn sum_by_rayon(jobs: u64) -> u64 {
    let mut values: Vec<u64> = (0..jobs).map(|_| 0).collect();
    rayon::scope(|s| {
        for (n, value) in (0..).zip(&mut values) {
            s.spawn(move |_| *value = black_box(n));
        }
    });
    values.iter().sum()
}

fn sum_by_std(jobs: u64) -> u64 {
    thread::scope(|s| {
        let named = |n| {
            let builder = thread::Builder::new().name("trivial".to_owned());
            builder.spawn_scoped(s, move || black_box(n)).expect("a hundred threads can be had")
        };
        let handles: Vec<_> = (0..jobs).map(named).collect();
        handles.into_iter().map(|handle| handle.join().expect("no job panics")).sum()
    })
}

fn check(jobs: u64, sum: u64) {
    assert_eq!(sum, jobs * (jobs - 1) / 2);
}

criterion_group!(benches, plain, named);
criterion_main!(benches);
