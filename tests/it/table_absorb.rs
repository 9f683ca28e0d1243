//! D17 as a test, row by row: which exit takes a stop in, and what it makes of it; and D16, what counts as a stop.

use crate::{named, virtually};
use anyhow::Context as _;
use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};
use tassel::{
    CancelToken, Cancelled, Child, ErrorGroup, JoinError, OrStopped as _, ReasonKind, checkpoint, now,
    region::{TimedOut, cleanup, fail_after, fail_at, move_on_after, move_on_at, shield, shield_unbounded},
    scope, sleep,
};

const HOUR: Duration = Duration::from_secs(3600);

/// The only leaf, which is a direct child, as the stop that it is.
fn only_stop(group: &ErrorGroup) -> &Cancelled {
    assert_eq!((group.len(), group.iter().len()), (1, 1), "{group:?}");
    assert!(matches!(group.iter().next(), Some(Child::Leaf(_))), "a stop is passed on flat: {group:?}");
    group.primary().stop().unwrap_or_else(|| panic!("no stop: {group:?}"))
}

/// The only leaf, which is a direct child, as the passed time limit that it is.
fn only_timeout(group: &ErrorGroup) -> &TimedOut {
    assert_eq!((group.len(), group.iter().len()), (1, 1), "{group:?}");
    assert!(matches!(group.iter().next(), Some(Child::Leaf(_))), "{group:?}");
    group.primary().downcast_ref().unwrap_or_else(|| panic!("no time-out: {group:?}"))
}

/// All failures, in order; fails if a stop is among them.
fn failures(group: &ErrorGroup) -> Vec<String> {
    assert!(group.leaves().all(|leaf| leaf.stop().is_none()), "a stop beside failures: {group:?}");
    group.leaves().map(|leaf| format!("{leaf:#}")).collect()
}

/// Lets virtual time pass where a cancel cannot be seen.
fn deaf(time: Duration) {
    CancelToken::new().enter(|| sleep(time)).expect("nobody can cancel this token");
}

/// Cancels what the code stands in, and meets it.
fn stop_here() -> Cancelled {
    CancelToken::current().cancel();
    checkpoint().expect_err("it was cancelled just now")
}

fn stop_of(error: &anyhow::Error) -> &Cancelled {
    error.downcast_ref().unwrap_or_else(|| panic!("no stop: {error:?}"))
}

type Region = fn(Duration, &dyn Fn() -> tassel::Result<()>) -> tassel::Result<()>;

/// The two that keep an outer stop out, and their names.
const KEEP_OUT: [(Region, &str); 2] =
    [(|limit, f| shield(limit, f), "shield"), (|limit, f| cleanup(limit, f), "cleanup")];

// Row 1, from outside.

// D17, S33, S46:
#[test]
fn a_scope_passes_on_what_came_from_outside_flat_at_every_level() {
    virtually(|| {
        let result = named("outer").open(|s| {
            let middle = named("middle").open(|_| {
                let inner = named("inner").open(|_| {
                    s.cancel_with("enough");
                    Ok(sleep(HOUR)?)
                });
                let group = inner.unwrap_err();
                assert_eq!(only_stop(&group).reason().who(), "scope `outer`");
                assert_eq!((group.name().as_ref(), group.stopped()), ("inner", false));
                assert_eq!(Err::<(), _>(group).or_stopped().unwrap_err().name(), "inner");
                Ok(sleep(HOUR)?)
            });
            let group = middle.unwrap_err();
            assert_eq!(only_stop(&group).reason().text(), Some("enough"));
            assert_eq!((group.name().as_ref(), group.stopped()), ("middle", false));
            Err::<(), _>(group.into())
        });
        let group = result.unwrap_err();
        assert_eq!(only_stop(&group).reason().who(), "scope `outer`");
        assert!(group.stopped());
    });
}

// D17, S35:
#[test]
fn a_scope_in_a_job_passes_the_stop_to_the_outer_scope_which_has_one_leaf() {
    virtually(|| {
        let token = CancelToken::new();
        let result = named("outer").under(&token).open(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    named("inner").open(|s| {
                        for _ in 0..10 {
                            s.spawn(|| Ok(sleep(10 * HOUR)?));
                        }
                        Ok(sleep(10 * HOUR)?)
                    })?;
                    Ok(())
                });
            }
            sleep(HOUR)?;
            token.cancel_with("closing time");
            Ok(7)
        });
        let group = result.unwrap_err();
        assert_eq!(only_stop(&group).reason().text(), Some("closing time"));
        assert!(!group.stopped());
    });
}

// D17:
#[test]
fn regions_pass_on_what_came_from_outside() {
    virtually(|| {
        let result = named("s").open(|s| {
            s.cancel();
            let (at, sleeps) = (now() + HOUR, || Ok(sleep(10 * HOUR)?));
            let whos = [
                fail_after(HOUR, sleeps).unwrap_err(),
                fail_at(at, sleeps).unwrap_err(),
                move_on_after(HOUR, sleeps).unwrap_err(),
                move_on_at(at, sleeps).unwrap_err(),
            ]
            .map(|error| stop_of(&error).reason().who());
            assert_eq!(whos, ["scope `s`"; 4]);
            move_on_after(HOUR, || Ok(sleep(10 * HOUR)?))
        });
        assert!(result.unwrap_err().stopped());
    });
}

// D17, S57:
#[test]
fn cleanup_passes_on_what_came_from_outside_at_the_end_of_the_grace() {
    virtually(|| {
        let result = named("s").grace(HOUR).open(|s| {
            s.cancel();
            let inner = named("inner").open(|_| cleanup(9 * HOUR, || Ok(sleep(10 * HOUR)?)));
            let group = inner.unwrap_err();
            assert_eq!(only_stop(&group).reason().who(), "scope `s`");
            assert!(!group.stopped(), "it came from outside of the inner one");
            let error = cleanup(9 * HOUR, || Ok(checkpoint()?)).unwrap_err();
            assert_eq!(stop_of(&error).reason().who(), "scope `s`");
            Err::<(), _>(error)
        });
        let group = result.unwrap_err();
        assert_eq!(only_stop(&group).reason().who(), "scope `s`");
        assert!(group.stopped());
    });
}

