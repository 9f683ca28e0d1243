//! Shields, which an outer stop does not see through, and cleanup, which lasts as long as the grace.

use crate::{guarded, virtually};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, Cancelled, ErrorGroup, ReasonKind, ScopeOptions, checkpoint, is_cancelled, now,
    region::{TimedOut, cleanup, fail_after, move_on_after, shield, shield_unbounded},
    scope, sleep,
    snapshot::{self, Kind},
    sync::{Barrier, Event},
    testing::try_virtual_time,
};

const HOUR: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);

/// Sleeps, and tells whether nobody stopped it.
fn sleeps(time: Duration) -> bool {
    sleep(time).is_ok()
}

/// Whether the first failure is a passed time limit.
fn timed_out(group: &ErrorGroup) -> bool {
    group.primary().downcast_ref::<TimedOut>().is_some()
}

// Shields.

// S53, S54:
#[test]
fn a_shield_keeps_out_a_cancel_that_comes_before_or_meanwhile() {
    virtually(|| {
        let token = CancelToken::new();
        token.enter(|| {
            let saved = shield(10 * HOUR, || {
                sleep(HOUR)?;
                token.cancel();
                assert!(!is_cancelled());
                checkpoint()?;
                sleep(HOUR)?;
                Ok(7)
            });
            assert_eq!(saved.unwrap(), 7);
            assert!(checkpoint().is_err(), "outside it is met");
            assert_eq!(shield_unbounded(|| Ok(sleep(HOUR)?)).unwrap(), ());
            assert!(sleep(HOUR).is_err());
        });
    });
}

// S53:
#[test]
fn a_waiter_behind_a_shield_is_not_even_woken() {
    virtually(|| {
        let began = now();
        let result = scope(|s| {
            s.spawn(|| {
                shield_unbounded(|| Ok(sleep(3 * HOUR)?))?;
                Ok(checkpoint()?)
            });
            s.spawn(|| Ok(sleep(Duration::MAX)?));
            sleep(HOUR)?;
            s.cancel();
            Ok(7)
        });
        assert_eq!((result.unwrap(), now() - began), (7, 3 * HOUR));
    });
}

// S53, S54:
#[test]
fn the_own_limit_and_token_of_a_shield_and_what_is_inside_work_in_a_cancelled_place() {
    virtually(|| {
        let result = scope(|s| {
            s.cancel();
            let began = now();
            assert!(shield(HOUR, || Ok(sleep(10 * HOUR)?)).unwrap_err().is::<TimedOut>());
            assert_eq!(now() - began, HOUR);
            let by_token = shield(HOUR, || {
                CancelToken::current().cancel_with("mine");
                Ok(checkpoint()?)
            });
            assert_eq!(by_token.unwrap_err().downcast_ref::<Cancelled>().unwrap().reason().text(), Some("mine"));
            shield(HOUR, || {
                assert_eq!(move_on_after(HOUR / 2, || Ok(sleep(HOUR)?)).unwrap(), None);
                let inner = ScopeOptions::new().timeout(HOUR / 4).open(|_| Ok(sleep(HOUR)?));
                assert!(timed_out(&inner.unwrap_err()));
                Ok(())
            })
        });
        result.unwrap();
    });
}

// S54, D26:
#[test]
fn the_deadline_inside_a_shield_is_its_own() {
    virtually(|| {
        let began = now();
        let outer = move_on_after(HOUR, || {
            let here = || CancelToken::current().deadline();
            assert_eq!(here(), Some(began + HOUR));
            shield(2 * HOUR, || {
                assert_eq!(here(), Some(began + 2 * HOUR));
                assert_eq!(CancelToken::current().child().deadline(), Some(began + 2 * HOUR));
                CancelToken::current().set_deadline(Some(began + 4 * HOUR));
                Ok(sleep(3 * HOUR)?)
            })?;
            shield_unbounded(|| {
                assert_eq!(here(), None);
                Ok(())
            })?;
            Ok(checkpoint()?)
        });
        assert_eq!(outer.unwrap(), None, "the outer deadline has passed, and is met outside");
        assert_eq!(now() - began, 3 * HOUR);
    });
}

