//! Pools: reuse, growth while jobs wait, refusal of threads, shutdown.

use crate::guarded;
use std::{
    collections::BTreeSet,
    hint,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tassel::{
    ErrorGroup, JoinError, ReasonKind, Scope, ScopeOptions,
    pool::{Pool, PoolBuilder, ShutdownError},
    region::TimedOut,
    scope,
    sync::{Barrier, Event},
};

fn pool(build: impl FnOnce(PoolBuilder) -> PoolBuilder) -> Pool {
    build(Pool::builder()).build().expect("the numbers are good")
}

/// Opens scopes within scopes, each in a job of the one around it, and counts them.
fn nest(depth: usize) -> tassel::Result<usize> {
    if depth == 0 {
        return Ok(0);
    }
    Ok(scope(|s| Ok(s.spawn(move || nest(depth - 1)).join()? + 1))?)
}

/// As [`nest`], but waits at the exit of each scope, never in a join.
fn nest_unjoined(depth: usize, count: &AtomicUsize) -> tassel::Result<()> {
    if depth > 0 {
        count.fetch_add(1, Ordering::SeqCst);
        scope(|s| {
            s.spawn(move || nest_unjoined(depth - 1, count));
            Ok(())
        })?;
    }
    Ok(())
}

fn sum_of_squares(pool: &Pool) -> Result<u64, ErrorGroup> {
    ScopeOptions::new().pool(pool).open(|s| {
        let jobs: Vec<_> = (1..=100_u64).map(|n| s.spawn(move || Ok(n * n))).collect();
        let mut sum = 0;
        for job in jobs {
            sum += job.join()?;
        }
        Ok(sum)
    })
}

#[test]
fn workers_are_reused() {
    guarded(|| {
        let pool = pool(|b| b.parallelism(2).keep_alive(Duration::from_secs(3600)));
        let threads = Mutex::new(BTreeSet::new());
        for _ in 0..200 {
            ScopeOptions::new()
                .pool(&pool)
                .inline(false)
                .open(|s| {
                    s.spawn(|| {
                        threads.lock().unwrap().insert(thread::current().name().map(str::to_owned));
                    });
                })
                .unwrap();
        }
        assert!(threads.lock().unwrap().len() <= 2, "{threads:?}");
        let stats = pool.stats();
        assert!(stats.peak <= 2 && stats.refused == 0 && stats.queued == 0, "{stats:?}");
        pool.shutdown().unwrap();
        assert_eq!(pool.stats().workers, 0);
    });
}

// D10:
#[test]
fn a_pool_grows_past_its_parallelism_when_jobs_say_that_they_wait() {
    guarded(|| {
        let pool = pool(|b| b.parallelism(1));
        let barrier = Barrier::new(16);
        ScopeOptions::new()
            .pool(&pool)
            .open(|s| {
                for _ in 0..16 {
                    s.spawn(|| Ok(barrier.wait().map(drop)?));
                }
                Ok(())
            })
            .unwrap();
        // The owner may have run one of them.
        assert!(pool.stats().peak >= 15, "{:?}", pool.stats());
        pool.shutdown().unwrap();
    });
}

#[test]
fn a_job_starts_while_the_body_computes() {
    guarded(|| {
        let pool = pool(|b| b.parallelism(2));
        let open = || ScopeOptions::new().pool(&pool);
        // Spawns a job and computes until it has run.
        let await_job = || {
            let ran = AtomicBool::new(false);
            open()
                .open(|s| {
                    s.spawn(|| ran.store(true, Ordering::SeqCst));
                    while !ran.load(Ordering::SeqCst) {
                        hint::spin_loop();
                    }
                })
                .unwrap();
        };
        // The first finds the pool without threads, and nobody watching it.
        for _ in 0..100 {
            await_job();
            open().open(|s| drop(s.spawn(await_job))).unwrap();
        }
        pool.shutdown().unwrap();
    });
}

// D10: S68:
#[test]
fn nested_scopes_finish_on_the_smallest_pools() {
    guarded(|| {
        let pools = [pool(|b| b.parallelism(1)), pool(|b| b.max_threads(1)), pool(|b| b.parallelism(1).max_threads(1))];
        for pool in pools {
            assert_eq!(ScopeOptions::new().pool(&pool).open(|_| nest(50)).unwrap(), 50);
            let count = AtomicUsize::new(0);
            ScopeOptions::new().pool(&pool).open(|_| nest_unjoined(50, &count)).unwrap();
            assert_eq!(count.into_inner(), 50);
            pool.shutdown().unwrap();
        }
    });
}

// D18:
#[test]
fn jobs_that_need_more_threads_than_there_may_be_are_starved_and_do_not_hang() {
    guarded(|| {
        let pool = pool(|b| b.max_threads(1));
        let barrier = Barrier::new(3);
        let group = ScopeOptions::new()
            .name("meet")
            .pool(&pool)
            .open(|s| {
                for name in ["a", "b", "c"] {
                    s.job(name).spawn(|| Ok(barrier.wait().map(drop)?));
                }
                Ok(())
            })
            .unwrap_err();
        assert_eq!(group.len(), 1, "{group:?}");
        assert_eq!(group.reason().map(tassel::Reason::kind), Some(ReasonKind::Starved), "{group:?}");
        let text = "starved: 1 queued job can never start (`c`): the pool's max_threads is 1, and all threads wait for \
                    jobs of these scopes (the body waits in scope exit, job `a` waits in barrier, job `b` waits in \
                    barrier); allow more threads, or let jobs not wait for each other";
        assert_eq!(group.reason().and_then(tassel::Reason::text), Some(text));
        pool.shutdown().unwrap();
    });
}

// D18:
#[test]
fn many_jobs_at_a_barrier_that_the_pool_cannot_see_finish() {
    // With the slow rule alone it would take minutes.
    guarded(|| {
        for body_waits in [false, true] {
            let pool = pool(|b| b.parallelism(2));
            let waiters = 64 + usize::from(body_waits);
            let (barrier, passed) = (std::sync::Barrier::new(waiters), AtomicUsize::new(0));
            ScopeOptions::new()
                .pool(&pool)
                .open(|s| {
                    for _ in 0..64 {
                        s.spawn(|| {
                            barrier.wait();
                            passed.fetch_add(1, Ordering::SeqCst);
                        });
                    }
                    if body_waits {
                        barrier.wait();
                    }
                })
                .unwrap();
            assert_eq!(passed.into_inner(), 64);
            pool.shutdown().unwrap();
        }
    });
}

// D10:
#[test]
fn workers_that_block_unseen_are_replaced_again_and_again() {
    guarded(|| {
        let pool = pool(|b| b.parallelism(1));
        ScopeOptions::new()
            .pool(&pool)
            .open(|s| {
                for _ in 0..20 {
                    let (tell, told) = mpsc::channel();
                    let (tell_back, told_back) = mpsc::channel();
                    s.spawn(move || {
                        told.recv()?;
                        Ok(tell_back.send(())?)
                    });
                    // Behind the one that waits for it.
                    s.spawn(move || Ok(tell.send(())?));
                    // The body blocks unseen as well.
                    told_back.recv()?;
                }
                Ok(())
            })
            .unwrap();
        assert!(pool.stats().peak <= 4, "{:?}", pool.stats());
        pool.shutdown().unwrap();
    });
}

#[test]
fn a_flood_of_jobs_that_compute_does_not_grow_the_pool() {
    guarded(|| {
        let pool = pool(|b| b.parallelism(2));
        let compute = || (0..200_000).for_each(|_| hint::spin_loop());
        ScopeOptions::new().pool(&pool).open(|s| (0..64).for_each(|_| drop(s.spawn(compute)))).unwrap();
        assert!(pool.stats().peak <= 6, "{:?}", pool.stats());
        pool.shutdown().unwrap();
    });
}

#[test]
fn a_worker_that_runs_job_after_job_looks_up_for_other_scopes() {
    /// As long as it is not told to stop, each job spawns the next.
    fn spawn_next<'scope>(s: &'scope Scope<'scope, '_>, stop: &'scope AtomicBool, ran: &'scope AtomicUsize) {
        s.spawn(move || {
            ran.fetch_add(1, Ordering::SeqCst);
            if !stop.load(Ordering::SeqCst) {
                spawn_next(s, stop, ran);
            }
        });
    }
    guarded(|| {
        let pool = pool(|b| b.max_threads(1));
        let (stop, ran) = (AtomicBool::new(false), AtomicUsize::new(0));
        let open = || ScopeOptions::new().pool(&pool).inline(false);
        thread::scope(|threads| {
            threads.spawn(|| open().open(|s| spawn_next(s, &stop, &ran)).unwrap());
            while ran.load(Ordering::SeqCst) < 100 {
                thread::yield_now();
            }
            open().open(|s| drop(s.spawn(|| stop.store(true, Ordering::SeqCst)))).unwrap();
        });
        pool.shutdown().unwrap();
    });
}

