//! Virtual time: one order for one program, jumps, and deadlocks as reports.

use crate::{guarded, placeless, seeded_rng, virtually};
use anyhow::bail;
use std::{
    fmt::Write as _,
    hint,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tassel::{
    CancelToken, ErrorGroup, ReasonKind, Scope, ScopeOptions, now,
    pool::{Pool, PoolBuilder},
    scope, sleep,
    sync::{Barrier, Event},
    testing::{try_virtual_time, virtual_time},
    yield_now,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Naps, a failure and a panic-free cancel in two levels: what it prints, and the group at the end.
fn program(pool: Option<&Pool>) -> String {
    let out = Mutex::new(String::new());
    let say = |text: &str| writeln!(out.lock().unwrap(), "{text}").unwrap();
    let say = &say;
    let group = virtual_time(|| {
        let options = ScopeOptions::new().name("top");
        let options = pool.iter().fold(options, |options, pool| options.pool(pool));
        options
            .open(|s| {
                for (name, nap) in [("a", 3), ("b", 2), ("c", 2), ("d", 9)] {
                    s.job(name).spawn(move || {
                        say(&format!("{name} begins"));
                        ScopeOptions::new().name("inner").open(|s| {
                            s.job("e").spawn(move || {
                                let slept = sleep(nap * SECOND);
                                say(&format!("{name} slept: {}", slept.is_ok()));
                                Ok(slept?)
                            });
                            Ok(())
                        })?;
                        if name == "a" {
                            bail!("a fails");
                        }
                        Ok(())
                    });
                }
                say("body ends");
                Ok(())
            })
            .unwrap_err()
    });
    say(&group.to_string());
    let names: Vec<_> = group.leaves().map(|leaf| (leaf.path().to_owned(), leaf.offset(), leaf.took())).collect();
    say(&format!("{names:?}"));
    out.into_inner().unwrap()
}

#[test]
fn a_program_prints_the_same_a_thousand_times_on_a_busy_machine() {
    guarded(|| {
        let over = AtomicBool::new(false);
        thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        hint::spin_loop();
                    }
                });
            }
            let first = program(None);
            let differs = (1..1000).map(|_| program(None)).find(|other| *other != first);
            over.store(true, Ordering::Relaxed);
            assert_eq!(differs, None, "the first run printed\n{first}");
        });
    });
}

#[test]
fn the_number_of_threads_does_not_show_in_virtual_time() {
    guarded(|| {
        let plenty = program(None);
        let small = Pool::builder().parallelism(1).build().unwrap();
        assert_eq!(program(Some(&small)), plenty);
    });
}

#[test]
fn timers_go_off_in_the_order_of_a_sorted_list() {
    guarded(|| {
        let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
        let mut rng = seeded_rng(seed);
        // 1,000 jobs: 10 groups of 10 groups of 10. Each has ten timers, all at instants of their own.
        let mut instants: Vec<u64> = (1..=10_000).collect();
        for i in (1..instants.len()).rev() {
            instants.swap(i, usize::try_from(rng.below(i as u64 + 1)).unwrap());
        }
        let mut plans: Vec<Vec<u64>> = instants.chunks(10).map(<[u64]>::to_vec).collect();
        for plan in &mut plans {
            plan.sort_unstable();
        }
        let mut expected: Vec<(u64, usize)> =
            plans.iter().enumerate().flat_map(|(job, plan)| plan.iter().map(move |&at| (at, job))).collect();
        expected.sort_unstable();

        let happened = Mutex::new(Vec::new());
        let (plans, log) = (&plans, &happened);
        virtual_time(|| {
            let start = now();
            let level = |base: usize, step: usize| (0..10).map(move |n| base + n * step);
            scope(|s| {
                for base in level(0, 100) {
                    s.spawn(move || {
                        scope(|s| {
                            for base in level(base, 10) {
                                s.spawn(move || {
                                    scope(|s| {
                                        for job in level(base, 1) {
                                            s.spawn(move || {
                                                for &at in &plans[job] {
                                                    tassel::sleep_until(start + Duration::from_millis(at))?;
                                                    log.lock().unwrap().push((at, job));
                                                }
                                                Ok(())
                                            });
                                        }
                                    })?;
                                    Ok(())
                                });
                            }
                        })?;
                        Ok(())
                    });
                }
            })
            .unwrap();
        });
        assert!(happened.into_inner().unwrap() == expected, "seed {seed}");
    });
}

#[test]
fn a_deadlock_is_a_report() {
    guarded(|| {
        let event = Event::new();
        let deadlock = try_virtual_time(|| event.wait().unwrap_err().reason().kind()).unwrap_err();
        assert_eq!(deadlock.to_string(), "deadlock: 1 thread waits, and nothing can wake it");
        let barrier = Barrier::new(3);
        let wait = || Ok(barrier.wait().map(drop)?);
        // Two threads: the owner, at the exit, runs one of the jobs itself.
        let mut ended = None;
        let deadlock = try_virtual_time(|| {
            ended = Some(scope(|s| {
                s.spawn(wait);
                s.spawn(wait);
                Ok(())
            }));
        });
        assert_eq!(deadlock.unwrap_err().to_string(), "deadlock: 2 threads wait, and nothing can wake them");
        assert_eq!(ended.unwrap().unwrap_err().reason().map(tassel::Reason::kind), Some(ReasonKind::Deadlock));
    });
}

