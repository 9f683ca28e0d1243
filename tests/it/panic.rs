//! Panics: in jobs, in the body, in destructors and in errors. All come home as leaves, and none goes further.

use crate::{guarded, named, told, virtually};
use std::{
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tassel::{Child, ErrorGroup, OnPanic, ReasonKind, ScopeOptions, pool::Pool, scope, sleep};

const HOUR: Duration = Duration::from_secs(3600);

/// Panics when it is dropped, once.
#[derive(Debug)]
struct Bomb(&'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic_any(self.0);
        }
    }
}

// S26, D1, S12:
#[test]
fn a_panic_in_a_job_cancels_the_siblings_at_once_and_is_a_leaf_with_its_payload() {
    #[derive(Debug, PartialEq)]
    struct Payload(u8);
    virtually(|| {
        let group = named("s")
            .open(|s| {
                s.job("sleeps").spawn(|| Ok(sleep(10 * HOUR)?));
                s.job("panics").spawn(|| -> tassel::Result<()> {
                    sleep(HOUR)?;
                    panic_any(Payload(7))
                });
                let stop = sleep(10 * HOUR).unwrap_err();
                assert_eq!(
                    (stop.reason().kind(), stop.reason().to_string().as_str()),
                    (ReasonKind::Failure, "job `panics` panicked")
                );
                Ok(())
            })
            .unwrap_err();
        let leaf = group.primary();
        assert_eq!((group.len(), leaf.offset(), leaf.is_panic()), (1, HOUR, true));
        assert_eq!((leaf.payload_ref::<Payload>(), leaf.panic_message()), (Some(&Payload(7)), Some("Box<dyn Any>")));
        assert_eq!(group.to_string(), "scope `s`: 1 of 2 jobs failed; first: job `panics` panicked");
        let payload = group.into_single().unwrap().into_payload().unwrap();
        assert_eq!(*payload.downcast::<Payload>().unwrap(), Payload(7));
    });
}

// S26, D1:
#[test]
fn the_text_of_a_panic_is_kept() {
    virtually(|| {
        let group = scope(|s| {
            s.job("str").spawn(|| panic!("plain"));
            Ok(())
        });
        assert_eq!(told(&group.unwrap_err()), ["job `str` panicked: plain"]);
        let group = scope(|s| {
            let n = 7;
            s.job("string").spawn(move || panic!("number {n}"));
            Ok(())
        });
        assert_eq!(told(&group.unwrap_err()), ["job `string` panicked: number 7"]);
    });
}

// S27, D1, S1:
#[test]
fn a_panic_in_the_body_waits_for_everybody_first() {
    virtually(|| {
        let home = AtomicUsize::new(0);
        let group = named("s")
            .open(|s| -> tassel::Result<()> {
                for _ in 0..5 {
                    s.spawn(|| {
                        assert!(sleep(10 * HOUR).is_err());
                        tassel::CancelToken::new().enter(|| sleep(HOUR))?;
                        home.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    });
                }
                sleep(HOUR)?;
                panic!("body")
            })
            .unwrap_err();
        assert_eq!(home.into_inner(), 5);
        assert_eq!(told(&group), ["the body panicked: body"]);
        assert_eq!(group.to_string(), "scope `s`: the body panicked");
    });
}

// S26, S14:
#[test]
fn panics_of_many_jobs_are_all_kept_and_the_pool_goes_on() {
    guarded(|| {
        let pool = Pool::builder().parallelism(1).build().unwrap();
        for _ in 0..20 {
            let options = named("s").pool(&pool).on_failure(tassel::OnFailure::KeepGoing);
            let group = options
                .open(|s| {
                    for n in 0..10 {
                        s.job("x").own_thread().spawn(move || -> tassel::Result<()> { panic_any(n) });
                    }
                    Ok(())
                })
                .unwrap_err();
            let mut payloads: Vec<_> = group.leaves().map(|leaf| *leaf.payload_ref::<i32>().unwrap()).collect();
            payloads.sort_unstable();
            assert_eq!(payloads, (0..10).collect::<Vec<_>>());
        }
        let value = ScopeOptions::new().pool(&pool).open(|s| Ok(s.job("x").own_thread().spawn(|| Ok(7)).join()?));
        assert_eq!(value.unwrap(), 7);
        pool.shutdown().unwrap();
    });
}

// D1, S27:
#[test]
fn resume_panic_raises_the_only_payload_again() {
    virtually(|| {
        let group = scope(|s| {
            s.spawn(|| -> tassel::Result<()> { panic_any(7_u8) });
            Ok(())
        })
        .unwrap_err();
        let thrown = catch_unwind(AssertUnwindSafe(|| group.resume_panic())).unwrap_err();
        assert_eq!(thrown.downcast_ref(), Some(&7_u8));
    });
}

