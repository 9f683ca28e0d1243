//! The edges: a scope where few expect one, what is left of a process, and very many of everything.
//!
//! Where a scope may be opened: in the destructor of a thread-local, while a thread unwinds, on threads of other pools.

use crate::guarded;
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, ErrorGroup, ReasonKind, ScopeOptions, checkpoint, pool::Pool, pool::ShutdownError, scope, sleep,
    sync::Barrier, testing::virtual_time,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Runs a closure as its thread ends.
#[derive(Default)]
struct AtEnd(Option<Box<dyn FnOnce()>>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run();
        }
    }
}

thread_local! {
    static AT_END: RefCell<AtEnd> = RefCell::default();
}

fn at_end_of_thread(run: impl FnOnce() + 'static) {
    AT_END.with(|at_end| at_end.borrow_mut().0 = Some(Box::new(run)));
}

fn open(pool: Option<&Pool>) -> ScopeOptions {
    pool.iter().fold(ScopeOptions::new(), |options, pool| options.pool(pool))
}

/// Opens scopes of every kind here, whatever the thread is about, and checks that they do what scopes do.
fn everything_works(pool: Option<&Pool>) {
    // Jobs on other threads: somebody must wake this one at the exit, and in a join.
    let count = AtomicUsize::new(0);
    let value = open(pool).open(|s| {
        for _ in 0..3 {
            s.job("own").own_thread().spawn(|| _ = count.fetch_add(1, SeqCst));
        }
        let seven = s.job("seven").own_thread().spawn(|| Ok(7));
        Ok(seven.join()? + s.spawn(|| Ok(1)).join()?)
    });
    assert_eq!((value.unwrap(), count.into_inner()), (8, 3));
    // A failure stops a body that waits, and reaches nested scopes.
    let group = open(pool).open(|s| {
        let inner = Barrier::new(2);
        s.spawn(|| ());
        open(pool).open(|nested| {
            nested.spawn(|| ());
            nested.job("fails").own_thread().spawn(|| -> tassel::Result<()> {
                inner.wait()?;
                anyhow::bail!("broke")
            });
            inner.wait()?;
            Ok(sleep(HOUR)?)
        })?;
        Ok(())
    });
    let told: Vec<_> = group.unwrap_err().leaves().map(|leaf| format!("{leaf:#}")).collect();
    assert_eq!(told, ["job `fails` failed: broke"]);
    // The scope's own cancel is seen by its body.
    let seen = open(pool).open(|s| {
        assert!(checkpoint().is_ok());
        s.cancel();
        Ok(checkpoint().is_err() && CancelToken::current().is_cancelled())
    });
    assert!(seen.unwrap());
    // A deadline ends a wait, and a thread from elsewhere does.
    let group = open(pool).timeout(Duration::from_millis(1)).open(|_| Ok(sleep(HOUR)?)).unwrap_err();
    assert_eq!(group.reason().map(tassel::Reason::kind), Some(ReasonKind::Deadline));
    let token = CancelToken::new();
    let stops = token.clone();
    let (ready, go) = mpsc::channel();
    let stopper = thread::spawn(move || {
        go.recv().unwrap();
        stops.cancel();
    });
    let group = open(pool).under(&token).open(|_| {
        ready.send(()).unwrap();
        Ok(sleep(HOUR)?)
    });
    assert!(group.is_err());
    stopper.join().unwrap();
    // Hours pass at once.
    let slept = virtual_time(|| open(pool).open(|s| Ok(s.spawn(|| Ok(sleep(HOUR)?)).join()?)));
    assert!(slept.is_ok(), "{slept:?}");
}

/// Runs `code` in the destructor of a thread-local of a new thread: before the library's own thread-locals are
/// destroyed, or after. Systems may choose another order; both must do.
fn in_a_thread_local_s_destructor(code: impl Fn() + Clone + Send + 'static) {
    for first in [true, false] {
        let code = code.clone();
        let (done, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            let late = move || {
                let result = catch_unwind(AssertUnwindSafe(code));
                done.send(result).unwrap();
            };
            if first {
                at_end_of_thread(late);
                everything_works(None);
            } else {
                everything_works(None);
                at_end_of_thread(late);
            }
        });
        thread.join().unwrap();
        ended.recv().unwrap().unwrap_or_else(|payload| resume_unwind(payload));
    }
}

// S1, S75:
#[test]
fn a_scope_in_the_destructor_of_a_thread_local_is_like_any_other() {
    guarded(|| in_a_thread_local_s_destructor(|| everything_works(None)));
}