// S55:
#[test]
fn scopes_and_jobs_inside_a_shield_are_behind_it() {
    virtually(|| {
        let token = CancelToken::new();
        let sum = token.enter(|| {
            shield(10 * HOUR, || {
                token.cancel();
                let sum = scope(|s| {
                    let job = s.spawn(|| {
                        sleep(HOUR)?;
                        let inner = scope(|s| Ok(s.spawn(|| Ok(sleep(HOUR)?)).join()?));
                        inner?;
                        Ok(3)
                    });
                    Ok(job.join()? + 4)
                })?;
                Ok(sum)
            })
        });
        assert_eq!(sum.unwrap(), 7);
        assert!(token.is_cancelled());
    });
}

// S56, D7:
#[test]
fn a_shield_in_the_body_does_not_protect_the_jobs() {
    virtually(|| {
        let token = CancelToken::new();
        let stopped_after = Mutex::new(Vec::new());
        let began = now();
        let stops = || {
            let met = sleep(Duration::MAX);
            stopped_after.lock().unwrap().push(now() - began);
            Ok(met?)
        };
        let group = ScopeOptions::new().under(&token).open(|s| {
            s.spawn(stops);
            shield(10 * HOUR, || {
                // Also one that is spawned inside: it belongs to the scope.
                s.spawn(stops);
                sleep(HOUR)?;
                token.cancel();
                Ok(sleep(HOUR)?)
            })
        });
        assert_eq!(*stopped_after.lock().unwrap(), [HOUR; 2]);
        assert_eq!(now() - began, 2 * HOUR);
        assert!(group.is_err(), "the jobs were stopped from outside");
    });
}

// S63, S57:
#[test]
fn cleanup_after_a_timeout_goes_on_in_a_shield_or_in_cleanup() {
    virtually(|| {
        let began = now();
        let outer = move_on_after(HOUR, || {
            let met = sleep(10 * HOUR);
            assert!(shield(HOUR, || Ok(sleep(HOUR / 2)?)).is_ok());
            assert!(cleanup(HOUR, || Ok(sleep(HOUR / 2)?)).is_ok());
            // A fresh limit inside works on its own.
            let inner = shield(HOUR, || move_on_after(HOUR / 2, || Ok(sleep(HOUR)?)));
            assert_eq!(inner.unwrap(), None);
            Ok(met?)
        });
        assert_eq!(outer.unwrap(), None);
        assert_eq!(now() - began, 5 * HOUR / 2);
    });
}

// S53, S46:
#[test]
fn an_owner_at_an_exit_behind_a_shield_waits_and_its_jobs_go_on() {
    virtually(|| {
        let began = now();
        let outer = fail_after(HOUR, || {
            shield_unbounded(|| {
                scope(|s| {
                    s.spawn(|| Ok(sleep(3 * HOUR)?));
                    Ok(())
                })?;
                Ok(())
            })
        });
        assert!(outer.is_ok(), "no checkpoint after the shield: the value counts");
        assert_eq!(now() - began, 3 * HOUR);
    });
}

// S53, D25:
#[test]
fn a_scope_that_is_left_does_not_reach_behind_a_shield_of_bound_code() {
    guarded(|| {
        let (to_thread, left) = mpsc::channel::<()>();
        let (to_test, entered) = mpsc::channel();
        let thread = scope(|s| {
            let thread = thread::spawn(s.token().bind(move || {
                let inside = shield_unbounded(|| {
                    to_test.send(())?;
                    let _ = left.recv();
                    Ok(checkpoint()?)
                });
                (inside.is_ok(), checkpoint().is_err())
            }));
            entered.recv()?;
            Ok(thread)
        })
        .unwrap();
        drop(to_thread);
        assert_eq!(thread.join().unwrap(), (true, true));
    });
}

// S53, D17:
#[test]
fn a_deadlock_reaches_behind_shields() {
    guarded(|| {
        let mut met = None;
        let deadlock = try_virtual_time(|| {
            let stuck = shield_unbounded(|| cleanup(Duration::MAX, || Ok(Event::new().wait()?)));
            met = stuck.unwrap_err().downcast_ref::<Cancelled>().map(|stop| stop.reason().kind());
        });
        assert!(deadlock.is_err());
        assert_eq!(met, Some(ReasonKind::Deadlock), "passed on by both");
    });
}

