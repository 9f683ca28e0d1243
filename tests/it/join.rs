//! Joining: the answers, who waits, what a join may run, and jobs whose handle owns the failure.

use crate::{guarded, virtually};
use anyhow::Context as _;
use std::{
    cell::RefCell,
    mem,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tassel::{
    CancelToken, JoinError, ReasonKind, ScopeOptions, checkpoint, now,
    region::{TimedOut, fail_after},
    scope, sleep,
    sync::{Barrier, Event},
};

const HOUR: Duration = Duration::from_secs(3600);

fn fails() -> tassel::Result<()> {
    anyhow::bail!("disk full")
}

// D21, S41:
#[test]
fn a_finished_job_gives_its_value_to_a_joiner_that_is_cancelled() {
    virtually(|| {
        let value = scope(|s| {
            let job = s.spawn(|| Ok(7));
            sleep(HOUR)?;
            assert!(job.is_finished());
            s.cancel();
            assert!(checkpoint().is_err());
            Ok(job.join()?)
        });
        assert_eq!(value.unwrap(), 7);
    });
}

// D21:
#[test]
fn a_job_that_never_started_is_answered_before_the_joiners_own_stop() {
    virtually(|| {
        scope(|s| {
            let job = s.job("x").spawn(|| ());
            s.cancel();
            match job.join() {
                Err(JoinError::Cancelled { started: false, name, .. }) => assert_eq!(&*name, "x"),
                other => panic!("{other:?}"),
            }
            Ok(())
        })
        .unwrap();
    });
}

// S48, D22:
#[test]
fn a_joiner_that_is_stopped_hears_of_itself_and_the_job_goes_on() {
    virtually(|| {
        let ended = AtomicBool::new(false);
        scope(|s| {
            let job = s.spawn(|| {
                sleep(10 * HOUR)?;
                ended.store(true, Ordering::SeqCst);
                Ok(())
            });
            let joiner = s.spawn(move || match job.join() {
                Err(JoinError::You(stop)) => {
                    assert_eq!(stop.reason().text(), Some("give up"));
                    Ok("stopped")
                }
                other => panic!("{other:?}"),
            });
            sleep(HOUR)?;
            joiner.cancel_with("give up");
            assert_eq!(joiner.join()?, "stopped");
            Ok(())
        })
        .unwrap();
        assert!(ended.into_inner());
    });
}

// S48, S37:
#[test]
fn a_join_that_must_wait_checks_on_entry() {
    virtually(|| {
        scope(|s| {
            let job = s.job("x").spawn(|| Ok(sleep(HOUR)?));
            sleep(HOUR / 2)?;
            CancelToken::new().enter(|| {
                CancelToken::current().cancel();
                match job.join() {
                    Err(JoinError::You(stop)) => assert_eq!(stop.reason().kind(), ReasonKind::Explicit),
                    other => panic!("{other:?}"),
                }
            });
            Ok(())
        })
        .unwrap();
    });
}

// D22, D5, S48:
#[test]
fn a_failed_join_says_that_and_the_group_has_the_error() {
    virtually(|| {
        let group = scope(|s| {
            let job = s.job("x").spawn(|| fails().context("writing"));
            let id = job.id();
            match job.join() {
                Err(JoinError::Failed { id: told, name, text }) => {
                    assert_eq!((told, &*name, &*text), (id, "x", "writing: disk full"));
                }
                other => panic!("{other:?}"),
            }
            assert!(s.is_cancelled());
            Ok(())
        })
        .unwrap_err();
        let told: Vec<_> = group.leaves().map(|leaf| format!("{leaf:#}")).collect();
        assert_eq!(told, ["job `x` failed: writing: disk full"]);
    });
}

// D22, S26:
#[test]
fn a_join_of_a_job_that_panicked_says_that() {
    virtually(|| {
        let group = scope(|s| {
            let job = s.job("x").spawn(|| -> tassel::Result<()> { panic!("boom {}", 7) });
            match job.join() {
                Err(JoinError::Panicked { name, text, .. }) => assert_eq!((&*name, &*text), ("x", "boom 7")),
                other => panic!("{other:?}"),
            }
            Ok(())
        })
        .unwrap_err();
        assert_eq!(group.primary().panic_message(), Some("boom 7"));
    });
}

// D22, S47:
#[test]
fn a_join_of_a_cancelled_job_says_why_and_whether_it_had_started() {
    virtually(|| {
        scope(|s| {
            let job = s.job("x").spawn(|| Ok(sleep(10 * HOUR)?));
            sleep(HOUR)?;
            job.cancel_with("not needed");
            match job.join() {
                Err(JoinError::Cancelled { name, reason, started: true, .. }) => {
                    assert_eq!((&*name, reason.text(), reason.who()), ("x", Some("not needed"), "job `x`".to_owned()));
                }
                other => panic!("{other:?}"),
            }
            Ok(())
        })
        .unwrap();
    });
}

// D21, S38:
#[test]
fn try_join_gives_the_handle_back_and_never_checks() {
    virtually(|| {
        let value = scope(|s| {
            let job = s.spawn(|| {
                sleep(HOUR)?;
                Ok(7)
            });
            assert!(!job.is_finished());
            let job = job.try_join().unwrap_err();
            sleep(HOUR / 2)?;
            let job = job.try_join().unwrap_err();
            sleep(HOUR)?;
            s.cancel();
            assert!(job.is_finished());
            Ok(job.try_join().unwrap()?)
        });
        assert_eq!(value.unwrap(), 7);
    });
}

// D21:
#[test]
fn join_timeout_gives_the_handle_back() {
    virtually(|| {
        let began = now();
        let value = scope(|s| {
            let job = s.spawn(|| {
                sleep(10 * HOUR)?;
                Ok(7)
            });
            let job = job.join_timeout(HOUR).unwrap_err();
            assert_eq!(now() - began, HOUR);
            let job = job.join_timeout(Duration::ZERO).unwrap_err();
            assert_eq!(now() - began, HOUR);
            Ok(job.join_timeout(Duration::MAX).unwrap()?)
        });
        assert_eq!((value.unwrap(), now() - began), (7, 10 * HOUR));
    });
}

// D21:
#[test]
fn join_timeout_of_a_stopped_joiner_is_you() {
    virtually(|| {
        let stopped = scope(|s| {
            let job = s.spawn(|| Ok(sleep(10 * HOUR)?));
            let joined = CancelToken::new().enter(|| {
                let here = CancelToken::current();
                s.spawn(move || {
                    sleep(HOUR)?;
                    here.cancel();
                    Ok(())
                });
                job.join_timeout(5 * HOUR)
            });
            Ok(matches!(joined, Ok(Err(JoinError::You(_)))))
        });
        assert!(stopped.unwrap());
    });
}

// S49, D21:
#[test]
fn joining_oneself_would_deadlock() {
    virtually(|| {
        scope(|s| {
            let (slot, ready) = (Mutex::new(None), Event::new());
            let (slot, ready) = (&*Box::leak(Box::new(slot)), &*Box::leak(Box::new(ready)));
            let job = s.job("x").spawn(move || {
                ready.wait()?;
                let own: Option<tassel::JobHandle<'_, ()>> = slot.lock().unwrap().take();
                match own.unwrap().join() {
                    Err(JoinError::WouldDeadlock { cycle }) => assert_eq!(cycle, ["x"]),
                    other => panic!("{other:?}"),
                }
                Ok(())
            });
            *slot.lock().unwrap() = Some(job);
            ready.set();
            Ok(())
        })
        .unwrap();
    });
}

/// A job `x` that gets its own handle.
fn with_own_handle(
    code: impl for<'a> FnOnce(tassel::JobHandle<'a, ()>) -> Result<(), JoinError> + Send,
) -> Vec<String> {
    let joined = Mutex::new(None);
    scope(|s| {
        let slot: &Mutex<Option<tassel::JobHandle<'_, ()>>> = Box::leak(Box::default());
        let joined = &joined;
        let job = s.job("x").spawn(move || {
            sleep(HOUR)?;
            let own = slot.lock().unwrap().take();
            *joined.lock().unwrap() = Some(code(own.unwrap()));
            Ok(())
        });
        *slot.lock().unwrap() = Some(job);
        Ok(())
    })
    .unwrap();
    match joined.into_inner().unwrap() {
        Some(Err(JoinError::WouldDeadlock { cycle })) => cycle,
        other => panic!("{other:?}"),
    }
}

