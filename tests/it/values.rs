//! Values that are bound around code: what jobs inherit, from where, and that nothing of it stays anywhere.

use crate::{guarded, named, told, virtually};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, Error, Scope,
    pool::Pool,
    region::{fail_after, move_on_after},
    scope, sleep,
    sync::Barrier,
    value::{self, Key},
};

static NAME: Key<&'static str> = Key::new();
static OTHER: Key<&'static str> = Key::new();
static NUMBER: Key<u64> = Key::new();

const HOUR: Duration = Duration::from_secs(3600);

fn name() -> &'static str {
    NAME.get().unwrap_or("nobody")
}

/// Counts those that are alive.
static ALIVE: Key<Counted> = Key::new();

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_value_is_there_while_its_closure_runs_and_the_nearest_counts() {
    guarded(|| {
        assert_eq!((NAME.get(), NAME.map(|name| name.len())), (None, None));
        let result = value::with(&NAME, "ada", || {
            value::with(&NUMBER, 7, || {
                let inner = value::with(&NAME, "bob", || (name(), NUMBER.get()));
                assert_eq!(inner, ("bob", Some(7)));
                assert_eq!((name(), OTHER.get()), ("ada", None));
                NAME.map(|name| value::with(&NAME, "eve", || name.len() + self::name().len()))
            })
        });
        assert_eq!(result, Some(6));
        assert_eq!(NAME.get(), None);
        assert_eq!(format!("{NAME:?}"), "Key { .. }");
    });
}

// S70:
#[test]
fn jobs_have_what_was_bound_where_their_scope_was_opened() {
    guarded(|| {
        value::with(&NAME, "opening", || {
            scope(|s| {
                value::with(&NAME, "body", || {
                    let job = s.spawn(|| Ok(name()));
                    assert_eq!(job.join()?, "opening", "also run by a join, on this very thread");
                    // A scope in the body belongs there.
                    assert_eq!(scope(|s| Ok(s.spawn(|| Ok(name())).join()?))?, "body");
                    Ok::<_, Error>(())
                })?;
                assert_eq!(name(), "opening");
                Ok(())
            })
        })
        .unwrap();
    });
}

// S70, S44:
#[test]
fn what_a_job_binds_neither_its_parent_nor_its_siblings_see() {
    guarded(|| {
        let both_bound = Barrier::new(2);
        let seen = value::with(&NAME, "opening", || {
            scope(|s| {
                let job = |mine| {
                    let both_bound = &both_bound;
                    s.spawn(move || {
                        value::with(&NAME, mine, || {
                            both_bound.wait()?;
                            // Into the outer scope: it belongs there.
                            let late = s.spawn(|| Ok(name()));
                            let inner = scope(|s| Ok(s.spawn(|| Ok(name())).join()?))?;
                            Ok([name(), inner, late.join()?])
                        })
                    })
                };
                let jobs = [job("a"), job("b")];
                let [a, b] = jobs.map(|job| job.join());
                assert_eq!(name(), "opening");
                Ok([a?, b?])
            })
        });
        assert_eq!(seen.unwrap(), [["a", "a", "opening"], ["b", "b", "opening"]]);
    });
}

// S70:
#[test]
fn a_worker_keeps_nothing_of_a_job() {
    guarded(|| {
        let pool = Pool::builder().max_threads(1).build().unwrap();
        let on_a_worker = |look: fn() -> &'static str| {
            let seen = named("s").pool(&pool).open(|s| Ok(s.job("a").own_thread().spawn(move || Ok(look())).join()?));
            seen.unwrap()
        };
        assert_eq!(value::with(&NAME, "ada", || on_a_worker(name)), "ada");
        assert_eq!(on_a_worker(name), "nobody");
        let binds_and_panics = || {
            let group = named("s").pool(&pool).open(|s| {
                s.job("a").own_thread().spawn(|| value::with(&NAME, "bob", || panic!("while it is bound")));
                Ok(())
            });
            assert_eq!(told(&group.unwrap_err()), ["job `a` panicked: while it is bound"]);
        };
        binds_and_panics();
        assert_eq!(on_a_worker(name), "nobody");
        pool.shutdown().unwrap();
    });
}

#[test]
fn a_job_of_another_scope_on_the_same_thread_has_its_own_scope_s_values_only() {
    guarded(|| {
        scope(|outer| {
            // The body runs the job, in the join, while its thread has bound something.
            let job = outer.spawn(|| Ok(name()));
            assert_eq!(value::with(&NAME, "thread", || job.join())?, "nobody");
            Ok(())
        })
        .unwrap();
    });
}

// S70:
#[test]
fn a_value_is_dropped_with_its_closure_whatever_became_of_the_jobs() {
    guarded(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let count = || alive.load(Ordering::SeqCst);
        let mut kept = None;
        let group = value::with(&ALIVE, Counted::new(&alive), || {
            scope(|s| {
                kept = Some(s.token());
                std::mem::forget(s.spawn(|| Ok(7)));
                s.job("inner").spawn(|| {
                    value::with(&ALIVE, Counted::new(&alive), || sleep(Duration::MAX))?;
                    Ok(())
                });
                s.job("fails").spawn(|| -> tassel::Result<()> {
                    assert_eq!(ALIVE.map(|alive| alive.0.load(Ordering::SeqCst) > 0), Some(true));
                    anyhow::bail!("on purpose")
                });
                Ok(())
            })
        });
        assert_eq!(
            (group.unwrap_err().len(), count()),
            (1, 0),
            "neither a token nor a handle that was leaked holds values"
        );
        assert!(kept.is_some_and(|token| token.is_cancelled()));
        let thrown =
            catch_unwind(AssertUnwindSafe(|| value::with(&ALIVE, Counted::new(&alive), || panic!("on purpose"))));
        assert!(thrown.is_err() && ALIVE.map(|_| ()).is_none());
        assert_eq!(count(), 0);
    });
}

