//! One allocation for a closure, then its value, and what goes with them: [`cell`].
//!
//! A cell has two ends, one of each. The [`Writer`] runs the closure, or drops it, and leaves the value; the [`Reader`] takes
//! the value, or says that nobody wants it. Besides, any number of [`Shared`] may look at its [`Head`]: what goes with the
//! two (`S`), and a small state that is the user's. All that changes is in one word, so that to leave the value, to tell of
//! it, and to let go cost one exchange.
//!
//! | bits | mean | set |
//! |---|---|---|
//! | `FILLED` | the writer touches the content no more; it has left a value, if it had one | by the writer, once |
//! | `LEFT` | the reader touches the content no more | by the reader, once, unless `FILLED` is set |
//! | `STATE` | what the user likes | by whom the user likes |
//! | from `ONE` up | how many ends and `Shared` there are | by each that comes and goes |
//!
//! The content belongs to the writer until it sets its bit; after that to the reader, unless that had left.
//!
//! # Promises
//!
//! 1. The closure is called once or dropped, by the writer; a value is taken or dropped once, by either end.
//! 2. When the writer is gone, and the reader as well, nothing is left in the cell, whoever shares it still: so what is
//!    shared need not know for how long closure and value may borrow.
//! 3. A reader that is leaked leaks the value, and nothing else.
//! 4. Who sees a state sees what was done before it was set.
//!
//! # Does not know
//!
//! Who sees to it that the ends go while what is borrowed is there: of the writer, `tether.rs`; of the reader, its lifetime.

use crate::prim::{AtomicU64, Ordering, UnsafeCell};
use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    mem::{self, ManuallyDrop, MaybeUninit},
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::{self, NonNull},
};

const FILLED: u64 = 1;
const LEFT: u64 = 2;
/// Where the user's state stands.
const SHIFT: u32 = 2;
const STATE: u64 = 0xff << SHIFT;
/// One end, or one `Shared`. There is no room in memory for as many as the rest of the word can count, and to leak them all
/// takes centuries.
const ONE: u64 = 1 << 10;

enum Content<F, V> {
    Closure(F),
    Value(V),
    Empty,
}

/// The part of a cell that everybody may look at.
pub(crate) struct Head<S> {
    word: AtomicU64,
    shared: S,
}

impl<S> Head<S> {
    fn new(shared: S) -> Self {
        Head { word: AtomicU64::new(2 * ONE), shared }
    }

    /// Returns the user's state.
    #[inline]
    pub(crate) fn state(&self) -> u8 {
        // Pairs with the exchanges in `set_state` and `publish`.
        state_of(self.word.load(Ordering::Acquire))
    }

    /// Sets the user's state to what `next` makes of it, if anything, in one step. Returns what was there; an `Err` if nothing
    /// was set.
    #[inline]
    pub(crate) fn set_state(&self, next: impl Fn(u8) -> Option<u8>) -> Result<u8, u8> {
        let next = |word| next(state_of(word)).map(|to| with_state(word, to));
        // Pairs with itself and `state`: publishes what was done before, and sees what was done before the state it replaces.
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).map(state_of).map_err(state_of)
    }
}

fn state_of(word: u64) -> u8 {
    ((word & STATE) >> SHIFT) as u8
}

fn with_state(word: u64, state: u8) -> u64 {
    (word & !STATE) | (u64::from(state) << SHIFT)
}

impl<S> Deref for Head<S> {
    type Target = S;

    #[inline]
    fn deref(&self) -> &S {
        &self.shared
    }
}

impl<S: fmt::Debug> fmt::Debug for Head<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

/// Subtle: in this order in memory, as a pointer to a cell is one to its head.
#[repr(C)]
struct Cell<S, F, V> {
    head: Head<S>,
    content: UnsafeCell<Content<F, V>>,
}

/// How a closure ended.
#[derive(Debug)]
pub(crate) enum Ended<E> {
    /// With a value, which is in the cell, or nobody wanted.
    Value,
    Failed(E),
    /// Nobody wanted the value, and its `Drop` has panicked.
    DropPanicked(Box<dyn Any + Send>),
}

/// A cell of which closure and value are forgotten.
trait Erased<S, E> {
    /// Calls the closure, if it is there, and puts the value in its place.
    ///
    /// # Safety
    ///
    /// By the one writer.
    unsafe fn run(&self) -> Option<Ended<E>>;

