//! What jobs share: who is let in, in which order, and what becomes of a turn whose owner is told to stop.
//!
//! Order is that of virtual time where it matters; elsewhere real threads meet.

use crate::{guarded, named, placeless, seeded_rng, stress_rounds, told, until, virtually};
use std::{
    num::ParseIntError,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex as StdMutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, JobHandle, JoinError, OnFailure, ReasonKind, Scope, ScopeOptions, checkpoint, now,
    pool::Pool,
    region::{fail_after, move_on_after, shield_unbounded},
    scope, sleep, snapshot,
    sync::{Barrier, Condvar, Event, LockError, Mutex, OnceCell, RwLock, Semaphore},
    testing::try_virtual_time,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// What jobs say, in the order in which they say it.
#[derive(Default)]
struct Said(StdMutex<Vec<String>>);

impl Said {
    fn say(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn all(self) -> Vec<String> {
        self.0.into_inner().unwrap()
    }
}

// Semaphores.

/// Job `name` takes permits, says so, and holds them for a second.
fn holder<'s>(s: &'s Scope<'s, '_>, name: &'static str, semaphore: &'s Semaphore, permits: usize, said: &'s Said) {
    s.job(name).spawn(move || {
        let _permit = semaphore.acquire_many(permits)?;
        said.say(name);
        Ok(sleep(SECOND)?)
    });
}

/// Takes a permit and gives it back.
fn pass(semaphore: &Semaphore) -> tassel::Result<()> {
    drop(semaphore.acquire()?);
    Ok(())
}

// S40:
#[test]
fn permits_go_to_who_came_first_and_a_small_wish_does_not_pass_a_large_one() {
    virtually(|| {
        let (semaphore, said) = (Semaphore::new(2), Said::default());
        scope(|s| {
            for (name, permits) in [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 2)] {
                holder(s, name, &semaphore, permits, &said);
            }
            sleep(SECOND / 2)?;
            assert_eq!((semaphore.in_use(), semaphore.waiting()), (1, 4), "`c` has no place before `b`");
            assert!(semaphore.try_acquire().is_none(), "nor has anybody else");
            sleep(SECOND)?;
            assert_eq!((semaphore.in_use(), semaphore.waiting()), (2, 3));
            sleep(SECOND)?;
            assert_eq!((semaphore.in_use(), semaphore.waiting()), (2, 1), "`c` and `d` are in together");
            Ok(())
        })
        .unwrap();
        assert_eq!(said.all(), ["a", "b", "c", "d", "e"]);
        assert_eq!(semaphore.in_use(), 0);
    });
}

// S40, S41:
#[test]
fn a_cancelled_waiter_leaves_its_place_and_lets_those_behind_it_in() {
    virtually(|| {
        let (semaphore, said) = (Semaphore::new(2), Said::default());
        scope(|s| {
            holder(s, "one", &semaphore, 1, &said);
            sleep(SECOND / 4)?;
            let large = s.job("large").spawn(|| {
                let waited = semaphore.acquire_many(2);
                said.say(if waited.is_err() { "large leaves" } else { "large" });
                drop(waited?);
                Ok(())
            });
            holder(s, "small", &semaphore, 1, &said);
            sleep(SECOND / 4)?;
            large.cancel();
            sleep(SECOND / 4)?;
            assert_eq!((semaphore.in_use(), semaphore.waiting()), (2, 0));
            Ok(())
        })
        .unwrap();
        assert_eq!(said.all(), ["one", "large leaves", "small"]);
    });
}

// S40, D24: what was given before the waiter wakes is taken, and given back, as by anybody.
#[test]
fn a_waiter_that_was_chosen_before_it_wakes_has_its_turn_and_nobody_loses_one() {
    virtually(|| {
        let (semaphore, said) = (Semaphore::new(1), Said::default());
        scope(|s| {
            let held = semaphore.acquire()?;
            let first = s.job("first").spawn(|| {
                let _permit = semaphore.acquire()?;
                said.say("first");
                said.say(if checkpoint().is_err() { "is stopped" } else { "goes on" });
                Ok(())
            });
            holder(s, "second", &semaphore, 1, &said);
            sleep(SECOND)?;
            drop(held);
            first.cancel();
            Ok(())
        })
        .unwrap();
        assert_eq!(said.all(), ["first", "is stopped", "second"]);
        assert_eq!((semaphore.in_use(), semaphore.waiting()), (0, 0));
    });
}

#[test]
fn a_semaphore_is_resized_while_it_is_in_use_also_below_that_and_to_nothing() {
    virtually(|| {
        let (semaphore, said) = (Semaphore::new(0), Said::default());
        scope(|s| {
            for name in ["a", "b", "c", "d"] {
                holder(s, name, &semaphore, 1, &said);
            }
            let counts = || (semaphore.limit(), semaphore.in_use(), semaphore.waiting());
            sleep(HOUR)?;
            assert_eq!(counts(), (0, 0, 4), "with none, everybody waits");
            assert!(semaphore.try_acquire().is_none());
            semaphore.resize(2);
            assert_eq!(counts(), (2, 2, 2), "they are let in at once");
            sleep(SECOND / 2)?;
            semaphore.resize(1);
            assert_eq!(counts(), (1, 2, 2), "what is lent stays so");
            sleep(SECOND)?;
            assert_eq!(counts(), (1, 1, 1), "both came back, one went out");
            semaphore.resize(0);
            sleep(HOUR)?;
            assert_eq!(counts(), (0, 0, 1));
            semaphore.resize(usize::MAX);
            Ok(())
        })
        .unwrap();
        assert_eq!(said.all(), ["a", "b", "c", "d"]);
        let all = semaphore.try_acquire_many(usize::MAX).unwrap();
        assert_eq!(all.permits(), usize::MAX);
        assert!(semaphore.try_acquire().is_none(), "the count does not overflow");
    });
}

#[test]
fn permits_for_nothing_wait_for_their_turn_and_hold_nothing() {
    virtually(|| {
        let semaphore = Semaphore::new(0);
        let none = semaphore.acquire_many(0).unwrap();
        assert_eq!((none.permits(), semaphore.in_use()), (0, 0));
        scope(|s| {
            s.job("one").spawn(|| pass(&semaphore));
            sleep(SECOND)?;
            assert!(semaphore.try_acquire_many(0).is_none(), "somebody waits");
            semaphore.resize(1);
            Ok(())
        })
        .unwrap();
    });
}

