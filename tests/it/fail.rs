//! Failures: whom they cancel, in which order they are kept, and what is told once.

use crate::{guarded, named, told, virtually};
use anyhow::Context as _;
use std::{
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tassel::{Child, ErrorGroup, OnFailure, ReasonKind, checkpoint, now, scope, sleep};

const HOUR: Duration = Duration::from_secs(3600);

/// Fails after a time at which nothing else happens.
fn fails_after(hours: u32, text: &'static str) -> tassel::Result<()> {
    sleep(hours * HOUR)?;
    anyhow::bail!(text)
}

/// Fails when it is stopped.
fn fails_when_stopped(text: &'static str) -> tassel::Result<()> {
    assert!(sleep(100 * HOUR).is_err());
    anyhow::bail!(text)
}

// S2, S12, S15:
#[test]
fn the_first_failure_cancels_the_siblings_and_the_body() {
    virtually(|| {
        let began = now();
        let group = named("s")
            .open(|s| {
                s.job("sibling").spawn(|| Ok(sleep(10 * HOUR)?));
                s.job("fails").spawn(|| fails_after(1, "disk full"));
                let stop = sleep(10 * HOUR).unwrap_err();
                assert_eq!((stop.reason().kind(), stop.reason().who().as_str()), (ReasonKind::Failure, "job `fails`"));
                assert_eq!(stop.to_string(), "job `fails` was stopped: job `fails` failed");
                Ok(7)
            })
            .unwrap_err();
        assert_eq!((told(&group), now() - began), (vec!["job `fails` failed: disk full".to_owned()], HOUR));
        assert!(group.primary().is_primary() && !group.stopped());
        assert_eq!(group.to_string(), "scope `s`: 1 of 2 jobs failed; first: job `fails` failed");
        assert_eq!(format!("{group:#}"), "scope `s`: 1 of 2 jobs failed; first: job `fails` failed: disk full");
    });
}

// S2, S18:
#[test]
fn a_failure_of_the_body_cancels_the_jobs_and_is_one_leaf() {
    virtually(|| {
        let began = now();
        let group = named("s")
            .open(|s| {
                s.job("sleeps").spawn(|| Ok(sleep(10 * HOUR)?));
                s.job("fails").spawn(|| fails_when_stopped("broke"));
                fails_after(1, "body broke")
            })
            .unwrap_err();
        assert_eq!(told(&group), ["the body failed: body broke", "job `fails` failed: broke*"]);
        assert_eq!((group.primary().name().as_ref(), now() - began), ("body", HOUR));
        assert_eq!(group.reason().unwrap().to_string(), "the body failed");
        assert_eq!(group.to_string(), "scope `s`: 1 of 2 jobs and the body failed; first: the body failed");
    });
}

// S2, S46:
#[test]
fn a_body_in_a_join_hears_of_a_failure_elsewhere() {
    virtually(|| {
        let began = now();
        let group = scope(|s| {
            let job = s.spawn(|| Ok(sleep(10 * HOUR)?));
            s.job("fails").spawn(|| fails_after(1, "disk full"));
            Ok(job.join()?)
        })
        .unwrap_err();
        assert_eq!((told(&group), now() - began), (vec!["job `fails` failed: disk full".to_owned()], HOUR));
    });
}

// S3:
#[test]
fn a_failure_after_the_body_returned_still_counts() {
    virtually(|| {
        let group = scope(|s| {
            s.job("fails").spawn(|| fails_after(1, "disk full"));
            Ok(7)
        })
        .unwrap_err();
        assert_eq!(told(&group), ["job `fails` failed: disk full"]);
    });
}

// S12, S14, D8, S18:
#[test]
fn failures_stand_in_the_order_of_recording_and_all_are_kept() {
    virtually(|| {
        let group = named("s")
            .open(|s| {
                s.job("late").spawn(|| fails_when_stopped("late"));
                s.job("cleanup").spawn(|| -> tassel::Result<()> {
                    assert!(sleep(100 * HOUR).is_err());
                    tassel::CancelToken::new().enter(|| sleep(HOUR))?;
                    anyhow::bail!("cleanup")
                });
                s.job("first").spawn(|| fails_after(1, "first"));
                s.job("panics").spawn(|| {
                    assert!(sleep(100 * HOUR).is_err());
                    panic!("reacts badly")
                });
                Ok(())
            })
            .unwrap_err();
        let expected = [
            "job `first` failed: first",
            "job `late` failed: late*",
            "job `panics` panicked: reacts badly*",
            "job `cleanup` failed: cleanup*",
        ];
        assert_eq!(told(&group), expected);
        let primary: Vec<_> = group.leaves().map(tassel::Leaf::is_primary).collect();
        assert_eq!(primary, [true, false, false, false]);
        let offsets: Vec<_> = group.leaves().map(tassel::Leaf::offset).collect();
        assert_eq!(offsets, [HOUR, HOUR, HOUR, 2 * HOUR]);
        assert_eq!(
            group.reason().unwrap().to_string(),
            "job `first` failed",
            "later failures do not change the reason"
        );
        assert_eq!(group.to_string(), "scope `s`: 4 of 4 jobs failed; first: job `first` failed");
    });
}

// S18:
#[test]
fn failures_at_the_same_instant_stand_in_the_order_of_spawning() {
    virtually(|| {
        let options = named("s").on_failure(OnFailure::KeepGoing);
        let group = options
            .open(|s| {
                for name in ["a", "b", "c", "d"] {
                    s.job(name).spawn(|| fails_after(1, "broke"));
                }
                Ok(())
            })
            .unwrap_err();
        let names: Vec<_> = group.leaves().map(|leaf| leaf.name().into_owned()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    });
}

// S13:
#[test]
fn a_sibling_that_the_failure_wakes_is_never_recorded_first() {
    guarded(|| {
        for _ in 0..300 {
            let start = Barrier::new(2);
            let group = scope(|s| {
                s.job("woken").own_thread().spawn(|| -> tassel::Result<()> {
                    start.wait();
                    while checkpoint().is_ok() {
                        std::thread::yield_now();
                    }
                    anyhow::bail!("woken")
                });
                s.job("fails").own_thread().spawn(|| -> tassel::Result<()> {
                    start.wait();
                    anyhow::bail!("disk full")
                });
                Ok(())
            })
            .unwrap_err();
            assert_eq!(told(&group), ["job `fails` failed: disk full", "job `woken` failed: woken*"]);
        }
    });
}

// S14:
#[test]
fn a_hundred_failures_on_real_threads_are_all_kept() {
    guarded(|| {
        let start = Barrier::new(8);
        let group = scope(|s| {
            for n in 0..8 {
                let start = &start;
                s.job(n.to_string()).own_thread().spawn(move || -> tassel::Result<()> {
                    start.wait();
                    anyhow::bail!("{n} broke")
                });
            }
            Ok(())
        })
        .unwrap_err();
        let mut names: Vec<_> = group.leaves().map(|leaf| leaf.name().into_owned()).collect();
        names.sort();
        assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6", "7"]);
        assert!(!group.primary().during_cancellation());
    });
}

// S15:
#[test]
fn ok_is_no_failure_although_the_scope_was_cancelled() {
    virtually(|| {
        let group = scope(|s| {
            s.job("swallows").spawn(|| {
                assert!(sleep(10 * HOUR).is_err());
                Ok(())
            });
            s.job("fails").spawn(|| fails_after(1, "disk full"));
            Ok(())
        })
        .unwrap_err();
        assert_eq!(told(&group), ["job `fails` failed: disk full"]);
    });
}

// S45:
#[test]
fn a_job_that_turns_its_stop_into_another_error_fails_during_the_cancellation() {
    virtually(|| {
        let group = named("s")
            .open(|s| {
                s.job("turns").spawn(|| fails_when_stopped("no answer"));
                sleep(HOUR)?;
                s.cancel();
                Ok(7)
            })
            .unwrap_err();
        assert_eq!(told(&group), ["job `turns` failed: no answer*"]);
        assert!(group.primary().is_primary());
        assert_eq!(group.reason().unwrap().kind(), ReasonKind::Explicit, "the failure did not change the reason");
    });
}

// S45, S31:
#[test]
fn a_job_that_swallows_its_stop_and_goes_on_meets_it_again() {
    virtually(|| {
        let met = Mutex::new(Vec::new());
        scope(|s| {
            s.spawn(|| {
                for _ in 0..3 {
                    met.lock().unwrap().push(sleep(10 * HOUR).is_err());
                }
                Ok(())
            });
            sleep(HOUR)?;
            s.cancel();
            Ok(())
        })
        .unwrap();
        assert_eq!(met.into_inner().unwrap(), [true, true, true]);
    });
}

// S16:
#[test]
fn one_failure_has_the_same_shape_as_ten() {
    virtually(|| {
        for count in [1, 10] {
            let group = scope(|s| {
                for _ in 0..count {
                    s.spawn(|| fails_when_stopped("broke"));
                }
                fails_after(1, "body")
            })
            .unwrap_err();
            assert_eq!((group.len(), group.iter().len()), (count + 1, count + 1));
            assert!(group.iter().all(|child| matches!(child, Child::Leaf(_))));
            let group = group.into_single().unwrap_err();
            assert_eq!(group.len(), count + 1);
        }
        let leaf = scope(|_| fails_after(1, "body")).unwrap_err().into_single().unwrap();
        assert_eq!(leaf.into_error().to_string(), "body");
    });
}

// S17:
#[test]
fn a_function_that_hides_its_scope_returns_the_one_error_or_the_group() {
    virtually(|| {
        let one = scope(|_| fails_after(1, "body")).map_err(ErrorGroup::into_error).unwrap_err();
        assert_eq!(one.to_string(), "body");
        let nested = scope(|s| {
            s.spawn(|| {
                scope(|s| {
                    s.spawn(|| fails_after(1, "deep"));
                    Ok(())
                })
                .context("in the inner one")
            });
            Ok(())
        });
        assert_eq!(nested.map_err(ErrorGroup::into_error).unwrap_err().root_cause().to_string(), "deep");
        let two = named("s").open(|s| {
            s.spawn(|| fails_when_stopped("two"));
            fails_after(1, "one")
        });
        let two = two.map_err(ErrorGroup::into_error).unwrap_err().downcast::<ErrorGroup>().unwrap();
        assert_eq!(two.len(), 2);
    });
}

// S22, S8:
#[test]
fn the_group_mirrors_the_code() {
    virtually(|| {
        let group = named("outer")
            .open(|s| {
                s.job("opens").spawn(|| {
                    named("inner")
                        .open(|s| {
                            s.job("a").spawn(|| fails_after(1, "disk full"));
                            s.job("b").spawn(|| fails_when_stopped("broke"));
                            Ok(())
                        })
                        .context("while parsing")
                });
                s.job("c").spawn(|| fails_when_stopped("too"));
                Ok(())
            })
            .unwrap_err();
        let children: Vec<_> = group.iter().collect();
        let [Child::Group(inner), Child::Leaf(leaf)] = children[..] else { panic!("{group:?}") };
        assert_eq!(
            (inner.name().as_ref(), inner.path(), inner.group().name().as_ref()),
            ("opens", "outer/opens", "inner")
        );
        assert_eq!((inner.notes(), inner.during_cancellation()), (&["while parsing".to_owned()][..], false));
        assert_eq!(told(inner.group()), ["job `a` failed: disk full", "job `b` failed: broke*"]);
        assert_eq!((leaf.name().as_ref(), leaf.during_cancellation()), ("c", true));
        assert_eq!(group.primary().name(), "a");
        assert_eq!(group.reason().unwrap().to_string(), "job `opens` failed");
    });
}

// Keep going.

// S65, S14:
#[test]
fn a_keep_going_scope_collects_failures_and_cancels_nobody() {
    virtually(|| {
        let (began, ended) = (now(), AtomicBool::new(false));
        let group = named("s")
            .on_failure(OnFailure::KeepGoing)
            .open(|s| {
                s.job("works").spawn(|| {
                    sleep(10 * HOUR)?;
                    ended.store(true, Ordering::SeqCst);
                    Ok(())
                });
                s.job("two").spawn(|| fails_after(2, "two"));
                s.job("one").spawn(|| fails_after(1, "one"));
                s.job("panics").spawn(|| -> tassel::Result<()> {
                    sleep(3 * HOUR)?;
                    panic!("three")
                });
                sleep(5 * HOUR)?;
                assert!(!s.is_cancelled());
                Ok(7)
            })
            .unwrap_err();
        assert_eq!(told(&group), ["job `one` failed: one", "job `two` failed: two", "job `panics` panicked: three"]);
        assert!(group.reason().is_none());
        assert_eq!((ended.into_inner(), now() - began), (true, 10 * HOUR));
        assert_eq!(group.to_string(), "scope `s`: 3 of 4 jobs failed; first: job `one` failed");
    });
}

// S65:
#[test]
fn the_body_of_a_keep_going_scope_cancels_the_jobs_when_it_fails() {
    virtually(|| {
        let began = now();
        let group = named("s")
            .on_failure(OnFailure::KeepGoing)
            .open(|s| {
                s.job("works").spawn(|| Ok(sleep(10 * HOUR)?));
                fails_after(1, "body broke")
            })
            .unwrap_err();
        assert_eq!((told(&group), now() - began), (vec!["the body failed: body broke".to_owned()], HOUR));
    });
}

// S65:
#[test]
fn an_outer_cancel_stops_a_keep_going_scope() {
    virtually(|| {
        let (began, token) = (now(), tassel::CancelToken::new());
        let group = named("s")
            .on_failure(OnFailure::KeepGoing)
            .under(&token)
            .open(|s| {
                s.job("works").spawn(|| Ok(sleep(10 * HOUR)?));
                sleep(HOUR)?;
                token.cancel();
                Ok(7)
            })
            .unwrap_err();
        assert!(group.primary().stop().is_some());
        assert_eq!((group.len(), now() - began), (1, HOUR));
    });
}

// What tells of another failure is told once.

// D22, S49, S25:
#[test]
fn a_join_error_passed_on_is_no_second_failure_and_its_context_is_a_note() {
    virtually(|| {
        let group = named("s")
            .on_failure(OnFailure::KeepGoing)
            .open(|s| {
                let a = s.job("a").spawn(|| fails_after(1, "disk full"));
                let b = s.job("b").spawn(move || a.join().context("b needs a"));
                let c = s.job("c").spawn(move || b.join().context("c needs b"));
                c.join().context("the body needs c")?;
                Ok(())
            })
            .unwrap_err();
        assert_eq!(told(&group), ["job `a` failed: disk full"]);
        assert_eq!(group.primary().notes(), ["b needs a", "c needs b", "the body needs c"]);
        assert_eq!(group.iter().len(), 1);
    });
}

// D22:
#[test]
fn a_join_error_of_an_outer_job_is_removed_at_the_outer_exit() {
    virtually(|| {
        let group = named("outer")
            .on_failure(OnFailure::KeepGoing)
            .open(|s| {
                let a = s.job("a").spawn(|| fails_after(1, "disk full"));
                s.job("opens").spawn(move || {
                    named("inner").open(|_| a.join().context("inner needs a"))?;
                    Ok(())
                });
                Ok(())
            })
            .unwrap_err();
        assert_eq!(told(&group), ["job `a` failed: disk full"]);
        assert_eq!((group.iter().len(), group.primary().notes()), (1, &["inner needs a".to_owned()][..]));
    });
}

// D22:
#[test]
fn a_join_error_in_an_error_of_the_users_stays() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct StartError(#[from] tassel::JoinError);
    virtually(|| {
        let group = named("s")
            .on_failure(OnFailure::KeepGoing)
            .open(|s| {
                let a = s.job("a").spawn(|| fails_after(1, "disk full"));
                s.job("b").spawn(move || Ok(a.join().map_err(StartError)?));
                Ok(())
            })
            .unwrap_err();
        assert_eq!(group.len(), 2);
        let tree = format!("{group:?}");
        assert!(tree.contains("job `b` (tests/it/fail.rs:"), "{tree}");
        assert!(tree.contains("cannot start: because job `a` failed"), "{tree}");
        assert_eq!(tree.matches("disk full").count(), 1, "{tree}");
    });
}

// S19:
#[test]
fn there_is_no_empty_group() {
    virtually(|| {
        // Nothing failed, all was cancelled by will: a value. A body that stops has its one leaf.
        let value = scope(|s| {
            s.spawn(|| Ok(sleep(HOUR)?));
            s.cancel();
            Ok(7)
        });
        assert_eq!(value.unwrap(), 7);
        let group = scope(|s| {
            s.spawn(|| Ok(sleep(HOUR)?));
            s.cancel();
            Ok(checkpoint()?)
        });
        assert_eq!(group.unwrap_err().len(), 1);
    });
}