// D17, S33:
#[test]
fn a_stop_met_outside_and_returned_through_a_shield_or_cleanup_passes_on() {
    virtually(|| {
        for (region, _) in KEEP_OUT {
            let result = named("s").open(|s| {
                s.cancel();
                let stop = checkpoint().unwrap_err();
                region(HOUR, &|| Err(stop.clone().into()))
            });
            let group = result.unwrap_err();
            let _ = only_stop(&group);
            assert!(group.stopped());
        }
    });
}

// Row 2, the own deadline.

// D17, S61:
#[test]
fn a_scope_makes_a_timed_out_of_its_own_deadline() {
    virtually(|| {
        let opened = now();
        for options in [named("s").timeout(HOUR), named("s").deadline(now() + 2 * HOUR)] {
            let began = now();
            let group = options.open(|_| Ok(sleep(10 * HOUR)?)).unwrap_err();
            assert_eq!(now() - began, HOUR);
            assert_eq!(group.primary().offset(), HOUR);
            let error = only_timeout(&group);
            assert_eq!((error.reason().kind(), error.reason().who().as_str()), (ReasonKind::Deadline, "scope `s`"));
            assert!(!group.stopped());
            assert!(Err::<(), _>(group).or_stopped().is_err());
        }
        assert_eq!(now() - opened, 2 * HOUR);
    });
}

// D17, S61:
#[test]
fn fail_makes_a_timed_out_of_its_own_deadline_which_is_an_ordinary_failure() {
    virtually(|| {
        let group = named("s")
            .open(|s| {
                let sleeps = || Ok(sleep(10 * HOUR)?);
                let error = fail_at(now() + HOUR, sleeps).unwrap_err();
                assert_eq!(error.downcast_ref::<TimedOut>().unwrap().reason().kind(), ReasonKind::Deadline);
                assert!(!s.is_cancelled());
                fail_after(HOUR, sleeps)
            })
            .unwrap_err();
        let error = only_timeout(&group);
        assert_eq!(error.reason().kind(), ReasonKind::Deadline);
        assert!(error.to_string().contains(" timed out: deadline of 3600s (tests/it/table_absorb.rs:"), "{error}");
        assert!(!group.stopped());
        assert_eq!(group.primary().offset(), 2 * HOUR);
        assert_eq!(group.reason().unwrap().kind(), ReasonKind::Failure);
    });
}

// D17:
#[test]
fn move_on_makes_none_of_its_own_deadline() {
    virtually(|| {
        let began = now();
        let sleeps = || Ok(sleep(10 * HOUR)?);
        assert_eq!(move_on_after(HOUR, sleeps).unwrap(), None);
        assert_eq!(move_on_at(began + 2 * HOUR, sleeps).unwrap(), None);
        assert_eq!(now() - began, 2 * HOUR);
    });
}

// D17, S54, S61:
#[test]
fn shields_and_cleanup_make_a_timed_out_of_their_own_limit_wherever_they_stand() {
    virtually(|| {
        for (region, what) in KEEP_OUT {
            for cancelled in [false, true] {
                let result = named("s").open(|s| {
                    if cancelled {
                        s.cancel();
                    }
                    region(HOUR, &|| Ok(sleep(10 * HOUR)?))
                });
                let group = result.unwrap_err();
                let error = only_timeout(&group);
                assert_eq!(error.reason().kind(), ReasonKind::Deadline);
                let begins = format!("{what} `tests/it/table_absorb.rs:");
                assert!(error.to_string().starts_with(&begins), "{error}");
                assert_eq!(group.primary().offset(), HOUR);
                assert_eq!((group.primary().during_cancellation(), group.stopped()), (cancelled, false));
            }
        }
    });
}

// D17, S59, D9:
#[test]
fn a_limit_of_zero_starts_shields_and_cleanup_and_fails_their_first_checkpoint() {
    virtually(|| {
        for (region, _) in KEEP_OUT {
            let started = AtomicBool::new(false);
            let error = region(Duration::ZERO, &|| {
                started.store(true, Ordering::SeqCst);
                Ok(checkpoint()?)
            });
            assert!(error.unwrap_err().is::<TimedOut>() && started.into_inner());
            assert!(region(Duration::ZERO, &|| Ok(())).is_ok());
        }
    });
}

// Row 3, the own token or cancel.

// D17, S36:
#[test]
fn a_scope_that_stops_itself_is_stopped() {
    virtually(|| {
        let by_cancel = named("s").open(|s| {
            s.cancel_with("found");
            Ok(sleep(HOUR)?)
        });
        let by_token = named("s").open(|s| {
            s.token().cancel_with("found");
            Ok(sleep(HOUR)?)
        });
        let by_current = named("s").open(|_| {
            CancelToken::current().cancel_with("found");
            Ok(sleep(HOUR)?)
        });
        for result in [by_cancel, by_token, by_current] {
            let group = result.unwrap_err();
            assert_eq!(only_stop(&group).reason().text(), Some("found"));
            assert!(group.stopped());
            assert_eq!(Err::<(), _>(group).or_stopped().unwrap(), None);
        }
    });
}

// D2, D17:
#[test]
fn a_token_of_the_scope_stops_it_against_its_will() {
    virtually(|| {
        let result = named("s").open(|s| {
            s.spawn(|| Ok(sleep(10 * HOUR)?));
            sleep(HOUR)?;
            s.token().cancel();
            Ok(7)
        });
        let group = result.unwrap_err();
        assert_eq!(only_stop(&group).reason().who(), "scope `s`");
        assert!(group.stopped());
    });
}