    /// Drops the closure, or the value, if it is there and the writer's.
    ///
    /// # Safety
    ///
    /// By the one writer.
    unsafe fn discard(&self);

    /// Sets the user's state, and gives a value that is there to the reader, in one step, which returns the state before. If the
    /// reader has left, the value is dropped instead, first; if that panics, nothing is set.
    ///
    /// # Safety
    ///
    /// By the one writer.
    unsafe fn publish(&self, state: u8) -> Result<u8, Box<dyn Any + Send>>;

    /// Moves the value to `place`, if there is one; it is the reader's.
    ///
    /// # Safety
    ///
    /// By the one reader, once, when it has seen `FILLED`. `place` is room for a value of the reader's type.
    unsafe fn give(&self, place: *mut ()) -> bool;
}

impl<S, F, V> Cell<S, F, V> {
    /// Changes what is in it, and returns what was.
    ///
    /// # Safety
    ///
    /// By the end that may touch the content.
    #[inline]
    unsafe fn replace(&self, content: Content<F, V>) -> Content<F, V> {
        // SAFETY: nobody else touches it, as the caller promises, and a move calls nobody.
        self.content.with_mut(|place| unsafe { place.replace(content) })
    }

    /// Takes what is in it, if it is the writer's.
    ///
    /// # Safety
    ///
    /// By the one writer.
    #[inline]
    unsafe fn take_ours(&self) -> Content<F, V> {
        // We see what we have set ourselves.
        if self.head.word.load(Ordering::Relaxed) & FILLED != 0 {
            return Content::Empty;
        }
        // SAFETY: so the content is ours.
        unsafe { self.replace(Content::Empty) }
    }
}

impl<S, F, V, E> Erased<S, E> for Cell<S, F, V>
where
    F: FnOnce() -> Result<V, E>,
{
    unsafe fn run(&self) -> Option<Ended<E>> {
        // SAFETY: the caller's promise.
        let Content::Closure(closure) = (unsafe { self.take_ours() }) else { return None };
        let value = match closure() {
            Ok(value) => value,
            Err(error) => return Some(Ended::Failed(error)),
        };
        // That the reader has left spares the way through the cell; what decides is `publish`. If that was called by the closure
        // itself, the content is no more ours.
        if self.head.word.load(Ordering::Relaxed) & (LEFT | FILLED) != 0 {
            return Some(match try_drop(value) {
                Ok(()) => Ended::Value,
                Err(payload) => Ended::DropPanicked(payload),
            });
        }
        // SAFETY: ours until the bit is set.
        unsafe { self.replace(Content::Value(value)) };
        Some(Ended::Value)
    }

    unsafe fn discard(&self) {
        // SAFETY: the caller's promise.
        drop(unsafe { self.take_ours() });
    }

    unsafe fn publish(&self, state: u8) -> Result<u8, Box<dyn Any + Send>> {
        let mut now = self.head.word.load(Ordering::Relaxed);
        loop {
            if now & LEFT != 0 {
                // SAFETY: ours, as the bit is not set: the caller publishes once.
                try_drop(unsafe { self.take_ours() })?;
            }
            // Pairs with those in `Reader::leave`, where the reader finds the value, or we find that it is gone; and with
            // `Head::state`.
            let next = with_state(now, state) | FILLED;
            match self.head.word.compare_exchange(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(before) => return Ok(state_of(before)),
                Err(other) => now = other,
            }
        }
    }

    unsafe fn give(&self, place: *mut ()) -> bool {
        // SAFETY: the reader's since `FILLED`.
        let Content::Value(value) = (unsafe { self.replace(Content::Empty) }) else { return false };
        // SAFETY: the caller's promise: a reader of values of this type has brought the place.
        unsafe { place.cast::<V>().write(value) };
        true
    }
}

/// Drops what nobody wants; its panic is told, not raised.
fn try_drop(value: impl Sized) -> Result<(), Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(|| drop(value)))
}

