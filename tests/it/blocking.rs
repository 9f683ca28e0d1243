//! A call that nobody can interrupt: announced, shown, waited for, and nothing that it returns is lost.

use crate::{guarded, named, told, virtually};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, blocking, checkpoint, is_cancelled, now,
    pool::Pool,
    region::{TimedOut, fail_after, move_on_after, shield},
    scope, sleep,
    snapshot::{self, State},
};

const HOUR: Duration = Duration::from_secs(3600);

const WAITS: State = State::Waiting { on: "blocking" };

#[test]
fn what_the_call_returns_comes_back_also_outside_any_scope() {
    guarded(|| {
        let words = ["borrowed"];
        assert_eq!(blocking(|| words[0].len()).unwrap(), 8);
        let value = scope(|s| Ok(s.spawn(|| Ok(blocking(|| "7".parse::<u32>())??)).join()?));
        assert_eq!(value.unwrap(), 7);
    });
}

// S37, S39:
#[test]
fn a_cancelled_place_does_not_make_the_call() {
    guarded(|| {
        let token = CancelToken::new();
        token.cancel_with("closing time");
        let stop = token.enter(|| blocking(|| panic!("it was called"))).unwrap_err();
        assert_eq!(stop.reason().text(), Some("closing time"));
        // A deadline that nobody has looked at before, too.
        let late = fail_after(Duration::ZERO, || Ok(blocking(|| panic!("it was called"))?));
        assert!(late.unwrap_err().is::<TimedOut>());
        assert!(token.enter(|| shield(HOUR, || Ok(blocking(|| 7)?))).is_ok(), "unless it is shielded");
    });
}

// S37, S41:
#[test]
fn a_stop_during_the_call_loses_nothing_and_is_met_after_it() {
    guarded(|| {
        let group = scope(|s| {
            let value = blocking(|| {
                s.token().cancel_with("too long");
                7
            })?;
            assert_eq!(value, 7);
            assert!(is_cancelled());
            Ok(checkpoint()?)
        });
        assert_eq!(group.unwrap_err().reason().and_then(tassel::Reason::text), Some("too long"));
        let late = move_on_after(HOUR, || {
            let token = CancelToken::current();
            assert_eq!(blocking(|| token.set_deadline(Some(now()))).ok(), Some(()));
            Ok(checkpoint()?)
        });
        assert_eq!(late.unwrap(), None);
    });
}

#[test]
fn the_pool_knows_of_the_call_from_its_first_moment_to_its_last() {
    guarded(|| {
        let pool = Pool::builder().parallelism(1).build().unwrap();
        let blocked = || pool.stats().blocked;
        let group = named("s")
            .pool(&pool)
            .open(|s| {
                s.job("a").own_thread().spawn(|| {
                    assert_eq!(blocking(blocked)?, 1);
                    assert_eq!(blocking(|| blocking(blocked))??, 1, "counted once");
                    assert_eq!(blocked(), 0);
                    let thrown = catch_unwind(AssertUnwindSafe(|| blocking(|| panic!("in the call"))));
                    assert!(thrown.is_err() && blocked() == 0);
                    blocking(|| panic!("again"))?;
                    Ok(())
                });
                Ok(())
            })
            .unwrap_err();
        assert_eq!(told(&group), ["job `a` panicked: again"]);
        pool.shutdown().unwrap();
    });
}

// S68:
#[test]
fn others_run_in_place_of_those_who_are_in_a_call() {
    guarded(|| {
        let pool = Pool::builder().parallelism(1).build().unwrap();
        let (send, receive) = mpsc::channel();
        let receive = Mutex::new(receive);
        let sum = named("s").pool(&pool).inline(false).open(|s| {
            let wait = || Ok(blocking(|| receive.lock().unwrap().recv())??);
            let waiting = [s.spawn(wait), s.spawn(wait), s.spawn(wait)];
            s.spawn(move || Ok((1..=3).try_for_each(|n| send.send(n))?));
            waiting.into_iter().try_fold(0, |sum, job| Ok(sum + job.join()?))
        });
        assert_eq!(sum.unwrap(), 6);
        pool.shutdown().unwrap();
    });
}

#[test]
fn a_scope_in_the_call_is_a_scope_as_anywhere() {
    guarded(|| {
        let stopped = scope(|s| {
            s.spawn(|| s.token().cancel());
            let inner = blocking(|| scope(|s| s.spawn(|| Ok(sleep(Duration::MAX)?)).join().map_err(Into::into)))?;
            Ok(inner?)
        });
        assert!(stopped.unwrap_err().reason().is_some());
    });
}

#[test]
fn a_picture_shows_the_call_and_its_place() {
    virtually(|| {
        scope(|s| {
            let line = line!() + 1;
            let entries = blocking(|| snapshot::of(s).entries)?;
            let shown = &entries[0];
            assert_eq!((shown.state, shown.waits_at.map(std::panic::Location::line)), (WAITS, Some(line)));
            assert_eq!(shown.state.to_string(), "waiting in blocking");
            assert!(snapshot::of(s).entries[0].state.is_running());
            let inside = blocking(|| sleep(HOUR).map(|()| now()))??;
            assert_eq!(inside, now(), "what waits in the call waits in its turn");
            Ok(())
        })
        .unwrap();
    });
}

#[test]
#[cfg(target_os = "linux")]
fn virtual_time_stands_while_the_call_sleeps_and_others_of_the_run_move() {
    virtually(|| {
        let began = now();
        let (send, receive) = mpsc::channel();
        scope(|s| {
            let a = s.job("a").spawn(move || {
                blocking(|| {
                    receive.recv().unwrap();
                    // The run stands when `b` sleeps; were the clock free, it would move now.
                    let sleeps = || snapshot::of(s).jobs().any(|job| job.state == State::Waiting { on: "sleep" });
                    while !sleeps() && now() == began {
                        thread::yield_now();
                    }
                    (0..1000).for_each(|_| thread::yield_now());
                })?;
                Ok(now() - began)
            });
            // It moves once `a` is seen asleep.
            s.job("b").spawn(move || {
                send.send(())?;
                Ok(sleep(HOUR)?)
            });
            assert_eq!(a.join()?, Duration::ZERO);
            Ok(())
        })
        .unwrap();
        assert_eq!(now() - began, HOUR);
    });
}
