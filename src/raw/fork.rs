//! What a forked child may not inherit: [`PerProcess`], and [`generation`], which tells a child from its parent.
//!
//! Of a process with threads, `fork` copies all memory but only the thread that calls it. A pool in that memory believes
//! in workers that are not there. So what counts threads is kept for each process, and a child starts with a fresh one.
//!
//! # Promises
//!
//! 1. A child, and its child, see another [`generation`] than their parent.
//! 2. [`PerProcess::get`] gives all threads of a process the same value, and never one that was made before a fork.
//! 3. Nothing is dropped: a parent's value may be in use by threads that the child does not have.
//! 4. Nobody waits here while another thread makes a value, or tells the system of the library: a child that was forked
//!    meanwhile does not have that thread.
//!
//! # Does not know
//!
//! What is kept.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// Is raised by every fork that lies between this process and the one that loaded the library.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Returns a number that is higher in a child than it was in its parent at the fork. Two loads, after the first call.
///
/// Where a system does not tell of forks it is 0 for ever.
pub(crate) fn generation() -> u64 {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    // Pairs with the store below: from here on, every fork is seen.
    if !REGISTERED.load(Ordering::Acquire) {
        // Threads that come here together all register, and a fork counts several times. If one did it for all, a child that
        // was forked meanwhile would wait for it.
        register();
        REGISTERED.store(true, Ordering::Release);
    }
    // Publishes nothing: it changes only in a child that has one thread.
    GENERATION.load(Ordering::Relaxed)
}

#[cfg(all(unix, not(miri), not(tassel_loom)))]
fn register() {
    use std::ffi::c_int;

    type Handler = extern "C" fn();
    // SAFETY: this is POSIX' declaration of it, with the handlers it calls typed as safe functions.
    unsafe extern "C" {
        fn pthread_atfork(prepare: Option<Handler>, parent: Option<Handler>, child: Option<Handler>) -> c_int;
    }
    extern "C" fn forked() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: `forked` is there for as long as the program is, and what it does is allowed in a child of a process with
    // threads: it adds to an atomic. Out of memory, nothing is registered, and forks go unseen.
    let _ = unsafe { pthread_atfork(None, None, Some(forked)) };
}

#[cfg(not(all(unix, not(miri), not(tassel_loom))))]
fn register() {}

/// A value that each process makes for itself, on first need.
pub(crate) struct PerProcess<T: 'static> {
    make: fn() -> T,
    first: OnceLock<Box<Link<T>>>,
}

struct Link<T> {
    generation: u64,
    value: T,
    next: OnceLock<Box<Link<T>>>,
}

impl<T> PerProcess<T> {
    pub(crate) const fn new(make: fn() -> T) -> Self {
        PerProcess { make, first: OnceLock::new() }
    }

    /// The value of this process.
    pub(crate) fn get(&self) -> &T {
        let generation = generation();
        let mut link = &self.first;
        loop {
            match link.get() {
                Some(here) if here.generation == generation => return &here.value,
                Some(before) => link = &before.next,
                None => {
                    // Of several that are made at once the first is kept: the next look finds it.
                    let made = Link { generation, value: (self.make)(), next: OnceLock::new() };
                    drop(link.set(Box::new(made)));
                }
            }
        }
    }
}
