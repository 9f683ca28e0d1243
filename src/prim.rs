//! The only door to locks, atomics, cells that are set once, parkers, mailboxes and thread start.
//!
//! Everything above takes these from here, so that `--cfg tassel_loom` or `--cfg tassel_shuttle` swaps them for those of a
//! *checker*, and the models in `model/` run the very code that ships. shuttle, which runs whole scopes, also gets the time
//! from here, and what is kept for each thread, since its threads share one of the system's.
//!
//! # Promises
//!
//! 1. Who sleeps for longer than a lock is held sleeps in a parker, also in a [`Condition`]; so nothing of it stands in a table
//!    of the process, where a forked child would find it without its thread.
//!
//! # Does not know
//!
//! What the locks guard.

#[cfg(not(any(tassel_loom, tassel_shuttle)))]
mod real {
    pub(crate) use crossbeam::sync::{Parker, Unparker};
    pub(crate) use parking_lot::{
        Mutex, MutexGuard, RwLock, RwLockReadGuard as ReadGuard, RwLockWriteGuard as WriteGuard,
    };
    pub(crate) use std::sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    };

    use std::{io, thread, time::Instant};
    pub(crate) use std::{
        thread::{JoinHandle, LocalKey, ThreadId, current as current_thread},
        thread_local,
    };

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

    /// The system's monotonic clock.
    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    /// Whether time stands still, and no alarm comes: in a model that is not about time.
    pub(crate) const fn is_timeless() -> bool {
        false
    }

    /// Starts a thread of ours: the one place that does.
    pub(crate) fn start_thread(
        name: String,
        stack_size: Option<usize>,
        main: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let builder = thread::Builder::new().name(name);
        let builder = match stack_size {
            Some(bytes) => builder.stack_size(bytes),
            None => builder,
        };
        builder.spawn(main)
    }
}

#[cfg(any(tassel_loom, tassel_shuttle))]
mod real {
    #[cfg(tassel_loom)]
    use loom as checker;
    #[cfg(tassel_shuttle)]
    use shuttle as checker;

    pub(crate) use checker::{
        sync::{
            MutexGuard, RwLockReadGuard as ReadGuard, RwLockWriteGuard as WriteGuard,
            atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
        },
        thread::{LocalKey, ThreadId, current as current_thread},
    };
    use std::{
        sync::{Arc, PoisonError},
        time::Instant,
    };

    /// The checker's mutex with parking_lot's face: no poisoning.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(checker::sync::Mutex::new(value))
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

    /// The checker's lock with parking_lot's face. It is only tried.
    #[derive(Debug)]
    pub(crate) struct RwLock<T>(checker::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            RwLock(checker::sync::RwLock::new(value))
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

    /// std's cell, but the checker sees it: others may come before each look and each set, and a look may miss a set that
    /// nothing orders before it.
    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        cell: std::sync::OnceLock<T>,
        is_set: checker::sync::atomic::AtomicBool,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            OnceLock { cell: std::sync::OnceLock::new(), is_set: checker::sync::atomic::AtomicBool::new(false) }
        }

        /// The checker lets nobody come between the two.
        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            self.is_set.swap(true, Ordering::AcqRel);
            self.cell.set(value)
        }

        /// Where two come at once, `init` runs twice: std's would hold up one of them, and with it all of the checker's threads.
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
        set: checker::sync::Mutex<bool>,
        changed: checker::sync::Condvar,
    }

    /// crossbeam's parker, of the checker's parts.
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

        /// Where time stands still, a deadline has passed from the start, or never does.
        pub(crate) fn park_deadline(&self, until: Instant) {
            if super::now() >= until {
                *self.0.0.set.lock().unwrap() = false;
            } else if super::is_timeless() {
                self.park();
            } else {
                self.park_in_time(until);
            }
        }

        #[cfg(tassel_loom)]
        #[expect(clippy::unused_self, reason = "loom has no time")]
        fn park_in_time(&self, _: Instant) {
            unreachable!("a model of loom is timeless")
        }

        /// The deadline passes at any moment, and all time until then with it: nobody has said how long the others take.
        #[cfg(tassel_shuttle)]
        fn park_in_time(&self, until: Instant) {
            while !std::mem::take(&mut *self.0.0.set.lock().unwrap()) && super::now() < until {
                if shuttle::rand::Rng::gen_ratio(&mut shuttle::rand::thread_rng(), 1, 8) {
                    super::time_passes(until);
                } else {
                    shuttle::thread::yield_now();
                }
            }
        }
    }

    /// A channel with room for one message, of the checker's parts: mailboxes and, in models, the user's channels.
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

