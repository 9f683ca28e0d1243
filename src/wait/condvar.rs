//! Waiting, with a [`Mutex`], until what it guards is as one wants it: [`Condvar`].
//!
//! # Promises
//!
//! 1. First come, first served: [`notify_one`](Condvar::notify_one) wakes who has waited longest.
//! 2. Who was chosen by it, and is told to stop before it has the mutex again, passes the notification on (S40).
//!
//! # Does not know
//!
//! What is waited for.
//!
//! # Why no wake-up is lost
//!
//! A waiter enters its seat before it lets the mutex go, so whoever changes what it guards, and notifies after that, finds it.
//! A notification takes the entry out under the lock in which the waiter looks for it, and pokes after that.

use crate::{
    cancel::current::{self, Activity, Look, Thing},
    error::LockError,
    prim::Mutex,
    wait::{
        self, Call, End,
        mutex::MutexGuard,
        turnstile::{Queue, Ticket},
    },
};
use smol_str::SmolStr;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

#[derive(Default)]
struct State {
    queue: Queue<()>,
    /// Counts `notify_all` calls.
    alls: u64,
}

struct Shared {
    name: Option<SmolStr>,
    state: Mutex<State>,
}

impl Thing for Shared {
    fn look(&self) -> Look {
        Look { name: self.name.clone(), waiting: self.state.lock().queue.len(), ..Look::default() }
    }
}

/// Lets threads wait until something that a [`Mutex`](crate::sync::Mutex) guards has changed.
///
/// As [`std::sync::Condvar`], but a cancel ends the wait, and those who wait are woken in the order in which they came. Who is
/// woken finds the value as it is when it has the mutex again: others may have been there before. So wait in a loop, or by
/// [`wait_while`](Condvar::wait_while).
///
/// # Examples
///
/// ```
/// use tassel::{scope, sync::{Condvar, Mutex}};
/// let (queue, filled) = (Mutex::new(Vec::new()), Condvar::new());
/// scope(|s| {
///     s.spawn(|| {
///         queue.lock()?.push("a letter");
///         filled.notify_one();
///         Ok(())
///     });
///     let mut queue = filled.wait_while(queue.lock()?, |queue| queue.is_empty())?;
///     assert_eq!(queue.pop(), Some("a letter"));
///     Ok(())
/// })?;
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
pub struct Condvar {
    shared: Arc<Shared>,
}

/// A waiter's entry, and the count at its arrival.
type Arrival = (Ticket, u64);

impl Condvar {
    /// Makes one for which nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Condvar::make(None)
    }

    /// As [`new`](Condvar::new), with a name for snapshots.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Condvar::make(Some(name.into().into()))
    }

    fn make(name: Option<SmolStr>) -> Self {
        Condvar { shared: Arc::new(Shared { name, state: Mutex::default() }) }
    }

    /// Lets the mutex go, blocks until notified, and takes it again.
    ///
    /// # Cancellation
    ///
    /// Always a checkpoint. A waiter that is told to stop does not take the mutex again, for which it would have to wait: the
    /// guard is gone. A notification that it was given by [`notify_one`](Condvar::notify_one) goes to the next.
    ///
    /// # Errors
    ///
    /// * [`LockError::Cancelled`] if the code here is to stop.
    /// * [`LockError::WouldDeadlock`] if whoever has the mutex, when it is to be taken again, waits for the code here.
    #[track_caller]
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> Result<MutexGuard<'a, T>, LockError> {
        self.wait_to(guard, None).map(|(guard, _)| guard)
    }

    /// As [`wait`](Condvar::wait), for as long as the value is such that `is_so`.
    ///
    /// # Cancellation
    ///
    /// As [`wait`](Condvar::wait), whether or not it has to wait.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condvar::wait).
    #[track_caller]
    pub fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut is_so: impl FnMut(&mut T) -> bool,
    ) -> Result<MutexGuard<'a, T>, LockError> {
        current::check().map_err(LockError::Cancelled)?;
        while is_so(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait`](Condvar::wait), but no longer than `timeout`; then takes the mutex all the same.
    ///
    /// The `bool` says whether it was *notified*: the opposite of `timed_out` of std's result.
    ///
    /// # Cancellation
    ///
    /// As [`wait`](Condvar::wait), also with a timeout of zero.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condvar::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// use tassel::sync::{Condvar, Mutex};
    /// let (mutex, changed) = (Mutex::new(0), Condvar::new());
    /// let (guard, notified) = changed.wait_timeout(mutex.lock()?, Duration::from_millis(1))?;
    /// assert!(*guard == 0 && !notified);
    /// # Ok::<(), tassel::Error>(())
    /// ```
    #[track_caller]
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> Result<(MutexGuard<'a, T>, bool), LockError> {
        self.wait_to(guard, current::clock().after(timeout))
    }

    #[track_caller]
    fn wait_to<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        until: Option<Instant>,
    ) -> Result<(MutexGuard<'a, T>, bool), LockError> {
        let mutex = guard.mutex();
        let mut guard = Some(guard);
        let mut arrival = None;
        let waited = wait::wait(&Call::of(Activity::Condition, &self.shared), until, |seat| {
            let mut state = self.shared.state.lock();
            if let Some((ticket, _)) = arrival {
                return (!state.queue.has(ticket)).then_some(());
            }
            arrival = Some((state.queue.push(seat, ()), state.alls));
            drop(state);
            // After it was entered: see the module header.
            guard = None;
            None
        });
        let notified = match waited {
            Ok(()) => true,
            Err(End::TimedOut) => arrival.is_some_and(|arrival| !self.leave(arrival)),
            Err(End::Stopped(stop)) => {
                if let Some(arrival) = arrival.filter(|arrival| !self.leave(*arrival)) {
                    self.pass_on(arrival);
                }
                return Err(LockError::Cancelled(stop));
            }
        };
        // No closure: a place is not passed on to one.
        let again = match mutex.try_lock() {
            Some(guard) => Ok(guard),
            None => mutex.wait(),
        };
        match again {
            Ok(guard) => Ok((guard, notified)),
            Err(error) => {
                if let Some(arrival) = arrival.filter(|_| notified) {
                    self.pass_on(arrival);
                }
                Err(error)
            }
        }
    }

    /// Takes a waiter's entry out. `false`: it was notified before.
    fn leave(&self, (ticket, _): Arrival) -> bool {
        let mut state = self.shared.state.lock();
        let gone = state.queue.remove(ticket);
        drop(state);
        gone.is_some()
    }

    /// Gives a notification that is not used to the next, unless all have been notified anyway.
    fn pass_on(&self, (_, alls): Arrival) {
        if self.shared.state.lock().alls == alls && !mutant!("notification_lost_to_a_stop") {
            self.notify_one();
        }
    }

    /// Wakes the one who has waited longest, if anybody waits. Never blocks.
    pub fn notify_one(&self) {
        let next = self.shared.state.lock().queue.pop();
        if let Some(next) = next {
            next.poke();
        }
    }

    /// Wakes all who wait. Never blocks.
    pub fn notify_all(&self) {
        let mut state = self.shared.state.lock();
        state.alls += 1;
        let mut all = Vec::with_capacity(state.queue.len());
        while let Some(next) = state.queue.pop() {
            all.push(next);
        }
        drop(state);
        for seat in all {
            seat.poke();
        }
    }

    /// Returns how many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.state.lock().queue.len()
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Condvar");
        if let Some(name) = &self.shared.name {
            shown.field("name", name);
        }
        shown.field("waiting", &self.waiting()).finish()
    }
}
