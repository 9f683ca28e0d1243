//! A flag that threads wait for: [`Event`].
//!
//! # Why no wake-up is lost
//!
//! A waiter enters its seat under the lock under which the flag is set; the seats are poked after it.

use crate::{
    cancel::{
        current::{self, Activity},
        reason::Cancelled,
    },
    park::seat::{Seat, with_chair},
    prim::Mutex,
    wait::{self, End},
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

#[derive(Default)]
struct State {
    set: bool,
    waiting: Vec<Arc<Seat>>,
}

/// A flag, at first not set, that any number of threads can wait for.
///
/// # Examples
///
/// ```
/// use tassel::{scope, sync::Event};
/// let ready = Event::new();
/// scope(|s| {
///     s.spawn(|| ready.set());
///     Ok(ready.wait()?)
/// })?;
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[derive(Default)]
pub struct Event {
    state: Mutex<State>,
}

impl Event {
    /// Makes an event that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag and wakes everybody who waits. Never blocks.
    pub fn set(&self) {
        let mut state = self.state.lock();
        state.set = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for seat in waiting {
            seat.poke();
        }
    }

    /// Takes the flag back. Who was woken by it passes all the same only if it looks before this.
    pub fn reset(&self) {
        self.state.lock().set = false;
    }

    /// Tells whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.state.lock().set
    }

    /// Blocks until the flag is set.
    ///
    /// # Cancellation
    ///
    /// Always a checkpoint, also if the flag is set already.
    ///
    /// # Errors
    ///
    /// Returns [`Cancelled`] if the code here is to stop.
    pub fn wait(&self) -> Result<(), Cancelled> {
        self.wait_to(None).map(drop)
    }

    /// Blocks until the flag is set, but no longer than `timeout`. Tells whether it is set.
    ///
    /// # Cancellation
    ///
    /// As [`wait`](Event::wait).
    ///
    /// # Errors
    ///
    /// Returns [`Cancelled`] if the code here is to stop.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, Cancelled> {
        self.wait_to(current::clock().after(timeout))
    }

    fn wait_to(&self, until: Option<Instant>) -> Result<bool, Cancelled> {
        let waited = wait::wait(Activity::Event, until, |seat| {
            let mut state = self.state.lock();
            if state.set {
                return Some(());
            }
            if !state.waiting.iter().any(|waiting| waiting.id == seat.id) {
                state.waiting.push(Arc::clone(seat));
            }
            None
        });
        let end = match waited {
            Ok(()) => return Ok(true),
            Err(end) => end,
        };
        let mine = with_chair(|chair| chair.seat().id);
        let mut state = self.state.lock();
        state.waiting.retain(|seat| seat.id != mine);
        drop(state);
        match end {
            End::TimedOut => Ok(false),
            End::Stopped(stop) => Err(stop),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Event").field("set", &state.set).field("waiting", &state.waiting.len()).finish()
    }
}