// S37, S38, S39, D24:
#[test]
fn in_a_cancelled_place_a_free_permit_is_refused_but_to_the_try_forms() {
    guarded(|| {
        let semaphore = Semaphore::new(1);
        let group = scope(|s| {
            s.cancel();
            assert!(semaphore.try_acquire().is_some() && semaphore.try_acquire_many(1).is_some());
            let stop = semaphore.acquire().unwrap_err();
            assert_eq!(stop.reason().kind(), ReasonKind::Explicit);
            assert!(semaphore.acquire_many(0).is_err());
            assert_eq!(semaphore.in_use(), 0);
            shield_unbounded(|| pass(&semaphore))?;
            Ok(semaphore.acquire().map(drop)?)
        })
        .unwrap_err();
        assert!(group.stopped());
    });
}

// S37:
#[test]
fn a_deadline_ends_the_wait_for_a_permit() {
    virtually(|| {
        let semaphore = Semaphore::named("limit", 1);
        let _held = semaphore.try_acquire();
        let began = tassel::now();
        assert!(move_on_after(HOUR, || Ok(semaphore.acquire()?)).unwrap().is_none());
        assert_eq!(tassel::now() - began, HOUR);
        let failed = fail_after(HOUR, || Ok(semaphore.acquire()?)).unwrap_err();
        assert!(failed.is::<tassel::region::TimedOut>());
        assert_eq!(semaphore.waiting(), 0);
    });
}

#[test]
fn a_permit_comes_back_from_any_thread_and_from_a_panic_and_outlives_its_semaphore() {
    guarded(|| {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.acquire().unwrap();
        thread::spawn(move || drop(permit)).join().unwrap();
        assert_eq!(semaphore.in_use(), 0);

        let thrown = catch_unwind(AssertUnwindSafe(|| {
            let _permit = semaphore.acquire();
            resume_unwind(Box::new("thrown"));
        }));
        assert!(thrown.is_err() && semaphore.in_use() == 0);

        let group = ScopeOptions::new()
            .on_failure(OnFailure::KeepGoing)
            .open(|s| {
                for _ in 0..2 {
                    s.job("holds").spawn(|| {
                        let _permit = semaphore.acquire()?;
                        assert_eq!(semaphore.in_use(), 2, "so it panics");
                        Ok(())
                    });
                }
                Ok(())
            })
            .unwrap_err();
        assert!(told(&group).len() == 2 && semaphore.in_use() == 0);

        let last = semaphore.acquire().unwrap();
        drop(semaphore);
        drop(last);
    });
}

