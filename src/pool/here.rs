//! What a thread has to do with pools: whose worker it is, which pool its code uses, and how it is counted.
//!
//! # Promises
//!
//! 1. An announced wait is counted once, however waits nest, and taken back also when it unwinds.
//! 2. A scope uses the pool of the code that opens it, if nothing else is said.
//!
//! # Does not know
//!
//! What is waited for.

use crate::{
    pool::{core::PoolCore, state::Config},
    prim::{Stack, with_stack},
    raw::{PerProcess, generation},
};
use std::{
    cell::{Cell, RefCell},
    mem::ManuallyDrop,
    sync::{Arc, Weak},
};

thread_local! {
    static CURRENT: RefCell<Option<Weak<PoolCore>>> = const { RefCell::new(None) };
}

thread_local! {
    /// Whose worker the thread is, or was, in the destructors of its thread-locals. Without drop glue, so never gone.
    static WORKS_FOR: Cell<u64> = const { Cell::new(0) };
}

/// The calling thread is a worker of `pool` from now on, or is none any more.
pub(super) fn set_current(pool: Option<&Arc<PoolCore>>) {
    // In a model all threads share the thread-locals of one of the system's.
    if let Some(pool) = pool.filter(|_| !cfg!(tassel_loom)) {
        WORKS_FOR.set(pool.id);
    }
    CURRENT.with(|current| *current.borrow_mut() = pool.map(Arc::downgrade));
}

/// The pool whose worker the calling thread is. In a child that a job has forked it is a worker of none.
pub(super) fn current() -> Option<Arc<PoolCore>> {
    let pool = CURRENT.try_with(|current| current.borrow().as_ref().and_then(Weak::upgrade)).ok().flatten();
    pool.filter(|pool| pool.generation == generation())
}

thread_local! {
    static IN_USE: Stack<Arc<PoolCore>> = const { RefCell::new(Vec::new()) };
    static SPARE: ManuallyDrop<Stack<Arc<PoolCore>>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

fn in_use<R>(f: impl FnOnce(&Stack<Arc<PoolCore>>) -> R) -> Option<R> {
    with_stack(&IN_USE, &SPARE, f)
}

/// Says that code of a scope on `pool` runs on this thread, for as long as it lives: scopes opened here use that pool,
/// too, and shutting it down here would wait for itself.
#[derive(Debug)]
pub(crate) struct UsePool(());

impl UsePool {
    pub(crate) fn new(pool: &Arc<PoolCore>) -> Self {
        in_use(|in_use| in_use.borrow_mut().push(Arc::clone(pool)));
        UsePool(())
    }

    /// The pool for a scope opened here.
    pub(crate) fn current() -> Arc<PoolCore> {
        let here = in_use(|in_use| in_use.borrow().last().cloned()).flatten();
        here.unwrap_or_else(global)
    }

    /// Whether the code here is that of a scope on `pool`, or called by it, or ends one of its threads.
    pub(crate) fn is_in(pool: &Arc<PoolCore>) -> bool {
        WORKS_FOR.get() == pool.id
            || in_use(|in_use| in_use.borrow().iter().any(|used| Arc::ptr_eq(used, pool))).unwrap_or(false)
    }
}

impl Drop for UsePool {
    fn drop(&mut self) {
        let pool = in_use(|in_use| in_use.borrow_mut().pop());
        drop(pool);
    }
}

/// The pool of scopes that name none. A forked child has another one.
pub(crate) fn global() -> Arc<PoolCore> {
    static GLOBAL: PerProcess<Arc<PoolCore>> = PerProcess::new(|| PoolCore::new(Config::default()));
    Arc::clone(GLOBAL.get())
}

/// How the pool counts a worker's thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Active,
    /// Runs a job that has a place of its own.
    Apart,
    /// In an announced wait.
    Blocked,
}

thread_local! {
    static COUNTED: Cell<Counted> = const { Cell::new(Counted::Active) };
}

/// Announces that the calling thread blocks during `f`: if it is a worker, its place can be filled. Within another
/// announced wait it changes nothing.
pub(crate) fn while_blocked<R>(f: impl FnOnce() -> R) -> R {
    uncounted(Counted::Blocked, f)
}

/// Runs `f` apart from the parallelism: the calling worker's place can be filled meanwhile.
pub(crate) fn apart<R>(f: impl FnOnce() -> R) -> R {
    uncounted(Counted::Apart, f)
}

fn uncounted<R>(how: Counted, f: impl FnOnce() -> R) -> R {
    struct Back {
        core: Arc<PoolCore>,
        how: Counted,
        before: Counted,
    }
    impl Drop for Back {
        fn drop(&mut self) {
            let _ = COUNTED.try_with(|counted| counted.set(self.before));
            let mut state = self.core.state.lock();
            state.blocked -= usize::from(self.how == Counted::Blocked);
            state.active += usize::from(self.before == Counted::Active);
        }
    }
    let Some(core) = current() else { return f() };
    // Where it is gone, in the destructor of a thread-local, waits do not nest.
    let before = COUNTED.try_with(Cell::get).unwrap_or(Counted::Active);
    if before == Counted::Blocked || before == how {
        return f();
    }
    let _ = COUNTED.try_with(|counted| counted.set(how));
    let mut state = core.state.lock();
    state.blocked += usize::from(how == Counted::Blocked);
    state.active -= usize::from(before == Counted::Active);
    let then = state.find_worker(&core.config);
    core.arm(&mut state);
    drop(state);
    let back = Back { core: Arc::clone(&core), how, before };
    core.follow(then);
    let result = f();
    drop(back);
    result
}