// S49, D21:
#[test]
fn joining_oneself_in_a_region_would_deadlock() {
    virtually(|| {
        let in_region =
            with_own_handle(|own| fail_after(10 * HOUR, || Ok(own.join())).expect("the join is answered at once"));
        assert_eq!(in_region, ["x"]);
    });
}

// S49, D21:
#[test]
fn joining_oneself_below_a_token_would_deadlock() {
    virtually(|| {
        let below_token = with_own_handle(|own| CancelToken::current().enter(|| own.join()));
        assert_eq!(below_token, ["x"]);
    });
}

// S49, D21:
#[test]
fn joining_an_ancestor_from_the_body_of_an_inner_scope_would_deadlock() {
    virtually(|| {
        let cycle = with_own_handle(|own| scope(|_| Ok(own.join())).expect("the join is answered at once"));
        assert!(cycle.contains(&"x".to_owned()), "{cycle:?}");
    });
}

// S49, D21:
#[test]
fn joining_an_ancestor_from_a_job_of_an_inner_scope_would_deadlock() {
    virtually(|| {
        let cycle = with_own_handle(|own| {
            scope(|s| Ok(s.job("y").spawn(move || Ok(own.join())).join()?)).expect("the join is answered at once")
        });
        assert!(cycle.contains(&"x".to_owned()), "{cycle:?}");
    });
}