#[test]
fn a_value_whose_drop_panics_panics_where_it_was_bound() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("in the drop");
        }
    }
    static BAD: Key<Bad> = Key::new();
    guarded(|| {
        let group = named("s").open(|s| {
            s.job("a").spawn(|| {
                value::with(&BAD, Bad, || scope(|s| Ok(s.spawn(|| Ok(BAD.map(|_| ()).is_some())).join()?)))?;
                Ok(())
            });
            Ok(())
        });
        assert_eq!(told(&group.unwrap_err()), ["job `a` panicked: in the drop"]);
        assert!(BAD.map(|_| ()).is_none());
    });
}

#[test]
fn stops_and_limits_leave_the_values_as_they_are() {
    virtually(|| {
        value::with(&NAME, "ada", || {
            let seen = move_on_after(HOUR, || {
                assert!(value::with(&NAME, "bob", || sleep(2 * HOUR)).is_err());
                assert_eq!(name(), "ada");
                Ok(sleep(HOUR)?)
            });
            assert_eq!((seen.unwrap(), name()), (None, "ada"));
            let late = fail_after(HOUR, || {
                scope(|s| s.spawn(|| value::with(&NAME, "job", || Ok(sleep(2 * HOUR)?))).join().map_err(Error::from))?;
                Ok(())
            });
            assert!(late.is_err());
            assert_eq!(name(), "ada");
        });
    });
}

// S70:
#[test]
fn a_bound_closure_takes_the_values_along_and_keeps_them_as_long_as_it_lives() {
    guarded(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let token = CancelToken::new();
        let bound = value::with(&NAME, "ada", || {
            value::with(&ALIVE, Counted::new(&alive), || {
                token.bind(|| (name(), scope(|s| Ok(s.spawn(|| Ok(name())).join()?))))
            })
        });
        assert_eq!(alive.load(Ordering::SeqCst), 1);
        let here = value::with(&NAME, "elsewhere", || thread::spawn(bound).join());
        let (seen, inherited) = here.unwrap();
        assert_eq!((seen, inherited.unwrap()), ("ada", "ada"));
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        let nothing = token.bind(name);
        assert_eq!(value::with(&NAME, "elsewhere", nothing), "nobody");
        assert_eq!(value::with(&NAME, "ada", || token.enter(name)), "ada", "to enter is to stay here");
    });
}

#[test]
fn callbacks_of_a_cancel_have_none_of_the_values_of_who_cancels() {
    guarded(|| {
        let (send, receive) = mpsc::channel();
        let token = CancelToken::new();
        let _registration = token.on_cancel(move || send.send(name()).unwrap());
        value::with(&NAME, "canceller", || token.cancel());
        assert_eq!(receive.recv().unwrap(), "nobody");
    });
}

#[test]
fn a_destructor_of_a_thread_local_can_bind_and_read() {
    struct Late(mpsc::Sender<&'static str>);
    impl Drop for Late {
        fn drop(&mut self) {
            self.0.send(value::with(&NAME, "late", name)).unwrap();
            self.0.send(name()).unwrap();
        }
    }
    thread_local! {
        static LATE: Mutex<Option<Late>> = const { Mutex::new(None) };
    }
    guarded(|| {
        let (send, receive) = mpsc::channel();
        thread::spawn(|| value::with(&NAME, "early", || LATE.with(|late| *late.lock().unwrap() = Some(Late(send)))))
            .join()
            .unwrap();
        assert_eq!(receive.iter().collect::<Vec<_>>(), ["late", "nobody"]);
    });
}

#[test]
fn spawns_from_everywhere_into_one_scope_have_its_values() {
    fn tree<'scope>(s: &'scope Scope<'scope, '_>, depth: u64, sum: &'scope AtomicUsize) {
        sum.fetch_add(usize::try_from(NUMBER.get().unwrap()).unwrap(), Ordering::SeqCst);
        if depth > 0 {
            for _ in 0..2 {
                value::with(&NUMBER, 1000, || s.spawn(move || tree(s, depth - 1, sum)));
            }
        }
    }
    guarded(|| {
        let sum = AtomicUsize::new(0);
        value::with(&NUMBER, 1, || scope(|s| tree(s, 7, &sum))).unwrap();
        assert_eq!(sum.into_inner(), 255);
    });
}

#[test]
fn a_hundred_thousand_bindings_are_dropped_on_a_small_stack() {
    fn nest(depth: u64, end: &mut dyn FnMut()) {
        if depth == 0 {
            return end();
        }
        value::with(&NUMBER, depth, || nest(depth - 1, end));
    }
    guarded(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let mut bound = None;
        let deep = thread::Builder::new().stack_size(1 << 30);
        thread::scope(|threads| {
            let bind = || {
                value::with(&ALIVE, Counted::new(&alive), || {
                    value::with(&NAME, "outermost", || {
                        nest(100_000, &mut || bound = Some(CancelToken::new().bind(|| (name(), NUMBER.get()))));
                    });
                });
            };
            deep.spawn_scoped(threads, bind).unwrap().join().unwrap();
        });
        assert_eq!(alive.load(Ordering::SeqCst), 1);
        let small = thread::Builder::new().stack_size(1 << 17);
        let seen = small.spawn(bound.unwrap()).unwrap().join().unwrap();
        assert_eq!(seen, ("outermost", Some(1)));
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    });
}
