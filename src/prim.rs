//! The only door to locks, atomics, cells that are set once, parkers, mailboxes and thread start.
//!
//! Everything above takes these from here, so that `--cfg tassel_loom` swaps them for loom's and the models in
//! `model.rs` run the very code that ships.
//!
//! # Promises
//!
//! 1. Who sleeps for longer than a lock is held sleeps in a parker, also in a [`Condition`]; so nothing of it stands in a table
//!    of the process, where a forked child would find it without its thread.
//!
//! # Does not know
//!
//! What the locks guard.

#[cfg(not(tassel_loom))]
mod real {
    pub(crate) use crossbeam::sync::{Parker, Unparker};
    pub(crate) use parking_lot::{
        Mutex, MutexGuard, RwLock, RwLockReadGuard as ReadGuard, RwLockWriteGuard as WriteGuard,
    };
    pub(crate) use std::sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    };

    pub(crate) use std::thread::{LocalKey, ThreadId, current as current_thread};

    use crossbeam::channel::{Receiver, Sender, bounded};

    /// A channel with room for one message, which says no more than that it came.
    #[derive(Debug)]
    pub(crate) struct Mailbox {
        slot: Sender<()>,
        messages: Receiver<()>,
    }

    impl Mailbox {
        pub(crate) fn new() -> Self {
            let (slot, messages) = bounded(1);
            Mailbox { slot, messages }
        }

        /// Sees to it that there is a message. Never blocks.
        pub(crate) fn put(&self) {
            let _ = self.slot.try_send(()); // full: there is one
        }

        /// For a `Select`.
        pub(crate) fn messages(&self) -> &Receiver<()> {
            &self.messages
        }
    }

    /// std's cell with loom's face.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        /// Calls `f` with a pointer to the value. Whoever uses it sees to it that nobody else does meanwhile.
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(tassel_loom)]
mod real {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    pub(crate) use loom::sync::{MutexGuard, RwLockReadGuard as ReadGuard, RwLockWriteGuard as WriteGuard};
    pub(crate) use loom::thread::{LocalKey, ThreadId, current as current_thread};
    use std::{
        sync::{Arc, PoisonError},
        time::Instant,
    };

    /// loom's mutex with parking_lot's face: no poisoning.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// loom's lock with parking_lot's face. It is only tried.
    #[derive(Debug)]
    pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            RwLock(loom::sync::RwLock::new(value))
        }

        pub(crate) fn try_read(&self) -> Option<ReadGuard<'_, T>> {
            self.0.try_read().ok()
        }

        pub(crate) fn try_write(&self) -> Option<WriteGuard<'_, T>> {
            self.0.try_write().ok()
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Mutex::new(T::default())
        }
    }

    /// std's cell, but loom sees it: others may come before each look and each set, and a look may miss a set that nothing
    /// orders before it.
    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        cell: std::sync::OnceLock<T>,
        is_set: loom::sync::atomic::AtomicBool,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            OnceLock { cell: std::sync::OnceLock::new(), is_set: loom::sync::atomic::AtomicBool::new(false) }
        }

        /// loom lets nobody come between the two.
        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            self.is_set.swap(true, Ordering::AcqRel);
            self.cell.set(value)
        }

        /// Where two come at once, `init` runs twice: std's would hold up one of them, and with it all of loom's threads.
        pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
            if self.get().is_none() {
                let _ = self.set(init());
            }
            self.cell.get().unwrap_or_else(|| unreachable!("it was set"))
        }

        pub(crate) fn into_inner(self) -> Option<T> {
            self.cell.into_inner()
        }

        pub(crate) fn get(&self) -> Option<&T> {
            if self.is_set.load(Ordering::Acquire) { self.cell.get() } else { None }
        }
    }

    #[derive(Debug, Default)]
    struct Token {
        set: loom::sync::Mutex<bool>,
        changed: loom::sync::Condvar,
    }

    /// crossbeam's parker, of loom's parts.
    #[derive(Debug, Default)]
    pub(crate) struct Parker(Unparker);

    /// The other end of a [`Parker`].
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Unparker(Arc<Token>);

    impl Parker {
        pub(crate) fn new() -> Self {
            Parker::default()
        }

        pub(crate) fn unparker(&self) -> &Unparker {
            &self.0
        }

        pub(crate) fn park(&self) {
            let token = &self.0.0;
            let mut set = token.set.lock().unwrap();
            while !*set {
                set = token.changed.wait(set).unwrap();
            }
            *set = false;
        }

        /// A model's time stands still: a deadline has passed from the start, or never does.
        pub(crate) fn park_deadline(&self, until: Instant) {
            if Instant::now() < until {
                self.park();
            } else {
                *self.0.0.set.lock().unwrap() = false;
            }
        }
    }

    /// A channel with room for one message, of loom's parts: mailboxes and, in models, the user's channels.
    #[derive(Debug, Default)]
    pub(crate) struct Mailbox(Mutex<Mail>);

    #[derive(Debug, Default)]
    struct Mail {
        is_there: bool,
        /// Who sleeps until it is.
        waits: Option<Unparker>,
    }

    #[cfg_attr(not(test), allow(dead_code, reason = "only models use it all"))]
    impl Mailbox {
        pub(crate) fn new() -> Self {
            Mailbox::default()
        }

        pub(crate) fn put(&self) {
            let mut mail = self.0.lock();
            mail.is_there = true;
            if let Some(waits) = mail.waits.take() {
                waits.unpark();
            }
        }

        /// Takes the message, if there is one.
        pub(crate) fn take(&self) -> bool {
            std::mem::take(&mut self.0.lock().is_there)
        }

        /// What crossbeam's `Select` does: is registered with each, then looks, and sleeps until one has a message.
        pub(crate) fn sleep_in(mailboxes: &[&Mailbox]) {
            let parker = Parker::new();
            for mailbox in mailboxes {
                mailbox.0.lock().waits = Some(parker.unparker().clone());
            }
            if !mailboxes.iter().any(|mailbox| mailbox.0.lock().is_there) {
                parker.park();
            }
            for mailbox in mailboxes {
                mailbox.0.lock().waits = None;
            }
        }
    }

    impl Unparker {
        pub(crate) fn unpark(&self) {
            *self.0.set.lock().unwrap() = true;
            self.0.changed.notify_one();
        }
    }
}

