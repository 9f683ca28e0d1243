//! What a thread has to do with pools: whose worker it is, which pool its code uses, and how it is counted.
//!
//! # Promises
//!
//! 1. An announced wait is counted once, however waits nest, and taken back also when it unwinds.
//! 2. A scope uses the pool of the code that opens it, if nothing else is said.
//! 3. Who announces a wait has a worker called for what is queued in the pools that code of this thread uses. Where nothing
//!    is queued, that costs a look.
//!
//! # Does not know
//!
//! What is waited for.

use crate::{
    cancel::current as place,
    pool::{
        core::PoolCore,
        state::{Config, Post},
    },
    prim::thread_local,
    raw::{PerProcess, generation},
};
use std::{
    cell::{Cell, RefCell},
    sync::{Arc, Weak},
};

/// The pool whose worker a thread is, and its post there.
type Employed = (Weak<PoolCore>, Arc<Post>);

thread_local! {
    static CURRENT: RefCell<Option<Employed>> = const { RefCell::new(None) };
}

thread_local! {
    /// Whose worker the thread is, or was, in the destructors of its thread-locals. Without drop glue, so never gone.
    static WORKS_FOR: Cell<u64> = const { Cell::new(0) };
}

/// The calling thread is a worker of that pool from now on, or is none any more.
pub(super) fn set_current(employed: Option<(&Arc<PoolCore>, &Arc<Post>)>) {
    // In a model all threads share the thread-locals of one of the system's.
    if let Some((pool, _)) = employed.filter(|_| !cfg!(tassel_loom)) {
        WORKS_FOR.with(|works_for| works_for.set(pool.id));
    }
    let employed = employed.map(|(pool, post)| (Arc::downgrade(pool), Arc::clone(post)));
    let before = CURRENT.with(|current| current.replace(employed));
    drop(before);
}

/// The pool whose worker the calling thread is, and its post there. In a child that a job has forked it is a worker of none.
pub(super) fn current() -> Option<(Arc<PoolCore>, Arc<Post>)> {
    let employed = |current: &RefCell<Option<Employed>>| {
        let current = current.borrow();
        let (pool, post) = current.as_ref()?;
        Some((pool.upgrade()?, Arc::clone(post)))
    };
    let employed = CURRENT.try_with(employed).ok().flatten();
    employed.filter(|(pool, _)| pool.generation == generation())
}

/// Looks at the pools that the code here uses, the innermost first.
fn find_in_use<R>(mut look: impl FnMut(&Arc<PoolCore>) -> Option<R>) -> Option<R> {
    place::find_use(|used| look(used.downcast_ref()?))
}

/// Has workers called for what is queued in the pools that code of this thread uses, but for `own`.
fn call_others(own: Option<&Arc<PoolCore>>) {
    let mut pools: Vec<Arc<PoolCore>> = Vec::new();
    let collect = |pool: &Arc<PoolCore>| {
        let is_known = own.into_iter().chain(&pools).any(|known| Arc::ptr_eq(known, pool));
        if !is_known && pool.any_listed() {
            pools.push(Arc::clone(pool));
        }
        None::<()>
    };
    let _ = find_in_use(collect);
    for pool in &pools {
        pool.call();
    }
}

/// The pool for a scope opened here: that of the code around, if it is a scope's.
pub(crate) fn in_use() -> Arc<PoolCore> {
    find_in_use(|pool| Some(Arc::clone(pool))).unwrap_or_else(global)
}

/// Whether the code here is that of a scope on `pool`, or called by it, or ends one of its threads.
pub(crate) fn is_in(pool: &Arc<PoolCore>) -> bool {
    WORKS_FOR.with(Cell::get) == pool.id || find_in_use(|used| Arc::ptr_eq(used, pool).then_some(())).is_some()
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
        post: Arc<Post>,
        how: Counted,
        before: Counted,
    }
    impl Drop for Back {
        fn drop(&mut self) {
            let _ = COUNTED.try_with(|counted| counted.set(self.before));
            let mut state = self.core.lock();
            state.blocked -= usize::from(self.how == Counted::Blocked);
            if self.before == Counted::Active {
                state.active += 1;
                state.set_busy(&self.post);
            }
        }
    }
    let employed = current();
    if how == Counted::Blocked {
        call_others(employed.as_ref().map(|(core, _)| core));
    }
    let Some((core, post)) = employed else { return f() };
    // Where it is gone, in the destructor of a thread-local, waits do not nest.
    let before = COUNTED.try_with(Cell::get).unwrap_or(Counted::Active);
    if before == Counted::Blocked || before == how {
        return f();
    }
    let _ = COUNTED.try_with(|counted| counted.set(how));
    let mut state = core.lock();
    state.blocked += usize::from(how == Counted::Blocked);
    if before == Counted::Active {
        state.set_inactive(&post);
    }
    let then = state.find_worker(&core.config, 0);
    drop(state);
    let back = Back { core: Arc::clone(&core), post, how, before };
    core.follow(then);
    let result = f();
    drop(back);
    result
}
