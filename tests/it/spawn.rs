//! Jobs: what they may capture and return, when they start, what they are called, and when all of it is gone.

use crate::{guarded, virtually};
use std::{
    cell::Cell,
    panic::panic_any,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tassel::{CancelToken, JoinError, ReasonKind, Scope, ScopeOptions, now, scope, sleep};

const HOUR: Duration = Duration::from_secs(3600);

/// Counts itself when it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

// S8, S10:
#[test]
fn values_come_back_through_join() {
    guarded(|| {
        let sum = scope(|s| {
            let jobs: Vec<_> = (1..=100_u64).map(|n| s.spawn(move || Ok(n * n))).collect();
            let mut sum = 0;
            for job in jobs {
                sum += job.join()?;
            }
            Ok(sum)
        });
        assert_eq!(sum.unwrap(), 338_350);
    });
}

// S1, S10:
#[test]
fn jobs_borrow_and_change_what_outlives_the_scope() {
    guarded(|| {
        let words = ["to".to_owned(), "be".to_owned()];
        let mut lengths = [0; 2];
        let mut lines = vec!["b", "a"];
        scope(|s| {
            for (word, length) in words.iter().zip(&mut lengths) {
                s.spawn(move || *length = word.len());
            }
            s.spawn(|| lines.sort_unstable());
            Ok(())
        })
        .unwrap();
        assert_eq!((lengths, lines), ([2, 2], vec!["a", "b"]));
    });
}

// S10:
#[test]
fn what_a_job_wrote_without_atomics_is_seen_after_its_join_and_after_the_scope() {
    guarded(|| {
        for _ in 0..200 {
            let (mut joined, mut unjoined) = (0, 0);
            scope(|s| {
                let writer = s.job("w").own_thread().spawn(|| {
                    joined = 7;
                    Ok(&mut joined)
                });
                let unjoined = &mut unjoined;
                s.job("u").own_thread().spawn(move || *unjoined = 8);
                *writer.join()? += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!((joined, unjoined), (8, 8));
        }
    });
}

// D4:
#[test]
fn closures_return_a_result_or_nothing_or_never_return() {
    virtually(|| {
        let group = scope(|s| {
            s.spawn(|| ()).join()?;
            s.spawn(|| {}).join()?;
            let value: Result<u8, JoinError> = s.spawn(|| Ok(7)).join();
            assert_eq!(value.unwrap(), 7);
            s.job("never").spawn(|| panic_any(7_u8));
            s.job("loops").spawn(|| -> tassel::Result<()> {
                loop {
                    sleep(HOUR)?;
                }
            });
            Ok(())
        })
        .unwrap_err();
        assert_eq!(
            group.to_string(),
            "scope `".to_owned() + &group.name() + "`: 1 of 5 jobs failed; first: job `never` panicked"
        );
        assert_eq!(group.primary().payload_ref::<u8>(), Some(&7));
        // A body too.
        assert_eq!(scope(|_| ()).unwrap(), ());
        let group = scope(|_| panic_any(8_u8)).unwrap_err();
        assert_eq!(group.primary().payload_ref::<u8>(), Some(&8));
    });
}

// S4:
#[test]
fn a_job_spawns_jobs_after_the_body_has_ended() {
    virtually(|| {
        let order = Mutex::new(Vec::new());
        let (order, began) = (&order, now());
        scope(|s| {
            s.spawn(move || {
                sleep(HOUR)?;
                order.lock().unwrap().push("first");
                s.spawn(move || {
                    sleep(HOUR)?;
                    order.lock().unwrap().push("second");
                    s.spawn(move || order.lock().unwrap().push("third"));
                    Ok(())
                });
                Ok(())
            });
            order.lock().unwrap().push("body");
            Ok(())
        })
        .unwrap();
        assert_eq!(*order.lock().unwrap(), ["body", "first", "second", "third"]);
        assert_eq!(now() - began, 2 * HOUR);
    });
}

// S4, S1:
#[test]
fn a_tree_of_late_spawns_comes_home() {
    fn grow<'scope>(s: &'scope Scope<'scope, '_>, depth: u32, leaves: &'scope AtomicUsize) {
        if depth == 0 {
            leaves.fetch_add(1, Ordering::SeqCst);
            return;
        }
        for _ in 0..2 {
            s.spawn(move || grow(s, depth - 1, leaves));
        }
    }
    guarded(|| {
        let leaves = AtomicUsize::new(0);
        scope(|s| {
            s.spawn(|| grow(s, 10, &leaves));
            Ok(())
        })
        .unwrap();
        assert_eq!(leaves.into_inner(), 1024);
    });
}

// S4, S1:
#[test]
fn a_destructor_of_a_value_that_spawns_is_still_joined() {
    struct Spawns<'scope, 'env>(&'scope Scope<'scope, 'env>, &'scope AtomicBool);
    impl Drop for Spawns<'_, '_> {
        fn drop(&mut self) {
            let ran = self.1;
            self.0.spawn(move || ran.store(true, Ordering::SeqCst));
        }
    }
    guarded(|| {
        let ran = AtomicBool::new(false);
        scope(|s| {
            let ran = &ran;
            s.spawn(move || Ok(Spawns(s, ran)));
            Ok(())
        })
        .unwrap();
        assert!(ran.into_inner());
    });
}

// S3, S1:
#[test]
fn a_body_that_returns_early_waits_for_its_jobs_at_full_length() {
    virtually(|| {
        let (began, ended) = (now(), AtomicBool::new(false));
        let value = scope(|s| {
            s.spawn(|| {
                sleep(10 * HOUR)?;
                ended.store(true, Ordering::SeqCst);
                Ok(())
            });
            Ok(7)
        });
        assert_eq!((value.unwrap(), ended.into_inner(), now() - began), (7, true, 10 * HOUR));
    });
}

// S8:
#[test]
fn an_inner_scope_ends_before_the_outer_body_goes_on() {
    virtually(|| {
        let began = now();
        scope(|s| {
            s.spawn(|| Ok(sleep(3 * HOUR)?));
            scope(|s| {
                s.spawn(|| Ok(sleep(HOUR)?));
                Ok(())
            })?;
            assert_eq!(now() - began, HOUR);
            Ok(())
        })
        .unwrap();
        assert_eq!(now() - began, 3 * HOUR);
    });
}

// S6:
#[test]
fn an_empty_scope_is_a_plain_call() {
    guarded(|| {
        assert_eq!(scope(|_| Ok(7)).unwrap(), 7);
        let token = CancelToken::new();
        token.cancel();
        assert_eq!(ScopeOptions::new().under(&token).open(|_| Ok(8)).unwrap(), 8);
        assert_eq!(token.enter(|| scope(|_| Ok(9))).unwrap(), 9);
    });
}

// S1, S11:
#[test]
fn captures_and_unclaimed_values_are_dropped_before_the_scope_returns() {
    guarded(|| {
        for own_thread in [false, true] {
            let gone = AtomicUsize::new(0);
            scope(|s| {
                for _ in 0..10 {
                    let (capture, gone) = (Counted(&gone), &gone);
                    let job = s.job("x");
                    let job = if own_thread { job.own_thread() } else { job };
                    let handle = job.spawn(move || {
                        let _capture = capture;
                        Ok(Counted(gone))
                    });
                    drop(handle);
                }
                Ok(())
            })
            .unwrap();
            assert_eq!(gone.into_inner(), 20);
        }
    });
}

// S1, S27, S42:
#[test]
fn captures_and_values_are_dropped_also_after_a_panic_an_error_and_a_cancel() {
    virtually(|| {
        for end in ["panic", "error", "cancel"] {
            let gone = AtomicUsize::new(0);
            let result = scope(|s| {
                for n in 0..10_u32 {
                    let (capture, gone) = (Counted(&gone), &gone);
                    s.spawn(move || {
                        let _capture = capture;
                        // Every other one ends before the end, and leaves a value.
                        sleep(HOUR * (n % 2) * 2)?;
                        Ok(Counted(gone))
                    });
                }
                sleep(HOUR)?;
                let capture = Counted(&gone);
                s.spawn(move || drop(capture));
                match end {
                    "panic" => panic_any("boom"),
                    "error" => anyhow::bail!("broke"),
                    _ => s.cancel(),
                }
                Ok(())
            });
            assert_eq!(result.is_ok(), end == "cancel");
            assert_eq!(gone.into_inner(), 11 + 5, "{end}: eleven captures and five values");
        }
    });
}

// S5, S43:
#[test]
fn spawn_in_a_cancelled_scope_drops_the_closure_inside_the_call() {
    guarded(|| {
        let (ran, gone) = (AtomicBool::new(false), AtomicUsize::new(0));
        scope(|s| {
            s.cancel_with("enough");
            let (capture, ran) = (Counted(&gone), &ran);
            let job = s.job("late").spawn(move || {
                let _capture = capture;
                ran.store(true, Ordering::SeqCst);
                Ok(7)
            });
            assert_eq!(gone.load(Ordering::SeqCst), 1);
            assert!(job.is_finished());
            match job.join() {
                Err(JoinError::Cancelled { name, reason, started: false, .. }) => {
                    assert_eq!((&*name, reason.text()), ("late", Some("enough")));
                }
                other => panic!("{other:?}"),
            }
            Ok(())
        })
        .unwrap();
        assert!(!ran.into_inner());
    });
}

// S5, S43:
#[test]
fn try_spawn_in_a_cancelled_scope_gives_the_closure_back() {
    guarded(|| {
        let calls = AtomicUsize::new(0);
        scope(|s| {
            let call = || {
                calls.fetch_add(1, Ordering::SeqCst);
                Ok(7)
            };
            assert_eq!(s.try_spawn(call).unwrap().join()?, 7);
            assert!(!s.is_cancelled());
            s.cancel_with("enough");
            assert!(s.is_cancelled());
            let refused = s.try_spawn(call).unwrap_err();
            assert_eq!((refused.reason().kind(), refused.reason().text()), (ReasonKind::Explicit, Some("enough")));
            assert!(refused.to_string().contains("was stopped: cancelled: enough (tests/it/spawn.rs:"), "{refused}");
            assert!(refused.to_string().starts_with("not spawned: scope `"), "{refused}");
            assert_eq!(calls.load(Ordering::SeqCst), 1);
            assert_eq!(refused.into_closure()().unwrap(), 7);
            Ok(())
        })
        .unwrap();
        assert_eq!(calls.into_inner(), 2);
    });
}

// S42, D6:
#[test]
fn a_job_not_started_when_the_scope_is_cancelled_never_runs() {
    virtually(|| {
        let (ran, gone) = (AtomicBool::new(false), AtomicUsize::new(0));
        scope(|s| {
            let (capture, ran) = (Counted(&gone), &ran);
            let job = s.job("x").spawn(move || {
                let _capture = capture;
                ran.store(true, Ordering::SeqCst);
            });
            s.cancel();
            assert!(job.is_finished(), "the handle answers at once");
            assert!(matches!(job.try_join(), Ok(Err(JoinError::Cancelled { started: false, .. }))));
            Ok(())
        })
        .unwrap();
        assert_eq!((ran.into_inner(), gone.into_inner()), (false, 1));
    });
}

// S42, D6:
#[test]
fn a_job_that_is_claimed_after_the_cancel_never_starts() {
    virtually(|| {
        let ran = AtomicBool::new(false);
        scope(|s| {
            // Nobody asks its handle, which would decide it before the claim.
            s.spawn(|| ran.store(true, Ordering::SeqCst));
            s.cancel();
        })
        .unwrap();
        assert!(!ran.into_inner());
    });
}

// D11:
#[test]
fn jobs_start_in_the_order_of_their_spawning() {
    virtually(|| {
        let order = Mutex::new(Vec::new());
        scope(|s| {
            for n in 0..100 {
                let order = &order;
                s.spawn(move || order.lock().unwrap().push(n));
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(order.into_inner().unwrap(), (0..100).collect::<Vec<_>>());
    });
}

// S24, D26:
#[test]
fn a_named_job_has_its_name_and_an_unnamed_one_that_of_its_place_and_number() {
    virtually(|| {
        scope(|s| {
            let named = s.job("load").spawn(|| ());
            let (line, unnamed) = (line!(), s.spawn(|| ()));
            let (isolated, timed) = (s.job("i").isolated().spawn(|| ()), s.job("t").timeout(HOUR).spawn(|| ()));
            assert_eq!(named.name(), "load");
            assert_eq!(unnamed.name(), format!("tests/it/spawn.rs:{line}#2"));
            assert_eq!((isolated.name().as_str(), timed.name().as_str()), ("i", "t"));
            let ids = [named.id(), unnamed.id(), isolated.id(), timed.id()];
            assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
            Ok(())
        })
        .unwrap();
    });
}

// S24, S22:
#[test]
fn the_path_of_a_job_names_all_scopes_and_jobs_on_the_way() {
    virtually(|| {
        let group = ScopeOptions::new()
            .name("crawl")
            .open(|s| {
                s.job("B").spawn(|| {
                    ScopeOptions::new().name("parse").open(|s| {
                        s.job("B.1").spawn(|| -> tassel::Result<()> { anyhow::bail!("bad tag") });
                        Ok(())
                    })?;
                    Ok(())
                });
                Ok(())
            })
            .unwrap_err();
        assert_eq!(group.primary().path(), "crawl/B/parse/B.1");
    });
}

// D3:
#[test]
fn outside_any_scope_the_calls_are_the_plain_ones() {
    guarded(|| {
        tassel::checkpoint().unwrap();
        tassel::yield_now().unwrap();
        sleep(Duration::ZERO).unwrap();
        assert!(!tassel::is_cancelled());
        scope(|s| {
            s.cancel();
            assert!(tassel::is_cancelled());
            // A thread of our own is outside, unless it is bound.
            let (unbound, bound) = thread::scope(|t| {
                let bound = CancelToken::current().bind(tassel::is_cancelled);
                let unbound = t.spawn(tassel::is_cancelled);
                (unbound.join().unwrap(), t.spawn(bound).join().unwrap())
            });
            assert_eq!((unbound, bound), (false, true));
            Ok(())
        })
        .unwrap();
        assert!(!tassel::is_cancelled());
    });
}

// D11:
#[test]
fn own_thread_jobs_run_on_no_thread_of_the_body() {
    thread_local!(static MARK: Cell<bool> = const { Cell::new(false) });
    guarded(|| {
        MARK.set(true);
        let (by_join, by_exit) = (AtomicBool::new(true), AtomicBool::new(true));
        scope(|s| {
            let joined = s.job("joined").own_thread().spawn(|| by_join.store(MARK.get(), Ordering::SeqCst));
            s.job("left").own_thread().spawn(|| by_exit.store(MARK.get(), Ordering::SeqCst));
            Ok(joined.join()?)
        })
        .unwrap();
        assert_eq!((by_join.into_inner(), by_exit.into_inner()), (false, false));
    });
}

// S68, S8:
#[test]
fn fifty_nested_scopes_on_one_worker_finish() {
    fn nest(depth: u32) -> tassel::Result<u32> {
        if depth == 0 {
            return Ok(0);
        }
        Ok(scope(|s| Ok(s.spawn(move || nest(depth - 1)).join()? + 1))?)
    }
    guarded(|| {
        let pool = tassel::pool::Pool::builder().parallelism(1).build().unwrap();
        let depth = ScopeOptions::new().pool(&pool).open(|s| Ok(s.spawn(|| nest(50)).join()?));
        assert_eq!(depth.unwrap(), 50);
    });
}

// S1:
#[test]
fn a_shared_value_has_one_owner_again_after_the_scope() {
    guarded(|| {
        for _ in 0..200 {
            let shared = Arc::new(());
            scope(|s| {
                for _ in 0..8 {
                    let shared = Arc::clone(&shared);
                    s.job("x").own_thread().spawn(move || Ok(shared));
                }
                Ok(())
            })
            .unwrap();
            assert_eq!(Arc::strong_count(&shared), 1);
        }
    });
}

// S1:
#[test]
fn a_scope_in_the_destructor_of_a_thread_local_returns_after_its_jobs() {
    struct Late<'a>(&'a AtomicUsize);
    impl Drop for Late<'_> {
        fn drop(&mut self) {
            for _ in 0..50 {
                let job = || (0..10).for_each(|_| thread::yield_now());
                ScopeOptions::new().inline(false).open(|s| drop(s.spawn(job))).unwrap();
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    static DONE: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static LATE: Cell<Option<Late<'static>>> = const { Cell::new(None) };
    }
    guarded(|| {
        let thread = thread::spawn(|| {
            // Before the library's own, so that it goes after them.
            LATE.set(Some(Late(&DONE)));
            scope(|s| drop(s.spawn(|| ()))).unwrap();
        });
        thread.join().unwrap();
        assert_eq!(DONE.load(Ordering::SeqCst), 50);
    });
}