// S1, S75:
#[test]
fn a_scope_in_the_destructor_of_a_thread_local_of_a_worker_is_like_any_other() {
    guarded(|| {
        for round in 0..40 {
            let keep_alive = if round % 2 == 0 { HOUR } else { Duration::ZERO };
            let pool = Pool::builder().parallelism(2).keep_alive(keep_alive).build().unwrap();
            let (done, ended) = mpsc::channel();
            let (theirs, all) = (pool.clone(), Arc::new(Barrier::new(4)));
            open(Some(&pool))
                .inline(false)
                .open(|s| {
                    for _ in 0..4 {
                        let (theirs, all, done) = (theirs.clone(), Arc::clone(&all), done.clone());
                        s.spawn(move || {
                            let late = move || {
                                // A worker of a pool that was shut down uses the global one.
                                let mine = (keep_alive == Duration::ZERO).then(|| theirs.clone());
                                let result = catch_unwind(AssertUnwindSafe(|| {
                                    assert_eq!(theirs.shutdown(), Err(ShutdownError::OwnJob));
                                    everything_works(mine.as_ref());
                                }));
                                done.send(result.map_err(drop)).unwrap();
                            };
                            at_end_of_thread(late);
                            Ok(all.wait().map(drop)?)
                        });
                    }
                })
                .unwrap();
            drop(theirs);
            let mut results = Vec::new();
            if keep_alive == Duration::ZERO {
                results.extend((0..4).map(|_| ended.recv().unwrap()));
                pool.shutdown().unwrap();
            } else {
                pool.shutdown().unwrap();
                // Joined: the destructors have run.
                results.extend((0..4).map(|_| ended.try_recv().unwrap()));
            }
            assert_eq!(results, [Ok(()), Ok(()), Ok(()), Ok(())]);
        }
    });
}

/// Runs a closure when it is dropped.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

// S1, S27, D11:
#[test]
fn a_scope_in_a_drop_while_the_thread_unwinds_is_like_any_other() {
    guarded(|| {
        let mut worked = false;
        let thrown = catch_unwind(AssertUnwindSafe(|| {
            let _guard = OnDrop(|| {
                assert!(thread::panicking());
                everything_works(None);
                worked = true;
            });
            panic_any("first");
        }));
        assert_eq!((thrown.unwrap_err().downcast_ref(), worked), (Some(&"first"), true));
    });
}

// D11, D18, S27:
#[test]
fn a_scope_on_a_thread_that_unwinds_starves_where_no_other_thread_can_be_had() {
    guarded(|| {
        let pool = Pool::builder().refuse_threads(|_| true).build().unwrap();
        let (ran, mut told) = (AtomicUsize::new(0), None);
        let thrown = catch_unwind(AssertUnwindSafe(|| {
            let _guard = OnDrop(|| {
                let result = open(Some(&pool)).open(|s| {
                    s.spawn(|| _ = ran.fetch_add(1, SeqCst));
                    Ok(())
                });
                told = Some(result.unwrap_err());
            });
            panic_any("first");
        }));
        assert_eq!(thrown.unwrap_err().downcast_ref(), Some(&"first"));
        let reason = told.as_ref().and_then(ErrorGroup::reason).map(tassel::Reason::kind);
        assert_eq!((reason, ran.into_inner()), (Some(ReasonKind::Starved), 0), "{told:?}");
    });
}

// S1, S68:
#[test]
fn a_scope_on_a_worker_of_rayon_is_like_any_other() {
    guarded(|| {
        let rayon = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        rayon.install(|| {
            everything_works(None);
            rayon::join(|| everything_works(None), || everything_works(None));
        });
        // Both ways: a job that computes on rayon, in a scope on rayon.
        let sum = rayon.install(|| {
            scope(|s| {
                let jobs: Vec<_> = (0..8_u32).map(|n| s.spawn(move || Ok(rayon::join(|| n, || n * n)))).collect();
                let mut sum = 0;
                for job in jobs {
                    let (a, b) = job.join()?;
                    sum += a + b;
                }
                Ok(sum)
            })
        });
        assert_eq!(sum.unwrap(), 28 + 140);
    });
}

// S1, S68:
#[test]
fn a_scope_on_a_thread_of_tokio_is_like_any_other() {
    guarded(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            // In a task: it holds the runtime up meanwhile, as any blocking call does.
            everything_works(None);
            // Where tokio wants blocking calls.
            tokio::task::spawn_blocking(|| everything_works(None)).await.unwrap();
        });
    });
}