#[cfg(tassel_loom)]
mod checked {
    pub(crate) use loom::cell::UnsafeCell;
    use std::{io, thread, time::Instant};
    pub(crate) use std::{thread::JoinHandle, thread_local};

    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    pub(crate) const fn is_timeless() -> bool {
        true
    }

    /// Starts a thread of the model. Its handle is that of a system's thread with nothing to do: who joins it is not held
    /// up, and loom waits for the model's own.
    pub(crate) fn start_thread(
        _: String,
        _: Option<usize>,
        main: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        drop(loom::thread::spawn(main));
        thread::Builder::new().spawn(|| {})
    }
}

#[cfg(tassel_shuttle)]
mod checked {
    pub(crate) use shuttle::{thread::JoinHandle, thread_local};
    use std::{
        cell::{Cell, UnsafeCell as StdCell},
        collections::BTreeMap,
        io,
        sync::LazyLock,
        time::{Duration, Instant},
    };

    /// std's cell with loom's face.
    pub(crate) struct UnsafeCell<T>(StdCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            UnsafeCell(StdCell::new(value))
        }

        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }

    /// One schedule of a model. All its threads are one of the system's, so it is kept in that one's thread-local.
    #[derive(Clone, Copy)]
    struct Execution {
        number: u64,
        timeless: bool,
        /// How much time has passed.
        passed: Duration,
    }

    std::thread_local! {
        static EXECUTION: Cell<Execution> =
            const { Cell::new(Execution { number: 0, timeless: true, passed: Duration::ZERO }) };
    }

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    /// A model begins, on this thread of the system's, once more.
    #[cfg(test)]
    pub(crate) fn begin(timeless: bool) {
        static LAST: std::sync::Mutex<u64> = std::sync::Mutex::new(0);
        let mut last = LAST.lock().unwrap();
        *last += 1;
        EXECUTION.set(Execution { number: *last, timeless, passed: Duration::ZERO });
    }

    /// As `raw` has it for processes: what one schedule has made is not there for the next.
    pub(crate) fn generation() -> u64 {
        EXECUTION.get().number
    }

    /// A value that each schedule makes for itself, on first need. It is never dropped: others may use it to the end.
    pub(crate) struct PerProcess<T: 'static> {
        make: fn() -> T,
        /// By schedule.
        made: std::sync::Mutex<BTreeMap<u64, &'static T>>,
    }

    impl<T: Sync> PerProcess<T> {
        pub(crate) const fn new(make: fn() -> T) -> Self {
            PerProcess { make, made: std::sync::Mutex::new(BTreeMap::new()) }
        }

        pub(crate) fn get(&self) -> &'static T {
            let generation = generation();
            let get = || self.made.lock().unwrap().get(&generation).copied();
            get().unwrap_or_else(|| {
                let made = Box::leak(Box::new((self.make)()));
                self.made.lock().unwrap().entry(generation).or_insert(made)
            })
        }
    }

    pub(crate) fn is_timeless() -> bool {
        EXECUTION.get().timeless
    }

    /// The model's time, so that a schedule can be replayed: a microsecond has passed since the last look, unless it stands
    /// still.
    pub(crate) fn now() -> Instant {
        let mut execution = EXECUTION.get();
        if !execution.timeless {
            execution.passed += Duration::from_micros(1);
            EXECUTION.set(execution);
        }
        *START + execution.passed
    }

    pub(super) fn time_passes(until: Instant) {
        let mut execution = EXECUTION.get();
        execution.passed = execution.passed.max(until.saturating_duration_since(*START));
        EXECUTION.set(execution);
    }

    /// Starts a thread of the model.
    pub(crate) fn start_thread(
        name: String,
        _: Option<usize>,
        main: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        shuttle::thread::Builder::new().name(name).spawn(main)
    }
}

#[cfg(any(tassel_loom, tassel_shuttle))]
pub(crate) use checked::*;
pub(crate) use real::*;

use std::{fmt, mem};

/// Lets threads wait under a lock until what it guards has changed.
///
/// What `parking_lot`'s condition variable is for, but those who wait are listed here, not in a table of the process that
/// points into the memory of their threads: a forked child has the table without the threads, and uses their memory again.
///
/// No wake-up is lost: who waits is listed before it gives the lock up, and who makes a change [`tell`](Condition::tell)s
/// after it has held the lock. So a change that the waiter did not see comes after its entry, and its parker keeps the
/// token until it is used. Modelled in `model/condition.rs`, `a_wait_under_a_lock_misses_no_change`.
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