// D1, S22:
#[test]
fn resume_panic_of_more_raises_the_group_which_an_outer_job_makes_a_subgroup() {
    virtually(|| {
        let inner = || {
            named("inner").open(|s| {
                s.job("fails").spawn(|| -> tassel::Result<()> {
                    assert!(sleep(10 * HOUR).is_err());
                    anyhow::bail!("broke")
                });
                s.job("panics").spawn(|| -> tassel::Result<()> { panic!("boom") });
                Ok(())
            })
        };
        let thrown = catch_unwind(|| inner().unwrap_err().resume_panic()).unwrap_err();
        let expected = ["job `panics` panicked: boom", "job `fails` failed: broke*"];
        assert_eq!(told(thrown.downcast_ref::<ErrorGroup>().unwrap()), expected);

        let group = named("outer")
            .open(|s| {
                s.job("opens").spawn(|| -> tassel::Result<()> { Err(inner().unwrap_err().resume_panic().into()) });
                Ok(())
            })
            .unwrap_err();
        let Some(Child::Group(sub)) = group.iter().next() else { panic!("{group:?}") };
        assert_eq!((sub.is_panic(), sub.name().as_ref(), sub.group().name().as_ref()), (true, "opens", "inner"));
        assert_eq!(told(&group), expected);
    });
}

// D1:
#[test]
fn resume_panic_without_a_panic_gives_the_group_back() {
    virtually(|| {
        let group = scope(|_| -> tassel::Result<()> { anyhow::bail!("broke") }).unwrap_err().resume_panic();
        assert_eq!(told(&group), ["the body failed: broke"]);
    });
}

// D1, S1:
#[test]
fn on_panic_resume_raises_after_the_join() {
    virtually(|| {
        let home = AtomicBool::new(false);
        let thrown = catch_unwind(AssertUnwindSafe(|| {
            named("s").on_panic(OnPanic::Resume).open(|s| {
                s.spawn(|| {
                    assert!(sleep(10 * HOUR).is_err());
                    home.store(true, Ordering::SeqCst);
                    Ok(())
                });
                s.spawn(|| -> tassel::Result<()> {
                    sleep(HOUR)?;
                    panic_any(7_u8)
                });
                Ok(())
            })
        }));
        assert_eq!((thrown.unwrap_err().downcast_ref(), home.into_inner()), (Some(&7_u8), true));
        // Nothing panicked: an ordinary error.
        let group = named("s").on_panic(OnPanic::Resume).open(|_| -> tassel::Result<()> { anyhow::bail!("broke") });
        assert_eq!(told(&group.unwrap_err()), ["the body failed: broke"]);
        let thrown = catch_unwind(|| named("s").on_panic(OnPanic::Resume).open(|_| panic_any(8_u8)));
        assert_eq!(thrown.map(|_| ()).unwrap_err().downcast_ref(), Some(&8_u8));
    });
}

// S27, D1, D11:
#[test]
fn on_a_thread_that_unwinds_a_panic_is_an_err_and_jobs_run_elsewhere() {
    struct OnDrop<'a>(&'a Mutex<Vec<String>>);
    impl Drop for OnDrop<'_> {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            let here = std::thread::current().id();
            let result = named("s").on_panic(OnPanic::Resume).open(|s| {
                let there = s.spawn(|| Ok(std::thread::current().id())).join()?;
                assert_ne!(here, there, "run inline on a thread that unwinds");
                s.job("panics").spawn(|| -> tassel::Result<()> { panic!("second") });
                Ok(())
            });
            *self.0.lock().unwrap() = told(&result.unwrap_err());
        }
    }
    guarded(|| {
        let second = Mutex::new(Vec::new());
        let thrown = catch_unwind(AssertUnwindSafe(|| {
            let _guard = OnDrop(&second);
            panic_any("first");
        }));
        assert_eq!(thrown.unwrap_err().downcast_ref(), Some(&"first"));
        assert_eq!(second.into_inner().unwrap(), ["job `panics` panicked: second"]);
    });
}

// S28, S1:
#[test]
fn a_payload_whose_drop_panics_breaks_no_join() {
    virtually(|| {
        let home = AtomicBool::new(false);
        let group = scope(|s| {
            s.job("throws").spawn(|| -> tassel::Result<()> {
                sleep(HOUR)?;
                resume_unwind(Box::new(Bomb("dropped")))
            });
            s.job("sleeps").spawn(|| {
                let stopped = sleep(10 * HOUR);
                home.store(true, Ordering::SeqCst);
                Ok(stopped?)
            });
            Ok(sleep(10 * HOUR)?)
        })
        .unwrap_err();
        assert_eq!((group.len(), group.primary().name().as_ref(), home.into_inner()), (1, "throws", true));
        drop(group); // its payload's panic is guarded
        // By value it is the taker's.
        let group = scope(|_| -> tassel::Result<()> { resume_unwind(Box::new(Bomb("dropped"))) }).unwrap_err();
        let payload = group.into_single().unwrap().into_payload().unwrap();
        assert!(payload.is::<Bomb>());
        assert_eq!(catch_unwind(AssertUnwindSafe(|| drop(payload))).unwrap_err().downcast_ref(), Some(&"dropped"));
    });
}