/// Makes a cell.
///
/// # Safety
///
/// The writer is gone before what `closure` borrows is.
#[inline]
pub(super) unsafe fn cell<'t, S, F, V, E>(shared: S, closure: F) -> (Writer<S, E>, Reader<'t, S, V, E>)
where
    S: Send + Sync + 'static,
    F: FnOnce() -> Result<V, E> + Send + 't,
    V: Send + 't,
    E: 'static,
{
    let content = UnsafeCell::new(Content::Closure(closure));
    let cell: Box<dyn Erased<S, E> + 't> = Box::new(Cell { head: Head::new(shared), content });
    let cell = NonNull::from(Box::leak(cell));
    // SAFETY: only the lifetime bound changes: both types are the same fat pointer to the same vtable. What borrows is in the
    // content alone. The closure is gone when the writer is, and so is a value that no reader has taken by then, unless the
    // reader is still there; it is gone with the reader, whose lifetime is that of the value. A reader that is leaked keeps
    // its count, so that the value is never dropped. Without ends the content is `Empty`, and to drop that drops nothing that
    // borrows.
    let cell = unsafe { mem::transmute::<NonNull<dyn Erased<S, E> + 't>, NonNull<dyn Erased<S, E>>>(cell) };
    // The word has counted both.
    let reader = Reader { shared: ManuallyDrop::new(Shared(cell)), value: PhantomData, lifetime: PhantomData };
    (Writer { shared: Shared(cell), alone: PhantomData }, reader)
}

/// The end that runs the closure. Dropping it drops the closure.
pub(crate) struct Writer<S: 'static, E: 'static> {
    shared: Shared<S, E>,
    /// One thread at a time: not `Sync`.
    alone: PhantomData<std::cell::Cell<()>>,
}

impl<S, E> Writer<S, E> {
    /// Calls the closure, if it is there. Its captures are gone when this returns. A value is for nobody yet.
    #[inline]
    pub(crate) fn run(&self) -> Option<Ended<E>> {
        // SAFETY: this is the one writer, on one thread. Of two calls, one inside the other, the inner one finds nothing.
        unsafe { self.shared.cell().run() }
    }

    /// Drops the closure, or a value that was not published; its panic passes.
    fn discard(&self) {
        // SAFETY: as in `run`.
        unsafe { self.shared.cell().discard() }
    }

    /// Drops the closure, if it is there, and returns the panic of a capture's `Drop`.
    pub(crate) fn try_discard(&self) -> Result<(), Box<dyn Any + Send>> {
        catch_unwind(AssertUnwindSafe(|| self.discard()))
    }

    /// Sets the state, and gives the value to the reader, if there is one, in one step. Returns the state before. If the reader
    /// has left, the value is dropped first, and if that panics, nothing is set.
    ///
    /// Once; after that it only sets the state.
    #[inline]
    pub(crate) fn publish(&self, state: u8) -> Result<u8, Box<dyn Any + Send>> {
        if self.is_filled() {
            return Ok(self.shared.set_state(|_| Some(state)).unwrap_or_else(|before| before));
        }
        // SAFETY: as in `run`; the content is the writer's still.
        unsafe { self.shared.cell().publish(state) }
    }

    /// The cell's head.
    #[inline]
    pub(crate) fn shared(&self) -> &Shared<S, E> {
        &self.shared
    }

    /// We see what we have set ourselves.
    #[inline]
    fn is_filled(&self) -> bool {
        self.shared.word.load(Ordering::Relaxed) & FILLED != 0
    }

    /// Drops what is there and not published.
    #[inline]
    pub(crate) fn spend(&self) {
        if !self.is_filled() {
            self.discard();
        }
    }

    /// Goes. If it was not [spent](Writer::spend), closure or value are dropped here.
    #[inline]
    pub(super) fn end(self) -> Shared<S, E> {
        self.spend();
        let this = ManuallyDrop::new(self);
        // SAFETY: what is read is not used, nor dropped, there.
        unsafe { ptr::read(&raw const this.shared) }
    }
}

impl<S, E> Drop for Writer<S, E> {
    fn drop(&mut self) {
        self.discard();
    }
}

/// The end that takes the value. Dropping it drops the value, if it is there.
pub(crate) struct Reader<'t, S: 'static, V, E: 'static> {
    shared: ManuallyDrop<Shared<S, E>>,
    value: PhantomData<fn() -> V>,
    /// That of the value: it lives no longer.
    lifetime: PhantomData<&'t ()>,
}

