//! Time, and checks that do not wait: [`sleep`], [`checkpoint`] and their kin.
//!
//! # Promises
//!
//! 1. What is relative becomes an instant on entry; an overflow means never (S58).
//! 2. A sleep ends by the clock of the place: in virtual time an hour costs nothing.
//! 3. Each of them but [`now`] is a checkpoint, whatever its argument (S39).
//!
//! # Does not know
//!
//! Whether the clock is virtual, but for [`yield_now`]: to let others run means another thing there.

use crate::{
    cancel::{
        current::{self, Activity},
        reason::Cancelled,
    },
    park::{seat::with_chair, standstill::Wait},
    pool,
    wait::{self, Call, End},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Returns the time: the system's monotonic clock, or that of a virtual-time run.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// let start = tassel::now();
/// tassel::sleep(Duration::from_millis(1))?;
/// assert!(tassel::now() - start >= Duration::from_millis(1));
/// # Ok::<(), tassel::Cancelled>(())
/// ```
#[must_use]
pub fn now() -> Instant {
    current::clock().now()
}

/// Sleeps for `duration`, unless told to stop.
///
/// Blocks until the time has come; a cancel or a deadline wakes it at once. A duration too long for the clock, such as
/// [`Duration::MAX`], means until cancelled. Outside any scope it just sleeps.
///
/// # Cancellation
///
/// Always a checkpoint, also for a zero duration, which is nothing else: it yields to nobody.
///
/// # Errors
///
/// Returns [`Cancelled`] if the code here is to stop.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// tassel::sleep(Duration::from_millis(1))?;
/// # Ok::<(), tassel::Cancelled>(())
/// ```
#[track_caller]
pub fn sleep(duration: Duration) -> Result<(), Cancelled> {
    sleep_to(current::clock().after(duration))
}

/// Sleeps until `instant` (of [`now`]), unless told to stop.
///
/// Blocks as [`sleep`] does; with an instant that has passed it is a checkpoint.
///
/// # Cancellation
///
/// As [`sleep`].
///
/// # Errors
///
/// Returns [`Cancelled`] if the code here is to stop.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// // Ticks do not drift, however long the work takes.
/// let mut next = tassel::now();
/// for _ in 0..3 {
///     tassel::sleep_until(next)?;
///     next += Duration::from_millis(1);
/// }
/// # Ok::<(), tassel::Cancelled>(())
/// ```
#[track_caller]
pub fn sleep_until(instant: Instant) -> Result<(), Cancelled> {
    sleep_to(Some(instant))
}

/// `None`: until cancelled.
#[track_caller]
fn sleep_to(until: Option<Instant>) -> Result<(), Cancelled> {
    if until.is_some_and(|until| until <= now()) {
        return wait::enter();
    }
    match wait::wait(&Call::new(Activity::Sleep, Wait::Open), until, |_| None::<()>) {
        Ok(()) | Err(End::TimedOut) => Ok(()),
        Err(End::Stopped(stop)) => Err(stop),
    }
}

/// Lets others run: the system's other threads, or, in virtual time, everybody who is ready.
///
/// It waits for nothing. In virtual time the clock stands while somebody is ready, so a loop that yields until something
/// has happened waits for ever if that needs time: use [`sleep`], or an [`Event`](crate::sync::Event).
///
/// # Cancellation
///
/// Always a checkpoint, before it yields.
///
/// # Errors
///
/// Returns [`Cancelled`] if the code here is to stop.
///
/// # Examples
///
/// ```
/// tassel::yield_now()?;
/// # Ok::<(), tassel::Cancelled>(())
/// ```
pub fn yield_now() -> Result<(), Cancelled> {
    current::check()?;
    let order = current::with(|frame| frame.map_or(0, |frame| frame.line.order()));
    match current::clock().run() {
        None => thread::yield_now(),
        Some(run) => pool::while_blocked(|| with_chair(|chair| run.pass(chair, order, true))),
    }
    Ok(())
}

/// Checks whether the code here is to stop. Never blocks.
///
/// For loops that compute: the cost is a thread-local look and one atomic load, also below a deadline.
///
/// # Cancellation
///
/// Always a checkpoint, and nothing else.
///
/// # Errors
///
/// Returns [`Cancelled`] if so; each time, until the cancelled scope or region is left.
///
/// # Examples
///
/// ```
/// fn sum(numbers: &[u64]) -> Result<u64, tassel::Cancelled> {
///     let mut sum = 0;
///     for part in numbers.chunks(1000) {
///         tassel::checkpoint()?;
///         sum += part.iter().sum::<u64>();
///     }
///     Ok(sum)
/// }
/// assert_eq!(sum(&[1, 2])?, 3);
/// # Ok::<(), tassel::Cancelled>(())
/// ```
#[inline]
pub fn checkpoint() -> Result<(), Cancelled> {
    current::check()
}

/// Tells whether the code here is to stop: [`checkpoint`] without the error.
///
/// # Examples
///
/// ```
/// let token = tassel::CancelToken::new();
/// token.cancel();
/// assert!(token.enter(tassel::is_cancelled));
/// assert!(!tassel::is_cancelled());
/// ```
#[must_use]
#[inline]
pub fn is_cancelled() -> bool {
    current::stop().is_some()
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::wait::given::{LONG, SHORT, cancel, node, soon, stand};
    use std::sync::Arc;

    #[test]
    fn a_sleep_sleeps_outside_any_scope() {
        soon(|| {
            let start = Instant::now();
            assert!(sleep(SHORT).is_ok());
            assert!(start.elapsed() >= SHORT);
            assert!(sleep_until(start).is_ok());
            assert!(yield_now().is_ok() && checkpoint().is_ok() && !is_cancelled());
        });
    }

    #[test]
    fn all_are_checkpoints() {
        let node = node(None);
        stand(&node, || {
            assert!(sleep(Duration::ZERO).is_ok() && yield_now().is_ok() && checkpoint().is_ok());
            cancel(&node);
            assert!(sleep(Duration::ZERO).is_err() && sleep(LONG).is_err());
            assert!(sleep_until(now()).is_err());
            assert!(yield_now().is_err() && checkpoint().is_err() && is_cancelled());
        });
    }

    #[test]
    fn a_deadline_that_passed_fails_a_sleep_of_zero() {
        let node = node(Some(Duration::ZERO));
        stand(&node, || {
            assert!(sleep(Duration::ZERO).is_err());
        });
    }

    #[test]
    fn the_longest_sleep_ends_by_a_cancel() {
        soon(|| {
            let node = node(None);
            let sleeper = thread::spawn({
                let node = Arc::clone(&node);
                move || stand(&node, || sleep(Duration::MAX))
            });
            thread::sleep(SHORT);
            cancel(&node);
            assert!(matches!(sleeper.join(), Ok(Err(_))));
        });
    }
}