// D11:
#[test]
fn a_job_that_cannot_stand_its_opener_s_thread_locals_runs_elsewhere_if_told_so() {
    guarded(|| {
        // Tokio knows by a thread-local that a runtime is running here, and panics in a second one.
        let answer = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            Ok(runtime.block_on(async { 42 }))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let own = scope(|s| Ok(s.job("own").own_thread().spawn(answer).join()?));
            assert_eq!(own.unwrap(), 42);
            let elsewhere = ScopeOptions::new().inline(false).open(|s| Ok(s.spawn(answer).join()?));
            assert_eq!(elsewhere.unwrap(), 42);
            // On a pool that has no thread to give, the joiner's own runs it. What that panic says is kept.
            let none = Pool::builder().refuse_threads(|_| true).build().unwrap();
            let here = open(Some(&none)).open(|s| Ok(s.spawn(answer).join()?)).unwrap_err();
            let text = here.primary().panic_message().unwrap_or_default();
            assert!(text.contains("Cannot start a runtime from within a runtime"), "{here:?}");
        });
    });
}

// D1, S26:
#[test]
fn a_scope_inside_catch_unwind_and_around_it_is_like_any_other() {
    guarded(|| {
        catch_unwind(|| everything_works(None)).unwrap();
        // A panic that code in the scope catches itself is its own affair, also if it spawned before.
        let ran = AtomicUsize::new(0);
        let value = scope(|s| {
            let thrown = catch_unwind(AssertUnwindSafe(|| {
                s.spawn(|| _ = ran.fetch_add(1, SeqCst));
                panic_any("mine");
            }));
            s.spawn(|| {
                let thrown = catch_unwind(|| panic_any("mine, too"));
                assert!(thrown.is_err());
            });
            checkpoint()?;
            Ok(thrown.unwrap_err().downcast_ref() == Some(&"mine"))
        });
        assert_eq!((value.unwrap(), ran.into_inner()), (true, 1));
        // A panic is raised again in the middle of an unwinding scope: the outer one gets it whole.
        let group = scope(|s| {
            s.job("outer").spawn(|| {
                let inner = scope(|s| {
                    s.job("inner").spawn(|| -> tassel::Result<()> { panic_any(7_u8) });
                    Ok(())
                });
                let thrown = catch_unwind(AssertUnwindSafe(|| inner.unwrap_err().resume_panic())).unwrap_err();
                resume_unwind(thrown)
            });
            Ok(())
        });
        assert_eq!(group.unwrap_err().primary().payload_ref(), Some(&7_u8));
    });
}

/// What is left of a process after a fork.
#[cfg(unix)]
mod forked {
    use super::{HOUR, everything_works, open};
    use crate::{child, child_side, guarded};
    use fork::{Fork, fork, waitpid};
    use std::{
        fs,
        panic::{AssertUnwindSafe, catch_unwind},
        process::exit,
        sync::{Arc, mpsc},
        thread,
    };
    use tassel::{
        CancelToken, ReasonKind, checkpoint,
        pool::Pool,
        scope, sleep, snapshot,
        sync::{Barrier, Condvar, Event, Mutex, Semaphore},
    };

    /// Returns once all other threads of this process sleep: a lock that one of them holds at a fork stays locked in the
    /// child, also those inside the allocator, of the standard library, and of `parking_lot`.
    fn until_all_sleep() {
        let mut quiet = 0;
        while quiet < 20 {
            thread::yield_now();
            let moves = tasks().filter(|stat| !matches!(stat.chars().next(), Some('S' | 'I'))).count();
            // The caller itself moves; elsewhere than on Linux there is nothing to see.
            quiet = if moves <= 1 { quiet + 1 } else { 0 };
        }
    }