#[test]
fn scopes_of_one_job_that_follow_each_other_call_nobody() {
    guarded(|| {
        let asked = Arc::new(AtomicUsize::new(0));
        let asks = Arc::clone(&asked);
        let refuse = move |_| {
            asks.fetch_add(1, Ordering::SeqCst);
            true
        };
        let pool = pool(|b| b.refuse_threads(refuse));
        for _ in 0..2_000 {
            ScopeOptions::new().pool(&pool).open(|s| drop(s.spawn(|| ()))).unwrap();
        }
        // But now and then the system takes this thread off its CPU between a spawn and the end of the body.
        assert!(asked.load(Ordering::SeqCst) < 200, "{asked:?}");
    });
}

#[test]
fn an_owner_at_its_exit_calls_for_help_when_much_is_left() {
    guarded(|| {
        let pool = pool(|b| b.parallelism(2));
        let threads = Mutex::new(BTreeSet::new());
        let helped = || threads.lock().unwrap().len() > 1;
        ScopeOptions::new()
            .pool(&pool)
            .open(|s| {
                for _ in 0..100 {
                    s.spawn(|| {
                        threads.lock().unwrap().insert(thread::current().name().map(str::to_owned));
                        // Until somebody else has come.
                        while !helped() {
                            thread::yield_now();
                        }
                    });
                }
            })
            .unwrap();
        assert!(helped());
        pool.shutdown().unwrap();
    });
}

