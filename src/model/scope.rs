//! Whole scopes: what users write, on the real pool, with its watch and its alarm, in time that passes as it likes.
//!
//! | model | looks for an order in which this is not so | fails with the mutant |
//! |---|---|---|
//! | `everyone_comes_home_with_their_values` | claim, help, join and exit against each other, spawns of jobs too | `poke_without_swap` |
//! | `a_cancel_from_outside_wakes_everybody` | every wait below a cancel ends, whatever has begun | `woken_wakes_nobody` |
//! | `a_failure_stops_the_siblings_and_nothing_is_lost` | one failure, all others stopped or swept | `awake_is_to_help` |
//! | `a_job_is_cancelled_alone_by_its_handle` | its waits end, and nobody else's | `waiter_stays_behind` |
//! | `a_deadline_ends_all_that_waits` | who waits times itself out | `late_child_unmarked` |
//! | `jobs_that_wait_for_each_other_all_get_a_thread` | the growth rule: a place is filled that an announced wait leaves | `park_forgets_a_poke` |
//! | `jobs_that_wait_unseen_all_get_a_thread` | the same where nobody can see it | `wait_listed_after_unlock` |
//! | `jobs_are_run_though_threads_are_refused` | owner and joiners help themselves | `park_after_helping` |
//! | `workers_that_leave_take_no_job_with_them` | a hand-off against a worker whose time is over | `taken_worker_stays_idle` |
//! | `a_shutdown_waits_for_everybody` | it returns when all threads are gone, and no job is lost | `wait_listed_after_unlock` |
//!
//! A mutant is built in with the cfg of `mutant.rs` beside `--cfg tassel_shuttle`, and chosen by `TASSEL_MUTANT`.
//!
//! # Does not know
//!
//! What the kernel says of threads: it says nothing here.

use super::{MANY, check_in_time, checker::thread};
use crate::{
    CancelToken, JoinError, ScopeOptions,
    pool::{Pool, PoolBuilder},
    prim::{AtomicUsize, Condition, Mutex, Ordering::SeqCst},
    region::TimedOut,
    sleep,
    sync::{Barrier, Event},
};
use std::{sync::Arc, time::Duration};

const HOUR: Duration = Duration::from_secs(3600);

/// A pool that ends with the model, or its threads would be there for ever.
fn with_pool(build: impl FnOnce(PoolBuilder) -> PoolBuilder, model: impl FnOnce(&Pool)) {
    let pool = build(Pool::builder().parallelism(2).max_threads(8).keep_alive(HOUR)).build().unwrap();
    model(&pool);
    pool.shutdown().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.workers, stats.idle, stats.blocked), (0, 0, 0));
}

#[test]
fn everyone_comes_home_with_their_values() {
    check_in_time(|| {
        with_pool(
            |pool| pool,
            |pool| {
                let done = AtomicUsize::new(0);
                let sum = ScopeOptions::new().pool(pool).open(|s| {
                    let jobs: Vec<_> = (0..MANY)
                        .map(|n| {
                            let done = &done;
                            s.spawn(move || {
                                s.spawn(move || {
                                    done.fetch_add(1, SeqCst);
                                    Ok(())
                                });
                                Ok(n)
                            })
                        })
                        .collect();
                    let mut sum = 0;
                    for job in jobs.into_iter().skip(1) {
                        sum += job.join()?;
                    }
                    Ok(sum)
                });
                assert_eq!(sum.unwrap(), (1..MANY).sum::<usize>());
                assert_eq!(done.load(SeqCst), MANY);
            },
        );
    });
}

#[test]
fn a_cancel_from_outside_wakes_everybody() {
    check_in_time(|| {
        with_pool(
            |pool| pool,
            |pool| {
                let token = CancelToken::new();
                let theirs = token.clone();
                let canceller = thread::spawn(move || theirs.cancel());
                let never = Event::new();
                let ended = ScopeOptions::new().pool(pool).under(&token).open(|s| {
                    for _ in 0..MANY {
                        s.spawn(|| Ok(never.wait()?));
                    }
                    Ok(never.wait()?)
                });
                assert!(!ended.unwrap_err().stopped());
                canceller.join().unwrap();
            },
        );
    });
}

#[test]
fn a_failure_stops_the_siblings_and_nothing_is_lost() {
    check_in_time(|| {
        with_pool(
            |pool| pool,
            |pool| {
                let never = Event::new();
                let ended = ScopeOptions::new().pool(pool).open(|s| {
                    for n in 0..MANY {
                        let never = &never;
                        s.spawn(move || if n == 1 { Err(crate::Error::msg("disk full")) } else { Ok(never.wait()?) });
                    }
                    Ok(())
                });
                let failed = ended.unwrap_err();
                assert_eq!(failed.iter().count(), 1);
            },
        );
    });
}