impl<S, V, E> Reader<'_, S, V, E> {
    /// Takes the value, if it is there.
    pub(crate) fn take(self) -> Option<V> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: it is not dropped, nor used after.
        unsafe { Self::leave(&mut this.shared) }
    }

    /// Takes the value if it is there, else says that nobody wants it; and lets the cell go.
    ///
    /// # Safety
    ///
    /// By the one reader, once; it uses `shared` no more.
    unsafe fn leave(shared: &mut ManuallyDrop<Shared<S, E>>) -> Option<V> {
        let word = &shared.word;
        // Both pair with the exchange in `publish`.
        let mut now = word.load(Ordering::Acquire);
        while now & FILLED == 0 {
            match word.compare_exchange(now, (now | LEFT) - ONE, Ordering::AcqRel, Ordering::Acquire) {
                Ok(before) => {
                    if before < 2 * ONE {
                        // SAFETY: ours was the last count.
                        unsafe { shared.free() };
                    }
                    return None;
                }
                Err(other) => now = other,
            }
        }
        let mut value = MaybeUninit::<V>::uninit();
        // SAFETY: this is the one reader, once, it has seen `FILLED`, and `cell` has given it the type of the cell's value.
        let is_there = unsafe { shared.cell().give(value.as_mut_ptr().cast()) };
        // SAFETY: the caller's promise.
        unsafe { ManuallyDrop::drop(shared) };
        // SAFETY: then it was written.
        is_there.then(|| unsafe { value.assume_init() })
    }

    pub(crate) fn shared(&self) -> &Shared<S, E> {
        &self.shared
    }
}

impl<S, V, E> Drop for Reader<'_, S, V, E> {
    fn drop(&mut self) {
        // SAFETY: it is gone after this.
        drop(unsafe { Self::leave(&mut self.shared) });
    }
}

/// A cell's head, for whoever needs it, for as long as they like.
pub(crate) struct Shared<S: 'static, E: 'static>(NonNull<dyn Erased<S, E>>);

// SAFETY: what is shared is so as such; the content is touched by one end at a time (see the header), so it is sent from thread
// to thread, and never shared: `cell` asks that closure and value may be. Who lets go last drops what is shared, and a content
// that is empty.
unsafe impl<S: Send + Sync, E> Send for Shared<S, E> {}
// SAFETY: as above.
unsafe impl<S: Send + Sync, E> Sync for Shared<S, E> {}

impl<S, E> Shared<S, E> {
    #[inline]
    fn cell(&self) -> &dyn Erased<S, E> {
        // SAFETY: it is there until the last count is given back, and this has one.
        unsafe { self.0.as_ref() }
    }

    /// Whether both are of one cell.
    #[inline]
    pub(super) fn is(&self, other: &Self) -> bool {
        ptr::addr_eq(self.0.as_ptr(), other.0.as_ptr())
    }

    /// Frees the cell.
    ///
    /// # Safety
    ///
    /// Nobody has a count, and nobody uses this after.
    #[inline]
    unsafe fn free(&self) {
        // SAFETY: it comes from a `Box`, and is freed once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<S, E> Clone for Shared<S, E> {
    fn clone(&self) -> Self {
        // Publishes nothing: the one that is cloned keeps the cell meanwhile.
        self.word.fetch_add(ONE, Ordering::Relaxed);
        Shared(self.0)
    }
}

impl<S, E> Drop for Shared<S, E> {
    #[inline]
    fn drop(&mut self) {
        // Pairs with the exchange below, and that in `Reader::leave`, of all who have let go: what they did is done before the cell
        // is freed. Alone there is nobody to race with, and the exchange is spared.
        let alone = self.word.load(Ordering::Acquire) < 2 * ONE;
        if alone || self.word.fetch_sub(ONE, Ordering::AcqRel) < 2 * ONE {
            // SAFETY: ours was the last count.
            unsafe { self.free() };
        }
    }
}

impl<S, E> Deref for Shared<S, E> {
    type Target = Head<S>;

    #[inline]
    fn deref(&self) -> &Head<S> {
        // SAFETY: as in `cell`; a pointer to a cell is one to its head, as it is laid out.
        unsafe { self.0.cast::<Head<S>>().as_ref() }
    }
}

impl<S: fmt::Debug, E> fmt::Debug for Shared<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