// S9, D18:
#[test]
fn refused_threads_lose_no_job() {
    type Refuse = fn(u64) -> bool;
    guarded(|| {
        let cases: [(&str, Refuse); 5] = [
            ("the first", |n| n == 1),
            ("the second", |n| n == 2),
            ("every second", |n| n % 2 == 0),
            ("every third", |n| n % 3 == 0),
            ("all", |_| true),
        ];
        for (what, refuse) in cases {
            let pool = pool(|b| b.parallelism(4).refuse_threads(refuse));
            assert_eq!(sum_of_squares(&pool).unwrap(), 338_350, "{what}");
            assert_eq!(ScopeOptions::new().pool(&pool).open(|_| nest(20)).unwrap(), 20, "{what}");
            let ran = AtomicUsize::new(0);
            ScopeOptions::new()
                .pool(&pool)
                .open(|s| {
                    for _ in 0..100 {
                        s.spawn(|| {
                            ran.fetch_add(1, Ordering::SeqCst);
                        });
                    }
                    // While the body computes, somebody calls for a thread; before that perhaps nobody has.
                    while what == "all" && pool.stats().refused == 0 {
                        hint::spin_loop();
                    }
                })
                .unwrap();
            assert_eq!(ran.into_inner(), 100, "{what}");
            if what == "all" {
                let stats = pool.stats();
                assert!(stats.workers == 0 && stats.peak == 0 && stats.refused > 0, "{stats:?}");
            }
            pool.shutdown().unwrap();
        }
    });
}

// D18:
#[test]
fn an_absurd_stack_size_is_a_refusal_and_the_scope_finishes() {
    guarded(|| {
        let pool = pool(|b| b.stack_size(1 << 60));
        assert_eq!(sum_of_squares(&pool).unwrap(), 338_350);
        // Nobody has called for a thread, perhaps. While the body computes, somebody will.
        let ran = AtomicBool::new(false);
        let open = ScopeOptions::new().pool(&pool).open(|s| {
            s.spawn(|| ran.store(true, Ordering::SeqCst));
            while pool.stats().refused == 0 {
                hint::spin_loop();
            }
        });
        open.unwrap();
        assert!(ran.into_inner());
        assert!(pool.stats().refused > 0 && pool.stats().workers == 0, "{:?}", pool.stats());
    });
}

