//! A flag that threads wait for: [`Event`].
//!
//! # Promises
//!
//! 1. Everybody who waits when the flag is set passes, even if it is reset before they look.
//! 2. Who leaves, by a stop or a timeout, leaves nothing behind.
//!
//! # Does not know
//!
//! Scopes: any thread may wait, set and reset.
//!
//! # Why no wake-up is lost
//!
//! A waiter enters its seat under the lock under which a `set` is counted, and looks at that count before it parks; the
//! seats are poked after it, outside the lock.

use crate::{
    cancel::{
        current::{self, Activity},
        reason::Cancelled,
    },
    park::{seat::Seat, standstill::Wait},
    prim::Mutex,
    wait::{self, Call, End},
};
use slab::Slab;
use std::{
    fmt, mem,
    sync::Arc,
    time::{Duration, Instant},
};

#[derive(Default)]
struct State {
    set: bool,
    /// Counts `set` calls.
    sets: u64,
    /// Who waits since the last of them.
    waiting: Slab<Arc<Seat>>,
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
        state.sets += 1;
        let waiting = mem::take(&mut state.waiting);
        drop(state);
        for (_, seat) in waiting {
            seat.poke();
        }
    }

    /// Takes the flag back. Who waited when it was set passes all the same. Never blocks.
    pub fn reset(&self) {
        self.state.lock().set = false;
    }

    /// Tells whether the flag is set. Never blocks.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.state.lock().set
    }

    /// Blocks until the flag is set.
    ///
    /// # Cancellation
    ///
    /// Always a checkpoint, also if the flag is set already. If a stop comes during the wait and so does the flag, the
    /// flag wins.
    ///
    /// # Errors
    ///
    /// Returns [`Cancelled`] if the code here is to stop.
    #[track_caller]
    pub fn wait(&self) -> Result<(), Cancelled> {
        self.wait_to(None).map(drop)
    }

    /// Blocks until the flag is set, but no longer than `timeout`. Tells whether it was set.
    ///
    /// To look without waiting there is [`is_set`](Event::is_set), which is no checkpoint.
    ///
    /// # Cancellation
    ///
    /// As [`wait`](Event::wait), also with a timeout of zero.
    ///
    /// # Errors
    ///
    /// Returns [`Cancelled`] if the code here is to stop.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let event = tassel::sync::Event::new();
    /// assert!(!event.wait_timeout(Duration::from_millis(1))?);
    /// event.set();
    /// assert!(event.wait_timeout(Duration::from_millis(1))?);
    /// # Ok::<(), tassel::Cancelled>(())
    /// ```
    #[track_caller]
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, Cancelled> {
        self.wait_to(current::clock().after(timeout))
    }

    #[track_caller]
    fn wait_to(&self, until: Option<Instant>) -> Result<bool, Cancelled> {
        // The count at our arrival and our key.
        let mut arrival = None;
        let waited = wait::wait(&Call::new(Activity::Event, Wait::Closed), until, |seat| {
            let mut state = self.state.lock();
            if let Some((sets, _)) = arrival {
                return (state.sets != sets).then_some(());
            }
            if state.set {
                return Some(());
            }
            let key = state.waiting.insert(Arc::clone(seat));
            arrival = Some((state.sets, key));
            None
        });
        let Err(end) = waited else { return Ok(true) };
        if let Some((sets, key)) = arrival {
            let mut state = self.state.lock();
            if state.sets != sets && !mutant!("set_lost_to_a_stop") {
                return Ok(true); // set meanwhile: the entries are gone, and another may have our key
            }
            let seat = state.waiting.try_remove(key);
            drop(state);
            drop(seat);
        }
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

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::wait::given::{LONG, SHORT, cancel, node, soon, stand, stopped_after, until};
    use std::thread;

    #[test]
    fn a_set_wakes_all_even_if_a_reset_follows_at_once() {
        soon(|| {
            let event = Arc::new(Event::new());
            let wait = |event: Arc<Event>| move || event.wait();
            let waiters: Vec<_> = (0..3).map(|_| thread::spawn(wait(Arc::clone(&event)))).collect();
            until(|| event.state.lock().waiting.len() == 3);
            event.set();
            event.reset();
            assert!(!event.is_set());
            assert!(waiters.into_iter().all(|waiter| matches!(waiter.join(), Ok(Ok(())))));
            assert_eq!(format!("{event:?}"), "Event { set: false, waiting: 0 }");
        });
    }

    #[test]
    fn a_set_event_does_not_wait() {
        let event = Event::new();
        event.set();
        assert!(event.is_set() && event.wait().is_ok());
        assert!(matches!(event.wait_timeout(Duration::ZERO), Ok(true)));
    }

    #[test]
    fn a_timeout_tells_so_and_leaves_nothing_behind() {
        soon(|| {
            let event = Event::new();
            assert!(matches!(event.wait_timeout(Duration::ZERO), Ok(false)));
            assert!(matches!(event.wait_timeout(SHORT), Ok(false)));
            assert!(event.state.lock().waiting.is_empty());
        });
    }

    #[test]
    fn a_cancel_ends_the_wait_and_leaves_nothing_behind() {
        soon(|| {
            let event = Arc::new(Event::new());
            for limit in [Duration::MAX, LONG] {
                let node = node(None);
                let waiter = thread::spawn({
                    let (event, node) = (Arc::clone(&event), Arc::clone(&node));
                    move || stand(&node, || event.wait_timeout(limit))
                });
                until(|| event.state.lock().waiting.len() == 1);
                cancel(&node);
                assert!(matches!(waiter.join(), Ok(Err(_))));
                assert!(event.state.lock().waiting.is_empty());
            }
        });
    }

    #[test]
    fn a_set_between_the_last_look_and_the_stop_lets_the_waiter_pass() {
        soon(|| {
            let event = Arc::new(Event::new());
            let set = Arc::clone(&event);
            assert!(stopped_after(move || set.set(), || event.wait()).is_ok());
            assert!(event.state.lock().waiting.is_empty());
        });
    }

    #[test]
    fn a_cancelled_place_does_not_take_a_set_flag() {
        let event = Event::new();
        event.set();
        let node = node(None);
        cancel(&node);
        stand(&node, || {
            assert!(event.wait().is_err() && event.wait_timeout(Duration::ZERO).is_err());
        });
    }
}