    /// What the kernel says of each thread, from its state on.
    fn tasks() -> impl Iterator<Item = String> {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        tasks.filter_map(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            Some(stat.rsplit_once(") ")?.1.to_owned())
        })
    }

    /// Runs `code` in a forked child and says whether it succeeded.
    fn in_fork(code: impl FnOnce()) -> bool {
        until_all_sleep();
        match fork().unwrap() {
            Fork::Parent(pid) => waitpid(pid).unwrap() == 0,
            Fork::Child => exit(i32::from(catch_unwind(AssertUnwindSafe(code)).is_err())),
        }
    }

    /// Leaves idle workers, an alarm that serves, and a pool that believes to have no place left.
    fn busy() {
        everything_works(None);
        let all = Barrier::new(6);
        scope(|s| {
            for _ in 0..5 {
                s.job("own").own_thread().timeout(HOUR).spawn(|| Ok(all.wait().map(drop)?));
            }
            Ok(all.wait().map(drop)?)
        })
        .unwrap();
        assert!(Pool::global().stats().workers > 0);
    }

    // S75:
    #[test]
    fn a_forked_child_starts_with_an_empty_pool_and_so_does_its_child() {
        guarded(|| assert!(child("edges::forked::starts_empty", &[]).status.success()));
    }

    #[test]
    #[ignore = "a child process of `a_forked_child_starts_with_an_empty_pool_and_so_does_its_child`"]
    fn starts_empty() {
        child_side(|| {
            busy();
            let before = Pool::global().stats();
            let lock = tassel::sync::RwLock::new(());
            let _reads = lock.read().unwrap();
            let worked = in_fork(|| {
                assert_eq!(Pool::global().stats().workers, 0);
                assert!(lock.write().is_err_and(|error| !error.is_cancelled()), "the guard came along");
                everything_works(None);
                busy();
                assert!(in_fork(|| {
                    assert_eq!(Pool::global().stats().workers, 0);
                    everything_works(None);
                    let pool = Pool::builder().parallelism(1).build().unwrap();
                    everything_works(Some(&pool));
                    pool.shutdown().unwrap();
                }));
                everything_works(None);
            });
            assert!(worked);
            // The parent noticed nothing.
            assert!(Pool::global().stats().workers >= before.idle.min(1));
            everything_works(None);
        });
    }

    // S75:
    #[test]
    fn a_child_works_whatever_threads_of_its_parent_wait_for() {
        guarded(|| assert!(child("edges::forked::waits", &[]).status.success()));
    }

    #[test]
    #[ignore = "a child process of `a_child_works_whatever_threads_of_its_parent_wait_for`"]
    fn waits() {
        child_side(|| {
            busy();
            let (pool, over, token) = (&Pool::builder().build().unwrap(), &Arc::new(Event::new()), &CancelToken::new());
            let (there, all) = mpsc::channel();
            let shared = &CancelToken::new();
            thread::scope(|t| {
                // A body, a job that sleeps, a joiner, and who shuts their pool down, twice.
                let opened = there.clone();
                t.spawn(move || {
                    let result = open(Some(pool)).open(|s| {
                        let sleeps = s.job("sleeps").own_thread().spawn(|| Ok(sleep(HOUR)?));
                        s.job("joins").own_thread().spawn(move || sleeps.join().map_err(Into::into));
                        opened.send(())?;
                        over.wait()?;
                        s.cancel();
                        Ok(())
                    });
                    result.unwrap();
                });
                all.recv().unwrap();
                for _ in 0..2 {
                    t.spawn(|| pool.shutdown().unwrap());
                }
                // A callback, and who drops its registration meanwhile.
                let (waits, runs) = (Arc::clone(over), there.clone());
                let registered = token.on_cancel(move || {
                    runs.send(()).unwrap();
                    waits.wait().unwrap();
                });
                t.spawn(|| token.cancel());
                all.recv().unwrap();
                t.spawn(|| drop(registered));
                // A sleeper under a token that a child cancels, with a sleeper of its own: the parent's is in the list as well.
                t.spawn(|| shared.enter(|| sleep(HOUR)));
                for _ in 0..3 {
                    assert!(in_fork(|| {
                        everything_works(None);
                        thread::scope(|t| {
                            let sleeper = t.spawn(|| shared.enter(|| sleep(HOUR)));
                            until_all_sleep();
                            shared.cancel();
                            assert!(sleeper.join().unwrap().is_err());
                        });
                    }));
                }
                shared.cancel();
                over.set();
            });
            everything_works(None);
        });
    }

    // S75, S40:
    #[test]
    fn a_child_gives_no_turn_to_threads_that_it_does_not_have() {
        guarded(|| assert!(child("edges::forked::shares", &[]).status.success()));
    }

    #[test]
    #[ignore = "a child process of `a_child_gives_no_turn_to_threads_that_it_does_not_have`"]
    fn shares() {
        child_side(|| {
            let (semaphore, mutex, free, changed) = (Semaphore::new(1), Mutex::new(0), Mutex::new(()), Condvar::new());
            let wait = || drop(changed.wait(free.lock().unwrap()).unwrap());
            thread::scope(|t| {
                let (permit, guard) = (semaphore.acquire().unwrap(), mutex.lock().unwrap());
                t.spawn(|| drop(semaphore.acquire().unwrap()));
                t.spawn(|| *mutex.lock().unwrap() += 1);
                t.spawn(wait);
                while (semaphore.waiting(), mutex.waiting(), changed.waiting()) != (1, 1, 1) {
                    thread::yield_now();
                }
                assert!(in_fork(|| {
                    drop((permit, guard));
                    for _ in 0..2 {
                        drop(semaphore.acquire().unwrap());
                        assert_eq!(*mutex.lock().unwrap(), 0);
                    }
                    thread::scope(|t| {
                        t.spawn(wait);
                        while changed.waiting() < 2 {
                            thread::yield_now();
                        }
                        changed.notify_one();
                    });
                }));
                changed.notify_one();
            });
            assert_eq!((*mutex.lock().unwrap(), semaphore.in_use()), (1, 0), "the parent's have had theirs");
        });
    }

    // S75, S5:
    #[test]
    fn a_pool_that_was_made_before_the_fork_refuses_scopes_in_the_child() {
        guarded(|| assert!(child("edges::forked::refuses", &[]).status.success()));
    }

    #[test]
    #[ignore = "a child process of `a_pool_that_was_made_before_the_fork_refuses_scopes_in_the_child`"]
    fn refuses() {
        child_side(|| {
            let pool = Pool::builder().build().unwrap();
            everything_works(Some(&pool));
            let worked = in_fork(|| {
                let mut ran = false;
                let group = open(Some(&pool)).open(|_| ran = true).unwrap_err();
                assert!(!ran);
                assert_eq!(group.reason().map(tassel::Reason::kind), Some(ReasonKind::Shutdown));
                let text = "the pool's threads stayed in the parent of this process, which is a fork: build a pool \
                            after the fork, and open no scope inside a scope of the parent";
                assert_eq!(group.reason().and_then(tassel::Reason::text), Some(text));
            });
            assert!(worked);
            everything_works(Some(&pool));
            pool.shutdown().unwrap();
        });
    }

    // S75:
    #[test]
    fn a_child_that_is_forked_inside_a_scope_can_only_look_and_leave() {
        guarded(|| assert!(child("edges::forked::inside", &[]).status.success()));
    }

    #[test]
    #[ignore = "a child process of `a_child_that_is_forked_inside_a_scope_can_only_look_and_leave`"]
    fn inside() {
        child_side(|| {
            let both = Barrier::new(2);
            let worked = scope(|s| {
                s.job("blocked").own_thread().spawn(|| Ok(both.wait().map(drop)?));
                let worked = in_fork(|| {
                    // The cancellation tree is memory, and whole; the clock is there.
                    sleep(std::time::Duration::from_millis(1)).unwrap();
                    checkpoint().unwrap();
                    assert!(snapshot::of(s).to_string().contains("blocked"));
                    assert!(scope(|_| ()).is_err());
                    s.cancel();
                    assert!(checkpoint().is_err());
                    // To leave the scope would be to wait for a thread that is not there.
                    exit(0);
                });
                checkpoint()?; // that cancel was the child's
                both.wait()?;
                Ok(worked)
            });
            assert!(worked.unwrap());
        });
    }
}