// S75, S53:
#[test]
fn a_snapshot_shows_shields_and_cleanup() {
    virtually(|| {
        scope(|s| {
            let picture = shield(HOUR, || cleanup(2 * HOUR, || Ok(snapshot::of(s))))?;
            let kinds: Vec<_> = picture.entries.iter().map(|entry| (entry.kind, entry.depth)).collect();
            assert_eq!(kinds, [(Kind::Scope, 0), (Kind::Shield, 1), (Kind::Cleanup, 2)]);
            assert!(picture.to_string().contains("shield `tests/it/grace.rs:"), "{picture}");
            Ok(())
        })
        .unwrap();
    });
}

// Grace.

/// Runs ten nested cleanups in a job of an inner scope, each with work of 70 ms and a limit of 100 ms; tells which were cut.
fn ten_nested(
    stop: impl FnOnce(&CancelToken) + Send + 'static,
    meanwhile: impl FnOnce(&CancelToken),
) -> Vec<(u32, bool, Duration)> {
    fn level(n: u32, report: &dyn Fn(u32, bool)) -> tassel::Result<()> {
        cleanup(100 * MS, || {
            report(n, sleeps(70 * MS));
            if n < 10 { level(n + 1, report) } else { Ok(()) }
        })
    }
    let (token, report) = (CancelToken::new(), Mutex::new(Vec::new()));
    let began = now() + HOUR;
    let group = ScopeOptions::new().name("outer").under(&token).open(|s| {
        s.spawn(|| {
            scope(|s| {
                s.spawn(|| {
                    let met = sleep(Duration::MAX);
                    let took = |n, whole| report.lock().unwrap().push((n, whole, now() - began));
                    level(1, &took)?;
                    Ok(met?)
                });
                Ok(())
            })?;
            Ok(())
        });
        sleep(HOUR)?;
        stop(&token);
        meanwhile(&token);
        Ok(())
    });
    assert!(group.is_err());
    report.into_inner().unwrap()
}

// S57, D19:
#[test]
fn nested_cleanups_share_one_budget() {
    virtually(|| {
        let report = ten_nested(|token| token.cancel_with_grace(300 * MS), |_| ());
        let whole = |n: u32| (n, true, n * 70 * MS);
        let cut = |n: u32| (n, false, 300 * MS);
        assert_eq!(report, [whole(1), whole(2), whole(3), whole(4), cut(5), cut(6), cut(7), cut(8), cut(9), cut(10)]);
    });
}

// S57:
#[test]
fn cancel_now_ends_the_cleanup_at_once() {
    virtually(|| {
        let now_at = |token: &CancelToken| {
            shield_unbounded(|| Ok(sleep(100 * MS)?)).unwrap();
            token.cancel_now();
        };
        let report = ten_nested(|token| token.cancel_with_grace(300 * MS), now_at);
        assert_eq!(report[..2], [(1, true, 70 * MS), (2, false, 100 * MS)]);
        assert!(report[2..].iter().all(|(_, whole, at)| !whole && *at == 100 * MS), "{report:?}");
        // Also where nobody had set a grace.
        let report = ten_nested(CancelToken::cancel, now_at);
        assert!(report[1..].iter().all(|(_, whole, at)| !whole && *at == 100 * MS), "{report:?}");
    });
}

// D19:
#[test]
fn without_a_grace_each_cleanup_ends_at_its_own_limit() {
    virtually(|| {
        let report = ten_nested(CancelToken::cancel, |_| ());
        assert!(report.iter().all(|&(n, whole, at)| whole && at == n * 70 * MS), "{report:?}");
        let began = now();
        let token = CancelToken::new();
        token.cancel();
        let error = token.enter(|| cleanup(HOUR, || Ok(sleep(Duration::MAX)?))).unwrap_err();
        assert!(error.is::<TimedOut>());
        assert_eq!(now() - began, HOUR);
    });
}

// S57, D19:
#[test]
fn the_grace_of_a_scope_runs_from_the_moment_it_is_marked_whatever_stops_it() {
    virtually(|| {
        let cleans = || -> tassel::Result<Duration> {
            assert!(sleep(Duration::MAX).is_err());
            let began = now();
            let cut = cleanup(10 * HOUR, || Ok(sleep(Duration::MAX)?)).unwrap_err();
            assert!(cut.is::<Cancelled>(), "the stop passes on: {cut}");
            Ok(now() - began)
        };
        let graceful = || ScopeOptions::new().grace(HOUR);
        let token = CancelToken::new();
        let by_deadline = graceful().timeout(HOUR).open(|_| cleans());
        let by_cancel = graceful().open(|s| {
            s.cancel();
            cleans()
        });
        let by_token = graceful().under(&token).open(|_| {
            token.cancel();
            cleans()
        });
        let took = Mutex::new(None);
        let by_failure = graceful().open(|s| {
            s.spawn(|| {
                *took.lock().unwrap() = cleans().ok();
                Ok(())
            });
            sleep(HOUR)?;
            Err::<(), _>(anyhow::anyhow!("broke"))
        });
        assert!(by_failure.is_err());
        for took in [by_deadline.ok(), by_cancel.ok(), by_token.ok(), took.into_inner().unwrap()] {
            assert_eq!(took, Some(HOUR));
        }
    });
}