// D18:
#[test]
fn a_barrier_on_a_pool_without_threads_is_starved() {
    guarded(|| {
        let pool = pool(|b| b.refuse_threads(|_| true));
        let barrier = Barrier::new(2);
        let group = ScopeOptions::new()
            .pool(&pool)
            .open(|s| {
                s.spawn(|| Ok(barrier.wait().map(drop)?));
                s.spawn(|| Ok(barrier.wait().map(drop)?));
                Ok(())
            })
            .unwrap_err();
        assert_eq!(group.reason().map(tassel::Reason::kind), Some(ReasonKind::Starved), "{group:?}");
    });
}

#[test]
fn a_pool_that_was_shut_down_refuses_scopes_and_has_no_threads() {
    guarded(|| {
        let pool = pool(|b| b.parallelism(2));
        assert_eq!(sum_of_squares(&pool).unwrap(), 338_350);
        pool.shutdown().unwrap();
        pool.shutdown().unwrap();
        assert_eq!(pool.stats().workers, 0);
        let mut ran = false;
        let group = ScopeOptions::new().name("late").pool(&pool).open(|_| ran = true).unwrap_err();
        assert!(!ran);
        assert_eq!(group.reason().map(tassel::Reason::kind), Some(ReasonKind::Shutdown));
        assert!(format!("{group:?}").contains("the pool is shutting down"), "{group:?}");
        assert_eq!(Pool::global().shutdown(), Err(ShutdownError::Global));
    });
}

#[test]
fn a_job_cannot_shut_down_the_pool_it_runs_on() {
    guarded(|| {
        let pool = pool(|b| b.parallelism(1));
        let inner = pool.clone();
        let said = ScopeOptions::new().pool(&pool).open(|s| Ok(s.spawn(move || Ok(inner.shutdown())).join()?)).unwrap();
        assert_eq!(said, Err(ShutdownError::OwnJob));
        pool.shutdown().unwrap();
    });
}

#[test]
fn worker_names_fit_fifteen_bytes_and_keep_their_number() {
    guarded(|| {
        for prefix in ["w", "a-prefix-that-is-much-too-long", "ééééééééééééé"] {
            let pool = pool(|b| b.name_prefix(prefix));
            let name = ScopeOptions::new()
                .pool(&pool)
                .inline(false)
                .open(|s| Ok(s.spawn(|| Ok(thread::current().name().unwrap_or_default().to_owned())).join()?))
                .unwrap();
            assert!(name.len() <= 15, "{name}");
            assert!(name.ends_with(|end: char| end.is_ascii_digit()), "{name}");
            assert!(name.starts_with(prefix.chars().next().unwrap()), "{name}");
            pool.shutdown().unwrap();
        }
    });
}

#[test]
fn a_builder_says_what_is_wrong_with_its_numbers() {
    guarded(|| {
        let fault = |build: PoolBuilder| build.build().unwrap_err().to_string();
        assert_eq!(
            fault(Pool::builder().parallelism(0)),
            "parallelism is 0: give the number of jobs that may compute at once, at least 1"
        );
        assert_eq!(fault(Pool::builder().max_threads(0)), "max_threads is 0: give at least 1");
        assert_eq!(fault(Pool::builder().name_prefix("a\0b")), "the name prefix holds a NUL byte: thread names cannot");
    });
}

#[test]
fn starved_joiners_are_told() {
    guarded(|| {
        let pool = pool(|b| b.max_threads(1));
        let barrier = Barrier::new(3);
        let mut told = None;
        let group = ScopeOptions::new().pool(&pool).inline(false).open(|s| {
            let first = s.spawn(|| Ok(barrier.wait().map(drop)?));
            s.spawn(|| Ok(barrier.wait().map(drop)?));
            told = Some(first.join());
            Ok(())
        });
        assert!(group.is_err());
        assert!(matches!(told, Some(Err(JoinError::You(_) | JoinError::Cancelled { .. }))), "{told:?}");
    });
}

