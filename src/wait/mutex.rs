//! A lock whose waits can be cancelled: [`Mutex`], [`MutexGuard`].
//!
//! # Promises
//!
//! 1. One guard at a time. It stays on its thread, so a second lock there is seen, and answered.
//! 2. Where nobody else is, a lock and its release touch the cell and the door's sign, and no queue.
//!
//! # Does not know
//!
//! How it is waited for: that is the [`Door`]'s, whose header says why no wake-up is lost.

use crate::{
    cancel::current::{self, Activity},
    error::LockError,
    prim::{Mutex as Cell, MutexGuard as CellGuard},
    wait::{
        Call,
        cycle::Kind,
        door::{Door, Held, Leaves, Of},
    },
};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// Lets one thread at a time reach a value; as [`std::sync::Mutex`], but a cancel ends the wait.
///
/// *No poisoning*: a panic while it is held releases it, and the next finds the value as it is. In a scope, the panic is a
/// failure of its own, which stops the siblings.
///
/// *Order*: a newcomer may take it before those who wait, which is what makes short locks cheap, but not for long: who has
/// been woken once and came too late is the next to have it.
///
/// *After a stop* [`lock`](Mutex::lock) is refused, since it is a checkpoint; so what must be put back then is put back in a
/// [`cleanup`](crate::region::cleanup) or a [`shield`](crate::region::shield), or, where nothing is waited for under the lock,
/// into a mutex of std. The recipe [A pool of connections](crate::docs::recipes) shows it.
///
/// *Deadlocks*: a second lock by the thread that has it is answered by [`LockError::WouldDeadlock`], and so is the last wait
/// of a ring of locks and joins, and that of a job whose scope has come to its end with the guard for which it waits. What has
/// a time limit ends by itself, and is left to that: only a second lock by the same thread is answered there.
///
/// # Examples
///
/// ```
/// use tassel::{scope, sync::Mutex};
/// let total = Mutex::new(0);
/// scope(|s| {
///     for n in 1..=10 {
///         let total = &total;
///         s.spawn(move || {
///             *total.lock()? += n;
///             Ok(())
///         });
///     }
///     Ok(())
/// })?;
/// assert_eq!(total.into_inner(), 55);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
pub struct Mutex<T> {
    door: Arc<Door>,
    cell: Cell<T>,
}

impl<T> Mutex<T> {
    /// Makes a mutex that is free.
    pub fn new(value: T) -> Self {
        Mutex { door: Door::new(Of::Mutex, None), cell: Cell::new(value) }
    }

    /// As [`new`](Mutex::new), with a name for snapshots.
    pub fn named(name: impl Into<String>, value: T) -> Self {
        Mutex { door: Door::new(Of::Mutex, Some(name.into().into())), cell: Cell::new(value) }
    }

    /// Blocks until the mutex is free, and takes it.
    ///
    /// # Cancellation
    ///
    /// Always a checkpoint, also if it is free. A waiter that is told to stop leaves its place, and the turn to which it was
    /// woken goes to the next. For a limit on time, wait in [`move_on_after`](crate::region::move_on_after).
    ///
    /// # Errors
    ///
    /// * [`LockError::Cancelled`] if the code here is to stop.
    /// * [`LockError::WouldDeadlock`] if this thread has it already, or whoever has it waits for the code here.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, LockError> {
        current::check().map_err(LockError::Cancelled)?;
        match self.try_lock() {
            Some(guard) => Ok(guard),
            None => self.wait(),
        }
    }

    /// Takes the mutex if it is free, and not reserved for somebody who waits. Never blocks, never a checkpoint.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.door.pass(|| self.cell.try_lock()).map(|cell| self.guard(cell))
    }

    /// Waits, also where it could be taken at once, without a checkpoint before that.
    #[cold]
    #[track_caller]
    pub(crate) fn wait(&self) -> Result<MutexGuard<'_, T>, LockError> {
        let call = Call::of(Activity::Lock, &self.door);
        self.door.wait(&call, Kind::Alone, || self.cell.try_lock()).map(|cell| self.guard(cell))
    }

    #[inline]
    fn guard<'a>(&'a self, cell: CellGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard { _held: Held::new(&self.door), cell, mutex: self, _leaves: Leaves(&self.door) }
    }

    /// Returns the value. Nobody else can have it: no lock is needed.
    pub fn get_mut(&mut self) -> &mut T {
        self.cell.get_mut()
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.cell.into_inner()
    }

    /// Returns how many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.door.waiting()
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Self {
        Mutex::new(value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guard = self.try_lock();
        self.door.show(f, "Mutex", guard.as_ref().map(|guard| guard as &dyn fmt::Debug))
    }
}

/// A [`Mutex`] that is held, until this is dropped: on the thread that has locked it.
#[must_use = "a guard that is dropped at once holds nothing"]
pub struct MutexGuard<'a, T> {
    // Subtle: dropped in this order.
    _held: Held<'a>,
    cell: CellGuard<'a, T>,
    mutex: &'a Mutex<T>,
    _leaves: Leaves<'a>,
}

impl<'a, T> MutexGuard<'a, T> {
    pub(crate) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.cell
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.cell
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::wait::{
        cycle::Owned,
        given::{soon, stopped_after, until},
    };
    use std::thread;

    #[test]
    fn a_lock_that_comes_free_between_the_last_look_and_the_stop_goes_to_the_next() {
        soon(|| {
            let mutex = Arc::new(Mutex::new(0));
            let (own, next) = (Arc::clone(&mutex), Arc::new(Cell::new(None)));
            let (other, started) = (Arc::clone(&mutex), Arc::clone(&next));
            let holder = thread::spawn(move || {
                let guard = own.lock();
                until(|| own.waiting() == 2);
                drop(guard);
            });
            until(|| !mutex.door.owners(Kind::Alone, None).is_empty());
            let leave = move || {
                let thread = thread::spawn({
                    let other = Arc::clone(&other);
                    move || *other.lock().unwrap_or_else(|error| panic!("{error}")) += 1
                });
                *started.lock() = Some(thread);
                assert!(holder.join().is_ok());
            };
            // Without the checkpoint before it, which would have the limit watched by others.
            assert!(stopped_after(leave, || mutex.wait().is_err()));
            assert!(next.lock().take().is_some_and(|next| next.join().is_ok()));
            assert_eq!((mutex.try_lock().map(|guard| *guard), mutex.waiting()), (Some(1), 0));
        });
    }
}
