//! Callbacks of a cancel: calling each once, and never after its [`Registration`] is gone.
//!
//! # Promises
//!
//! 1. A callback runs once or never, outside all locks and outside the ambient context; a panic in it ends here.
//! 2. After a registration was dropped its callback is not running, unless this very thread runs it.
//!
//! # Does not know
//!
//! Why it is called.
//!
//! # Why no end is missed
//!
//! A drop that finds its callback running waits for `done` under the status's lock; whoever has called it sets the status
//! under that lock, and tells after. Modelled in `model/callback.rs`, `a_callback_runs_once_or_never_and_not_after_its_drop`.

use crate::{
    cancel::{current, node::Node},
    prim::{Condition, Mutex, ThreadId, current_thread},
};
use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

enum Status {
    Waiting,
    /// Taken out of the list, to be called.
    Taken,
    /// Being called by this thread.
    Running(ThreadId),
    /// Called, or given up by its registration before that.
    Done,
}

struct State {
    status: Mutex<Status>,
    done: Condition,
}

/// A callback that is registered, or taken out to be called.
pub(super) struct Callback {
    run: Box<dyn FnOnce() + Send>,
    state: Arc<State>,
}

impl Callback {
    pub(super) fn take_out(&self) {
        *self.state.status.lock() = Status::Taken;
    }

    /// Calls the user's code, outside the ambient context and all locks. A panic in it ends here: the panic hook has
    /// reported it, and the cancel must reach everybody else.
    pub(super) fn call(self) {
        let mut status = self.state.status.lock();
        if matches!(*status, Status::Done) {
            drop(status);
            return self.skip(); // its registration was dropped meanwhile, by another callback perhaps
        }
        *status = Status::Running(current_thread().id());
        drop(status);
        let Callback { run, state } = self;
        let outcome = catch_unwind(AssertUnwindSafe(|| current::detached(run)));
        if let Err(payload) = outcome {
            drop_quietly(payload);
        }
        state.finish();
    }

    /// Gives it up without calling it.
    pub(super) fn skip(self) {
        let Callback { run, state } = self;
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(run))) {
            drop_quietly(payload);
        }
        state.finish();
    }
}

/// Drops a panic's payload, whose `Drop` may panic in turn; what cannot be dropped is leaked.
fn drop_quietly(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

impl State {
    fn finish(&self) {
        *self.status.lock() = Status::Done;
        self.done.tell();
    }
}

impl Node {
    /// Registers a callback; see [`CancelToken::on_cancel`](super::token::CancelToken::on_cancel).
    pub(crate) fn on_cancel(self: &Arc<Self>, run: Box<dyn FnOnce() + Send>) -> Registration {
        self.watch();
        self.expire();
        let state = Arc::new(State { status: Mutex::new(Status::Waiting), done: Condition::default() });
        let callback = Callback { run, state: Arc::clone(&state) };
        let mut inner = self.inner.lock();
        if self.is_stopping() {
            drop(inner);
            if self.is_closed() {
                drop(callback);
            } else {
                callback.call();
            }
            return Registration { entry: None, state };
        }
        let key = inner.callbacks.insert(callback);
        drop(inner);
        Registration { entry: Some((Arc::clone(self), key)), state }
    }
}

/// Keeps a callback registered. See [`OnCancel`](super::token::OnCancel).
pub(crate) struct Registration {
    entry: Option<(Arc<Node>, usize)>,
    state: Arc<State>,
}

impl Drop for Registration {
    /// Afterwards the callback is not running, unless this very thread runs it.
    fn drop(&mut self) {
        let Some((node, key)) = self.entry.take() else { return };
        let mut inner = node.inner.lock();
        // A key may have been given out again; the state tells whose it is.
        let ours = inner.callbacks.get(key).is_some_and(|callback| Arc::ptr_eq(&callback.state, &self.state));
        let callback = if ours { inner.callbacks.try_remove(key) } else { None };
        drop(inner);
        if callback.is_some() {
            return;
        }
        mutant!("unregister_does_not_wait" => return);
        let mut status = self.state.status.lock();
        loop {
            match *status {
                Status::Running(thread) if thread != current_thread().id() => {
                    status = self.state.done.wait(status, || self.state.status.lock());
                }
                Status::Taken => {
                    *status = Status::Done; // its turn has not come, and never will
                    return;
                }
                _ => return,
            }
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").finish_non_exhaustive()
    }
}