pub(crate) use real::*;

use std::{fmt, io, mem, thread};

/// Lets threads wait under a lock until what it guards has changed.
///
/// What `parking_lot`'s condition variable is for, but those who wait are listed here, not in a table of the process that
/// points into the memory of their threads: a forked child has the table without the threads, and uses their memory again.
///
/// No wake-up is lost: who waits is listed before it gives the lock up, and who makes a change [`tell`](Condition::tell)s
/// after it has held the lock. So a change that the waiter did not see comes after its entry, and its parker keeps the
/// token until it is used. Modelled in `model.rs`, `a_wait_under_a_lock_misses_no_change`.
#[derive(Default)]
pub(crate) struct Condition {
    waiting: Mutex<Vec<Unparker>>,
}

impl Condition {
    /// Gives the lock up, waits to be told, and takes it again. The caller looked under the lock, and looks again after.
    pub(crate) fn wait<G>(&self, held: G, lock: impl FnOnce() -> G) -> G {
        let parker = Parker::new();
        let list = || self.waiting.lock().push(parker.unparker().clone());
        mutant!("wait_listed_after_unlock" => drop(held); list(); parker.park(); return lock());
        list();
        drop(held);
        parker.park();
        lock()
    }

    /// Wakes all who wait. Called with the lock held, or after that.
    pub(crate) fn tell(&self) {
        let waiting = mem::take(&mut *self.waiting.lock());
        for waiter in waiting {
            waiter.unpark();
        }
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").finish_non_exhaustive()
    }
}

/// Starts a thread of ours: the one place that does.
#[cfg(not(tassel_loom))]
pub(crate) fn start_thread(
    name: String,
    stack_size: Option<usize>,
    main: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    let builder = thread::Builder::new().name(name);
    let builder = match stack_size {
        Some(bytes) => builder.stack_size(bytes),
        None => builder,
    };
    builder.spawn(main)
}

/// Starts a thread of the model. Its handle is that of a system's thread with nothing to do: who joins it is not held
/// up, and loom waits for the model's own.
#[cfg(tassel_loom)]
pub(crate) fn start_thread(
    _: String,
    _: Option<usize>,
    main: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    drop(loom::thread::spawn(main));
    thread::Builder::new().spawn(|| {})
}
