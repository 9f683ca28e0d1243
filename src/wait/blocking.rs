//! Calls that nobody can interrupt, announced: [`blocking`].
//!
//! # Promises
//!
//! 1. The pool counts the thread as blocked from the first moment on, so its place is filled at once if there is work.
//! 2. What the call returned is returned, whatever stop came meanwhile (S37).
//! 3. In a virtual run the clock stands while the call runs, but for waits of this library in it. It keeps its turn while it
//!    moves, as other code does; asleep, it lets others go on, and takes part in the order again before it returns.
//!
//! # Does not know
//!
//! What is called.

use crate::{
    cancel::{
        current::{self, Activity, Doing},
        reason::Cancelled,
    },
    park::{clock::Clock, seat::with_chair, virtual_run::Run},
    pool, wait,
};
use std::panic::Location;

/// Runs a call that blocks outside this library, such as a read of a file, on this thread.
///
/// The pool is told, so another job can start at once in place of this one, also where the system does not show who sleeps;
/// and a [snapshot](crate::snapshot) shows the call, with its place. For a call with which that is worth it: it costs some
/// hundred nanoseconds. Code that computes should not be in it, as more threads than the pool's parallelism would run.
///
/// The call may borrow, and is waited for. One that may hang, and owns what it needs, can be left behind:
/// [`abandon`](fn@crate::abandon). Outside any scope this calls `f`, and nothing else.
///
/// In virtual time the clock stands while the call runs, and a call that sleeps lets others go on.
///
/// # Cancellation
///
/// Always a checkpoint, before the call. The call itself is not interrupted, and what it returns is returned, also if a stop
/// came meanwhile: the next checkpoint meets that.
///
/// # Errors
///
/// Returns [`Cancelled`], without calling `f`, if the code here is to stop.
///
/// # Panics
///
/// A panic of `f` passes through.
///
/// # Examples
///
/// ```
/// let text = tassel::scope(|s| {
///     let read = s.spawn(|| Ok(tassel::blocking(|| std::fs::read_to_string("Cargo.toml"))??));
///     Ok(read.join()?)
/// })?;
/// assert!(text.contains("[package]"));
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[track_caller]
pub fn blocking<T>(f: impl FnOnce() -> T) -> Result<T, Cancelled> {
    wait::enter()?;
    Ok(announced(Activity::Blocking, Location::caller(), f))
}

/// Calls `f`, shown as `activity`, which is no checkpoint.
pub(super) fn announced<T>(activity: Activity, place: &'static Location<'static>, f: impl FnOnce() -> T) -> T {
    let _doing = Doing::new(activity, place, None);
    pool::while_blocked(|| {
        let _outside = Outside::new();
        f()
    })
}

/// Code of a virtual run that may sleep outside the library. If it has lost its turn there, it takes part in the order
/// again before it goes on.
struct Outside(Option<(Clock, u64)>);

impl Outside {
    fn new() -> Self {
        let here = current::with(|frame| frame.map(|frame| (frame.clock(), frame.line.order())));
        let announce = |run: &Run| with_chair(|chair| run.announce(chair.seat()));
        Outside(here.filter(|(clock, _)| clock.run().is_some_and(|run| announce(run))))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some((clock, order)) = &self.0 {
            if let Some(run) = clock.run() {
                with_chair(|chair| run.rejoin(chair, *order));
            }
        }
    }
}