// D17:
#[test]
fn the_own_cancel_of_fail_is_a_failure_to_those_outside() {
    virtually(|| {
        let group = named("s")
            .open(|s| {
                let error = fail_at(now() + HOUR, || Err::<(), _>(stop_here().into())).unwrap_err();
                assert_eq!(stop_of(&error).reason().kind(), ReasonKind::Explicit);
                assert!(!s.is_cancelled());
                fail_after(HOUR, || Err::<(), _>(stop_here().into()))
            })
            .unwrap_err();
        assert_eq!(group.len(), 1);
        assert_eq!(group.primary().to_string(), "the body ended with a cancellation that was not its own");
        assert!(!group.stopped());
    });
}

// D17, D26:
#[test]
fn the_own_cancel_of_fail_met_by_a_cancelled_scope_is_a_stop_there() {
    virtually(|| {
        let result = named("s").open(|s| {
            let error = fail_after(HOUR, || Err::<(), _>(stop_here().into())).unwrap_err();
            s.cancel();
            Err::<(), _>(error)
        });
        let group = result.unwrap_err();
        let _ = only_stop(&group);
        assert!(group.stopped());
    });
}

// D17, D26:
#[test]
fn the_own_cancel_of_a_shield_or_cleanup_is_a_failure_but_a_stop_where_the_scope_is_cancelled_too() {
    virtually(|| {
        let bounded = KEEP_OUT.map(|(region, _)| region);
        let unbounded: Region = |_, f| shield_unbounded(f);
        for region in bounded.into_iter().chain([unbounded]) {
            for cancelled in [false, true] {
                let result = named("s").open(|s| {
                    if cancelled {
                        s.cancel();
                    }
                    let error = region(HOUR, &|| Err(stop_here().into())).unwrap_err();
                    assert!(!stop_of(&error).reason().who().starts_with("scope"), "it shows its own origin");
                    Err::<(), _>(error)
                });
                let group = result.unwrap_err();
                assert_eq!((group.len(), group.stopped()), (1, cancelled));
                if cancelled {
                    let _ = only_stop(&group);
                } else {
                    let told = "the body ended with a cancellation that was not its own";
                    assert_eq!(group.primary().to_string(), told);
                }
            }
        }
    });
}

// D17, S33:
#[test]
fn behind_a_shield_the_inner_scope_absorbs_though_the_outer_is_cancelled_too() {
    virtually(|| {
        let between = AtomicBool::new(false);
        let result = named("outer").open(|outer| {
            outer.cancel();
            shield(HOUR, || {
                let inner = named("inner").open(|inner| {
                    inner.cancel();
                    Ok(checkpoint()?)
                });
                assert_eq!(inner.or_stopped()?, None);
                checkpoint()?;
                between.store(true, Ordering::SeqCst);
                Ok(())
            })?;
            Ok(checkpoint()?)
        });
        assert!(result.unwrap_err().stopped() && between.into_inner());
    });
}

// D17:
#[test]
fn the_own_cancel_of_move_on_is_none() {
    virtually(|| {
        assert_eq!(move_on_after(HOUR, || Err::<(), _>(stop_here().into())).unwrap(), None);
        assert_eq!(move_on_at(now() + HOUR, || Err::<(), _>(stop_here().into())).unwrap(), None);
    });
}

// Beside the table.

// S6:
#[test]
fn an_empty_scope_in_a_cancelled_place_returns_its_value() {
    virtually(|| {
        let result = scope(|s| {
            s.cancel();
            let inner = scope(|_| Ok(7));
            assert_eq!(move_on_after(HOUR, || Ok(8)).unwrap(), Some(8));
            assert_eq!(fail_after(HOUR, || Ok(9)).unwrap(), 9);
            Ok(inner?)
        });
        assert_eq!(result.unwrap(), 7);
    });
}

// S7:
#[test]
fn a_value_wins_over_a_cancel_after_the_last_checkpoint() {
    virtually(|| {
        let token = CancelToken::new();
        let result = named("s").under(&token).open(|s| {
            s.spawn(|| Ok(sleep(HOUR)?)).join()?;
            token.cancel();
            assert!(s.is_cancelled());
            Ok(7)
        });
        assert_eq!(result.unwrap(), 7);
        let ends_late = || {
            CancelToken::current().cancel();
            Ok(7)
        };
        assert_eq!(move_on_after(HOUR, ends_late).unwrap(), Some(7));
        assert_eq!(fail_after(HOUR, ends_late).unwrap(), 7);
    });
}

// S61:
#[test]
fn a_swallowed_deadline_gives_the_value() {
    virtually(|| {
        let swallows = || {
            assert_eq!(sleep(10 * HOUR).unwrap_err().reason().kind(), ReasonKind::Deadline);
            assert!(checkpoint().is_err(), "sticky");
            Ok(7)
        };
        assert_eq!(fail_after(HOUR, swallows).unwrap(), 7);
        assert_eq!(move_on_after(HOUR, swallows).unwrap(), Some(7));
        assert_eq!(named("s").timeout(HOUR).open(|_| swallows()).unwrap(), 7);
    });
}

// S61:
#[test]
fn a_cancel_before_the_deadline_is_no_timeout() {
    virtually(|| {
        let stops = || {
            let stop = stop_here();
            deaf(2 * HOUR);
            Err::<(), _>(stop.into())
        };
        let error = fail_after(HOUR, stops).unwrap_err();
        assert_eq!(stop_of(&error).reason().kind(), ReasonKind::Explicit);
        let group = named("s").timeout(HOUR).open(|_| stops()).unwrap_err();
        assert_eq!(only_stop(&group).reason().kind(), ReasonKind::Explicit);
        assert!(group.stopped());
    });
}

// S61:
#[test]
fn a_real_error_after_the_deadline_is_that_error() {
    virtually(|| {
        let breaks = || {
            assert!(sleep(10 * HOUR).is_err());
            Err::<(), _>(anyhow::anyhow!("broke"))
        };
        assert_eq!(fail_after(HOUR, breaks).unwrap_err().to_string(), "broke");
        assert_eq!(move_on_after(HOUR, breaks).unwrap_err().to_string(), "broke");
        let group = named("s").timeout(HOUR).open(|_| breaks()).unwrap_err();
        assert_eq!(failures(&group), ["the body failed: broke"]);
        assert!(group.primary().during_cancellation());
    });
}

