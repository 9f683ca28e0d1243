//! One allocation for a closure, then its value, and what goes with them: [`cell`].
//!
//! A cell has two ends, one of each. The [`Writer`] runs the closure, or drops it, and leaves the value; the [`Reader`] takes
//! the value, or says that nobody wants it. Besides, any number of [`Shared`] may look at what goes with the two (`S`).
//!
//! | bit | means | set |
//! |---|---|---|
//! | `FILLED` | the writer has left a value, and touches the content no more | by the writer, once |
//! | `LEFT` | the reader touches the content no more, unless it has set the bit as the second | by the reader, once |
//!
//! The content belongs to the writer until it sets its bit. Who sets the second bit has what is there.
//!
//! # Promises
//!
//! 1. The closure is called once or dropped, by the writer; a value is taken or dropped once, by either end.
//! 2. When the writer is gone, and the reader as well, nothing is left in the cell, whoever shares it still: so what is
//!    shared need not know for how long closure and value may borrow.
//! 3. A reader that is leaked leaks the value, and nothing else.
//!
//! # Does not know
//!
//! Who sees to it that the ends go while what is borrowed is there: of the writer, `tether.rs`; of the reader, its lifetime.

use crate::prim::{AtomicU8, Ordering, UnsafeCell};
use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    mem::{self, MaybeUninit},
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

const FILLED: u8 = 1;
const LEFT: u8 = 2;

enum Content<F, V> {
    Closure(F),
    Value(V),
    Empty,
}

struct Cell<S, F, V> {
    shared: S,
    state: AtomicU8,
    content: UnsafeCell<Content<F, V>>,
}

// SAFETY: `shared` is shared as such. The content is touched by one end at a time (see the header), so it is sent from thread
// to thread, and never shared.
unsafe impl<S: Sync, F: Send, V: Send> Sync for Cell<S, F, V> {}

/// How a closure ended.
#[derive(Debug)]
pub(crate) enum Ended<E> {
    /// With a value, which the reader has, or nobody wanted.
    Value,
    Failed(E),
    /// Nobody wanted the value, and its `Drop` has panicked.
    DropPanicked(Box<dyn Any + Send>),
}

/// A cell of which closure and value are forgotten.
trait Erased<S, E>: Send + Sync {
    fn shared(&self) -> &S;

    /// Calls the closure, if it is there.
    ///
    /// # Safety
    ///
    /// By the one writer.
    unsafe fn run(&self) -> Option<Ended<E>>;

    /// Drops the closure, if it is there.
    ///
    /// # Safety
    ///
    /// By the one writer.
    unsafe fn discard(&self);

    /// Moves the value to `place`, if it is there; else nobody wants it.
    ///
    /// # Safety
    ///
    /// By the one reader, once. `place` is room for a value of the reader's type.
    unsafe fn leave(&self, place: *mut ()) -> bool;
}

impl<S, F, V> Cell<S, F, V> {
    /// Changes what is in it, and returns what was.
    ///
    /// # Safety
    ///
    /// By the end that may touch the content.
    unsafe fn replace(&self, content: Content<F, V>) -> Content<F, V> {
        // SAFETY: nobody else touches it, as the caller promises, and a move calls nobody.
        self.content.with_mut(|place| unsafe { place.replace(content) })
    }

    /// Takes the closure, if it is there.
    ///
    /// # Safety
    ///
    /// By the one writer.
    unsafe fn closure(&self) -> Option<F> {
        // We see what we have set ourselves.
        if self.state.load(Ordering::Relaxed) & FILLED != 0 {
            return None;
        }
        // SAFETY: so the content is ours.
        match unsafe { self.replace(Content::Empty) } {
            Content::Closure(closure) => Some(closure),
            Content::Value(_) | Content::Empty => None,
        }
    }
}

impl<S, F, V, E> Erased<S, E> for Cell<S, F, V>
where
    S: Send + Sync,
    F: FnOnce() -> Result<V, E> + Send,
    V: Send,
{
    fn shared(&self) -> &S {
        &self.shared
    }

    unsafe fn run(&self) -> Option<Ended<E>> {
        // SAFETY: the caller's promise.
        let value = match unsafe { self.closure() }?() {
            Ok(value) => value,
            Err(error) => return Some(Ended::Failed(error)),
        };
        // Spares the way through the cell; what decides is the bit.
        if self.state.load(Ordering::Relaxed) & LEFT != 0 {
            return Some(try_drop(value));
        }
        // SAFETY: ours until the bit is set.
        unsafe { self.replace(Content::Value(value)) };
        // Pairs with that in `leave`: the reader finds the value, or we find that it is gone.
        if self.state.fetch_or(FILLED, Ordering::AcqRel) & LEFT == 0 {
            return Some(Ended::Value);
        }
        // SAFETY: ours is the second bit.
        Some(try_drop(unsafe { self.replace(Content::Empty) }))
    }

    unsafe fn discard(&self) {
        // SAFETY: the caller's promise.
        drop(unsafe { self.closure() });
    }

    unsafe fn leave(&self, place: *mut ()) -> bool {
        // Pairs with that in `run`.
        if self.state.fetch_or(LEFT, Ordering::AcqRel) & FILLED == 0 {
            return false;
        }
        // SAFETY: ours is the second bit.
        let Content::Value(value) = (unsafe { self.replace(Content::Empty) }) else { return false };
        // SAFETY: the caller's promise: a reader of values of this type has brought the place.
        unsafe { place.cast::<V>().write(value) };
        true
    }
}