// S49, D22:
#[test]
fn a_joiner_of_a_failed_sibling_ends_and_the_failure_is_told_once() {
    virtually(|| {
        let group = scope(|s| {
            let a = s.job("a").spawn(|| {
                sleep(HOUR)?;
                fails()
            });
            let b = s.job("b").spawn(move || a.join().context("b needs a"));
            b.join().context("the body needs b")?;
            Ok(())
        })
        .unwrap_err();
        let told: Vec<_> = group.leaves().map(|leaf| format!("{leaf:#}")).collect();
        assert_eq!(told, ["job `a` failed: disk full"]);
    });
}

// D21, S13:
#[test]
fn an_outcome_is_visible_to_its_joiners_before_the_siblings_are_cancelled() {
    virtually(|| {
        let group = scope(|s| {
            let a = s.job("a").spawn(|| {
                sleep(HOUR)?;
                fails()
            });
            s.job("b").spawn(move || {
                let joined = a.join();
                assert!(matches!(joined, Err(JoinError::Failed { .. })), "{joined:?}");
                Ok(())
            });
            Ok(())
        })
        .unwrap_err();
        assert_eq!(group.len(), 1, "{group:?}");
    });
}

// D21, S11:
#[test]
fn a_cancel_that_a_failure_causes_finds_its_outcome_there() {
    virtually(|| {
        let seen = AtomicBool::new(false);
        let group = scope(|s| {
            let a = s.job("a").spawn(|| {
                sleep(HOUR)?;
                fails()
            });
            // Called by the very thread that cancels, in the middle of it.
            let look = || seen.store(matches!(a.try_join(), Ok(Err(JoinError::Failed { .. }))), Ordering::SeqCst);
            let _registered = s.on_cancel(look);
            Ok(sleep(10 * HOUR)?)
        })
        .unwrap_err();
        assert_eq!((group.len(), seen.into_inner()), (1, true), "{group:?}");
    });
}

// D14, D11:
#[test]
fn a_lock_held_around_a_join_is_safe() {
    guarded(|| {
        for _ in 0..50 {
            let lock = Mutex::new(0);
            scope(|s| {
                let guard = lock.lock().unwrap();
                let b = s.spawn(|| *lock.lock().unwrap() += 1);
                let a = s.spawn(|| Ok(7));
                assert_eq!(a.join()?, 7);
                drop(guard);
                Ok(b.join()?)
            })
            .unwrap();
            assert_eq!(lock.into_inner().unwrap(), 1);
        }
    });
}

// D14:
#[test]
fn a_queued_hour_long_job_does_not_outlast_the_limit_of_its_joiner() {
    virtually(|| {
        let began = now();
        scope(|s| {
            let job = s.spawn(|| Ok(sleep(HOUR)?));
            let error = fail_after(Duration::from_secs(1), || Ok(job.join()?)).unwrap_err();
            assert!(error.is::<TimedOut>());
            assert_eq!(now() - began, Duration::from_secs(1));
            s.cancel();
            Ok(())
        })
        .unwrap();
        assert_eq!(now() - began, Duration::from_secs(1));
    });
}

// D14:
#[test]
fn a_queued_job_does_not_outlast_a_join_in_an_inner_scope_with_a_limit() {
    virtually(|| {
        let began = now();
        scope(|s| {
            let job = s.spawn(|| Ok(sleep(HOUR)?));
            let inner = ScopeOptions::new().timeout(Duration::from_secs(1)).open(|_| Ok(job.join()?));
            assert!(inner.unwrap_err().primary().downcast_ref::<TimedOut>().is_some());
            assert_eq!(now() - began, Duration::from_secs(1));
            s.cancel();
            Ok(())
        })
        .unwrap();
    });
}

// D11, S68:
#[test]
fn a_thread_local_borrow_around_a_scope_is_safe_without_inline() {
    thread_local!(static CELL: RefCell<u32> = const { RefCell::new(0) });
    guarded(|| {
        for _ in 0..20 {
            CELL.with(|cell| {
                let mut borrowed = cell.borrow_mut();
                ScopeOptions::new()
                    .inline(false)
                    .open(|s| {
                        let use_it = || CELL.with(|cell| *cell.borrow_mut() += 1);
                        s.spawn(use_it).join()?;
                        s.spawn(use_it);
                        s.spawn(use_it);
                        Ok(())
                    })
                    .unwrap();
                *borrowed += 1;
            });
        }
    });
}