// S61:
#[test]
fn an_outer_cancel_is_no_timeout_of_the_inner_limit() {
    virtually(|| {
        let token = CancelToken::new();
        let error = token.enter(|| {
            fail_after(HOUR, || {
                token.cancel();
                deaf(2 * HOUR);
                Ok(checkpoint()?)
            })
            .unwrap_err()
        });
        assert_eq!(stop_of(&error).reason().kind(), ReasonKind::Explicit);
    });
}

// S62:
#[test]
fn of_two_limits_that_end_together_the_outer_one_absorbs() {
    virtually(|| {
        let outer = fail_after(HOUR, || {
            let inner = fail_after(HOUR, || Ok(sleep(10 * HOUR)?));
            assert_eq!(stop_of(inner.as_ref().unwrap_err()).reason().kind(), ReasonKind::Deadline);
            inner
        });
        assert!(outer.unwrap_err().is::<TimedOut>());

        let group = named("outer")
            .timeout(HOUR)
            .open(|_| {
                let group = named("inner").timeout(HOUR).open(|_| Ok(sleep(10 * HOUR)?)).unwrap_err();
                assert_eq!(only_stop(&group).reason().who(), "scope `outer`");
                assert!(!group.stopped());
                Err::<(), _>(group.into())
            })
            .unwrap_err();
        assert_eq!(only_timeout(&group).reason().who(), "scope `outer`");
    });
}

// S62:
#[test]
fn of_two_limits_found_passed_at_once_the_outer_one_absorbs() {
    virtually(|| {
        let outer = move_on_after(2 * HOUR, || {
            let inner = fail_after(HOUR, || {
                deaf(3 * HOUR);
                Ok(checkpoint()?)
            });
            let _ = stop_of(inner.as_ref().unwrap_err());
            inner
        });
        assert_eq!(outer.unwrap(), None);

        let group = named("outer")
            .timeout(2 * HOUR)
            .open(|_| {
                let group = named("inner")
                    .timeout(HOUR)
                    .open(|_| {
                        deaf(3 * HOUR);
                        Ok(checkpoint()?)
                    })
                    .unwrap_err();
                assert_eq!(only_stop(&group).reason().who(), "scope `outer`");
                Err::<(), _>(group.into())
            })
            .unwrap_err();
        assert_eq!(only_timeout(&group).reason().who(), "scope `outer`");
    });
}

// S62, S33:
#[test]
fn an_outer_limit_that_passes_while_the_inner_stop_unwinds_takes_it() {
    virtually(|| {
        let outer = move_on_after(2 * HOUR, || {
            let inner = move_on_after(HOUR, || {
                let stop = sleep(10 * HOUR).unwrap_err();
                deaf(HOUR);
                Err::<(), _>(stop.into())
            });
            let _ = stop_of(inner.as_ref().unwrap_err());
            inner
        });
        assert_eq!(outer.unwrap(), None);
    });
}

// S62:
#[test]
fn an_inner_limit_that_is_alone_absorbs() {
    virtually(|| {
        let outer = fail_after(2 * HOUR, || {
            assert_eq!(move_on_after(HOUR, || Ok(sleep(10 * HOUR)?)).unwrap(), None);
            assert!(fail_after(HOUR / 2, || Ok(sleep(10 * HOUR)?)).unwrap_err().is::<TimedOut>());
            checkpoint()?;
            Ok(7)
        });
        assert_eq!(outer.unwrap(), 7);
    });
}

// S59, D9:
#[test]
fn a_limit_in_the_past_starts_the_code_and_fails_its_first_checkpoint() {
    virtually(|| {
        let past = now().checked_sub(Duration::from_secs(1)).unwrap();
        let started = AtomicU32::new(0);
        let meets = || {
            started.fetch_add(1, Ordering::SeqCst);
            checkpoint()?;
            Ok(7)
        };
        assert_eq!(move_on_at(past, meets).unwrap(), None);
        assert_eq!(move_on_after(Duration::ZERO, meets).unwrap(), None);
        assert!(fail_at(past, meets).unwrap_err().is::<TimedOut>());
        assert!(fail_after(Duration::ZERO, meets).unwrap_err().is::<TimedOut>());
        let group = named("s").deadline(past).open(|_| meets()).unwrap_err();
        assert_eq!(only_timeout(&group).reason().who(), "scope `s`");
        let group = named("s").timeout(Duration::ZERO).open(|_| meets()).unwrap_err();
        assert_eq!(only_timeout(&group).reason().who(), "scope `s`");
        assert_eq!(started.into_inner(), 6);
    });
}

// S59, D9:
#[test]
fn code_without_checkpoints_completes_under_a_limit_in_the_past() {
    virtually(|| {
        let past = now().checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(move_on_at(past, || Ok(7)).unwrap(), Some(7));
        assert_eq!(move_on_after(Duration::ZERO, || Ok(7)).unwrap(), Some(7));
        assert_eq!(fail_at(past, || Ok(7)).unwrap(), 7);
        assert_eq!(fail_after(Duration::ZERO, || Ok(7)).unwrap(), 7);
        assert_eq!(named("s").deadline(past).open(|_| Ok(7)).unwrap(), 7);
        assert_eq!(named("s").timeout(Duration::ZERO).open(|_| Ok(7)).unwrap(), 7);
    });
}

// S58:
#[test]
fn a_relative_limit_counts_from_entry_and_for_ever_does_not_wrap() {
    virtually(|| {
        let options = named("s").timeout(HOUR);
        sleep(10 * HOUR).unwrap();
        assert_eq!(options.open(|_| Ok(sleep(HOUR / 2)?)).unwrap(), ());
        assert_eq!(move_on_after(Duration::MAX, || Ok(sleep(HOUR)?)).unwrap(), Some(()));
        assert_eq!(fail_after(Duration::MAX, || Ok(sleep(HOUR)?)).unwrap(), ());
        assert_eq!(named("s").timeout(Duration::MAX).open(|_| Ok(sleep(HOUR)?)).unwrap(), ());
    });
}