#[test]
fn a_picture_tells_what_is_waited_for_who_has_it_and_how_many_wait() {
    virtually(|| {
        let semaphore = Semaphore::named("limit", 2);
        scope(|s| {
            s.job("b").spawn(|| {
                let _permit = semaphore.acquire()?;
                Ok(sleep(HOUR)?)
            });
            let mine = semaphore.try_acquire();
            for name in ["c", "d"] {
                s.job(name).spawn(|| pass(&semaphore));
            }
            sleep(SECOND)?;
            let picture = snapshot::of(s);
            let waiter = picture.jobs().find(|job| job.name == "c").unwrap();
            let resource = waiter.resource.as_ref().unwrap();
            assert_eq!((resource.name.as_deref(), resource.waiting), (Some("limit"), 2));
            assert_eq!((resource.in_use, resource.limit), (Some(2), Some(2)));
            assert!(resource.held_by.contains(&"b".to_owned()), "{resource:?}");
            let line = picture.to_string().lines().find(|line| line.contains("job `c`")).unwrap().to_owned();
            let (_, says) = line.split_once("waiting").unwrap();
            assert!(placeless(says).starts_with(" in semaphore for `limit`, held by the body of `"), "{line}");
            assert!(says.contains(", job `b`, 2 of 2 in use, 2 waiting, for "), "{line}");
            drop(mine);
            s.cancel();
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn a_semaphore_that_nobody_can_give_back_is_a_deadlock_that_is_reported() {
    guarded(|| {
        let semaphore = Semaphore::named("limit", 1);
        let deadlock = try_virtual_time(|| {
            let _held = semaphore.try_acquire();
            named("s").open(|s| {
                s.job("waits").spawn(|| pass(&semaphore));
                Ok(())
            })
        })
        .unwrap_err();
        assert!(
            placeless(deadlock.picture()).contains("waiting in semaphore for `limit`, 1 of 1 in use"),
            "{deadlock:?}"
        );
        assert_eq!((semaphore.in_use(), semaphore.waiting()), (0, 0));
    });
}

// D18:
#[test]
fn who_waits_for_a_job_for_which_there_is_no_thread_is_starved() {
    guarded(|| {
        for round in 0..3 {
            let pool = Pool::builder().refuse_threads(|_| true).build().unwrap();
            let (semaphore, mutex, changed) = (Semaphore::new(0), Mutex::new(()), Condvar::new());
            let once = OnceCell::new();
            let group = ScopeOptions::new()
                .pool(&pool)
                .open(|s| {
                    s.spawn(|| {
                        match round {
                            0 => drop(semaphore.acquire()?),
                            1 => drop(changed.wait(mutex.lock()?)?),
                            _ => *once.get_or_try_init(|| pass(&semaphore))?,
                        }
                        Ok(())
                    });
                    s.spawn(|| {
                        semaphore.resize(1);
                        changed.notify_all();
                    });
                    Ok(())
                })
                .unwrap_err();
            assert_eq!(group.reason().map(tassel::Reason::kind), Some(ReasonKind::Starved), "{group:?}");
        }
    });
}

/// A hundred jobs begin `work` at once, and about half of them are stopped at any moment of it, round after round; then `check` looks,
/// with the round as a text.
fn stopped_at_any_moment<S: Sync>(
    seed: u64,
    shared: impl Fn() -> S,
    work: impl Fn(&S) -> tassel::Result<()> + Sync,
    check: impl Fn(S, &str),
) {
    let mut rng = seeded_rng(seed);
    for round in 0..stress_rounds(20) {
        let (shared, meet) = (shared(), Barrier::new(101));
        let chosen: Vec<_> = (0..100).map(|_| rng.chance(50)).collect();
        let told = format!("round {round} of seed {seed}");
        scope(|s| {
            let (shared, meet, work) = (&shared, &meet, &work);
            let work = move || {
                meet.wait()?;
                work(shared)
            };
            let jobs: Vec<_> = (0..100).map(|_| s.spawn(work)).collect();
            meet.wait()?;
            for (job, _) in jobs.iter().zip(&chosen).filter(|(_, chosen)| **chosen) {
                job.cancel();
            }
            Ok(())
        })
        .unwrap_or_else(|group| panic!("{told}: {group:?}"));
        check(shared, &told);
    }
}

// S40: whoever is chosen and stopped at once, no permit is lost, and none is lent twice.
#[test]
fn a_hundred_threads_that_are_stopped_at_any_moment_lose_no_permit() {
    guarded(|| {
        stopped_at_any_moment(
            0x5eed,
            || (Semaphore::new(3), AtomicUsize::new(0)),
            |(semaphore, inside)| {
                for _ in 0..3 {
                    let _permit = semaphore.acquire()?;
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
                Ok(())
            },
            |(semaphore, _), told| {
                assert_eq!((semaphore.in_use(), semaphore.waiting()), (0, 0), "{told}");
                assert!(semaphore.try_acquire_many(3).is_some());
            },
        );
    });
}

// Locks.

/// What a lock said: the cycle, if it was refused.
fn refused<G>(locked: Result<G, LockError>) -> Option<Vec<String>> {
    match locked {
        Ok(_) => None,
        Err(LockError::WouldDeadlock { cycle, .. }) => Some(cycle),
        Err(other) => panic!("{other}"),
    }
}

/// Notes the cycle of a join that was refused; any other outcome is passed on.
fn unless_refused(joined: Result<(), JoinError>, told: &StdMutex<Option<Vec<String>>>) -> tassel::Result<()> {
    match joined {
        Err(JoinError::WouldDeadlock { cycle }) => *told.lock().unwrap() = Some(cycle),
        other => other?,
    }
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "as `refused` says it")]
fn names(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(ToString::to_string).collect())
}

// S49:
#[test]
fn a_second_lock_by_the_thread_that_has_it_is_answered_wherever_it_stands() {
    virtually(|| {
        let mutex = Mutex::named("cache", ());
        let guard = mutex.lock().unwrap();
        let (error, line) = (mutex.lock().unwrap_err(), line!());
        assert_eq!(refused::<()>(Err(error.clone())), names(&["body"]));
        let text = format!("waiting for mutex `cache` ({}:{line}) would deadlock: the body has it already", file!());
        assert_eq!(error.to_string(), format!("{text}, and must let it go first"));
        assert!(mutex.try_lock().is_none());
        let limited = fail_after(HOUR, || Ok(refused(mutex.lock()))).unwrap();
        assert!(limited.is_some(), "also where the wait would end by itself");
        scope(|s| {
            assert_eq!(refused(mutex.lock()), names(&["body"]), "in the body of an inner scope");
            let inline = s.job("inline").spawn(|| {
                assert_eq!(refused(mutex.lock()), names(&["inline", "body"]), "in a job that its thread runs");
                Ok(())
            });
            Ok(inline.join()?)
        })
        .unwrap();
        drop(guard);
        assert!(mutex.lock().is_ok());
    });
}

// S49:
#[test]
fn a_second_lock_outside_any_scope_is_answered_as_well() {
    guarded(|| {
        let (mutex, lock) = (Mutex::new(()), RwLock::new(()));
        let (_guard, _writes) = (mutex.lock().unwrap(), lock.write().unwrap());
        assert_eq!(refused(mutex.lock()), names(&["thread"]));
        assert_eq!(refused(lock.read()), names(&["thread"]));
        assert_eq!(refused(lock.write()), names(&["thread"]));
    });
}

// S49, S52:
#[test]
fn a_callback_that_wants_a_lock_of_the_code_that_cancels_is_answered() {
    guarded(|| {
        let (mutex, told) = (Arc::new(Mutex::new(())), Arc::new(StdMutex::new(None)));
        let token = CancelToken::new();
        let (wants, says) = (Arc::clone(&mutex), Arc::clone(&told));
        let _registration = token.on_cancel(move || {
            let said = refused(wants.lock());
            *says.lock().unwrap() = Some(said);
        });
        scope(|_| {
            let _guard = mutex.lock()?;
            token.cancel();
            Ok(())
        })
        .unwrap();
        assert_eq!(told.lock().unwrap().take(), Some(names(&["thread"])));
    });
}

// S49, D21:
#[test]
fn of_a_join_and_a_lock_that_wait_for_each_other_the_last_is_refused() {
    virtually(|| {
        for join_first in [true, false] {
            let mutex = Mutex::new(());
            let (joined, locked) = (StdMutex::new(None), StdMutex::new(None));
            ScopeOptions::new()
                .inline(false)
                .open(|s| {
                    let b = s.job("b").spawn(|| {
                        sleep(if join_first { 2 * SECOND } else { SECOND })?;
                        *locked.lock().unwrap() = refused(mutex.lock());
                        Ok(())
                    });
                    s.job("a").spawn(|| {
                        let _guard = mutex.lock()?;
                        sleep(if join_first { SECOND } else { 2 * SECOND })?;
                        unless_refused(b.join(), &joined)
                    });
                    Ok(())
                })
                .unwrap();
            let told = (joined.into_inner().unwrap(), locked.into_inner().unwrap());
            let expected = if join_first { (None, names(&["b", "a"])) } else { (names(&["a", "b"]), None) };
            assert_eq!(told, expected);
        }
    });
}

// S49: who is to stop, and has not woken yet, lets go what it has.
#[test]
fn a_wait_that_is_to_stop_or_has_a_deadline_by_now_closes_no_ring() {
    /// Where a job waits for a lock of the body.
    #[derive(Debug)]
    enum Where {
        Plainly,
        BelowTheToken,
        InAShield,
    }
    /// What the body does to it, before it joins it.
    type Change<'a> = &'a dyn Fn(&JobHandle<'_, ()>, &CancelToken);
    let ring = |place: &Where, change: Change<'_>| {
        let (mutex, token, mut joined) = (Mutex::new(()), CancelToken::new(), Ok(()));
        let _ = ScopeOptions::new().inline(false).open(|s| {
            let _guard = mutex.lock()?;
            let waits = s.job("waits").spawn(|| {
                let locks = || Ok(mutex.lock().map(drop)?);
                match place {
                    Where::Plainly => locks(),
                    Where::BelowTheToken => token.enter(locks),
                    Where::InAShield => shield_unbounded(locks),
                }
            });
            sleep(SECOND)?;
            change(&waits, &token);
            joined = waits.join();
            Ok(())
        });
        match joined.unwrap_err() {
            JoinError::WouldDeadlock { cycle } => Some(cycle),
            _ => None,
        }
    };
    virtually(|| {
        let cancel: Change<'_> = &|job, _| job.cancel();
        let soon = || Some(now() + SECOND);
        let changes: [(Where, Change<'_>); 4] = [
            (Where::Plainly, cancel),
            (Where::Plainly, &|job, _| job.token().set_deadline(soon())),
            (Where::BelowTheToken, &|_, token| token.cancel()),
            (Where::BelowTheToken, &|_, token| token.set_deadline(soon())),
        ];
        for (place, change) in changes {
            assert_eq!(ring(&place, change), None, "{place:?}");
        }
        assert_eq!(ring(&Where::InAShield, cancel), names(&["body", "waits"]));
    });
}

// S49, D21:
#[test]
fn who_waits_for_a_guard_that_is_held_over_the_end_of_its_scope_is_refused() {
    virtually(|| {
        for exit_first in [true, false] {
            for ways in [[true, true], [true, false], [false, true]] {
                let [body_writes, job_writes] = ways;
                let (lock, told) = (RwLock::named("table", ()), StdMutex::new(Vec::new()));
                ScopeOptions::new()
                    .inline(false)
                    .open(|s| {
                        for name in ["a", "b"] {
                            let (lock, told) = (&lock, &told);
                            s.job(name).spawn(move || {
                                sleep(if exit_first { SECOND } else { Duration::ZERO })?;
                                let said = if job_writes { refused(lock.write()) } else { refused(lock.read()) };
                                told.lock().unwrap().push(said);
                                Ok(())
                            });
                        }
                        let guards = if body_writes { (Some(lock.write()?), None) } else { (None, Some(lock.read()?)) };
                        sleep(if exit_first { Duration::ZERO } else { SECOND })?;
                        Ok(guards)
                    })
                    .unwrap();
                let mut told = told.into_inner().unwrap();
                told.sort();
                assert_eq!(told, ["a", "b"].map(|name| names(&[name, "body"])), "{exit_first}, {ways:?}");
            }
        }
    });
}

// S49, D21:
#[test]
fn a_ring_that_the_end_of_a_scope_closes_is_ended_by_who_waits_for_what_its_thread_has() {
    virtually(|| {
        for exit_first in [true, false] {
            let (outer, inner, told) =
                (Mutex::named("outer", ()), Mutex::named("inner", ()), StdMutex::new(Vec::new()));
            let tell = |who, said| told.lock().unwrap().push((who, said));
            let guard = outer.lock().unwrap();
            ScopeOptions::new()
                .inline(false)
                .open(|s| {
                    s.job("a").spawn(|| {
                        let _guard = inner.lock()?;
                        sleep(2 * SECOND)?;
                        tell("a", refused(outer.lock()));
                        Ok(())
                    });
                    s.job("b").spawn(|| {
                        Ok(scope(|s| {
                            s.job("below b").spawn(|| {
                                sleep(SECOND)?;
                                tell("below b", refused(inner.lock()));
                                Ok(())
                            });
                            Ok(())
                        })?)
                    });
                    Ok(sleep(if exit_first { Duration::ZERO } else { 3 * SECOND })?)
                })
                .unwrap();
            drop(guard);
            let told = told.into_inner().unwrap();
            // The body waits for `below b` as well, which waits for `a`; the shortest way is as good.
            let [("a", Some(ring)), ("below b", None)] = told.as_slice() else { panic!("{told:?}") };
            assert!(
                matches!(
                    ring.iter().map(String::as_str).collect::<Vec<_>>()[..],
                    ["a", "body"] | ["a", "body", "below b"]
                ),
                "{ring:?}"
            );
        }
    });
}

// S49: at its exit a thread runs jobs, and these let go what they have.
#[test]
fn who_waits_for_a_lock_of_a_job_that_runs_at_the_exit_of_its_scope_is_not_refused() {
    guarded(|| {
        let pool = Pool::builder().refuse_threads(|number| number > 1).build().unwrap();
        let (mutex, locked, other) = (Mutex::new(()), Event::new(), Mutex::new(()));
        let held = ScopeOptions::new()
            .pool(&pool)
            .open(|s| {
                let (mutex, locked) = (&mutex, &locked);
                s.job("waits").own_thread().spawn(move || {
                    until(|| snapshot::of(s).to_string().contains("scope exit"))?;
                    // No thread can be had but the opener's.
                    s.job("has it").spawn(move || {
                        let _guard = mutex.lock()?;
                        locked.set();
                        until(|| snapshot::of(s).to_string().contains("waiting in lock"))
                    });
                    locked.wait()?;
                    Ok(mutex.lock().map(drop)?)
                });
                Ok(other.lock()?)
            })
            .unwrap();
        drop(held);
    });
}

// S49, D21:
#[test]
fn who_waits_for_a_guard_that_is_held_over_the_end_is_refused_however_they_meet() {
    guarded(|| {
        for round in 0..stress_rounds(200) {
            let (mutex, told) = (Mutex::new(()), AtomicUsize::new(0));
            let held = ScopeOptions::new()
                .inline(round % 2 == 0)
                .open(|s| {
                    let guard = mutex.lock()?;
                    for _ in 0..3 {
                        s.spawn(|| match mutex.lock() {
                            Err(LockError::WouldDeadlock { .. }) => _ = told.fetch_add(1, Ordering::SeqCst),
                            _ => panic!("the body has it"),
                        });
                    }
                    if round % 4 < 2 {
                        until(|| mutex.waiting() > 0)?;
                    }
                    Ok(guard)
                })
                .unwrap();
            drop(held);
            assert_eq!((told.into_inner(), mutex.waiting()), (3, 0));
        }
    });
}

// S49:
#[test]
fn a_cell_whose_initialiser_waits_for_jobs_that_want_its_value_answers_them() {
    virtually(|| {
        for exit_first in [true, false] {
            let (cell, told) = (OnceCell::new(), StdMutex::new(None));
            cell.get_or_try_init(|| {
                let opened = ScopeOptions::new().inline(false).open(|s| {
                    s.job("asks").spawn(|| {
                        sleep(if exit_first { SECOND } else { Duration::ZERO })?;
                        *told.lock().unwrap() = Some(refused(cell.get_or_init(|| 1)));
                        Ok(())
                    });
                    Ok(sleep(if exit_first { Duration::ZERO } else { SECOND })?)
                });
                Ok(opened.map(|()| 2)?)
            })
            .unwrap();
            assert_eq!((told.into_inner().unwrap(), cell.get()), (Some(names(&["asks", "body"])), Some(&2)));
        }
    });
}

// S49: who reads is known, too; but keeps out only who writes.
#[test]
fn of_a_join_and_a_lock_that_is_read_the_last_is_refused_unless_it_reads_as_well() {
    virtually(|| {
        for writes in [true, false] {
            let lock = RwLock::named("table", ());
            let told = StdMutex::new(None);
            ScopeOptions::new()
                .inline(false)
                .open(|s| {
                    let b = s.job("b").spawn(|| {
                        sleep(SECOND)?;
                        let said = if writes { refused(lock.write()) } else { refused(lock.read()) };
                        *told.lock().unwrap() = said;
                        Ok(())
                    });
                    s.job("a").spawn(|| {
                        let _guard = lock.read()?;
                        Ok(b.join()?)
                    });
                    s.job("c").spawn(|| {
                        let _guard = lock.read()?;
                        Ok(sleep(HOUR)?)
                    });
                    s.job("w").spawn(|| {
                        sleep(2 * SECOND)?;
                        drop(lock.write()?);
                        Ok(())
                    });
                    sleep(3 * SECOND)?;
                    let picture = snapshot::of(s);
                    let writer = picture.jobs().find(|job| job.name == "w").and_then(|job| job.resource.clone());
                    assert_eq!(writer.map(|lock| lock.held_by), Some(vec!["c".to_owned()]), "{picture}");
                    Ok(())
                })
                .unwrap();
            assert_eq!(told.into_inner().unwrap(), if writes { names(&["b", "a"]) } else { None });
        }
    });
}

// S49:
#[test]
fn a_reader_that_queues_behind_a_writer_closes_a_ring_through_it() {
    virtually(|| {
        let lock = RwLock::named("table", ());
        let told = StdMutex::new(None);
        ScopeOptions::new()
            .inline(false)
            .open(|s| {
                s.job("leaves").spawn(|| {
                    let _guard = lock.read()?;
                    Ok(sleep(SECOND)?) // then the writer is told, and comes too late: the lock is reserved for it
                });
                s.job("w").spawn(|| {
                    sleep(SECOND / 2)?;
                    drop(lock.write()?);
                    Ok(())
                });
                let b = s.job("b").spawn(|| {
                    sleep(2 * SECOND)?;
                    drop(lock.read()?);
                    Ok(())
                });
                s.job("a").spawn(|| {
                    let _guard = lock.read()?;
                    sleep(3 * SECOND)?;
                    unless_refused(b.join(), &told)
                });
                Ok(())
            })
            .unwrap();
        assert_eq!(told.into_inner().unwrap(), names(&["a", "b", "w"]));
    });
}

// S49: one of the writers may leave, and the others are in its way still.
#[test]
fn a_reader_that_queues_behind_several_writers_closes_a_ring_through_each() {
    virtually(|| {
        for leaves_by_limit in [true, false] {
            let lock = RwLock::named("table", ());
            let told = StdMutex::new(None);
            ScopeOptions::new()
                .inline(false)
                .open(|s| {
                    s.job("leaves").spawn(|| {
                        let _guard = lock.read()?;
                        Ok(sleep(SECOND)?) // then the first writer is told, and comes too late
                    });
                    let first = s.job("first").spawn(|| {
                        sleep(SECOND / 4)?;
                        let writes = || Ok(lock.write().map(drop)?);
                        if leaves_by_limit { move_on_after(9 * SECOND, writes).map(drop) } else { writes() }
                    });
                    s.job("second").spawn(|| {
                        sleep(SECOND / 2)?;
                        Ok(lock.write().map(drop)?)
                    });
                    let b = s.job("b").spawn(|| {
                        sleep(2 * SECOND)?;
                        Ok(lock.read().map(drop)?)
                    });
                    let (told, lock) = (&told, &lock);
                    s.job("a").spawn(move || {
                        let _guard = lock.read()?;
                        sleep(3 * SECOND)?;
                        if !leaves_by_limit {
                            first.cancel();
                        }
                        unless_refused(b.join(), told)
                    });
                    Ok(())
                })
                .unwrap();
            assert_eq!(told.into_inner().unwrap(), names(&["a", "b", "second"]), "{leaves_by_limit}");
        }
    });
}

// S49: who asked in between has nothing to do with that scope.
#[test]
fn of_a_ring_that_the_end_of_a_scope_closes_one_of_its_jobs_is_refused() {
    virtually(|| {
        let (lock, told) = (RwLock::named("table", ()), StdMutex::new(None));
        ScopeOptions::new()
            .inline(false)
            .open(|s| {
                s.job("leaves").spawn(|| {
                    let _guard = lock.read()?;
                    Ok(sleep(SECOND)?) // then the writer is told, and comes too late: the lock is reserved for it
                });
                s.job("writes").spawn(|| {
                    sleep(SECOND / 2)?;
                    Ok(lock.write().map(drop)?)
                });
                s.job("opens").spawn(|| {
                    let guard = lock.read()?;
                    ScopeOptions::new().inline(false).open(|s| {
                        s.job("reads").spawn(|| {
                            sleep(2 * SECOND)?;
                            *told.lock().unwrap() = Some(refused(lock.read()));
                            Ok(())
                        });
                        Ok(sleep(3 * SECOND)?)
                    })?;
                    drop(guard);
                    Ok(())
                });
                Ok(())
            })
            .unwrap();
        assert_eq!(told.into_inner().unwrap(), Some(names(&["reads", "writes", "body"])));
    });
}

#[test]
fn the_mutex_that_a_condition_takes_again_is_asked_for_where_the_condition_is_waited_for() {
    virtually(|| {
        let (mutex, changed) = (Mutex::named("cache", ()), Condvar::new());
        let (told, line) = (StdMutex::new(None), line!() + 4);
        ScopeOptions::new()
            .inline(false)
            .open(|s| {
                let waits = s.job("waits").spawn(|| match changed.wait(mutex.lock()?) {
                    Err(error @ LockError::WouldDeadlock { .. }) => {
                        *told.lock().unwrap() = Some(error.to_string());
                        Ok(())
                    }
                    other => Ok(other.map(drop)?),
                });
                s.job("joins").spawn(|| {
                    sleep(SECOND)?;
                    let _guard = mutex.lock()?;
                    s.job("later").spawn(|| {
                        sleep(SECOND)?;
                        changed.notify_one();
                        Ok(())
                    });
                    Ok(waits.join()?)
                });
                Ok(())
            })
            .unwrap();
        let text =
            format!("waiting for mutex `cache` ({}:{line}) would deadlock: job `waits` waits for job `joins`", file!());
        assert_eq!(told.into_inner().unwrap(), Some(format!("{text}, which waits for job `waits`")));
    });
}

// S49:
#[test]
fn of_two_locks_taken_in_opposite_order_exactly_one_is_refused() {
    guarded(|| {
        for _ in 0..stress_rounds(200) {
            let (x, y, meet) = (Mutex::new(()), RwLock::new(()), Barrier::new(2));
            let told = StdMutex::new(Vec::new());
            scope(|s| {
                s.job("xy").spawn(|| {
                    let _x = x.lock()?;
                    meet.wait()?;
                    let said = refused(y.write());
                    told.lock().unwrap().push(said);
                    Ok(())
                });
                s.job("yx").spawn(|| {
                    let _y = y.write()?;
                    meet.wait()?;
                    let said = refused(x.lock());
                    told.lock().unwrap().push(said);
                    Ok(())
                });
                Ok(())
            })
            .unwrap();
            let told: Vec<_> = told.into_inner().unwrap().into_iter().flatten().collect();
            assert!(told == [["xy", "yx"]] || told == [["yx", "xy"]], "{told:?}");
        }
    });
}

// S49: nobody is refused who could go on.
#[test]
fn a_lock_that_is_let_go_before_its_holder_waits_closes_no_ring() {
    virtually(|| {
        let mutex = Mutex::new(());
        scope(|s| {
            let guard = mutex.lock()?;
            let job = s.own_thread_job(&mutex);
            sleep(SECOND)?; // it waits
            drop(guard);
            job.join()?;
            // Let go by the body of an inner scope, while a job of that waits.
            let guard = mutex.lock()?;
            scope(|s| {
                s.own_thread_job(&mutex);
                sleep(SECOND)?;
                drop(guard);
                Ok(())
            })?;
            Ok(())
        })
        .unwrap();
    });
}

trait Locks<'s> {
    /// Spawns a job that locks, and may not be refused.
    fn own_thread_job(&'s self, mutex: &'s Mutex<()>) -> tassel::JobHandle<'s, ()>;
}

impl<'s> Locks<'s> for Scope<'s, '_> {
    fn own_thread_job(&'s self, mutex: &'s Mutex<()>) -> tassel::JobHandle<'s, ()> {
        self.job("waits").own_thread().spawn(|| {
            drop(mutex.lock()?);
            Ok(())
        })
    }
}

#[test]
fn who_waits_for_a_mutex_is_passed_but_once() {
    virtually(|| {
        let (mutex, said) = (Mutex::new(()), Said::default());
        scope(|s| {
            s.job("hog").spawn(|| {
                for _ in 0..4 {
                    let _guard = mutex.lock()?;
                    said.say("hog");
                    sleep(SECOND)?;
                }
                Ok(())
            });
            s.job("waits").spawn(|| {
                sleep(SECOND / 2)?;
                let _guard = mutex.lock()?;
                said.say("waits");
                Ok(())
            });
            Ok(())
        })
        .unwrap();
        assert_eq!(said.all(), ["hog", "hog", "waits", "hog", "hog"]);
    });
}

// S40:
#[test]
fn a_cancelled_waiter_of_a_lock_leaves_its_turn_to_the_next() {
    virtually(|| {
        let (mutex, said) = (Mutex::named("cache", 0), Said::default());
        scope(|s| {
            let guard = mutex.lock()?;
            let jobs = ["a", "b", "c"].map(|name| {
                let (mutex, said) = (&mutex, &said);
                s.job(name).spawn(move || {
                    let locked = mutex.lock();
                    said.say(if locked.is_ok() { name.to_owned() } else { format!("{name} is stopped") });
                    *locked? += 1;
                    Ok(())
                })
            });
            sleep(SECOND)?;
            assert_eq!(mutex.waiting(), 3);
            let line = snapshot::of(s).to_string();
            assert!(placeless(&line).contains("waiting in lock for `cache`, held by the body of `"), "{line}");
            jobs[0].cancel();
            sleep(SECOND)?;
            assert_eq!(mutex.waiting(), 2);
            drop(guard);
            Ok(())
        })
        .unwrap();
        assert_eq!(said.all(), ["a is stopped", "b", "c"]);
        assert_eq!(format!("{mutex:?}"), "Mutex { name: \"cache\", value: 2, waiting: 0, .. }");
    });
}

// S37, S38, S39, D24:
#[test]
fn in_a_cancelled_place_a_free_lock_is_refused_but_to_the_try_forms() {
    guarded(|| {
        let (mutex, lock, once) = (Mutex::new(1), RwLock::new(1), OnceCell::new());
        let changed = Condvar::new();
        let group = scope(|s| {
            let guard = mutex.lock()?;
            s.cancel();
            assert!(changed.wait(guard).unwrap_err().is_cancelled());
            assert!(mutex.try_lock().is_some(), "a stopped waiter has let it go");
            assert!(lock.try_read().is_some() && lock.try_write().is_some());
            assert!(lock.read().unwrap_err().is_cancelled() && lock.write().unwrap_err().is_cancelled());
            assert!(once.get_or_init(|| 1).unwrap_err().is_cancelled() && once.get().is_none());
            changed.notify_one();
            changed.notify_all();
            drop(mutex.lock()?);
            Ok(())
        })
        .unwrap_err();
        assert!(group.stopped(), "a stop survives `?`");
    });
}

#[test]
fn a_panic_while_a_lock_is_held_lets_it_go_and_poisons_nothing() {
    guarded(|| {
        let (mutex, lock) = (Mutex::new(1), RwLock::new(1));
        let group = scope(|s| {
            s.job("panics").spawn(|| {
                let (_guard, _writes) = (mutex.lock()?, lock.write()?);
                resume_unwind(Box::new("thrown"));
                #[expect(unreachable_code, reason = "it gives the closure its type")]
                Ok(())
            });
            Ok(())
        })
        .unwrap_err();
        assert_eq!(group.len(), 1);
        assert_eq!((*mutex.lock().unwrap(), *lock.read().unwrap()), (1, 1));
    });
}

// S37:
#[test]
fn a_deadline_ends_the_wait_for_each_lock() {
    virtually(|| {
        let (mutex, lock, once, changed) = (Mutex::new(1), RwLock::new(1), OnceCell::new(), Condvar::new());
        scope(|s| {
            s.job("holds").spawn(|| {
                let (_guard, _writes) = (mutex.lock()?, lock.write()?);
                shield_unbounded(|| Ok(sleep(10 * HOUR)?))?;
                Ok(())
            });
            s.job("makes").spawn(|| {
                once.get_or_try_init(|| Ok(sleep(10 * HOUR)?))?;
                Ok(())
            });
            sleep(SECOND)?;
            let free = Mutex::new(());
            for round in 0..5 {
                let began = tassel::now();
                let ended = move_on_after(HOUR, || {
                    match round {
                        0 => drop(mutex.lock()?),
                        1 => drop(lock.read()?),
                        2 => drop(lock.write()?),
                        3 => *once.get_or_init(|| ())?,
                        _ => drop(changed.wait(free.lock()?)?),
                    }
                    Ok(())
                });
                assert!(ended.unwrap().is_none() && tassel::now() - began == HOUR, "round {round}");
            }
            assert_eq!((mutex.waiting(), lock.waiting(), changed.waiting()), (0, 0, 0));
            assert!(free.try_lock().is_some());
            s.cancel();
            Ok(())
        })
        .unwrap();
    });
}

// S40:
#[test]
fn a_hundred_threads_that_are_stopped_at_any_moment_lose_no_lock() {
    guarded(|| {
        stopped_at_any_moment(
            0x10cc,
            || (Mutex::new(0), RwLock::new(0), AtomicUsize::new(0)),
            |(mutex, lock, done)| {
                for _ in 0..3 {
                    let mut guard = mutex.lock()?;
                    *guard += 1;
                    thread::yield_now();
                    done.fetch_add(1, Ordering::SeqCst);
                    drop(guard);
                    assert!(*lock.read()? <= 300);
                    *lock.write()? += 1;
                }
                Ok(())
            },
            |(mutex, lock, done), told| {
                assert_eq!((mutex.waiting(), lock.waiting()), (0, 0), "{told}");
                assert_eq!(*mutex.try_lock().unwrap(), done.load(Ordering::SeqCst));
                assert!(lock.try_write().is_some());
            },
        );
    });
}

// Readers and writers.

#[test]
fn readers_meet_and_neither_kind_starves_the_other() {
    virtually(|| {
        let (lock, said) = (RwLock::new(0), Said::default());
        scope(|s| {
            // Two that read by turns, so that there is always one; and a writer that comes to it.
            for start in [0, 1] {
                let (lock, said) = (&lock, &said);
                s.job(format!("r{start}")).spawn(move || {
                    sleep(start * SECOND)?;
                    for _ in 0..4 {
                        let guard = lock.read()?;
                        said.say(format!("{}", *guard));
                        sleep(2 * SECOND)?;
                    }
                    Ok(())
                });
            }
            s.job("w").spawn(|| {
                sleep(3 * SECOND / 2)?;
                *lock.write()? += 1;
                Ok(())
            });
            Ok(())
        })
        .unwrap();
        // At 2 s the first reader leaves, and has it again before the writer wakes; at 3 s both readers have to queue.
        assert_eq!(said.all(), ["0", "0", "0", "1", "1", "1", "1", "1"]);
    });
}

#[test]
fn a_thread_that_reads_may_read_again_while_a_writer_waits_but_not_write() {
    virtually(|| {
        let lock = RwLock::named("table", 0);
        scope(|s| {
            let first = lock.read()?;
            assert_eq!(refused(lock.write()), names(&["body"]));
            s.job("w").spawn(|| {
                *lock.write()? += 1;
                Ok(())
            });
            s.job("r").spawn(|| {
                let _shared = lock.read()?;
                Ok(sleep(SECOND)?)
            });
            sleep(2 * SECOND)?; // it was told, and came too late: the lock is reserved
            assert!(lock.try_read().is_none());
            let again = lock.read()?;
            let line = snapshot::of(s).to_string();
            assert!(placeless(&line).contains("waiting in write lock for `table`, held by the body of `"), "{line}");
            drop(first);
            sleep(SECOND)?;
            assert_eq!((*again, lock.waiting()), (0, 1));
            drop(again);
            sleep(SECOND)?;
            assert_eq!(*lock.read()?, 1);
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn a_thread_knows_what_it_reads_in_whatever_order_its_guards_go() {
    guarded(|| {
        let locks: Vec<_> = (0..20).map(RwLock::new).collect();
        let mut rng = seeded_rng(7);
        for round in 0..stress_rounds(200) {
            let mut below = |end| usize::try_from(rng.below(u64::try_from(end).unwrap())).unwrap();
            let count = below(20) + 1;
            let mut reads: Vec<_> = (0..count).map(|at| (at, locks[at].read().unwrap())).collect();
            while !reads.is_empty() {
                let (at, guard) = reads.swap_remove(below(reads.len()));
                if count <= 16 {
                    assert!(refused(locks[at].write()).is_some(), "round {round}");
                }
                drop(guard);
                assert!(locks[at].write().is_ok(), "round {round}");
            }
        }
    });
}

// S40:
#[test]
fn a_writer_that_is_stopped_lets_the_readers_behind_it_in() {
    virtually(|| {
        let (lock, inside) = (RwLock::new(()), AtomicUsize::new(0));
        scope(|s| {
            let guard = lock.write()?;
            let writer = s.job("w").spawn(|| {
                drop(lock.write()?);
                Ok(())
            });
            for _ in 0..3 {
                s.spawn(|| {
                    let _shared = lock.read()?;
                    inside.fetch_add(1, Ordering::SeqCst);
                    Ok(sleep(HOUR)?)
                });
            }
            sleep(SECOND)?;
            assert_eq!(lock.waiting(), 4);
            writer.cancel();
            sleep(SECOND)?;
            drop(guard);
            sleep(SECOND)?;
            assert_eq!((inside.load(Ordering::SeqCst), lock.waiting()), (3, 0), "they come in together");
            Ok(())
        })
        .unwrap();
    });
}

// Conditions.

/// Waits for a letter, and says who got it.
fn reads<'s>(
    s: &'s Scope<'s, '_>,
    name: &'static str,
    (letters, sent): &'s (Mutex<usize>, Condvar),
    said: &'s Said,
) -> tassel::JobHandle<'s, ()> {
    s.job(name).spawn(move || {
        let mut letters = sent.wait_while(letters.lock()?, |letters| *letters == 0)?;
        *letters -= 1;
        said.say(name);
        Ok(())
    })
}

// S40:
#[test]
fn notifications_go_to_who_came_first_and_on_from_who_is_stopped() {
    virtually(|| {
        let (post, said) = ((Mutex::new(0), Condvar::named("sent")), Said::default());
        let (letters, sent) = &post;
        scope(|s| {
            let jobs = ["a", "b", "c", "d", "e"].map(|name| reads(s, name, &post, &said));
            sleep(SECOND)?;
            assert_eq!(sent.waiting(), 5);
            let line = snapshot::of(s).to_string();
            assert!(placeless(&line).contains("waiting in condition for `sent`, 5 waiting"), "{line}");
            *letters.lock()? += 1;
            sent.notify_one();
            sleep(SECOND)?;
            jobs[1].cancel(); // while it waits
            sleep(SECOND)?;
            let mut guard = letters.lock()?;
            *guard += 1;
            sent.notify_one();
            sleep(SECOND)?; // `c` was chosen, and waits for the mutex
            jobs[2].cancel();
            sleep(SECOND)?;
            drop(guard);
            sleep(SECOND)?;
            assert_eq!((*letters.lock()?, sent.waiting()), (0, 1), "`d` has what `c` was told of");
            *letters.lock()? += 1;
            sent.notify_all();
            Ok(())
        })
        .unwrap();
        assert_eq!(said.all(), ["a", "d", "e"]);
    });
}

#[test]
fn a_notification_for_all_wakes_all_and_none_that_come_later() {
    virtually(|| {
        let (mutex, changed, woken) = (Mutex::new(()), Condvar::new(), AtomicUsize::new(0));
        scope(|s| {
            let (mutex, changed, woken) = (&mutex, &changed, &woken);
            let wait = move || {
                drop(changed.wait(mutex.lock()?)?);
                woken.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            let jobs: Vec<_> = (0..3).map(|_| s.spawn(wait)).collect();
            sleep(SECOND)?;
            let guard = mutex.lock()?;
            changed.notify_all();
            sleep(SECOND)?;
            jobs[0].cancel(); // it waits for the mutex, and has nothing to pass on
            s.spawn(wait);
            sleep(SECOND)?;
            drop(guard);
            sleep(SECOND)?;
            assert_eq!((woken.load(Ordering::SeqCst), changed.waiting()), (2, 1));
            changed.notify_one();
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn a_timeout_of_a_condition_takes_the_mutex_again_and_leaves_nothing_behind() {
    virtually(|| {
        let (mutex, changed) = (Mutex::new(0), Condvar::new());
        scope(|s| {
            let (guard, notified) = changed.wait_timeout(mutex.lock()?, HOUR)?;
            assert!(!notified && mutex.try_lock().is_none() && changed.waiting() == 0);
            s.spawn(|| {
                *mutex.lock()? = 1;
                changed.notify_one();
                Ok(())
            });
            let (guard, notified) = changed.wait_timeout(guard, Duration::MAX)?;
            assert!(notified && *guard == 1);
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn what_is_sent_under_a_mutex_and_told_by_a_condition_all_arrives() {
    guarded(|| {
        let (queue, filled, emptied) = (Mutex::new(Vec::new()), Condvar::new(), Condvar::new());
        let (sent, got) = (stress_rounds(2000), AtomicUsize::new(0));
        scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for n in 0..sent {
                        let mut queue = emptied.wait_while(queue.lock()?, |queue| queue.len() >= 2)?;
                        queue.push(n);
                        filled.notify_one();
                    }
                    Ok(())
                });
                s.spawn(|| {
                    for _ in 0..sent {
                        let mut queue = filled.wait_while(queue.lock()?, |queue| queue.is_empty())?;
                        queue.pop();
                        emptied.notify_one();
                        got.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                });
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(u64::try_from(got.into_inner()).unwrap(), 3 * sent);
    });
}

// Cells.

#[test]
fn a_cell_is_made_once_while_all_others_wait_for_it() {
    virtually(|| {
        let (cell, made) = (OnceCell::named("config"), AtomicUsize::new(0));
        scope(|s| {
            for _ in 0..10 {
                s.job("needs").spawn(|| {
                    let value = cell.get_or_try_init(|| {
                        sleep(HOUR)?;
                        Ok(made.fetch_add(1, Ordering::SeqCst) + 1)
                    })?;
                    assert_eq!(*value, 1);
                    Ok(())
                });
            }
            sleep(SECOND)?;
            let line = snapshot::of(s).to_string();
            assert!(
                placeless(&line).contains("waiting in once cell for `config`, held by job `needs`, 9 waiting"),
                "{line}"
            );
            assert!(cell.get().is_none());
            Ok(())
        })
        .unwrap();
        assert_eq!(cell.into_inner(), Some(1));
    });
}

// S40:
#[test]
fn an_initialiser_that_fails_panics_or_is_stopped_leaves_its_turn_to_the_next() {
    virtually(|| {
        let (cell, said) = (OnceCell::new(), Said::default());
        let group = ScopeOptions::new()
            .on_failure(OnFailure::KeepGoing)
            .open(|s| {
                s.job("fails").spawn(|| {
                    cell.get_or_try_init(|| {
                        sleep(SECOND)?;
                        said.say("fails");
                        Ok("twelve".parse()?)
                    })?;
                    Ok(())
                });
                s.job("panics").spawn(|| {
                    cell.get_or_init(|| {
                        said.say("panics");
                        resume_unwind(Box::new("thrown"))
                    })?;
                    Ok(())
                });
                let stopped = s.job("is stopped").spawn(|| {
                    cell.get_or_try_init(|| {
                        said.say("is stopped");
                        sleep(HOUR)?;
                        Ok(1)
                    })?;
                    Ok(())
                });
                let waits = s.job("waits").spawn(|| {
                    cell.get_or_init(|| 2)?;
                    Ok(())
                });
                s.job("makes").spawn(|| {
                    assert_eq!(*cell.get_or_init(|| 3)?, 3);
                    Ok(())
                });
                sleep(2 * SECOND)?;
                waits.cancel();
                sleep(SECOND)?;
                stopped.cancel();
                Ok(())
            })
            .unwrap_err();
        assert_eq!(said.all(), ["fails", "panics", "is stopped"]);
        assert!(group.len() == 2 && group.find::<ParseIntError>().is_some(), "{group:?}");
        assert_eq!(cell.get(), Some(&3));
    });
}

// S49:
#[test]
fn a_cell_that_needs_itself_is_answered_and_so_is_a_ring_through_it() {
    virtually(|| {
        let cell = OnceCell::new();
        let inner = cell.get_or_try_init(|| Ok(*cell.get_or_init(|| 1)?)).unwrap_err();
        assert!(inner.is::<LockError>());
        let (mutex, ready) = (Mutex::new(()), Event::new());
        let told = StdMutex::new(None);
        scope(|s| {
            s.job("makes").spawn(|| {
                cell.get_or_try_init(|| {
                    ready.wait()?;
                    drop(mutex.lock()?);
                    Ok(2)
                })?;
                Ok(())
            });
            s.job("holds").spawn(|| {
                let _guard = mutex.lock()?;
                ready.set();
                sleep(SECOND)?;
                *told.lock().unwrap() = refused(cell.get_or_init(|| 3));
                Ok(())
            });
            Ok(())
        })
        .unwrap();
        assert_eq!(told.into_inner().unwrap(), names(&["holds", "makes"]));
        assert_eq!(cell.get(), Some(&2));
    });
}