/// Panics in `Display`, in `source` and when dropped.
#[derive(Debug)]
struct BadError(#[allow(dead_code, reason = "its drop is what counts")] Bomb);

impl fmt::Display for BadError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("in Display")
    }
}

impl Error for BadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        panic!("in source")
    }
}

// S28:
#[test]
fn an_error_whose_display_source_and_drop_panic_breaks_no_join() {
    virtually(|| {
        let home = AtomicBool::new(false);
        let group = named("s")
            .open(|s| {
                let bad = s.job("bad").spawn(|| -> tassel::Result<()> {
                    sleep(HOUR)?;
                    Err(BadError(Bomb("dropped")).into())
                });
                s.job("sleeps").spawn(|| {
                    let stopped = sleep(10 * HOUR);
                    home.store(true, Ordering::SeqCst);
                    Ok(stopped?)
                });
                match bad.join() {
                    Err(tassel::JoinError::Failed { text, .. }) => assert_eq!(&*text, "<the error's Display panicked>"),
                    other => panic!("{other:?}"),
                }
                Ok(())
            })
            .unwrap_err();
        assert!(home.into_inner());
        assert_eq!(told(&group), ["job `bad` failed: <the error's Display panicked>"]);
        assert_eq!(group.to_string(), "scope `s`: 1 of 2 jobs failed; first: job `bad` failed");
        assert!(format!("{group:?}").contains("<the error's Display panicked>"), "{group:?}");
        assert!(group.find::<BadError>().is_some());
        drop(group);
    });
}

// S28, S11, S42:
#[test]
fn a_panic_in_the_drop_of_captures_is_a_leaf() {
    virtually(|| {
        // Of a job that ran: its captures are dropped inside its closure's call.
        let group = scope(|s| {
            let bomb = Bomb("captured");
            s.job("ran").spawn(move || {
                let _bomb = &bomb;
                Ok(())
            });
            Ok(())
        });
        assert_eq!(told(&group.unwrap_err()), ["job `ran` panicked: captured"]);
        // Of a job that never started.
        let group = scope(|s| {
            let (bomb, other) = (Bomb("swept"), Bomb("swept too"));
            s.job("first").spawn(move || drop(bomb));
            s.job("second").spawn(move || drop(other));
            s.cancel();
            Ok(7)
        });
        assert_eq!(told(&group.unwrap_err()), ["job `first` panicked: swept*", "job `second` panicked: swept too*"]);
    });
}

// S28, D6, S5:
#[test]
fn a_capture_that_panics_inside_a_refused_spawn_breaks_no_scope() {
    virtually(|| {
        let bomb = Bomb("refused");
        let group = scope(|s| {
            s.cancel();
            s.job("late").spawn(move || drop(bomb));
            Ok(7)
        });
        // The closure is dropped inside that call (D6), so the panic is that of the spawner: here the body.
        let group = group.unwrap_err();
        assert_eq!((group.len(), group.primary().panic_message()), (1, Some("refused")));
    });
}

// S28, S1, S11:
#[test]
fn a_value_whose_drop_panics_is_a_failure_if_nobody_took_it() {
    virtually(|| {
        let group = scope(|s| {
            drop(s.job("x").spawn(|| {
                sleep(HOUR)?;
                Ok(Bomb("value"))
            }));
            Ok(())
        });
        assert_eq!(told(&group.unwrap_err()), ["job `x` panicked: value"]);
    });
}

// S28, S1:
#[test]
fn a_value_of_the_body_that_is_dropped_for_a_failure_may_panic() {
    virtually(|| {
        let group = scope(|s| {
            s.job("fails").spawn(|| -> tassel::Result<()> {
                sleep(HOUR)?;
                anyhow::bail!("disk full")
            });
            Ok(Bomb("value"))
        });
        assert_eq!(told(&group.unwrap_err()), ["job `fails` failed: disk full"]);
    });
}

// S28, S26:
#[test]
fn a_stop_whose_context_panics_when_dropped_is_still_a_stop() {
    #[derive(Debug)]
    struct Context(#[allow(dead_code, reason = "its drop is what counts")] Bomb);
    impl fmt::Display for Context {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("context")
        }
    }
    virtually(|| {
        let value = scope(|s| {
            s.spawn(|| {
                let stop = sleep(10 * HOUR).unwrap_err();
                Err::<(), _>(anyhow::Error::new(stop).context(Context(Bomb("context"))))
            });
            sleep(HOUR)?;
            s.cancel();
            Ok(7)
        });
        assert_eq!(value.unwrap(), 7);
    });
}