// S63:
#[test]
fn a_fresh_limit_in_cleanup_code_after_a_timeout_works_on_its_own() {
    virtually(|| {
        let outer = move_on_after(HOUR, || {
            let met = sleep(10 * HOUR);
            // Cleanup of its own tree, with a limit of its own.
            let cleanup = CancelToken::new().enter(|| move_on_after(HOUR, || Ok(sleep(10 * HOUR)?)));
            assert_eq!(cleanup.unwrap(), None);
            Ok(met?)
        });
        assert_eq!(outer.unwrap(), None);
        // After the region, outside of it, the same.
        assert!(fail_after(HOUR, || Ok(sleep(10 * HOUR)?)).unwrap_err().is::<TimedOut>());
    });
}

// S33:
#[test]
fn where_inner_and_outer_are_cancelled_the_outer_absorbs() {
    virtually(|| {
        for inner_first in [true, false] {
            let outer = move_on_after(HOUR, || {
                let outer = CancelToken::current();
                let inner = move_on_after(HOUR, || {
                    let inner = CancelToken::current();
                    let order = if inner_first { [&inner, &outer] } else { [&outer, &inner] };
                    order.into_iter().for_each(CancelToken::cancel);
                    Ok(checkpoint()?)
                });
                let _ = stop_of(inner.as_ref().unwrap_err());
                inner
            });
            assert_eq!(outer.unwrap(), None);
        }
    });
}

// S33:
#[test]
fn an_outer_cancel_while_the_inner_stop_unwinds_passes_the_inner() {
    virtually(|| {
        let result = named("outer").open(|s| {
            let group = named("inner")
                .open(|inner| {
                    inner.cancel();
                    let stop = checkpoint().unwrap_err();
                    assert_eq!(stop.reason().who(), "scope `inner`");
                    s.cancel();
                    Err::<(), _>(stop.into())
                })
                .unwrap_err();
            let _ = only_stop(&group);
            assert!(!group.stopped());
            Err::<(), _>(group.into())
        });
        let group = result.unwrap_err();
        let _ = only_stop(&group);
        assert!(group.stopped());
    });
}

// S33, S15:
#[test]
fn attribution_is_by_the_state_at_the_exit_not_by_the_origin_of_the_stop() {
    virtually(|| {
        let other = CancelToken::new();
        other.cancel();
        let stray = other.enter(checkpoint).unwrap_err();
        // Nobody here is cancelled: nobody takes it in.
        assert!(
            stop_of(&move_on_after(HOUR, || Err::<(), _>(stray.clone().into())).unwrap_err())
                .reason()
                .who()
                .starts_with("token")
        );
        // The region is cancelled, so it takes any stop in.
        let takes = move_on_after(HOUR, || {
            CancelToken::current().cancel();
            Err::<(), _>(stray.clone().into())
        });
        assert_eq!(takes.unwrap(), None);
    });
}

// S34:
#[test]
fn a_cancelled_scope_with_real_errors_returns_only_these() {
    virtually(|| {
        let result = named("s").open(|s| {
            s.job("sleeps").spawn(|| Ok(sleep(10 * HOUR)?));
            s.job("breaks").spawn(|| -> tassel::Result<()> {
                assert!(sleep(10 * HOUR).is_err());
                anyhow::bail!("broke")
            });
            sleep(HOUR)?;
            s.cancel();
            Ok(sleep(HOUR)?)
        });
        let group = result.unwrap_err();
        assert_eq!(failures(&group), ["job `breaks` failed: broke"]);
        assert!(group.primary().during_cancellation() && !group.stopped());
        assert!(Err::<(), _>(group).or_stopped().is_err());
    });
}

// S34:
#[test]
fn inner_scopes_that_were_only_stopped_leave_no_node_in_the_group() {
    virtually(|| {
        let result = named("outer").open(|s| {
            s.job("fails").spawn(|| -> tassel::Result<()> {
                sleep(HOUR)?;
                anyhow::bail!("disk full")
            });
            s.job("opens").spawn(|| {
                named("inner").open(|s| {
                    for _ in 0..3 {
                        s.spawn(|| Ok(sleep(10 * HOUR)?));
                    }
                    Ok(())
                })?;
                Ok(())
            });
            Ok(())
        });
        let group = result.unwrap_err();
        assert_eq!(group.iter().len(), 1, "{group:?}");
        assert_eq!(failures(&group), ["job `fails` failed: disk full"]);
    });
}

// S34, S8:
#[test]
fn an_inner_group_of_a_stop_and_a_failure_keeps_the_failure() {
    virtually(|| {
        let result = named("outer").open(|s| {
            s.job("opens").spawn(|| {
                named("inner").open(|s| {
                    s.job("sleeps").spawn(|| Ok(sleep(10 * HOUR)?));
                    s.job("breaks").spawn(|| -> tassel::Result<()> {
                        assert!(sleep(10 * HOUR).is_err());
                        anyhow::bail!("broke")
                    });
                    Ok(())
                })?;
                Ok(())
            });
            sleep(HOUR)?;
            s.cancel();
            Ok(7)
        });
        let group = result.unwrap_err();
        assert!(
            matches!(group.iter().next(), Some(Child::Group(sub)) if sub.name() == "opens" && sub.during_cancellation())
        );
        assert_eq!((group.iter().len(), failures(&group)), (1, vec!["job `breaks` failed: broke".to_owned()]));
    });
}

