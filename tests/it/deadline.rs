//! Deadlines that move: earlier, later, away; from any thread, while others wait below.

use crate::{LIMIT, guarded, guarded_for, virtually};
use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tassel::{
    CancelToken, ErrorGroup, ReasonKind, ScopeOptions, checkpoint, is_cancelled, now,
    region::{TimedOut, fail_after, move_on_after},
    scope, sleep, sync,
    testing::virtual_time,
};

const HOUR: Duration = Duration::from_secs(3600);

fn set(token: &CancelToken, at: Instant) {
    token.set_deadline(Some(at));
}

/// Whether the first failure is a passed time limit.
fn timed_out(group: &ErrorGroup) -> bool {
    group.primary().downcast_ref::<TimedOut>().is_some()
}

// S60:
#[test]
fn a_deadline_moved_earlier_ends_the_waits_below_at_the_new_instant() {
    virtually(|| {
        let began = now();
        let options = ScopeOptions::new().name("s").timeout(10 * HOUR);
        let group = options
            .open(|s| {
                for _ in 0..3 {
                    s.spawn(|| Ok(sleep(Duration::MAX)?));
                }
                let inner = || move_on_after(9 * HOUR, || Ok(sleep(Duration::MAX)?));
                s.spawn(move || inner().map(drop));
                sleep(HOUR)?;
                s.set_deadline(Some(began + 2 * HOUR));
                Ok(())
            })
            .unwrap_err();
        assert_eq!(now() - began, 2 * HOUR);
        let late: &TimedOut = group.primary().downcast_ref().unwrap();
        assert_eq!((late.reason().who().as_str(), late.reason().at()), ("scope `s`", began + 2 * HOUR));
        let (place, line) = (late.reason().place().unwrap(), line!() - 7);
        assert_eq!((place.file(), place.line()), ("tests/it/deadline.rs", line), "where it was set last");
    });
}

// S60:
#[test]
fn a_deadline_moved_later_or_away_ends_nobody_at_the_old_instant() {
    virtually(|| {
        let began = now();
        for later in [Some(began + 9 * HOUR), None] {
            let began = now();
            let slept = fail_after(HOUR, || {
                let token = CancelToken::current();
                scope(|s| {
                    s.spawn(|| Ok(sleep(3 * HOUR)?));
                    sleep(HOUR / 2)?;
                    token.set_deadline(later);
                    sleep(HOUR)?;
                    assert!(!is_cancelled() && checkpoint().is_ok());
                    Ok(())
                })?;
                Ok(())
            });
            assert!(slept.is_ok(), "{slept:?}");
            assert_eq!(now() - began, 3 * HOUR);
        }
    });
}

// S60:
#[test]
fn a_deadline_set_where_there_was_none_ends_the_wait() {
    virtually(|| {
        let began = now();
        let group = scope(|s| {
            let token = s.token();
            s.spawn(move || {
                sleep(HOUR)?;
                set(&token, now() + HOUR);
                Ok(())
            });
            Ok(sleep(Duration::MAX)?)
        })
        .unwrap_err();
        assert!(timed_out(&group));
        assert_eq!(now() - began, 2 * HOUR);
    });
}

// S60, S40:
#[test]
fn who_waits_below_is_woken_to_plan_anew() {
    virtually(|| {
        let began = now();
        let token = CancelToken::new();
        scope(|s| {
            s.spawn(|| {
                sleep(HOUR)?;
                set(&token, began + 2 * HOUR);
                Ok(sleep(5 * HOUR)?)
            });
            // Nothing else wakes it: the deadline is not that of anything opened here.
            let stop = token.enter(|| sleep(Duration::MAX)).unwrap_err();
            assert_eq!((stop.reason().kind(), now() - began), (ReasonKind::Deadline, 2 * HOUR));
            Ok(())
        })
        .unwrap();
    });
}

// S60, S32:
#[test]
fn an_instant_in_the_past_cancels_before_the_call_returns() {
    virtually(|| {
        let past = now().checked_sub(HOUR).unwrap();
        for at in [past, now()] {
            let token = CancelToken::new();
            let (child, called) = (token.child(), Arc::new(sync::Event::new()));
            let theirs = Arc::clone(&called);
            let registered = child.on_cancel(move || theirs.set());
            set(&token, at);
            assert!(called.is_set(), "without a look");
            drop(registered);
            assert_eq!(token.reason().map(|reason| reason.kind()), Some(ReasonKind::Deadline));
            assert!(child.is_cancelled());
            assert_eq!(child.deadline(), Some(at));
        }
    });
}

