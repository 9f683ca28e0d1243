//! The only door to locks, atomics, parkers and thread start.
//!
//! Everything above takes these from here, so that `--cfg tassel_loom` swaps them for loom's and the models in
//! `model.rs` run the very code that ships.
//!
//! # Does not know
//!
//! What the locks guard.

#[cfg(not(tassel_loom))]
mod real {
    pub(crate) use crossbeam::sync::{Parker, Unparker};
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

    static TREE: Mutex<()> = Mutex::new(());

    /// Takes the one lock that serialises what rewrites subtrees; see `cancel/node.rs`.
    pub(crate) fn tree_lock() -> MutexGuard<'static, ()> {
        TREE.lock()
    }
}

#[cfg(tassel_loom)]
mod real {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    pub(crate) type MutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

    /// loom's mutex with parking_lot's face: no poisoning.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|_| panic!("a model panicked while it held a lock"))
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(|_| panic!("a model panicked while it held a lock"))
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(|_| panic!("a model panicked while it held a lock"))
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Mutex::new(T::default())
        }
    }

    /// loom's condition variable with parking_lot's face. Its timed waits never time out (a loom limit).
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            replace_guard(&self.0, guard);
        }

        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) {
            replace_guard(&self.0, guard);
        }

        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) {
            replace_guard(&self.0, guard);
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    fn replace_guard<T>(_: &loom::sync::Condvar, _: &mut MutexGuard<'_, T>) {
        panic!("models wait on seats, not on condition variables");
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

        pub(crate) fn park_deadline(&self, _: Instant) {
            self.park();
        }
    }

    impl Unparker {
        pub(crate) fn unpark(&self) {
            *self.0.set.lock().unwrap() = true;
            self.0.changed.notify_one();
        }
    }

    loom::lazy_static! {
        static ref TREE: Mutex<()> = Mutex::new(());
    }

    pub(crate) fn tree_lock() -> MutexGuard<'static, ()> {
        TREE.lock()
    }
}

pub(crate) use real::*;

use std::{io, thread};

/// Starts a thread of ours: the one place that does.
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