/// Panics in destructors: of captures, values, payloads, errors; with the handle held, dropped, leaked.
mod drops {
    use super::{HOUR, OnDrop};
    use crate::{child, child_side, guarded, virtually};
    use std::{
        error::Error,
        fmt,
        mem::forget,
        panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind},
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };
    use tassel::{CancelToken, ErrorGroup, JobHandle, Scope, scope, sleep};

    /// Panics when it is dropped; its payload does, too, and so on, as often as it says. An error as well.
    #[derive(Debug)]
    struct Bomb(u32, &'static AtomicUsize);

    impl Drop for Bomb {
        fn drop(&mut self) {
            self.1.fetch_add(1, SeqCst);
            match self.0 {
                0 => {}
                1 => panic_any("bomb"),
                more => resume_unwind(Box::new(Bomb(more - 1, self.1))),
            }
        }
    }

    impl fmt::Display for Bomb {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a bomb")
        }
    }

    impl Error for Bomb {}

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Handle {
        Held,
        Dropped,
        Leaked,
    }

    impl Handle {
        /// Gives the result back if the handle is to be held.
        fn keep<V>(self, job: JobHandle<'_, V>) -> Option<JobHandle<'_, V>> {
            match self {
                Handle::Held => return Some(job),
                Handle::Dropped => drop(job),
                Handle::Leaked => forget(job),
            }
            None
        }
    }

    /// Calls `test` for bombs that go off once, twice, and more often than anybody catches, and for every fate of a handle.
    fn every_bomb(test: impl Fn(Bomb, Handle)) {
        for times in [1, 2, 40] {
            for handle in [Handle::Held, Handle::Dropped, Handle::Leaked] {
                test(Bomb(times, Box::leak(Box::default())), handle);
            }
        }
    }

    /// Opens a scope with a job that sleeps for two hours, beside `code`; what it captured must come home, by whatever way.
    fn beside<T>(
        code: impl for<'scope> FnOnce(&'scope Scope<'scope, '_>) -> tassel::Result<T>,
    ) -> Result<T, ErrorGroup> {
        let home = AtomicUsize::new(0);
        let result = scope(|s| {
            let arrives = OnDrop(|| _ = home.fetch_add(1, SeqCst));
            s.job("sibling").spawn(move || {
                let _arrives = arrives;
                Ok(sleep(2 * HOUR)?)
            });
            code(s)
        });
        assert_eq!(home.into_inner(), 1);
        result
    }

    /// There is this one leaf, and to drop it unwinds into nobody.
    fn one_leaf<T: fmt::Debug>(result: Result<T, ErrorGroup>, text: &str) {
        let group = result.unwrap_err();
        let told: Vec<_> = group.leaves().map(ToString::to_string).collect();
        assert_eq!(told, [text], "{group:?}");
        assert!(catch_unwind(AssertUnwindSafe(|| drop(group))).is_ok());
    }

    // S28, S11:
    #[test]
    fn a_capture_that_panics_as_it_is_dropped_is_a_leaf_whatever_became_of_the_handle() {
        virtually(|| {
            every_bomb(|bomb, handle| {
                let result = beside(|s| {
                    let job = s.job("x").spawn(move || {
                        let _bomb = &bomb;
                        sleep(HOUR)?;
                        Ok(())
                    });
                    let _kept = handle.keep(job);
                    Ok(sleep(10 * HOUR)?)
                });
                one_leaf(result, "job `x` panicked");
            });
        });
    }

    // S28, S42:
    #[test]
    fn a_capture_that_panics_as_a_queued_job_is_swept_is_a_leaf_whatever_became_of_the_handle() {
        virtually(|| {
            every_bomb(|bomb, handle| {
                let result = scope(|s| {
                    let job = s.job("x").spawn(move || drop(bomb));
                    let _kept = handle.keep(job);
                    s.cancel();
                    Ok(())
                });
                one_leaf(result, "job `x` panicked");
            });
        });
    }

    // S28, S11:
    #[test]
    fn a_value_that_panics_as_it_is_dropped_is_a_leaf_of_whoever_drops_it() {
        virtually(|| {
            every_bomb(|bomb, handle| {
                let count = bomb.1;
                let result = beside(|s| {
                    let job = s.job("x").spawn(move || {
                        let bomb = bomb;
                        sleep(HOUR)?;
                        Ok(bomb)
                    });
                    let kept = handle.keep(job);
                    let slept = sleep(HOUR + HOUR / 2);
                    drop(kept);
                    Ok(slept?)
                });
                match handle {
                    Handle::Held => one_leaf(result, "the body panicked"),
                    Handle::Dropped => one_leaf(result, "job `x` panicked"),
                    Handle::Leaked => assert_eq!((result.unwrap(), count.load(SeqCst)), ((), 0)),
                }
            });
        });
    }

    // S28, S26:
    #[test]
    fn a_payload_or_an_error_that_panics_as_it_is_dropped_goes_off_in_nobody_s_hands() {
        type End = fn(Bomb) -> tassel::Result<()>;
        let ends: [(End, &str); 4] = [
            (|bomb| resume_unwind(Box::new(bomb)), "job `x` panicked"),
            (|bomb| Err(bomb.into()), "job `x` failed"),
            (|bomb| Err(anyhow::anyhow!("inner").context(bomb)), "job `x` failed"),
            (|bomb| Err(std::io::Error::other(bomb).into()), "job `x` failed"),
        ];
        virtually(|| {
            for (end, text) in ends {
                every_bomb(|bomb, handle| {
                    let count = bomb.1;
                    let code = move || {
                        let bomb = bomb;
                        sleep(HOUR)?;
                        end(bomb)
                    };
                    let result = beside(|s| {
                        let _kept = handle.keep(s.job("x").spawn(code));
                        Ok(sleep(10 * HOUR)?)
                    });
                    assert_eq!(count.load(SeqCst), 0, "it is in the group");
                    one_leaf(result, text);
                    assert!(count.load(SeqCst) > 0);
                });
                // An isolated job's failure is in its joiner's hands, else in the group.
                every_bomb(|bomb, handle| {
                    let code = move || {
                        let bomb = bomb;
                        sleep(HOUR)?;
                        end(bomb)
                    };
                    let result = beside(|s| match handle.keep(s.job("x").isolated().spawn(code)) {
                        Some(job) => {
                            let leaf = job.join()?.unwrap_err();
                            assert_eq!(leaf.to_string(), text);
                            assert!(catch_unwind(AssertUnwindSafe(|| drop(leaf))).is_ok());
                            Ok(())
                        }
                        None => Ok(sleep(10 * HOUR)?),
                    });
                    match handle {
                        Handle::Held => result.unwrap(),
                        Handle::Dropped | Handle::Leaked => one_leaf(result, text),
                    }
                });
            }
        });
    }

    // S28, S35:
    #[test]
    fn what_is_wrapped_around_a_stop_may_panic_as_it_is_dropped() {
        virtually(|| {
            every_bomb(|bomb, handle| {
                let value = beside(|s| {
                    let job = s.job("x").spawn(move || {
                        let bomb = bomb;
                        let stop = sleep(10 * HOUR).unwrap_err();
                        Err::<(), _>(anyhow::Error::new(stop).context(bomb))
                    });
                    let _kept = handle.keep(job);
                    sleep(HOUR)?;
                    s.cancel();
                    Ok(7)
                });
                assert_eq!(value.unwrap(), 7);
            });
        });
    }

    // S28, D6:
    #[test]
    fn what_a_body_leaves_may_panic_as_it_is_dropped() {
        virtually(|| {
            every_bomb(|bomb, handle| {
                let spare = Bomb(bomb.0, bomb.1);
                // The value, dropped because a job failed.
                let result = beside(|s| {
                    let job = s.job("x").spawn(|| -> tassel::Result<()> { anyhow::bail!("broke") });
                    let _kept = handle.keep(job);
                    Ok(bomb)
                });
                one_leaf(result, "job `x` failed");
                // A closure that a cancelled scope refuses.
                let result = beside(|s| {
                    s.cancel();
                    let job = s.job("x").spawn(move || drop(spare));
                    let _kept = handle.keep(job);
                    Ok(())
                });
                one_leaf(result, "the body panicked");
            });
        });
    }

    // S28, S52, D15:
    #[test]
    fn what_a_callback_captured_may_panic_as_it_is_dropped() {
        virtually(|| {
            every_bomb(|bomb, _| {
                let bombs = [0; 5].map(|_| Bomb(bomb.0, bomb.1));
                let count = bomb.1;
                forget(bomb);
                let [called, at_once, unregistered, of_scope, closed] = bombs;
                let token = CancelToken::new();
                let registered = token.on_cancel(move || drop(called));
                let dropped = token.on_cancel(move || drop(unregistered));
                // That of whoever drops the registration is theirs.
                forget(catch_unwind(AssertUnwindSafe(|| drop(dropped))).unwrap_err());
                let told = token.child();
                token.cancel();
                assert!(told.is_cancelled());
                drop(registered);
                // Called now.
                drop(token.on_cancel(move || drop(at_once)));
                // A scope's callback counts like a job.
                let result = beside(|s| {
                    let _registered = s.on_cancel(move || drop(of_scope));
                    s.cancel();
                    Ok(())
                });
                one_leaf(result, "the body panicked");
                // A scope that is left calls none, and drops them.
                let mut kept = None;
                let left = beside(|s| {
                    kept = Some(s.token().on_cancel(move || drop(closed)));
                    Ok(7)
                });
                assert_eq!(left.unwrap(), 7);
                drop(kept);
                assert!(count.load(SeqCst) >= 5);
            });
        });
    }

    // S28:
    #[test]
    fn a_drop_that_panics_while_its_job_unwinds_ends_the_process_as_anywhere_in_rust() {
        guarded(|| {
            let output = child("edges::drops::twice", &[]);
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{}", output.status);
            assert!(text.contains("first") && text.contains("panic in a destructor during cleanup"), "{text}");
        });
    }

    #[test]
    #[ignore = "a child process of `a_drop_that_panics_while_its_job_unwinds_ends_the_process_as_anywhere_in_rust`"]
    fn twice() {
        child_side(|| {
            let bomb = Bomb(1, Box::leak(Box::default()));
            let _ = scope(|s| {
                s.spawn(move || {
                    let _bomb = &bomb;
                    panic!("first");
                });
                Ok(())
            });
        });
    }
}