#[test]
fn a_worker_cannot_shut_down_its_pool() {
    guarded(|| {
        let pool = Pool::builder().parallelism(1).build().unwrap();
        let inner = pool.clone();
        let said = ScopeOptions::new()
            .pool(&pool)
            .inline(false)
            .open(|s| Ok(s.spawn(move || Ok(inner.shutdown())).join()?))
            .unwrap();
        assert_eq!(said, Err(ShutdownError::OwnJob));
        pool.shutdown().unwrap();
    });
}

// D18, S40:
#[test]
fn a_worker_that_joins_a_job_it_may_not_run_is_starved_and_does_not_spin() {
    guarded(|| {
        let pool = pool(|b| b.max_threads(1));
        let group = ScopeOptions::new().pool(&pool).open(|s| {
            s.job("outer").own_thread().spawn(move || {
                let inner = s.job("inner").own_thread().spawn(|| ());
                Ok(inner.join()?)
            });
            Ok(())
        });
        assert_eq!(group.unwrap_err().reason().map(tassel::Reason::kind), Some(ReasonKind::Starved));
    });
}

// D18:
#[test]
fn a_full_pool_in_virtual_time_is_no_deadlock() {
    guarded(|| {
        let nap = || Ok(tassel::sleep(Duration::from_secs(7))?);
        for _ in 0..100 {
            tassel::testing::virtual_time(|| {
                let pool = pool(|b| b.max_threads(1));
                let joined = ScopeOptions::new().pool(&pool).open(|s| {
                    let a = s.spawn(nap);
                    s.spawn(nap);
                    let c = s.spawn(nap);
                    a.join()?;
                    Ok(c.join()?)
                });
                joined.unwrap();
            });
        }
    });
}

// D18:
#[test]
fn one_refusal_that_is_over_starves_nobody() {
    guarded(|| {
        let pool = pool(|b| b.refuse_threads(|n| n == 2));
        let barrier = Barrier::new(3);
        ScopeOptions::new()
            .pool(&pool)
            .inline(false)
            .open(|s| (0..3).for_each(|_| drop(s.spawn(|| Ok(barrier.wait().map(drop)?)))))
            .unwrap();
        assert!(pool.stats().refused > 0, "{:?}", pool.stats());
    });
}

// D18:
#[test]
fn one_refusal_that_is_over_starves_nobody_in_another_pool() {
    guarded(|| {
        for n in 0..100 {
            let full = pool(|b| b.max_threads(1));
            let other = pool(|b| b.refuse_threads(|n| n == 1));
            let busy = || (0..n * 2_000).for_each(|_| hint::spin_loop());
            let ran = ScopeOptions::new().pool(&full).inline(false).open(|s| {
                s.spawn(|| {
                    // So that the full pool looks before, during or after the other one's refusal.
                    busy();
                    Ok(ScopeOptions::new().pool(&other).inline(false).open(|s| drop(s.spawn(|| ())))?)
                });
                s.spawn(|| ());
                Ok(())
            });
            ran.unwrap();
        }
    });
}

// D18:
#[test]
fn full_pools_whose_workers_wait_for_each_other_are_starved() {
    guarded(|| {
        let pools = [pool(|b| b.max_threads(1)), pool(|b| b.max_threads(1))];
        let both = Barrier::new(2);
        let (both, pools) = (&both, &pools);
        // Each runs on one pool, and waits for a job on the other, whose only thread is the other one.
        let cross = |mine: usize| {
            ScopeOptions::new().pool(&pools[mine]).inline(false).open(move |s| {
                s.spawn(move || {
                    both.wait()?;
                    let other = ScopeOptions::new().pool(&pools[1 - mine]).inline(false);
                    Ok(other.open(|s| Ok(s.spawn(|| Ok(())).join()?))?)
                });
                Ok(())
            })
        };
        let results = thread::scope(|threads| {
            let other = threads.spawn(|| cross(1));
            [cross(0), other.join().unwrap()]
        });
        // One that is cancelled lets the other go on, unless both are found at once.
        let starved: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(!starved.is_empty(), "{results:?}");
        for group in starved {
            assert!(format!("{group:?}").contains("starved: 1 queued job can never start"), "{group:?}");
        }
    });
}

