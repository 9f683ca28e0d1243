//! Which calls are checkpoints, and what a stop looks like there.

use crate::virtually;
use std::{io, time::Duration};
use tassel::{
    CancelToken, Cancelled, checkpoint, is_cancelled,
    region::{cleanup, fail_after, move_on_after, shield, shield_unbounded},
    scope, sleep, sleep_until, snapshot,
    sync::{Barrier, Event},
    yield_now,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Runs `code` where a cancel is visible.
fn in_a_cancelled_place<T>(code: impl FnOnce() -> T) -> T {
    let token = CancelToken::new();
    token.cancel();
    token.enter(code)
}

// S37, S39, D24:
#[test]
fn every_blocking_call_answers_a_cancel_on_entry_even_if_it_could_succeed() {
    virtually(|| {
        in_a_cancelled_place(|| {
            let set = Event::new();
            set.set();
            assert!(is_cancelled());
            assert!(checkpoint().is_err());
            assert!(yield_now().is_err());
            assert!(sleep(Duration::ZERO).is_err());
            assert!(sleep_until(tassel::now()).is_err());
            assert!(Barrier::new(1).wait().is_err());
            assert!(set.wait().is_err());
            assert!(set.wait_timeout(HOUR).is_err());
        });
    });
}

// S38, S39:
#[test]
fn calls_that_do_not_block_never_check() {
    virtually(|| {
        let event = Event::new();
        let value = scope(|s| {
            let job = s.spawn(|| Ok(7));
            sleep(HOUR)?;
            let token = CancelToken::current();
            token.cancel();
            event.set();
            event.reset();
            assert!(!event.is_set() && job.is_finished());
            match job.try_join() {
                Ok(Ok(value)) => Ok(value),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(value.unwrap(), 7);
    });
}

/// Every call that blocks, each where it need not wait for long.
fn every_call_goes_on() -> tassel::Result<()> {
    let set = Event::new();
    set.set();
    checkpoint()?;
    yield_now()?;
    sleep(HOUR)?;
    sleep_until(tassel::now() + HOUR)?;
    Barrier::new(1).wait()?;
    set.wait()?;
    assert!(!Event::new().wait_timeout(HOUR)?);
    assert!(scope(|s| Ok(s.spawn(|| Ok(sleep(HOUR).is_ok())).join()?))?);
    assert!(!is_cancelled());
    Ok(())
}

// S53, S57, S39:
#[test]
fn behind_a_shield_and_in_cleanup_no_call_answers_the_cancel_outside() {
    virtually(|| {
        in_a_cancelled_place(|| {
            shield(9 * HOUR, every_call_goes_on).unwrap();
            shield_unbounded(every_call_goes_on).unwrap();
            cleanup(9 * HOUR, every_call_goes_on).unwrap();
            assert!(every_call_goes_on().is_err(), "they are no checkpoints themselves; this is");
        });
    });
}

// S38, S60:
#[test]
fn to_move_a_deadline_or_to_end_a_grace_is_no_checkpoint_and_gives_nothing_back() {
    virtually(|| {
        in_a_cancelled_place(|| {
            let here = CancelToken::current();
            here.set_deadline(Some(tassel::now() + HOUR));
            here.cancel_with_grace(HOUR);
            here.cancel_now();
            assert_eq!(here.reason().map(|reason| reason.kind()), Some(tassel::ReasonKind::Explicit));
            assert_eq!(shield(HOUR, || Ok(7)).unwrap(), 7);
        });
    });
}

// S50:
#[test]
fn regions_nest_without_a_scope_and_each_takes_its_own_limit() {
    virtually(|| {
        let outer = move_on_after(2 * HOUR, || {
            let inner = move_on_after(HOUR, || Ok(sleep(10 * HOUR)?))?;
            assert_eq!(inner, None);
            assert!(checkpoint().is_ok(), "the inner limit is gone with its region");
            sleep(10 * HOUR)?;
            Ok(())
        });
        assert_eq!(outer.unwrap(), None);
        assert!(checkpoint().is_ok());
        assert_eq!(fail_after(HOUR, || Ok(7)).unwrap(), 7);
    });
}

// D13:
#[test]
fn a_stop_in_an_io_error_is_not_interrupted_and_comes_out_again() {
    virtually(|| {
        let stop = in_a_cancelled_place(|| checkpoint().unwrap_err());
        let text = stop.to_string();
        let error = io::Error::from(stop);
        assert_ne!(error.kind(), io::ErrorKind::Interrupted);
        assert_eq!(Cancelled::try_from(error).unwrap().to_string(), text);
        let other = Cancelled::try_from(io::Error::other("disk full")).unwrap_err();
        assert_eq!(other.to_string(), "disk full");
    });
}

// D12:
#[test]
fn a_scope_forgets_its_finished_jobs() {
    virtually(|| {
        scope(|s| {
            for _ in 0..1000 {
                s.spawn(|| Ok(sleep(HOUR)?));
            }
            assert_eq!(snapshot::of(s).jobs().count(), 1000);
            sleep(2 * HOUR)?;
            assert_eq!(snapshot::of(s).jobs().count(), 0);
            Ok(())
        })
        .unwrap();
    });
}
