//! A lock that many readers or one writer have, whose waits can be cancelled: [`RwLock`].
//!
//! # Promises
//!
//! 1. Guards stay on their thread, so what it has already is seen when it asks again, and answered.
//! 2. Neither readers nor writers wait for ever while others come and go: see the door's second promise.
//!
//! # Does not know
//!
//! How it is waited for: that is the [`Door`]'s, whose header says why no wake-up is lost.

use crate::{
    cancel::current::{self, Activity},
    error::LockError,
    prim::{ReadGuard as CellRead, RwLock as Data, WriteGuard as CellWrite},
    wait::{
        Call,
        cycle::Kind,
        door::{Door, Held, Leaves, Of},
        reading::{self, Reads},
    },
};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// Lets many threads read a value, or one write it; as [`std::sync::RwLock`], but a cancel ends the wait.
///
/// *No poisoning*, as with a [`Mutex`](crate::sync::Mutex).
///
/// *Order*: newcomers may pass those who wait, but not for long: who has been woken once, reader or writer, and came too late,
/// is the next to have it, and readers behind it come in together. So neither kind starves the other.
///
/// *Deadlocks*: a thread that reads may read again, also while a writer waits. What it can never have, since it reads or
/// writes already, is answered by [`LockError::WouldDeadlock`]. So is the last wait of a ring of locks and joins, and the wait
/// of a job for a guard that is held over the end of its scope; with time limits, as with a [`Mutex`](crate::sync::Mutex). Of a
/// thread's read guards beyond 16 at once, nothing is known.
///
/// # Examples
///
/// ```
/// use tassel::{scope, sync::RwLock};
/// let words = RwLock::new(vec!["to"]);
/// scope(|s| {
///     s.spawn(|| {
///         words.write()?.push("be");
///         Ok(())
///     });
///     s.spawn(|| {
///         assert_eq!(words.read()?[0], "to");
///         Ok(())
///     });
///     Ok(())
/// })?;
/// assert_eq!(words.into_inner(), ["to", "be"]);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
pub struct RwLock<T> {
    door: Arc<Door>,
    cell: Data<T>,
}

impl<T> RwLock<T> {
    /// Makes a lock that is free.
    pub fn new(value: T) -> Self {
        RwLock { door: Door::new(Of::RwLock, None), cell: Data::new(value) }
    }

    /// As [`new`](RwLock::new), with a name for snapshots.
    pub fn named(name: impl Into<String>, value: T) -> Self {
        RwLock { door: Door::new(Of::RwLock, Some(name.into().into())), cell: Data::new(value) }
    }

    /// Blocks until nobody writes, and reads.
    ///
    /// # Cancellation
    ///
    /// Always a checkpoint, also if it is free. A waiter that is told to stop leaves its place, and the turn to which it was
    /// woken goes to the next.
    ///
    /// # Errors
    ///
    /// * [`LockError::Cancelled`] if the code here is to stop.
    /// * [`LockError::WouldDeadlock`] if this thread writes, or who does waits for the code here.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> Result<RwLockReadGuard<'_, T>, LockError> {
        current::check().map_err(LockError::Cancelled)?;
        match self.try_read() {
            Some(guard) => Ok(guard),
            None => self.wait_to_read(),
        }
    }

    /// Blocks until nobody reads or writes, and writes.
    ///
    /// # Cancellation
    ///
    /// As [`read`](RwLock::read).
    ///
    /// # Errors
    ///
    /// * [`LockError::Cancelled`] if the code here is to stop.
    /// * [`LockError::WouldDeadlock`] if this thread reads or writes, or somebody who does waits for the code here.
    #[inline]
    #[track_caller]
    pub fn write(&self) -> Result<RwLockWriteGuard<'_, T>, LockError> {
        current::check().map_err(LockError::Cancelled)?;
        match self.try_write() {
            Some(guard) => Ok(guard),
            None => self.wait_to_write(),
        }
    }

    /// Reads, if nobody writes, and it is not reserved for somebody who waits. Never blocks, never a checkpoint.
    #[inline]
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.door.pass(|| self.cell.try_read()).map(|cell| self.reads(cell))
    }

    /// Writes, if it is free, and not reserved for somebody who waits. Never blocks, never a checkpoint.
    #[inline]
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.door.pass(|| self.cell.try_write()).map(|cell| self.writes(cell))
    }

    #[cold]
    #[track_caller]
    fn wait_to_read(&self) -> Result<RwLockReadGuard<'_, T>, LockError> {
        // Who waits to write waits for this thread.
        if reading::here(self.door.id()).is_some() {
            if let Some(cell) = self.cell.try_read() {
                return Ok(self.reads(cell));
            }
        }
        let call = Call::of(Activity::ReadLock, &self.door);
        self.door.wait(&call, Kind::Shared, || self.cell.try_read()).map(|cell| self.reads(cell))
    }

    #[cold]
    #[track_caller]
    fn wait_to_write(&self) -> Result<RwLockWriteGuard<'_, T>, LockError> {
        let call = Call::of(Activity::WriteLock, &self.door);
        self.door.wait(&call, Kind::Alone, || self.cell.try_write()).map(|cell| self.writes(cell))
    }

    #[inline]
    fn reads<'a>(&'a self, cell: CellRead<'a, T>) -> RwLockReadGuard<'a, T> {
        RwLockReadGuard { _reads: Reads::new(self.door.id()), cell, _leaves: Leaves(&self.door) }
    }

    #[inline]
    fn writes<'a>(&'a self, cell: CellWrite<'a, T>) -> RwLockWriteGuard<'a, T> {
        RwLockWriteGuard { _held: Held::new(&self.door), cell, _leaves: Leaves(&self.door) }
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

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

impl<T> From<T> for RwLock<T> {
    fn from(value: T) -> Self {
        RwLock::new(value)
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guard = self.try_read();
        self.door.show(f, "RwLock", guard.as_ref().map(|guard| guard as &dyn fmt::Debug))
    }
}

/// An [`RwLock`] that is read, until this is dropped: on the thread that has locked it.
#[must_use = "a guard that is dropped at once holds nothing"]
pub struct RwLockReadGuard<'a, T> {
    // Subtle: dropped in this order.
    _reads: Reads,
    cell: CellRead<'a, T>,
    _leaves: Leaves<'a>,
}

/// An [`RwLock`] that is written, until this is dropped: on the thread that has locked it.
#[must_use = "a guard that is dropped at once holds nothing"]
pub struct RwLockWriteGuard<'a, T> {
    // Subtle: dropped in this order.
    _held: Held<'a>,
    cell: CellWrite<'a, T>,
    _leaves: Leaves<'a>,
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.cell
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.cell
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.cell
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