// S60:
#[test]
fn moving_a_deadline_that_has_passed_takes_nothing_back() {
    virtually(|| {
        let token = CancelToken::new();
        let passed = now() + HOUR;
        set(&token, passed);
        sleep(2 * HOUR).unwrap();
        // Nobody has looked yet: passed is passed.
        set(&token, now() + HOUR);
        assert_eq!(token.reason().unwrap().at(), passed);
        assert_eq!(token.deadline(), Some(passed));
        token.set_deadline(None);
        assert!(token.is_cancelled());
        assert_eq!(token.deadline(), Some(passed), "readable after it has passed");
        let cancelled = CancelToken::new();
        cancelled.cancel_with("enough");
        set(&cancelled, now());
        assert_eq!((cancelled.deadline(), cancelled.reason().unwrap().text()), (None, Some("enough")));
    });
}

// S60, D26:
#[test]
fn the_effective_deadline_is_right_below_as_soon_as_the_call_returns() {
    virtually(|| {
        let (root, also) = (CancelToken::new(), CancelToken::new());
        let (left, began) = (root.child(), now());
        let at = |hours: u32| began + hours * HOUR;
        set(&root, at(5));
        set(&left, at(7));
        ScopeOptions::new()
            .under(&also)
            .open(|s| {
                let born_later = left.child();
                assert_eq!([&root, &left, &born_later].map(CancelToken::deadline), [Some(at(5)); 3]);
                root.set_deadline(None);
                assert_eq!([&left, &born_later].map(CancelToken::deadline), [Some(at(7)); 2]);
                set(&root, at(9));
                assert_eq!([root.deadline(), born_later.deadline()], [Some(at(9)), Some(at(7))]);
                left.set_deadline(None);
                assert_eq!([&left, &born_later].map(CancelToken::deadline), [Some(at(9)); 2]);
                // And through a second parent.
                set(&also, at(3));
                assert_eq!([s.token().deadline(), s.token().child().deadline()], [Some(at(3)); 2]);
                set(&also, at(4));
                assert_eq!(s.token().deadline(), Some(at(4)));
                Ok(())
            })
            .unwrap();
    });
}

// S60:
#[test]
fn a_moved_deadline_reaches_those_who_only_listen_or_are_called() {
    virtually(|| {
        let began = now();
        let (token, called) = (CancelToken::new(), sync::Event::new());
        let (child, called) = (token.child(), Arc::new(called));
        let registered = {
            let called = Arc::clone(&called);
            child.on_cancel(move || called.set())
        };
        let receiver = child.receiver();
        // There was no deadline when they came; then a far one; then a near one; then a later one.
        // Nobody looks meanwhile.
        for hours in [9, 2, 4] {
            set(&token, began + hours * HOUR);
        }
        sleep(3 * HOUR).unwrap();
        assert!(!called.is_set());
        called.wait().unwrap();
        assert_eq!(now() - began, 4 * HOUR);
        assert!(child.is_cancelled() && receiver.try_recv() == Err(crossbeam::channel::TryRecvError::Disconnected));
        drop(registered);
    });
}

// S60, S31:
#[test]
fn a_loop_that_only_looks_sees_a_deadline_that_moves() {
    guarded(|| {
        let (token, looked) = (CancelToken::new(), Barrier::new(2));
        set(&token, Instant::now() + HOUR);
        thread::scope(|t| {
            let thread = t.spawn(token.child().bind(|| {
                assert!(checkpoint().is_ok(), "from now on it is one load");
                looked.wait();
                while !is_cancelled() {
                    thread::yield_now();
                }
            }));
            looked.wait();
            set(&token, Instant::now() + 2 * HOUR);
            set(&token, Instant::now() + Duration::from_millis(2));
            thread.join().unwrap();
        });
        assert_eq!(token.reason().map(|reason| reason.kind()), Some(ReasonKind::Deadline));
    });
}

// S60:
#[test]
fn when_an_equal_outer_deadline_moves_away_the_own_one_is_still_watched() {
    virtually(|| {
        let began = now();
        let outer = CancelToken::new();
        let inner = outer.child();
        let called = Arc::new(sync::Event::new());
        set(&outer, began + HOUR);
        set(&inner, began + HOUR);
        let registered = {
            let called = Arc::clone(&called);
            inner.on_cancel(move || called.set())
        };
        outer.set_deadline(None);
        called.wait().unwrap();
        assert_eq!(now() - began, HOUR);
        assert!(!outer.is_cancelled());
        drop(registered);
    });
}