// S57, D19:
#[test]
fn a_cleanup_entered_before_the_stop_has_the_same_budget() {
    virtually(|| {
        let began = now();
        let group = ScopeOptions::new().name("s").timeout(HOUR).grace(HOUR / 2).open(|_| {
            // Nobody else waits: the deadline begins the grace all the same.
            let cut = cleanup(10 * HOUR, || {
                assert!(sleeps(HOUR + HOUR / 4) && !is_cancelled());
                assert_eq!(CancelToken::current().deadline(), Some(began + 3 * HOUR / 2), "known by now");
                Ok(sleep(Duration::MAX)?)
            });
            assert_eq!(now() - began, 3 * HOUR / 2);
            cut
        });
        assert!(timed_out(&group.unwrap_err()));
    });
}

// S57:
#[test]
fn the_budget_is_inherited_and_the_earliest_end_counts() {
    virtually(|| {
        for (outer, inner, ends) in [(4, 9, 4), (9, 4, 4)] {
            let began = now();
            let group = ScopeOptions::new().grace(outer * HOUR).open(|s| {
                s.cancel();
                let inner = ScopeOptions::new().grace(inner * HOUR).open(|_| {
                    let cut = cleanup(20 * HOUR, || {
                        // However deep.
                        let known = scope(|_| cleanup(20 * HOUR, || Ok(CancelToken::current().deadline())))?;
                        assert_eq!(known, Some(began + ends * HOUR));
                        Ok(sleep(Duration::MAX)?)
                    });
                    assert_eq!(now() - began, ends * HOUR);
                    cut
                });
                Err::<(), _>(inner.unwrap_err().into())
            });
            assert!(group.unwrap_err().stopped());
        }
    });
}

// S57:
#[test]
fn a_grace_named_by_the_cancel_takes_the_place_of_the_scopes_own() {
    virtually(|| {
        for (named, ends) in [(HOUR, HOUR), (9 * HOUR, 9 * HOUR), (Duration::ZERO, Duration::ZERO)] {
            let began = now();
            let group = ScopeOptions::new().grace(4 * HOUR).open(|s| {
                s.cancel_with_grace(named);
                let cut = cleanup(20 * HOUR, || Ok(sleep(Duration::MAX)?));
                assert_eq!(now() - began, ends);
                cut
            });
            assert!(group.unwrap_err().stopped());
        }
    });
}

// S57, D25:
#[test]
fn a_scope_that_is_left_gives_no_grace_and_ends_no_cleanup_of_bound_code() {
    virtually(|| {
        let (began, left) = (now(), Arc::new(Event::new()));
        let mut thread = None;
        ScopeOptions::new()
            .grace(HOUR)
            .open(|s| {
                let theirs = Arc::clone(&left);
                thread = Some(thread::spawn(s.token().bind(move || {
                    let cleaned = cleanup(5 * HOUR, || {
                        theirs.wait()?;
                        Ok(sleep(2 * HOUR)?)
                    });
                    (cleaned.is_ok(), checkpoint().is_err(), now() - began)
                })));
                Ok(())
            })
            .unwrap();
        left.set();
        // Asleep outside the library, this thread lets the others have their turns.
        assert_eq!(thread.unwrap().join().unwrap(), (true, true, 2 * HOUR));
    });
}

// S57:
#[test]
fn a_second_cancel_brings_the_end_nearer_and_never_further() {
    virtually(|| {
        let token = CancelToken::new();
        let began = now();
        token.cancel_with_grace(4 * HOUR);
        token.cancel_with_grace(9 * HOUR);
        token.cancel();
        let ends = || token.enter(|| cleanup(20 * HOUR, || Ok(CancelToken::current().deadline()))).unwrap();
        assert_eq!(ends(), Some(began + 4 * HOUR));
        let cut = token.enter(|| {
            cleanup(20 * HOUR, || {
                token.cancel_with_grace(2 * HOUR);
                Ok(sleep(Duration::MAX)?)
            })
        });
        assert!(cut.unwrap_err().is::<Cancelled>());
        assert_eq!(now() - began, 2 * HOUR);
        assert_eq!(ends(), Some(began + 2 * HOUR), "readable after it has passed");
    });
}