// S68:
#[test]
fn jobs_that_meet_at_a_barrier_while_the_body_joins_finish() {
    virtually(|| {
        let barrier = Barrier::new(8);
        let leaders = scope(|s| {
            let jobs: Vec<_> = (0..8).map(|_| s.spawn(|| Ok(barrier.wait()?))).collect();
            let mut leaders = 0;
            for job in jobs {
                leaders += usize::from(job.join()?);
            }
            Ok(leaders)
        });
        assert_eq!(leaders.unwrap(), 1);
    });
}

// D5: the handle of an isolated job owns its failure.

// D5, S64:
#[test]
fn an_isolated_failure_that_is_joined_cancels_nobody_and_is_in_no_group() {
    virtually(|| {
        let value = scope(|s| {
            let sibling = s.spawn(|| {
                sleep(10 * HOUR)?;
                Ok(7)
            });
            let alone = s.job("alone").isolated().spawn(fails);
            sleep(HOUR)?;
            assert!(!s.is_cancelled());
            let leaf = alone.join()?.unwrap_err();
            assert_eq!(format!("{leaf:#}"), "job `alone` failed: disk full");
            assert_eq!(leaf.into_error().to_string(), "disk full");
            Ok(sibling.join()?)
        });
        assert_eq!(value.unwrap(), 7);
    });
}

// D5, S64:
#[test]
fn an_isolated_panic_that_is_joined_is_a_leaf_with_its_payload() {
    virtually(|| {
        scope(|s| {
            let alone = s.job("alone").isolated().spawn(|| -> tassel::Result<()> { std::panic::panic_any(7_u8) });
            let leaf = alone.join()?.unwrap_err();
            assert_eq!(leaf.payload_ref::<u8>(), Some(&7));
            assert_eq!(*leaf.into_payload().unwrap().downcast::<u8>().unwrap(), 7);
            let fine = s.job("fine").isolated().spawn(|| Ok(8));
            assert_eq!(fine.join()?.unwrap(), 8);
            Ok(())
        })
        .unwrap();
    });
}

/// What a scope says whose isolated job fails at once, while a sibling works for ten hours.
fn isolated(with: impl FnOnce(tassel::JobHandle<'_, Result<(), tassel::Leaf>>)) -> Vec<String> {
    let ended = AtomicBool::new(false);
    let group = ScopeOptions::new()
        .name("s")
        .open(|s| {
            s.spawn(|| {
                sleep(10 * HOUR)?;
                ended.store(true, Ordering::SeqCst);
                Ok(())
            });
            let alone = s.job("alone").isolated().spawn(fails);
            sleep(HOUR)?;
            with(alone);
            assert!(!s.is_cancelled());
            sleep(HOUR)?;
            Ok(())
        })
        .unwrap_err();
    assert!(ended.into_inner(), "the sibling was cancelled");
    assert!(!group.primary().during_cancellation());
    assert!(group.reason().is_none(), "{:?}", group.reason());
    group.leaves().map(|leaf| format!("{leaf:#}")).collect()
}

// D5, S64:
#[test]
fn an_isolated_failure_whose_handle_is_dropped_comes_back_as_a_leaf() {
    virtually(|| assert_eq!(isolated(|alone| drop(alone)), ["job `alone` failed: disk full"]));
}

// D5, S64:
#[test]
fn an_isolated_failure_whose_handle_is_leaked_comes_back_as_a_leaf() {
    virtually(|| assert_eq!(isolated(|alone| mem::forget(alone)), ["job `alone` failed: disk full"]));
}

// D5, S64:
#[test]
fn an_isolated_failure_that_was_only_looked_at_comes_back_as_a_leaf() {
    virtually(|| assert_eq!(isolated(|alone| assert!(alone.is_finished())), ["job `alone` failed: disk full"]));
}

// D5, S64:
#[test]
fn an_isolated_failure_that_is_unjoined_at_the_exit_comes_back_as_a_leaf() {
    virtually(|| {
        let group = scope(|s| {
            let alone = s.job("alone").isolated().spawn(|| {
                sleep(HOUR)?;
                fails()
            });
            let alone = alone.try_join().unwrap_err();
            drop(alone);
            Ok(7)
        })
        .unwrap_err();
        assert_eq!(format!("{:#}", group.primary()), "job `alone` failed: disk full");
        assert_eq!(group.len(), 1);
    });
}

// D5, D22:
#[test]
fn an_isolated_job_that_is_cancelled_is_a_join_error_and_no_leaf() {
    virtually(|| {
        scope(|s| {
            let alone = s.job("alone").isolated().spawn(|| Ok(sleep(10 * HOUR)?));
            sleep(HOUR)?;
            alone.cancel();
            assert!(matches!(alone.join(), Err(JoinError::Cancelled { started: true, .. })));
            Ok(())
        })
        .unwrap();
    });
}