// S35:
#[test]
fn ten_cancelled_jobs_under_an_outer_cancel_are_one_cancelled() {
    virtually(|| {
        let token = CancelToken::new();
        let result = named("s").under(&token).open(|s| {
            for _ in 0..10 {
                s.spawn(|| Ok(sleep(10 * HOUR)?));
            }
            sleep(HOUR)?;
            token.cancel();
            Ok(sleep(HOUR)?)
        });
        let group = result.unwrap_err();
        let _ = only_stop(&group);
        assert!(!group.stopped());
    });
}

// S35:
#[test]
fn real_errors_beside_an_outer_cancel_are_the_result_and_the_cancel_is_still_known() {
    virtually(|| {
        let token = CancelToken::new();
        let result = named("s").under(&token).open(|s| {
            s.job("sleeps").spawn(|| Ok(sleep(10 * HOUR)?));
            s.job("breaks").spawn(|| -> tassel::Result<()> {
                assert!(sleep(10 * HOUR).is_err());
                anyhow::bail!("broke")
            });
            sleep(HOUR)?;
            token.cancel_with("closing time");
            Ok(sleep(HOUR)?)
        });
        let group = result.unwrap_err();
        assert_eq!(failures(&group), ["job `breaks` failed: broke"]);
        let reason = group.reason().unwrap();
        assert_eq!((reason.kind(), reason.text()), (ReasonKind::Explicit, Some("closing time")));
    });
}

// S36, D2:
#[test]
fn or_stopped_tells_a_value_from_a_stop() {
    virtually(|| {
        let value = named("s").open(|s| {
            s.cancel();
            Ok(7)
        });
        assert_eq!(value.or_stopped().unwrap(), Some(7));
        let stopped = named("s").open(|s| {
            s.cancel();
            checkpoint()?;
            Ok(7)
        });
        assert_eq!(stopped.or_stopped().unwrap(), None);
        let failed = named("s").open(|_| -> tassel::Result<u32> { anyhow::bail!("broke") });
        assert_eq!(failures(&failed.or_stopped().unwrap_err()), ["the body failed: broke"]);
    });
}

// D2, S7:
#[test]
fn an_outer_cancel_after_the_scopes_own_will_cut_its_jobs_takes_no_value() {
    virtually(|| {
        let token = CancelToken::new();
        let result = named("s").under(&token).open(|s| {
            let job = s.spawn(|| Ok(sleep(10 * HOUR)?));
            sleep(HOUR)?;
            s.cancel();
            // The job was stopped by the scope's will, and is home.
            deaf(HOUR);
            assert!(matches!(job.try_join(), Ok(Err(JoinError::Cancelled { started: true, .. }))));
            token.cancel();
            Ok(7)
        });
        assert_eq!(result.unwrap(), 7);
    });
}

// D2, S47:
#[test]
fn an_outer_cancel_after_a_job_was_cancelled_by_its_handle_takes_no_value() {
    virtually(|| {
        let token = CancelToken::new();
        let result = named("s").under(&token).open(|s| {
            let job = s.spawn(|| Ok(sleep(10 * HOUR)?));
            sleep(HOUR)?;
            job.cancel();
            assert!(matches!(job.join(), Err(JoinError::Cancelled { started: true, .. })));
            token.cancel();
            Ok(7)
        });
        assert_eq!(result.unwrap(), 7);
    });
}

// D2:
#[test]
fn an_own_cancel_after_an_outer_one_cut_its_jobs_gives_no_value() {
    virtually(|| {
        let token = CancelToken::new();
        let result = named("s").under(&token).open(|s| {
            let job = s.spawn(|| Ok(sleep(10 * HOUR)?));
            sleep(HOUR)?;
            token.cancel();
            assert!(matches!(job.join(), Err(JoinError::You(_))));
            s.cancel();
            Ok(7)
        });
        let group = result.unwrap_err();
        assert!(only_stop(&group).reason().who().starts_with("token `"));
        assert!(!group.stopped());
    });
}

// D17, S61, S46:
#[test]
fn a_deadline_that_passes_at_the_exit_stops_the_jobs_there() {
    virtually(|| {
        let began = now();
        let group = named("s")
            .timeout(HOUR)
            .open(|s| {
                s.spawn(|| Ok(sleep(10 * HOUR)?));
                s.spawn(|| Ok(sleep(20 * HOUR)?));
                Ok(7)
            })
            .unwrap_err();
        assert_eq!(only_timeout(&group).reason().who(), "scope `s`");
        assert_eq!(now() - began, HOUR);
    });
}

// S62, S58:
#[test]
fn of_the_limits_of_a_job_and_its_scope_that_end_together_the_scopes_absorbs() {
    virtually(|| {
        let group = named("s")
            .timeout(HOUR)
            .open(|s| {
                s.job("x").timeout(HOUR).spawn(|| Ok(sleep(10 * HOUR)?));
                Ok(())
            })
            .unwrap_err();
        assert_eq!(only_timeout(&group).reason().who(), "scope `s`");
        // Also of a job that cannot start.
        let group = named("s")
            .timeout(HOUR)
            .open(|s| {
                deaf(HOUR);
                s.job("x").timeout(Duration::ZERO).spawn(|| ());
                Ok(())
            })
            .unwrap_err();
        assert_eq!(only_timeout(&group).reason().who(), "scope `s`");
    });
}

// D16, S33:
#[test]
fn a_stray_group_stays_a_failure_one_level_up() {
    virtually(|| {
        let inner = strays_in_a_job(Wrapper::Group);
        let outer = named("outer").open(|s| {
            s.job("opens").spawn(move || Err::<(), _>(inner.into()));
            sleep(HOUR)?;
            Ok(7)
        });
        let outer = outer.unwrap_err();
        assert_eq!(outer.to_string(), "scope `outer`: 1 of 1 job failed; first: job `opens` failed");
        assert!(outer.reason().is_some_and(|reason| reason.kind() == ReasonKind::Failure));
    });
}