#[test]
fn a_deadlock_tells_who_waits_for_what_since_when() {
    guarded(|| {
        let event = Event::new();
        let deadlock = try_virtual_time(|| event.wait().is_err()).unwrap_err();
        let here = format!("the run's first code waits in event at {}:{}", file!(), line!() - 1);
        assert_eq!(deadlock.picture(), here);
        assert_eq!(format!("{deadlock:?}"), format!("{deadlock}\n{here}"));
        let deadlock = try_virtual_time(|| {
            ScopeOptions::new().name("s").inline(false).open(|s| {
                let a = s.job("a").spawn(|| {
                    sleep(SECOND)?;
                    Ok(event.wait()?)
                });
                s.job("b").spawn(move || Ok(a.join()?));
                sleep(HOUR)?;
                Ok(())
            })
        })
        .unwrap_err();
        let lines: Vec<_> = deadlock.picture().lines().map(|line| line.split(" on ").next().unwrap()).collect();
        assert_eq!(lines.len(), 3, "{deadlock:?}");
        assert!(lines[0].contains("scope `s`") && lines[0].contains("body waiting in scope exit"), "{deadlock:?}");
        assert!(lines[1].contains("job `a`") && lines[1].contains("waiting in event at"), "{deadlock:?}");
        assert!(lines[1].contains("for 3599s"), "{deadlock:?}");
        assert!(
            lines[2].contains("job `b`") && placeless(lines[2]).contains("waiting in join for job `a`"),
            "{deadlock:?}"
        );
    });
}

#[test]
fn a_cancel_from_outside_reaches_in_and_a_deadline_does_not() {
    guarded(|| {
        let token = CancelToken::new();
        token.cancel();
        let stopped = token.enter(|| virtual_time(|| sleep(HOUR).is_err()));
        assert!(stopped);
        let slept = ScopeOptions::new().timeout(HOUR).open(|_| Ok(virtual_time(|| sleep(10 * HOUR).is_ok()))).unwrap();
        assert!(slept);
    });
}

#[test]
fn the_clock_jumps_and_sleepers_wake_by_time_then_by_spawning() {
    virtually(|| {
        let start = now();
        let order = Mutex::new(Vec::new());
        let order_of = &order;
        scope(|s: &Scope<'_, '_>| {
            for (name, seconds) in [("a", 2), ("b", 1), ("c", 2), ("d", 1)] {
                s.job(name).spawn(move || {
                    sleep(seconds * HOUR)?;
                    order_of.lock().unwrap().push(name);
                    Ok(())
                });
            }
        })
        .unwrap();
        assert_eq!(now() - start, 2 * HOUR);
        assert_eq!(order.into_inner().unwrap(), ["b", "d", "a", "c"]);
    });
}

// S58:
#[test]
fn the_longest_sleep_does_not_wrap_and_ends_by_cancel() {
    virtually(|| {
        let start = now();
        scope(|s| {
            s.spawn(|| Ok(sleep(Duration::MAX)?));
            sleep(HOUR)?;
            s.cancel();
            Ok(())
        })
        .unwrap();
        assert_eq!(now() - start, HOUR);
    });
}

#[test]
fn jobs_at_a_barrier_of_std_hand_on_their_turn() {
    virtually(|| {
        let barrier = std::sync::Barrier::new(2);
        let run = || -> Result<(), ErrorGroup> {
            scope(|s| {
                s.spawn(|| {
                    barrier.wait();
                });
                s.spawn(|| {
                    barrier.wait();
                });
            })
        };
        run().unwrap();
    });
}

// D11:
#[test]
fn a_job_for_which_a_thread_was_refused_starts_before_those_spawned_after_it() {
    virtually(|| {
        let pool = Pool::builder().refuse_threads(|n| n == 1).build().unwrap();
        let started = Mutex::new(Vec::new());
        let start = |n: u32| started.lock().unwrap().push(n);
        ScopeOptions::new()
            .pool(&pool)
            .open(|s| {
                s.spawn(|| start(1));
                yield_now()?;
                s.spawn(|| start(2));
                Ok(sleep(HOUR)?)
            })
            .unwrap();
        assert_eq!(started.into_inner().unwrap(), [1, 2]);
    });
}

#[test]
fn thousands_of_jobs_for_one_thread_take_no_time_each_for_all() {
    virtually(|| {
        let pool = Pool::builder().max_threads(1).build().unwrap();
        let start = now();
        ScopeOptions::new()
            .pool(&pool)
            .inline(false)
            .open(|s| (0..4000).for_each(|_| drop(s.spawn(|| Ok(sleep(SECOND)?)))))
            .unwrap();
        assert_eq!(now() - start, 4000 * SECOND);
    });
}