/// Drops what nobody wants; its panic is told, not raised.
fn try_drop<E>(value: impl Sized) -> Ended<E> {
    match catch_unwind(AssertUnwindSafe(|| drop(value))) {
        Ok(()) => Ended::Value,
        Err(payload) => Ended::DropPanicked(payload),
    }
}

/// Makes a cell.
///
/// # Safety
///
/// The writer is gone before what `closure` borrows is.
pub(super) unsafe fn cell<'t, S, F, V, E>(shared: S, closure: F) -> (Writer<S, E>, Reader<'t, S, V, E>)
where
    S: Send + Sync + 'static,
    F: FnOnce() -> Result<V, E> + Send + 't,
    V: Send + 't,
    E: 'static,
{
    let content = UnsafeCell::new(Content::Closure(closure));
    let cell: Arc<dyn Erased<S, E> + 't> = Arc::new(Cell { shared, state: AtomicU8::new(0), content });
    // SAFETY: only the lifetime bound changes: both types are the same fat pointer to the same vtable. What borrows is in the
    // content alone. The closure is gone when the writer is, and so is a value that no reader has taken by then, unless the
    // reader is still there; it is gone with the reader, whose lifetime is that of the value. A reader that is leaked keeps
    // its count of the `Arc`, so that the value is never dropped. Without ends the content is `Empty`, and to drop that drops
    // nothing that borrows.
    let cell = unsafe { mem::transmute::<Arc<dyn Erased<S, E> + 't>, Arc<dyn Erased<S, E>>>(cell) };
    let shared = Shared(Arc::clone(&cell));
    let reader = Reader { shared, open: true, value: PhantomData, lifetime: PhantomData };
    (Writer { shared: Shared(cell), alone: PhantomData }, reader)
}

/// The end that runs the closure. Dropping it drops the closure.
pub(super) struct Writer<S: 'static, E: 'static> {
    shared: Shared<S, E>,
    /// One thread at a time: not `Sync`.
    alone: PhantomData<std::cell::Cell<()>>,
}

impl<S, E> Writer<S, E> {
    /// Calls the closure, if it is there. Its captures are gone when this returns.
    #[inline]
    pub(super) fn run(&self) -> Option<Ended<E>> {
        // SAFETY: this is the one writer, on one thread. Of two calls, one inside the other, the inner one finds nothing.
        unsafe { self.shared.0.run() }
    }

    /// Drops the closure, if it is there; its panic passes.
    pub(super) fn discard(&self) {
        // SAFETY: as in `run`.
        unsafe { self.shared.0.discard() }
    }

    pub(super) fn shared(&self) -> &Shared<S, E> {
        &self.shared
    }
}

impl<S, E> Drop for Writer<S, E> {
    fn drop(&mut self) {
        self.discard();
    }
}

/// The end that takes the value. Dropping it drops the value, if it is there.
pub(crate) struct Reader<'t, S: 'static, V, E: 'static> {
    shared: Shared<S, E>,
    /// Whether it has not been said yet that nobody wants the value.
    open: bool,
    value: PhantomData<fn() -> V>,
    /// That of the value: it lives no longer.
    lifetime: PhantomData<&'t ()>,
}

impl<S, V, E> Reader<'_, S, V, E> {
    /// Takes the value, if it is there.
    pub(crate) fn take(mut self) -> Option<V> {
        self.leave()
    }

    fn leave(&mut self) -> Option<V> {
        if !mem::take(&mut self.open) {
            return None;
        }
        let mut value = MaybeUninit::<V>::uninit();
        // SAFETY: this is the one reader, `open` makes it once, and `cell` has given it the type of the cell's value.
        let is_there = unsafe { self.shared.0.leave(value.as_mut_ptr().cast()) };
        // SAFETY: then it was written.
        is_there.then(|| unsafe { value.assume_init() })
    }

    pub(crate) fn shared(&self) -> &Shared<S, E> {
        &self.shared
    }
}

impl<S, V, E> Drop for Reader<'_, S, V, E> {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

/// What goes with a closure, for whoever needs it, for as long as they like.
pub(crate) struct Shared<S: 'static, E: 'static>(Arc<dyn Erased<S, E>>);

impl<S, E> Shared<S, E> {
    pub(crate) fn downgrade(&self) -> WeakShared<S, E> {
        WeakShared(Arc::downgrade(&self.0))
    }
}

impl<S, E> Clone for Shared<S, E> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<S, E> Deref for Shared<S, E> {
    type Target = S;

    fn deref(&self) -> &S {
        self.0.shared()
    }
}

impl<S: fmt::Debug, E> fmt::Debug for Shared<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.shared().fmt(f)
    }
}

/// A [`Shared`] that does not keep the cell.
pub(crate) struct WeakShared<S: 'static, E: 'static>(Weak<dyn Erased<S, E>>);

impl<S, E> WeakShared<S, E> {
    pub(crate) fn upgrade(&self) -> Option<Shared<S, E>> {
        self.0.upgrade().map(Shared)
    }
}