#[test]
fn a_worker_that_waits_for_a_job_elsewhere_does_not_starve() {
    guarded(|| {
        let (full, other) = (pool(|b| b.max_threads(1)), pool(|b| b.max_threads(1)));
        // Long enough for the full pool to have looked many times.
        let looks = AtomicUsize::new(0);
        let (looks, full, other) = (&looks, &full, &other);
        ScopeOptions::new()
            .pool(full)
            .inline(false)
            .open(|s| {
                let waiter = s.spawn(move || {
                    let there = ScopeOptions::new().pool(other).inline(false);
                    let busy = || {
                        let end = std::time::Instant::now() + Duration::from_millis(60);
                        while std::time::Instant::now() < end {
                            looks.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    };
                    Ok(there.open(|s| Ok(s.spawn(busy).join()?))?)
                });
                let queued = s.spawn(|| Ok(()));
                waiter.join()?;
                Ok(queued.join()?)
            })
            .unwrap();
    });
}

#[test]
fn jobs_with_threads_of_their_own_run_beside_the_parallelism() {
    guarded(|| {
        let pool = pool(|b| b.parallelism(1));
        let all = std::sync::Barrier::new(5);
        ScopeOptions::new()
            .pool(&pool)
            .open(|s| {
                for _ in 0..4 {
                    // Waits where the pool cannot see it.
                    s.job("own").own_thread().spawn(|| {
                        all.wait();
                    });
                }
                all.wait();
            })
            .unwrap();
        pool.shutdown().unwrap();
    });
}

// S48, D6:
#[test]
fn a_job_that_no_worker_comes_for_is_stopped_by_its_timeout() {
    guarded(|| {
        let pool = pool(|b| b.max_threads(1));
        let group = ScopeOptions::new()
            .pool(&pool)
            .inline(false)
            .open(|s| {
                let stop = s.token().receiver();
                // The only worker waits where the pool cannot see it, until the scope stops.
                s.spawn(move || {
                    let _ = stop.recv();
                });
                s.job("late").timeout(Duration::from_millis(1)).spawn(|| ());
                Ok(())
            })
            .unwrap_err();
        assert_eq!(group.len(), 1, "{group:?}");
        assert!(group.find::<TimedOut>().is_some(), "{group:?}");
    });
}

// D18:
#[test]
fn a_queued_job_whose_time_runs_out_starves_nobody() {
    guarded(|| {
        let pool = pool(|b| b.max_threads(1));
        // Longer than the pool takes to look for starvation, many times.
        let timeout = Duration::from_millis(200);
        let run = || {
            ScopeOptions::new().pool(&pool).inline(false).open(|s| {
                s.spawn(move || {
                    let late = s.job("late").isolated().timeout(timeout).spawn(|| Ok(()));
                    Ok(late.join()?.unwrap_err().downcast_ref::<TimedOut>().is_some())
                })
                .join()
                .map_err(Into::into)
            })
        };
        assert!(run().unwrap());
        // Before the clock moves, too.
        assert!(tassel::testing::virtual_time(run).unwrap());
    });
}

// D18:
#[test]
fn nobody_starves_while_code_around_the_scope_may_end_the_wait() {
    guarded(|| {
        let pool = pool(|b| b.max_threads(1));
        let event = Event::new();
        let (pool, event) = (&pool, &event);
        ScopeOptions::new()
            .pool(pool)
            .inline(false)
            .open(|s| {
                // The only worker waits at an exit for a job that nobody can start, and for what its own body does.
                thread::scope(|threads| {
                    threads.spawn(s.token().bind(move || {
                        ScopeOptions::new()
                            .pool(pool)
                            .inline(false)
                            .open(|s| {
                                s.spawn(|| Ok(event.wait()?));
                                s.spawn(|| Ok(event.wait()?));
                                Ok(())
                            })
                            .unwrap();
                    }));
                    // Long enough for the pool to have looked many times.
                    let end = std::time::Instant::now() + Duration::from_millis(60);
                    while std::time::Instant::now() < end {
                        hint::spin_loop();
                    }
                    event.set();
                });
                Ok(())
            })
            .unwrap();
    });
}