#[test]
fn a_worker_that_blocks_outside_holds_up_nobody_where_there_is_no_other() {
    type Build = fn() -> PoolBuilder;
    let builds: [Build; 2] = [|| Pool::builder().max_threads(1), || Pool::builder().refuse_threads(|n| n > 1)];
    for build in builds {
        virtually(|| {
            let pool = build().build().unwrap();
            let barrier = std::sync::Barrier::new(2);
            ScopeOptions::new()
                .pool(&pool)
                .open(|s| {
                    s.spawn(|| {
                        barrier.wait();
                    });
                    // Its turn comes, and no thread.
                    s.spawn(|| ());
                    sleep(HOUR)?;
                    barrier.wait();
                    Ok(())
                })
                .unwrap();
        });
    }
}

#[test]
fn limits_and_refusals_of_a_pool_keep_the_order() {
    type Build = fn() -> PoolBuilder;
    guarded(|| {
        let builds: [Build; 4] = [
            || Pool::builder().max_threads(1),
            || Pool::builder().max_threads(2).parallelism(1),
            || Pool::builder().parallelism(2).refuse_threads(|n| n % 2 == 0),
            || Pool::builder().refuse_threads(|n| n > 2),
        ];
        for build in builds {
            let run = || program(Some(&build().build().unwrap()));
            let first = run();
            assert_eq!((0..50).map(|_| run()).find(|other| *other != first), None, "the first run printed\n{first}");
        }
    });
}

// D18:
#[test]
fn a_virtual_run_on_a_full_pool_starves_before_the_clock_moves() {
    virtually(|| {
        let pool = Pool::builder().max_threads(1).build().unwrap();
        // Something for the clock to move to.
        let token = CancelToken::new();
        token.set_deadline(Some(now() + HOUR));
        let _registration = token.on_cancel(|| ());
        let (start, barrier) = (now(), Barrier::new(3));
        let ended = Mutex::new(None);
        scope(|s| {
            s.spawn(|| {
                let starved = ScopeOptions::new()
                    .pool(&pool)
                    .inline(false)
                    .open(|s| (0..3).for_each(|_| drop(s.spawn(|| Ok(barrier.wait().map(drop)?)))));
                *ended.lock().unwrap() = Some((now() - start, starved.unwrap_err()));
            });
            Ok(())
        })
        .unwrap();
        let (after, group) = ended.into_inner().unwrap().unwrap();
        assert_eq!(group.reason().map(tassel::Reason::kind), Some(ReasonKind::Starved), "{group:?}");
        assert_eq!(after, Duration::ZERO);
    });
}

#[test]
fn a_queued_job_is_stopped_by_its_timeout_at_that_instant() {
    virtually(|| {
        let pool = Pool::builder().max_threads(1).build().unwrap();
        let start = now();
        let group = ScopeOptions::new()
            .pool(&pool)
            .inline(false)
            .open(|s| {
                s.spawn(|| Ok(sleep(HOUR)?));
                s.job("late").timeout(SECOND).spawn(|| ());
                Ok(())
            })
            .unwrap_err();
        assert_eq!(group.primary().name(), "late", "{group:?}");
        assert_eq!(now() - start, SECOND);
    });
}

#[test]
fn the_clock_waits_for_bound_code_that_has_not_begun() {
    virtually(|| {
        let start = now();
        let begun = thread::spawn(CancelToken::current().bind(now));
        sleep(HOUR).unwrap();
        assert_eq!(begun.join().unwrap(), start);
        drop(CancelToken::current().bind(now));
        sleep(HOUR).unwrap();
        assert_eq!(now() - start, 2 * HOUR);
    });
}

#[test]
fn a_callback_may_wait_in_the_run_that_calls_it() {
    virtually(|| {
        let (outer, woken) = (CancelToken::current(), Arc::new(Event::new()));
        let token = CancelToken::new();
        let set = Arc::clone(&woken);
        let registration = token.on_cancel(move || {
            outer.enter(|| sleep(HOUR)).unwrap();
            set.set();
        });
        let start = now();
        scope(|s| {
            s.spawn(|| {
                sleep(HOUR)?;
                token.cancel();
                Ok(())
            });
            Ok(woken.wait()?)
        })
        .unwrap();
        assert_eq!(now() - start, 2 * HOUR);
        drop(registration);
    });
}

#[test]
fn a_full_pool_whose_workers_sleep_for_ever_is_a_deadlock() {
    guarded(|| {
        let pool = Pool::builder().max_threads(1).build().unwrap();
        let deadlock = try_virtual_time(|| {
            ScopeOptions::new().pool(&pool).inline(false).open(|s| {
                s.job("sleeper").spawn(|| Ok(sleep(Duration::MAX)?));
                s.job("queued").spawn(|| ());
                Ok(())
            })
        })
        .unwrap_err();
        assert_eq!(deadlock.to_string(), "deadlock: 2 threads wait, and nothing can wake them");
        assert!(deadlock.picture().contains("job `queued`"), "{deadlock:?}");
    });
}
