//! Time, and checks that do not wait: [`sleep`], [`checkpoint`] and their kin.
//!
//! # Does not know
//!
//! Whether the clock is virtual.

use crate::{
    cancel::{
        current::{self, Activity},
        reason::Cancelled,
    },
    park::seat::with_chair,
    pool,
    wait::{self, End},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Returns the time: the system's monotonic clock, or that of a virtual-time run.
#[must_use]
pub fn now() -> Instant {
    current::clock().now()
}

/// Sleeps for `duration`, unless told to stop. Outside any scope it just sleeps.
///
/// # Cancellation
///
/// Always a checkpoint, also for a zero duration. A cancel or deadline ends the sleep at once.
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
pub fn sleep(duration: Duration) -> Result<(), Cancelled> {
    let clock = current::clock();
    sleep_to(clock.after(duration))
}

/// Sleeps until `instant` (of [`now`]), unless told to stop.
///
/// # Cancellation
///
/// As [`sleep`].
///
/// # Errors
///
/// Returns [`Cancelled`] if the code here is to stop.
pub fn sleep_until(instant: Instant) -> Result<(), Cancelled> {
    sleep_to(Some(instant))
}

/// `None`: until cancelled.
fn sleep_to(until: Option<Instant>) -> Result<(), Cancelled> {
    match wait::wait(Activity::Sleep, until, |_| None::<()>) {
        Ok(()) | Err(End::TimedOut) => Ok(()),
        Err(End::Stopped(stop)) => Err(stop),
    }
}

/// Lets others run: the system's other threads, or, in virtual time, everybody who is ready.
///
/// # Cancellation
///
/// Always a checkpoint, before it yields.
///
/// # Errors
///
/// Returns [`Cancelled`] if the code here is to stop.
pub fn yield_now() -> Result<(), Cancelled> {
    current::check()?;
    let clock = current::clock();
    match clock.run() {
        None => thread::yield_now(),
        Some(run) => {
            let order = current::with(|frame| frame.map_or(0, |frame| frame.strand.order));
            pool::while_blocked(|| with_chair(|chair| run.pass(chair, order, true)));
        }
    }
    Ok(())
}

/// Checks whether the code here is to stop. Never blocks.
///
/// For loops that compute: the cost is a thread-local look and one atomic load, also below a deadline.
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
pub fn checkpoint() -> Result<(), Cancelled> {
    current::check()
}

/// Tells whether the code here is to stop: [`checkpoint`] without the error.
#[must_use]
pub fn is_cancelled() -> bool {
    current::stop().is_some()
}