// D7, S44:
#[test]
fn a_region_stops_the_code_inside_it_not_the_jobs_spawned_inside_it() {
    virtually(|| {
        let began = now();
        let ended = AtomicBool::new(false);
        scope(|s| {
            let moved_on = move_on_after(HOUR, || {
                s.spawn(|| {
                    sleep(10 * HOUR)?;
                    ended.store(true, Ordering::SeqCst);
                    Ok(())
                });
                Ok(sleep(10 * HOUR)?)
            });
            assert_eq!((moved_on.unwrap(), now() - began), (None, HOUR));
            Ok(())
        })
        .unwrap();
        assert!(ended.into_inner());
        assert_eq!(now() - began, 10 * HOUR);
    });
}

// D16: what counts as a stop, through a real scope.

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("cannot read the list")]
    List(#[from] io::Error),
    #[error(transparent)]
    Stopped(#[from] Cancelled),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Transparent(#[from] io::Error);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrapper {
    Bare,
    Context,
    Io,
    IoInEnum,
    Transparent,
    TransparentIo,
    TransparentContext,
    Group,
    GroupInContext,
}

impl Wrapper {
    /// Puts the wrapper around a stop. A group comes from a scope, which is passed through by the stop.
    fn around(self, stop: Cancelled) -> anyhow::Error {
        let group = |stop: Cancelled| {
            named("wrapped")
                .open(|s| {
                    s.cancel();
                    Err::<(), _>(stop.into())
                })
                .unwrap_err()
        };
        match self {
            Wrapper::Bare => stop.into(),
            Wrapper::Context => anyhow::Error::new(stop).context("while reading"),
            Wrapper::Io => io::Error::from(stop).into(),
            Wrapper::IoInEnum => ReadError::from(io::Error::from(stop)).into(),
            Wrapper::Transparent => ReadError::from(stop).into(),
            Wrapper::TransparentIo => Transparent::from(io::Error::from(stop)).into(),
            Wrapper::TransparentContext => ReadError::from(anyhow::Error::new(stop).context("while reading")).into(),
            Wrapper::Group => group(stop).into(),
            Wrapper::GroupInContext => anyhow::Error::new(group(stop)).context("while reading"),
        }
    }
}

/// A stop of a tree that nobody here belongs to.
fn stray() -> Cancelled {
    let other = CancelToken::new();
    other.cancel_with("elsewhere");
    other.enter(checkpoint).unwrap_err()
}

fn stops_in_a_job(wrapper: Wrapper) {
    let result = named("s").open(|s| {
        s.job("x").spawn(move || Err::<(), _>(wrapper.around(sleep(10 * HOUR).unwrap_err())));
        sleep(HOUR)?;
        s.cancel();
        Ok(7)
    });
    assert_eq!(result.unwrap(), 7, "{wrapper:?}");
}

fn stops_in_the_body(wrapper: Wrapper) {
    let result = named("s").open(|s| {
        s.cancel();
        Err::<(), _>(wrapper.around(checkpoint().unwrap_err()))
    });
    let group = result.unwrap_err();
    assert_eq!(only_stop(&group).reason().who(), "scope `s`");
    assert!(group.stopped());
}

fn strays_in_a_job(wrapper: Wrapper) -> ErrorGroup {
    let result = named("s").open(|s| {
        s.job("x").spawn(move || Err::<(), _>(wrapper.around(stray())));
        Ok(7)
    });
    result.unwrap_err()
}

macro_rules! wrappers {
    ($($stop:ident, $body:ident, $region:ident, $stray:ident: $wrapper:ident;)*) => {$(
        // D16:
        #[test]
        fn $stop() {
            virtually(|| stops_in_a_job(Wrapper::$wrapper));
        }

        // D16:
        #[test]
        fn $body() {
            virtually(|| stops_in_the_body(Wrapper::$wrapper));
        }

        // D16, D17:
        #[test]
        fn $region() {
            virtually(|| {
                let none = move_on_after(HOUR, || Err::<(), _>(Wrapper::$wrapper.around(sleep(10 * HOUR).unwrap_err())));
                assert_eq!(none.unwrap(), None);
                let error = fail_after(HOUR, || Err::<(), _>(Wrapper::$wrapper.around(sleep(10 * HOUR).unwrap_err())));
                assert!(error.unwrap_err().is::<TimedOut>());
            });
        }

        // D16, S15:
        #[test]
        fn $stray() {
            virtually(|| {
                let group = strays_in_a_job(Wrapper::$wrapper);
                let told = "scope `s`: 1 of 1 job failed; first: job `x` ended with a cancellation that was not its own";
                assert_eq!(group.to_string(), told);
                assert!(!group.stopped());
                // Once judged a failure, it stays one, also where an outer scope is cancelled.
                let outer = named("outer").open(|s| {
                    s.cancel();
                    Err::<(), _>(group.into())
                });
                let outer = outer.unwrap_err();
                assert_eq!(outer.to_string(), "scope `outer`: the body failed");
                assert!(!outer.stopped());
            });
        }
    )*};
}

wrappers! {
    a_bare_stop_of_a_job, a_bare_stop_of_the_body, a_bare_stop_in_a_region, a_bare_stray: Bare;
    a_stop_in_context_of_a_job, a_stop_in_context_of_the_body, a_stop_in_context_in_a_region, a_stray_in_context: Context;
    an_io_stop_of_a_job, an_io_stop_of_the_body, an_io_stop_in_a_region, an_io_stray: Io;
    an_io_stop_in_an_enum_of_a_job, an_io_stop_in_an_enum_of_the_body, an_io_stop_in_an_enum_in_a_region,
        an_io_stray_in_an_enum: IoInEnum;
    a_transparent_stop_of_a_job, a_transparent_stop_of_the_body, a_transparent_stop_in_a_region,
        a_transparent_stray: Transparent;
    a_transparent_io_stop_of_a_job, a_transparent_io_stop_of_the_body, a_transparent_io_stop_in_a_region,
        a_transparent_io_stray: TransparentIo;
    a_transparent_stop_in_context_of_a_job, a_transparent_stop_in_context_of_the_body,
        a_transparent_stop_in_context_in_a_region, a_transparent_stray_in_context: TransparentContext;
    a_group_of_stops_of_a_job, a_group_of_stops_of_the_body, a_group_of_stops_in_a_region, a_stray_group: Group;
    a_group_in_context_of_a_job, a_group_in_context_of_the_body, a_group_in_context_in_a_region,
        a_stray_group_in_context: GroupInContext;
}

// D16:
#[test]
fn the_text_of_a_stray_names_what_was_stopped_and_why() {
    virtually(|| {
        let group = strays_in_a_job(Wrapper::Bare);
        let text = format!("{:#}", group.primary());
        let begins = "job `x` ended with a cancellation that was not its own: token `tests/it/table_absorb.rs:";
        assert!(text.starts_with(begins), "{text}");
        assert!(text.contains("` was stopped: cancelled: elsewhere (tests/it/table_absorb.rs:"), "{text}");
    });
}

// D16, D22:
#[test]
fn a_join_error_that_speaks_of_a_cancel_is_a_stop_where_the_scope_is_cancelled() {
    virtually(|| {
        let result = named("s").open(|s| {
            let sleeper = s.spawn(|| Ok(sleep(10 * HOUR)?));
            s.spawn(move || sleeper.join().context("joining"));
            sleep(HOUR)?;
            s.cancel();
            Ok(7)
        });
        assert_eq!(result.unwrap(), 7);
    });
}

// D16, S47, S15:
#[test]
fn a_join_error_of_a_job_cancelled_alone_is_a_failure_of_its_joiner() {
    virtually(|| {
        let group = named("s")
            .open(|s| {
                let sleeper = s.job("a").spawn(|| Ok(sleep(10 * HOUR)?));
                sleep(HOUR)?;
                sleeper.cancel();
                let error = sleeper.join().unwrap_err();
                assert!(matches!(error, JoinError::Cancelled { started: true, .. }), "{error:?}");
                Err::<(), _>(error.into())
            })
            .unwrap_err();
        assert_eq!(group.len(), 1);
        assert_eq!(group.primary().to_string(), "the body ended with a cancellation that was not its own");
    });
}

// D16:
#[test]
fn a_cancel_made_a_plain_error_counts() {
    virtually(|| {
        let result = named("s").open(|s| {
            s.job("x")
                .spawn(|| sleep(10 * HOUR).map_err(|stop| anyhow::anyhow!("no answer: {:?}", stop.reason().kind())));
            sleep(HOUR)?;
            s.cancel();
            Ok(7)
        });
        let group = result.unwrap_err();
        assert_eq!(failures(&group), ["job `x` failed: no answer: Explicit"]);
        assert!(group.primary().during_cancellation());
    });
}

// What was wrapped around a stop.

// D16, S25:
#[test]
fn what_a_body_put_around_its_stop_is_a_note_at_every_level() {
    virtually(|| {
        let token = CancelToken::new();
        let result = named("outer").under(&token).open(|_| {
            token.cancel();
            let inner = named("inner").open(|_| checkpoint().context("fetching").context("page 3"));
            inner.context("crawling")
        });
        let group = result.unwrap_err();
        let _ = only_stop(&group);
        assert_eq!(group.primary().notes(), ["fetching", "page 3", "crawling"]);
        let tree = format!("{group:?}");
        assert!(tree.contains("\n   note: fetching\n   note: page 3\n   note: crawling"), "{tree}");
    });
}

// D16, D17:
#[test]
fn what_was_put_around_the_stop_of_a_deadline_is_a_note_of_the_timeout() {
    virtually(|| {
        let group = named("s").timeout(HOUR).open(|_| sleep(10 * HOUR).context("fetching")).unwrap_err();
        assert_eq!(only_timeout(&group).reason().who(), "scope `s`");
        assert_eq!(group.primary().notes(), ["fetching"]);
        let fetches = || sleep(10 * HOUR).context("fetching");
        let group = named("s")
            .open(|s| {
                s.job("x").timeout(HOUR).spawn(fetches);
                Ok(())
            })
            .unwrap_err();
        assert_eq!(only_timeout(&group).reason().who(), "job `x`");
        assert_eq!(group.primary().notes(), ["fetching"]);
        let error = fail_after(HOUR, fetches).unwrap_err();
        assert!(error.is::<TimedOut>());
        assert!(format!("{error:#}").starts_with("fetching: region `"), "{error:#}");
    });
}

// D16:
#[test]
fn of_what_jobs_put_around_their_stops_the_first_few_are_notes_after_those_of_the_body() {
    virtually(|| {
        let result = named("s").open(|s| {
            for n in 0..100 {
                s.job(n.to_string()).spawn(|| sleep(10 * HOUR).context("fetching").context("crawling"));
            }
            s.job("bare").spawn(|| Ok(sleep(10 * HOUR)?));
            let alone = s.job("alone").spawn(|| sleep(10 * HOUR).context("not the scope's stop"));
            sleep(HOUR)?;
            alone.cancel();
            s.cancel();
            checkpoint().context("waiting")
        });
        let group = result.unwrap_err();
        let _ = only_stop(&group);
        let notes = [
            "waiting",
            "job `0`: fetching",
            "job `0`: crawling",
            "job `1`: fetching",
            "job `1`: crawling",
            "job `2`: fetching",
        ];
        assert_eq!(group.primary().notes(), notes);
    });
}

// D16, S34, S35:
#[test]
fn what_was_put_around_stops_is_no_note_where_something_failed() {
    virtually(|| {
        let group = named("s")
            .open(|s| {
                s.job("x").spawn(|| sleep(10 * HOUR).context("fetching"));
                s.job("fails").spawn(|| -> tassel::Result<()> {
                    sleep(HOUR)?;
                    anyhow::bail!("disk full")
                });
                sleep(10 * HOUR).context("waiting")
            })
            .unwrap_err();
        assert_eq!(failures(&group), ["job `fails` failed: disk full"]);
        assert_eq!(group.primary().notes(), [""; 0]);
    });
}