#[test]
fn a_job_is_cancelled_alone_by_its_handle() {
    check_in_time(|| {
        with_pool(
            |pool| pool,
            |pool| {
                let never = Event::new();
                let others = ScopeOptions::new().pool(pool).open(|s| {
                    let alone = s.spawn(|| Ok(never.wait()?));
                    let others: Vec<_> = (1..MANY).map(|n| s.spawn(move || Ok(n))).collect();
                    alone.cancel();
                    assert!(matches!(alone.join(), Err(JoinError::Cancelled { .. })));
                    let mut sum = 0;
                    for other in others {
                        sum += other.join()?;
                    }
                    Ok(sum)
                });
                assert_eq!(others.unwrap(), (1..MANY).sum::<usize>());
            },
        );
    });
}

#[test]
fn a_deadline_ends_all_that_waits() {
    check_in_time(|| {
        with_pool(
            |pool| pool,
            |pool| {
                let never = Event::new();
                let ended = ScopeOptions::new().pool(pool).timeout(HOUR / 2).open(|s| {
                    for n in 0..MANY {
                        let never = &never;
                        s.spawn(move || Ok(if n == 0 { sleep(HOUR)? } else { never.wait()? }));
                    }
                    Ok(())
                });
                assert!(ended.unwrap_err().find::<TimedOut>().is_some());
            },
        );
    });
}

#[test]
fn jobs_that_wait_for_each_other_all_get_a_thread() {
    check_in_time(|| {
        with_pool(
            |pool| pool.parallelism(1),
            |pool| {
                let barrier = Barrier::new(MANY);
                let met = ScopeOptions::new().pool(pool).open(|s| {
                    for _ in 0..MANY {
                        s.spawn(|| Ok(barrier.wait().map(|_| ())?));
                    }
                    Ok(())
                });
                met.unwrap();
                assert!(pool.stats().peak <= MANY);
            },
        );
    });
}

#[test]
fn jobs_that_wait_unseen_all_get_a_thread() {
    check_in_time(|| {
        with_pool(
            |pool| pool.parallelism(1),
            |pool| {
                let (come, changed) = (Mutex::new(0), Condition::default());
                let met = ScopeOptions::new().pool(pool).open(|s| {
                    for _ in 0..MANY {
                        s.spawn(|| {
                            let mut come_so_far = come.lock();
                            *come_so_far += 1;
                            while *come_so_far < MANY {
                                come_so_far = changed.wait(come_so_far, || come.lock());
                            }
                            drop(come_so_far);
                            changed.tell();
                            Ok(())
                        });
                    }
                    Ok(())
                });
                met.unwrap();
            },
        );
    });
}

#[test]
fn jobs_are_run_though_threads_are_refused() {
    check_in_time(|| {
        with_pool(
            |pool| pool.refuse_threads(|nth| nth > 1),
            |pool| {
                let done = AtomicUsize::new(0);
                let ended = ScopeOptions::new().pool(pool).open(|s| {
                    for _ in 0..MANY {
                        let done = &done;
                        s.spawn(move || {
                            let inner = s.spawn(move || Ok(done.fetch_add(1, SeqCst)));
                            inner.join()?;
                            Ok(())
                        });
                    }
                    Ok(())
                });
                ended.unwrap();
                assert_eq!(done.load(SeqCst), MANY);
            },
        );
    });
}

#[test]
fn workers_that_leave_take_no_job_with_them() {
    check_in_time(|| {
        with_pool(
            |pool| pool.keep_alive(Duration::from_micros(20)),
            |pool| {
                for _ in 0..2 {
                    let (told, seen) = (Event::new(), Event::new());
                    let ended = ScopeOptions::new().pool(pool).open(|s| {
                        s.spawn(|| {
                            told.set();
                            Ok(seen.wait()?)
                        });
                        told.wait()?;
                        seen.set();
                        Ok(())
                    });
                    ended.unwrap();
                }
            },
        );
    });
}

#[test]
fn a_shutdown_waits_for_everybody() {
    check_in_time(|| {
        let pool = Pool::builder().parallelism(2).keep_alive(HOUR).build().unwrap();
        let theirs = pool.clone();
        let done = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&done);
        let user = thread::spawn(move || {
            let jobs = ScopeOptions::new().pool(&theirs).open(|s| {
                for _ in 0..MANY {
                    s.spawn(|| {
                        count.fetch_add(1, SeqCst);
                        Ok(())
                    });
                }
                Ok(MANY)
            });
            jobs.unwrap_or_default()
        });
        pool.shutdown().unwrap();
        assert_eq!(pool.stats().workers, 0);
        assert_eq!(done.load(SeqCst), user.join().unwrap());
    });
}