/// The process ends while jobs run.
mod ends {
    use super::{HOUR, OnDrop};
    use crate::{child, child::program, child_side, finish, guarded};
    use std::{
        io::{self, Write as _},
        process::{Command, exit},
        thread,
    };
    use tassel::{Scope, scope, sleep, sync::Barrier};

    fn say(text: &str) {
        let _ = writeln!(io::stdout(), "{text}");
    }

    /// Opens a scope whose jobs block in every way, and are not started, and calls `then` in its body, when all are there.
    fn blocked(then: impl for<'scope> FnOnce(&'scope Scope<'scope, '_>)) {
        let (never, all) = (std::sync::Barrier::new(2), Barrier::new(4));
        let loud = |what: &'static str| OnDrop(move || say(&format!("{what} was dropped")));
        let _ = scope(|s| {
            let _body = loud("a local of the body");
            for n in 0..3 {
                let (captured, all, never) = (loud("a capture"), &all, &never);
                s.job("blocks").own_thread().spawn(move || {
                    let _captured = captured;
                    all.wait()?;
                    match n {
                        0 => _ = never.wait(),
                        1 => sleep(HOUR)?,
                        _ => scope(|s| s.spawn(|| Ok(sleep(HOUR)?)).join().map_err(Into::into))?,
                    }
                    say("a job went on");
                    Ok(())
                });
            }
            all.wait()?;
            for _ in 0..100 {
                let captured = loud("a capture of a queued job");
                s.spawn(move || {
                    let _captured = captured;
                    Ok(sleep(HOUR)?)
                });
            }
            then(s);
            Ok(sleep(HOUR)?)
        });
        say("the scope returned");
    }

    fn ends_at_once_with_code_seven(half: &str) {
        let output = child(half, &[]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "{text}");
        for words in ["dropped", "went on", "returned"] {
            assert!(!text.contains(words), "{text}");
        }
    }

    // S75:
    #[test]
    fn exit_in_a_body_ends_the_process_at_once_and_runs_nothing_of_the_jobs() {
        guarded(|| ends_at_once_with_code_seven("edges::ends::in_a_body"));
    }

    #[test]
    #[ignore = "a child process of `exit_in_a_body_ends_the_process_at_once_and_runs_nothing_of_the_jobs`"]
    fn in_a_body() {
        child_side(|| blocked(|_| exit(7)));
    }

    // S75:
    #[test]
    fn exit_in_a_job_ends_the_process_at_once_and_runs_nothing_of_the_jobs() {
        guarded(|| ends_at_once_with_code_seven("edges::ends::in_a_job"));
    }

    #[test]
    #[ignore = "a child process of `exit_in_a_job_ends_the_process_at_once_and_runs_nothing_of_the_jobs`"]
    fn in_a_job() {
        child_side(|| blocked(|s| drop(s.job("exits").own_thread().spawn(|| exit(7)))));
    }

    // S75:
    #[test]
    fn exit_on_another_thread_ends_the_process_at_once_and_runs_nothing_of_the_jobs() {
        guarded(|| ends_at_once_with_code_seven("edges::ends::elsewhere"));
    }

    #[test]
    #[ignore = "a child process of `exit_on_another_thread_ends_the_process_at_once_and_runs_nothing_of_the_jobs`"]
    fn elsewhere() {
        child_side(|| blocked(|_| drop(thread::spawn(|| exit(7)))));
    }

    // S75:
    #[test]
    fn main_returns_while_a_pool_is_busy_and_much_is_leaked() {
        guarded(|| {
            let code = r#"
                use std::{mem::forget, sync::mpsc, thread, time::Duration};
                use tassel::{CancelToken, ScopeOptions, pool::Pool, sleep};

                const HOUR: Duration = Duration::from_secs(3600);

                struct Loud;

                impl Drop for Loud {
                    fn drop(&mut self) {
                        println!("dropped");
                    }
                }

                fn main() {
                    let pool = Pool::builder().parallelism(1).build().unwrap();
                    let (there, all) = mpsc::channel();
                    let (of_body, theirs) = (there.clone(), pool.clone());
                    thread::spawn(move || {
                        ScopeOptions::new().pool(&theirs).open(|s| {
                            for _ in 0..2 {
                                let (loud, there) = (Loud, there.clone());
                                forget(s.job("own").own_thread().spawn(move || {
                                    there.send(()).unwrap();
                                    let slept = sleep(HOUR);
                                    drop(loud);
                                    Ok(slept?)
                                }));
                            }
                            for _ in 0..100 {
                                forget(s.spawn(|| Ok(Loud)));
                            }
                            forget(s.on_cancel(|| println!("called")));
                            of_body.send(()).unwrap();
                            Ok(sleep(HOUR)?)
                        })
                    });
                    let token = CancelToken::new();
                    forget(token.on_cancel(|| println!("called")));
                    forget(token.child());
                    forget(pool);
                    for _ in 0..3 {
                        all.recv().unwrap();
                    }
                    println!("main returns");
                }
            "#;
            let output = finish(&mut Command::new(&*program("returns", &[], code)));
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}\n{text}", output.status);
            assert_eq!(String::from_utf8_lossy(&output.stdout), "main returns\n");
        });
    }
}