// S60:
#[test]
fn a_deadline_moved_a_hundred_thousand_times_ends_nobody_early() {
    // Each move visits a hundred nodes: seconds without optimisation.
    let moves = || {
        let began = now();
        let ended = AtomicUsize::new(0);
        let far = |n: u32| began + 10 * HOUR + Duration::from_secs(u64::from(n * 7919 % 3000));
        let group = ScopeOptions::new()
            .name("s")
            .deadline(far(0))
            .open(|s| {
                for _ in 0..100 {
                    s.spawn(|| {
                        let met = sleep(Duration::MAX);
                        ended.fetch_add(1, Ordering::SeqCst);
                        Ok(met?)
                    });
                }
                sleep(HOUR)?;
                let start = sync::Barrier::new(4);
                scope(|movers| {
                    for mover in 0..4 {
                        let (start, token) = (&start, s.token());
                        movers.spawn(move || {
                            start.wait()?;
                            for n in 0..25_000 {
                                set(&token, far(n * 4 + mover));
                                if n % 5000 == 0 {
                                    tassel::yield_now()?;
                                }
                            }
                            Ok(())
                        });
                    }
                    Ok(())
                })?;
                assert_eq!(ended.load(Ordering::SeqCst), 0);
                set(&s.token(), began + 20 * HOUR);
                Ok(())
            })
            .unwrap_err();
        assert!(timed_out(&group));
        assert_eq!((ended.into_inner(), now() - began), (100, 20 * HOUR));
    };
    guarded_for(4 * LIMIT, || virtual_time(moves));
}

// S60:
#[test]
fn threads_that_move_one_deadline_at_once_end_nobody() {
    guarded(|| {
        let token = CancelToken::new();
        let far = Instant::now() + HOUR;
        let (asleep, start) = (Barrier::new(11), Barrier::new(4));
        thread::scope(|t| {
            let sleepers: Vec<_> = (0..10)
                .map(|_| {
                    t.spawn(token.child().bind(|| {
                        asleep.wait();
                        sleep(Duration::MAX)
                    }))
                })
                .collect();
            asleep.wait();
            let movers: Vec<_> = (0..4_u32)
                .map(|mover| {
                    let (start, token) = (&start, &token);
                    t.spawn(move || {
                        start.wait();
                        for n in 0..500 {
                            token.set_deadline(
                                (n % 7 != 0).then(|| far + Duration::from_secs(u64::from(n * mover % 13))),
                            );
                        }
                    })
                })
                .collect();
            for mover in movers {
                mover.join().unwrap();
            }
            assert!(sleepers.iter().all(|sleeper| !sleeper.is_finished()) && !token.is_cancelled());
            set(&token, far + HOUR);
            assert!(token.child().deadline() == Some(far + HOUR));
            set(&token, Instant::now());
            for sleeper in sleepers {
                let stop = sleeper.join().unwrap().unwrap_err();
                assert_eq!(stop.reason().kind(), ReasonKind::Deadline);
            }
        });
    });
}

// S60, S61:
#[test]
fn a_job_that_gives_itself_a_deadline_times_out_alone() {
    virtually(|| {
        let group = scope(|s| {
            s.job("slow").spawn(|| {
                CancelToken::current().set_deadline(Some(now() + HOUR));
                Ok(sleep(Duration::MAX)?)
            });
            sleep(2 * HOUR).unwrap_err();
            Ok(())
        })
        .unwrap_err();
        assert!(timed_out(&group));
        assert_eq!(group.primary().downcast_ref::<TimedOut>().unwrap().reason().who(), "job `slow`");
        assert_eq!(group.primary().offset(), HOUR);
    });
}

// S60, S46:
#[test]
fn the_exit_of_a_scope_follows_a_deadline_that_is_moved_while_it_waits() {
    virtually(|| {
        let began = now();
        let group = ScopeOptions::new()
            .name("s")
            .timeout(9 * HOUR)
            .open(|s| {
                s.spawn(|| {
                    sleep(HOUR)?;
                    s.set_deadline(Some(began + 2 * HOUR));
                    Ok(sleep(Duration::MAX)?)
                });
                Ok(())
            })
            .unwrap_err();
        assert!(timed_out(&group));
        assert_eq!(now() - began, 2 * HOUR);
    });
}
