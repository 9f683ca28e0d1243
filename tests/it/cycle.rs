//! Joins that wait for each other in a ring: exactly one is refused, and says who would wait for whom.

use crate::{guarded, until, virtually};
use std::{
    sync::{
        Barrier as StdBarrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tassel::{
    JobHandle, JoinError, ScopeOptions,
    pool::Pool,
    region::{fail_after, shield_unbounded},
    scope, sleep, snapshot,
    sync::{Event, Mutex as Lock},
};

const HOUR: Duration = Duration::from_secs(3600);

type Slot<'s> = Mutex<Option<JobHandle<'s, ()>>>;

/// What one join of a ring said: the cycle, if it was refused.
type Said = Option<Vec<String>>;

fn said(joined: Result<(), JoinError>) -> Said {
    match joined {
        Ok(()) => None,
        Err(JoinError::WouldDeadlock { cycle }) => Some(cycle),
        Err(other) => panic!("{other:?}"),
    }
}

/// Job n joins job n + 1, the last one the first. Returns what each was told.
fn ring(options: ScopeOptions, n: usize, meet: &(dyn Fn() + Sync)) -> Vec<Said> {
    let told = Mutex::new(vec![None; n]);
    let ready = Event::new();
    options
        .open(|s| {
            let (told, ready) = (&told, &ready);
            let slots: &[Slot<'_>] = Box::leak((0..n).map(|_| Mutex::default()).collect());
            for at in 0..n {
                let job = s.job(format!("j{at}")).spawn(move || {
                    ready.wait()?;
                    let next = slots[(at + 1) % n].lock().unwrap().take().unwrap();
                    meet();
                    told.lock().unwrap()[at] = said(next.join());
                    Ok(())
                });
                *slots[at].lock().unwrap() = Some(job);
            }
            ready.set();
            Ok(())
        })
        .unwrap();
    told.into_inner().unwrap()
}

// S49, D21:
#[test]
fn of_joins_in_a_ring_the_one_that_closes_it_is_refused() {
    virtually(|| {
        for n in 2..6 {
            let told = ring(ScopeOptions::new().inline(false), n, &|| ());
            let names: Vec<_> = (0..n).map(|at| format!("j{at}")).collect();
            // In virtual time the last one closes it: it waits for the first, and so on.
            let mut expected: Vec<Said> = vec![None; n];
            let cycle = names[n - 1..].iter().chain(&names[..n - 1]).cloned().collect();
            expected[n - 1] = Some(cycle);
            assert_eq!(told, expected);
        }
    });
}

// S49, D21:
#[test]
fn of_joins_that_close_a_ring_at_once_exactly_one_is_refused() {
    guarded(|| {
        for n in [2, 3] {
            for _ in 0..200 {
                let all = StdBarrier::new(n);
                let pool = Pool::builder().parallelism(n).build().unwrap();
                let options = ScopeOptions::new().pool(&pool).inline(false);
                let told = ring(options, n, &|| _ = all.wait());
                assert_eq!(told.iter().flatten().count(), 1, "{told:?}");
            }
        }
    });
}

// S49, D21:
#[test]
fn a_ring_is_found_through_the_exit_of_a_scope_and_through_an_inline_run() {
    virtually(|| {
        for inline in [true, false] {
            let told = Mutex::new(None);
            scope(|s| {
                let told = &told;
                let slots: &[Slot<'_>] = Box::leak(Box::new([Mutex::default(), Mutex::default()]));
                let ready: &Event = Box::leak(Box::default());
                // `outer` waits at the exit of a scope, or in an inline run, for `inner`, which waits for `other`.
                let outer = s.job("outer").spawn(move || {
                    ready.wait()?;
                    Ok(scope(|s| {
                        let inner = s.job("inner").spawn(move || {
                            let other = slots[1].lock().unwrap().take().unwrap();
                            Ok(other.join()?)
                        });
                        if inline { Ok(inner.join()?) } else { Ok(()) }
                    })?)
                });
                let other = s.job("other").spawn(move || {
                    ready.wait()?;
                    sleep(HOUR)?; // the others wait by now
                    let outer = slots[0].lock().unwrap().take().unwrap();
                    *told.lock().unwrap() = said(outer.join());
                    Ok(())
                });
                *slots[0].lock().unwrap() = Some(outer);
                *slots[1].lock().unwrap() = Some(other);
                ready.set();
                Ok(())
            })
            .unwrap();
            assert_eq!(told.into_inner().unwrap().unwrap(), ["other", "outer"], "inline: {inline}");
        }
    });
}

// S49, D21:
#[test]
fn a_ring_that_an_inner_job_closes_names_everybody_in_it() {
    virtually(|| {
        let told = Mutex::new(None);
        scope(|s| {
            let told = &told;
            let slots: &[Slot<'_>] = Box::leak(Box::new([Mutex::default(), Mutex::default()]));
            let ready: &Event = Box::leak(Box::default());
            let outer = s.job("outer").spawn(move || {
                ready.wait()?;
                sleep(HOUR)?;
                Ok(scope(|s| {
                    s.job("inner").spawn(move || {
                        let other = slots[1].lock().unwrap().take().unwrap();
                        *told.lock().unwrap() = said(other.join());
                    });
                    Ok(())
                })?)
            });
            let other = s.job("other").spawn(move || {
                ready.wait()?;
                let outer = slots[0].lock().unwrap().take().unwrap();
                Ok(outer.join()?)
            });
            *slots[0].lock().unwrap() = Some(outer);
            *slots[1].lock().unwrap() = Some(other);
            ready.set();
            Ok(())
        })
        .unwrap();
        assert_eq!(told.into_inner().unwrap().unwrap(), ["inner", "other", "outer"]);
    });
}

// S49: a job that runs inline on top of another is not below it, but keeps it from going on.
#[test]
fn a_ring_through_a_line_that_stands_below_an_inline_run_is_found() {
    guarded(|| {
        let one_thread = Pool::builder().parallelism(1).max_threads(1).build().unwrap();
        let (told, is_over) = (Mutex::new(None), AtomicBool::new(false));
        ScopeOptions::new()
            .pool(&one_thread)
            .open(|s| {
                let (told, is_over) = (&told, &is_over);
                let slot: &Slot<'_> = Box::leak(Box::default());
                let ready: &Event = Box::leak(Box::default());
                let below = s.job("below").spawn(move || {
                    // The thread of `below` runs it, since there is no other.
                    let on_top = s.job("on top").spawn(move || {
                        ready.wait()?;
                        Ok(ScopeOptions::new().pool(&Pool::global()).inline(false).open(|s| {
                            s.job("joins").spawn(move || {
                                let below = slot.lock().unwrap().take().unwrap();
                                *told.lock().unwrap() = said(below.join());
                            });
                            Ok(())
                        })?)
                    });
                    on_top.join()?;
                    is_over.store(true, Ordering::SeqCst);
                    Ok(())
                });
                *slot.lock().unwrap() = Some(below);
                ready.set();
                until(|| is_over.load(Ordering::SeqCst))
            })
            .unwrap();
        let told = told.into_inner().unwrap().unwrap();
        // The join closes it, or the exit does.
        assert!(told == ["joins", "below"] || told == ["joins", "below", "body"], "{told:?}");
    });
}

// S49, D18: where no thread can be had, who waits for a job runs it.
#[test]
fn a_joiner_that_runs_the_job_does_not_wait_for_it() {
    guarded(|| {
        let none = Pool::builder().refuse_threads(|_| true).build().unwrap();
        let (first, second, ready) = (Lock::new(()), Lock::new(()), Event::new());
        scope(|outer| {
            let (first, second, ready, none) = (&first, &second, &ready, &none);
            let waits = |name: &str| {
                let picture = snapshot::of(outer).to_string();
                picture
                    .lines()
                    .any(|line| line.contains(&format!("job `{name}` (")) && line.contains("waiting in lock"))
            };
            let asks = outer.job("asks").spawn(move || {
                let _second = second.lock()?;
                ready.set();
                until(|| waits("inner"))?;
                Ok(first.lock().map(drop)?)
            });
            outer.job("joins").spawn(move || {
                ready.wait()?;
                Ok(ScopeOptions::new().pool(none).open(|s| {
                    let run = s.job("run").spawn(|| {
                        let guard = first.lock()?;
                        Ok(ScopeOptions::new().pool(&Pool::global()).inline(false).open(|s| {
                            s.job("inner").spawn(|| Ok(second.lock().map(drop)?));
                            until(|| waits("asks"))?;
                            drop(guard);
                            Ok(())
                        })?)
                    });
                    shield_unbounded(|| Ok(run.join()?))
                })?)
            });
            Ok(asks.join()?)
        })
        .unwrap();
    });
}

// S49:
#[test]
fn a_ring_in_which_a_join_can_end_by_itself_is_none() {
    virtually(|| {
        let (patient, timed) = (Mutex::new(None), Mutex::new(None));
        scope(|s| {
            let (patient, timed) = (&patient, &timed);
            let slots: &[Slot<'_>] = Box::leak(Box::new([Mutex::default(), Mutex::default()]));
            let ready: &Event = Box::leak(Box::default());
            let a = s.job("a").spawn(move || {
                ready.wait()?;
                let b = slots[1].lock().unwrap().take().unwrap();
                *patient.lock().unwrap() = Some(b.join());
                Ok(())
            });
            let b = s.job("b").spawn(move || {
                ready.wait()?;
                let a = slots[0].lock().unwrap().take().unwrap();
                *timed.lock().unwrap() = Some(fail_after(HOUR, || Ok(a.join()?)).is_err());
                Ok(())
            });
            *slots[0].lock().unwrap() = Some(a);
            *slots[1].lock().unwrap() = Some(b);
            ready.set();
            Ok(())
        })
        .unwrap();
        assert!(matches!(patient.into_inner().unwrap(), Some(Ok(()))));
        assert_eq!(timed.into_inner().unwrap(), Some(true));
    });
}