// S57, D26:
#[test]
fn the_stop_at_the_end_of_the_grace_shows_the_origin() {
    virtually(|| {
        let group = ScopeOptions::new().name("s").open(|s| {
            s.cancel_with_grace(HOUR);
            let cut = cleanup(10 * HOUR, || Ok(sleep(Duration::MAX)?)).unwrap_err();
            let stop = cut.downcast_ref::<Cancelled>().unwrap();
            assert_eq!((stop.reason().who().as_str(), stop.reason().kind()), ("scope `s`", ReasonKind::Explicit));
            s.cancel_now();
            assert_eq!(stop.reason().at() + HOUR, now());
            Err::<(), _>(cut)
        });
        assert!(group.unwrap_err().stopped());
    });
}

// S57, D2:
#[test]
fn a_scope_that_cancels_itself_with_grace_has_its_will() {
    virtually(|| {
        let cleaned = AtomicBool::new(false);
        let value = scope(|s| {
            s.spawn(|| {
                let met = sleep(Duration::MAX);
                cleanup(HOUR, || Ok(sleep(HOUR / 2)?))?;
                cleaned.store(true, Ordering::SeqCst);
                Ok(met?)
            });
            sleep(HOUR)?;
            s.cancel_with_grace(HOUR);
            Ok(7)
        });
        assert_eq!((value.unwrap(), cleaned.into_inner()), (7, true));
    });
}

// S57, S53:
#[test]
fn the_end_of_the_grace_does_not_reach_behind_a_shield_inside() {
    virtually(|| {
        let token = CancelToken::new();
        token.cancel_with_grace(HOUR);
        let result = token.enter(|| {
            cleanup(9 * HOUR, || {
                shield(5 * HOUR, || Ok(sleep(2 * HOUR)?))?;
                assert!(checkpoint().is_err(), "but it is met after it");
                token.cancel_now();
                shield(5 * HOUR, || Ok(checkpoint()?))
            })
        });
        assert!(result.is_ok());
    });
}

// S57, S52:
#[test]
fn the_end_of_the_grace_runs_callbacks_inside_without_anybody_looking() {
    virtually(|| {
        let (token, called) = (CancelToken::new(), Arc::new(Event::new()));
        let began = now();
        token
            .enter(|| {
                cleanup(Duration::MAX, || {
                    let theirs = Arc::clone(&called);
                    let registered = CancelToken::current().on_cancel(move || theirs.set());
                    token.cancel_with_grace(HOUR);
                    shield_unbounded(|| Ok(called.wait()?))?;
                    assert_eq!(now() - began, HOUR);
                    drop(registered);
                    Ok(())
                })
            })
            .unwrap();
    });
}

// S57, S62:
#[test]
fn of_its_limit_and_the_grace_that_end_together_the_grace_has_it() {
    virtually(|| {
        let token = CancelToken::new();
        token.cancel_with_grace(HOUR);
        let both = token.enter(|| cleanup(HOUR, || Ok(sleep(Duration::MAX)?)));
        assert!(both.unwrap_err().is::<Cancelled>());
    });
}

// S57, S40:
#[test]
fn the_grace_ends_the_waits_of_many_threads_in_real_time() {
    guarded(|| {
        let (token, cut, asleep) = (CancelToken::new(), AtomicUsize::new(0), Barrier::new(21));
        let group = ScopeOptions::new().under(&token).open(|s| {
            for _ in 0..20 {
                s.spawn(|| {
                    asleep.wait()?;
                    let met = sleep(Duration::MAX);
                    let result = cleanup(HOUR, || Ok(sleep(Duration::MAX)?));
                    cut.fetch_add(usize::from(result.is_err_and(|error| error.is::<Cancelled>())), Ordering::SeqCst);
                    Ok(met?)
                });
            }
            asleep.wait()?;
            token.cancel_with_grace(5 * MS);
            Ok(())
        });
        assert!(group.is_err());
        assert_eq!(cut.into_inner(), 20);
    });
}
