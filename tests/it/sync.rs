//! What jobs share: who is let in, in which order, and what becomes of a turn whose owner is told to stop.
//!
//! Order is that of virtual time where it matters; elsewhere real threads meet.

use crate::{guarded, named, seeded_rng, stress_rounds, told, virtually};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex as StdMutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tassel::{
    OnFailure, ReasonKind, Scope, ScopeOptions, checkpoint,
    region::{fail_after, move_on_after, shield_unbounded},
    scope, sleep, snapshot,
    sync::{Barrier, Semaphore},
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
            assert!(says.starts_with(" in semaphore for `limit`, held by the body of `"), "{line}");
            assert!(says.contains(", job `b`, 2 of 2 in use, 2 waiting at "), "{line}");
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
        assert!(deadlock.picture().contains("waiting in semaphore for `limit`, 1 of 1 in use"), "{deadlock:?}");
        assert_eq!((semaphore.in_use(), semaphore.waiting()), (0, 0));
    });
}

// S40: whoever is chosen and stopped at once, no permit is lost, and none is lent twice.
#[test]
fn a_hundred_threads_that_are_stopped_at_any_moment_lose_no_permit() {
    guarded(|| {
        let seed = 0x5eed;
        let mut rng = seeded_rng(seed);
        for round in 0..stress_rounds(20) {
            let (semaphore, inside) = (Semaphore::new(3), AtomicUsize::new(0));
            let meet = Barrier::new(101);
            let chosen: Vec<_> = (0..100).map(|_| rng.chance(50)).collect();
            scope(|s| {
                let (semaphore, inside, meet) = (&semaphore, &inside, &meet);
                let work = move || {
                    meet.wait()?;
                    for _ in 0..3 {
                        let _permit = semaphore.acquire()?;
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                    Ok(())
                };
                let jobs: Vec<_> = (0..100).map(|_| s.spawn(work)).collect();
                meet.wait()?;
                for (job, _) in jobs.iter().zip(&chosen).filter(|(_, chosen)| **chosen) {
                    job.cancel();
                }
                Ok(())
            })
            .unwrap_or_else(|group| panic!("round {round} of seed {seed}: {group:?}"));
            assert_eq!((semaphore.in_use(), semaphore.waiting()), (0, 0), "round {round} of seed {seed}");
            assert!(semaphore.try_acquire_many(3).is_some());
        }
    });
}
