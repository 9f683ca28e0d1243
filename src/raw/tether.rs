//! Closures that may borrow the stack, handed to threads that know nothing of lifetimes.
//!
//! [`tether`] opens a frame. Inside it, [`Tether::tie`] turns a closure that borrows for `'t` into a [`Tied`], which
//! any thread may own for as long as it likes: `tether` does not return, not even by unwinding, until every
//! [`Tied`] is gone. What the closure returns is for the other end of its cell (`cell.rs`).
//!
//! # Promises
//!
//! 1. *Nothing outlives the frame.* A closure's captures are gone before its [`Tied`] lowers the count, and `tether`
//!    returns only when the count is zero.
//! 2. *Nothing is missed.* When `tether` returns, all effects of every tied closure are visible to its caller.
//! 3. *No early exit.* Only code that holds `&'t Tether` may raise the count: the body, and closures that hold the
//!    count up themselves. So a zero seen after the body is final.
//! 4. *No late touch.* The count lives in an [`Arc`] that the frame holds. After lowering it, a [`Tied`] touches nothing: the
//!    frame may be gone (rust-lang/rust#98498). Only who lowers it to zero has something left to do, to tell the owner, and
//!    shares that `Arc` before.
//! 5. A [`Tied`] that is leaked is never lowered: `tether` then waits for ever, which is safe.
//!
//! # Does not know
//!
//! How the owner waits and what the closures do: both are the caller's.

use crate::{
    prim::{AtomicUsize, Ordering},
    raw::cell::{Ended, Reader, Shared, Writer, cell},
};
use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    mem::{self, ManuallyDrop},
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::{Arc, Weak},
    thread,
};

/// What a [`Tally`] tells when the count reaches zero.
pub(crate) trait Home: Send + Sync + 'static {
    /// Called by whoever lowered the count to zero, after that: wakes the owner.
    fn all_home(&self);
}

/// The count of tied closures that are not gone yet, beside what their threads may reach (`home`).
pub(crate) struct Tally<H> {
    live: AtomicUsize,
    home: H,
}

impl<H: Home> Tally<H> {
    #[cfg(all(test, tassel_loom))]
    pub(crate) fn new(home: H) -> Arc<Self> {
        Arc::new(Tally { live: AtomicUsize::new(0), home })
    }

    /// Makes a tally with a home that knows where it is.
    pub(crate) fn new_cyclic(home: impl FnOnce(&Weak<Self>) -> H) -> Arc<Self> {
        Arc::new_cyclic(|me| Tally { live: AtomicUsize::new(0), home: home(me) })
    }

    /// Tells how many tied closures are not gone yet.
    pub(crate) fn live(&self) -> usize {
        mutant!("count_read_relaxed" => return self.live.load(Ordering::Relaxed));
        // Pairs with the release in `Count::drop`: what a closure wrote is visible to who sees it gone.
        self.live.load(Ordering::Acquire)
    }
}

impl<H> Deref for Tally<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.home
    }
}

/// The right to tie closures that borrow for `'t`. Invariant in both lifetimes, as std's scope is.
pub(crate) struct Tether<'t, 'env: 't, H> {
    tally: &'t Arc<Tally<H>>,
    lifetimes: PhantomData<(&'t mut &'t (), &'env mut &'env ())>,
}

/// The type that a user sees around a [`Tether`], for every pair of lifetimes.
pub(crate) trait Face {
    /// What the tally holds.
    type Home: Home;
    /// The face itself.
    type Of<'t, 'env>
    where
        'env: 't;

    /// Puts the face on.
    fn wrap<'t, 'env>(tether: Tether<'t, 'env, Self::Home>) -> Self::Of<'t, 'env>;
}

/// The argument of a body. A struct, so that `'env: 't` is known wherever it is named.
pub(crate) struct Frame<'t, 'env: 't, F: Face>(pub(crate) &'t F::Of<'t, 'env>);

impl<'t, H: Home> Tether<'t, '_, H> {
    pub(crate) fn tally(&self) -> &'t Arc<Tally<H>> {
        self.tally
    }

    /// Makes `closure` ownable by any thread, with something that goes with it, and gives the end where its value will be.
    /// The frame stays open until the [`Tied`] is gone.
    ///
    /// # Panics
    ///
    /// If more closures are alive than `isize::MAX`, which takes leaking them in a loop.
    pub(crate) fn tie<S, V, E>(
        &'t self,
        shared: S,
        closure: impl FnOnce() -> Result<V, E> + Send + 't,
    ) -> (Tied<H, S, E>, Reader<'t, S, V, E>)
    where
        S: Send + Sync + 'static,
        V: Send + 't,
        E: 'static,
    {
        // A counter that publishes nothing: the closure reaches its thread by other means. The reads of `Tally::live` see
        // past it: a release goes on through whatever is added after it.
        let before = self.tally.live.fetch_add(1, Ordering::Relaxed);
        if before > usize::MAX / 2 {
            self.tally.live.fetch_sub(1, Ordering::Relaxed);
            panic!("too many live jobs in a scope: jobs that are spawned in a loop must be able to finish");
        }
        let count = Count(Arc::as_ptr(self.tally));
        // SAFETY: the writer is gone before what the closure borrows for `'t`.
        // * That is there until `tether` returns. The body has to accept any `'t`, so all that it can borrow for that long is
        //   older than the call of `tether` (`'env`), or is the face in its frame.
        // * The writer is gone before `tether` returns. A `Tether` comes from `tether` alone, whose frame is open while
        //   there is a `&'t Tether`; the count that it waits for was raised above; `Tied` lowers it only after its writer was
        //   dropped (its fields drop in that order, and nothing else takes a `Count`); `tether` does not return while the
        //   count is up, and aborts the process if anything unwinds through it.
        let (writer, reader) = unsafe { cell(shared, closure) };
        (Tied { writer, count }, reader)
    }
}

impl<H: Home> fmt::Debug for Tether<'_, '_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tether").field("live", &self.tally.live()).finish()
    }
}

/// Lowers the count when dropped.
///
/// Not an [`Arc`], whose own count would cost as much again: the frame keeps the tally for as long as the count is up.
struct Count<H: Home>(*const Tally<H>);

// SAFETY: as good as a `&Tally<H>`, and by the last of them the tally may be dropped.
unsafe impl<H: Home> Send for Count<H> {}
// SAFETY: as above.
unsafe impl<H: Home> Sync for Count<H> {}

impl<H: Home> Count<H> {
    fn tally(&self) -> &Tally<H> {
        // SAFETY: the count that this stands for is up as long as this is there, so the call of `tether` that has made it has
        // not returned, and that holds the `Arc` which this points into.
        unsafe { &*self.0 }
    }

    /// Shares the tally.
    fn keep(&self) -> Arc<Tally<H>> {
        // SAFETY: it comes from `Arc::as_ptr`, and is there: see `tally`.
        unsafe { Arc::increment_strong_count(self.0) };
        // SAFETY: as above; the count that this takes is the one just added.
        unsafe { Arc::from_raw(self.0) }
    }
}

impl<H: Home> Drop for Count<H> {
    fn drop(&mut self) {
        let live = &self.tally().live;
        mutant!("poke_before_count" => self.keep().home.all_home(); live.fetch_sub(1, Ordering::Release); return);
        let mut now = live.load(Ordering::Relaxed);
        loop {
            // Promise 4: whoever lowers it to zero shares the tally before; anybody else touches nothing after.
            let last = (now == 1).then(|| self.keep());
            // Pairs with the acquire in `Tally::live`: everything this closure did is published here.
            match live.compare_exchange_weak(now, now - 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if let Some(tally) = last {
                        tally.home.all_home();
                    }
                    return;
                }
                Err(other) => now = other,
            }
        }
    }
}

/// A closure that holds its frame open. Dropping it unrun drops the closure, then lets the frame go.
///
/// Subtle: fields drop in the order they stand, the closure before the count.
pub(crate) struct Tied<H: Home, S: 'static, E: 'static> {
    writer: Writer<S, E>,
    count: Count<H>,
}

impl<H: Home, S, E> Tied<H, S, E> {
    pub(crate) fn tally(&self) -> &Tally<H> {
        self.count.tally()
    }

    /// What goes with the closure.
    pub(crate) fn shared(&self) -> &Shared<S, E> {
        self.writer.shared()
    }

    /// Runs the closure, on the first call. Its captures are gone when this returns; the frame stays open until
    /// `self` is dropped.
    pub(crate) fn run(&self) -> Option<Ended<E>> {
        self.writer.run()
    }

    /// Drops the closure unrun, and returns the panic of a capture's `Drop`. The frame stays open until `self` is
    /// dropped.
    pub(crate) fn discard(&self) -> Result<(), Box<dyn Any + Send>> {
        mutant!("count_before_captures" => drop(Count(self.count.0)));
        catch_unwind(AssertUnwindSafe(|| self.writer.discard()))
    }
}

impl<H: Home, S, E> fmt::Debug for Tied<H, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tied").finish_non_exhaustive()
    }
}

/// Aborts if dropped: nothing may unwind past live borrows.
struct AbortGuard;

impl Drop for AbortGuard {
    fn drop(&mut self) {
        process::abort();
    }
}

/// Runs `body` with the right to tie closures, tells `ended` what it returned, or its panic, then calls `settle` until every
/// tied closure is gone.
///
/// Returns what `ended` made of it, or a panic of that. `settle` waits (and may help meanwhile); it must not unwind: the
/// process is aborted if it does, since borrowed memory would go away under running closures.
pub(crate) fn tether<'env, F: Face, R, Q>(
    tally: &Arc<Tally<F::Home>>,
    body: impl for<'t> FnOnce(Frame<'t, 'env, F>) -> R,
    ended: impl FnOnce(thread::Result<R>) -> Q,
    mut settle: impl FnMut(),
) -> thread::Result<Q> {
    // Borrowed for all of `'t`, so it must have no drop glue; it owns nothing.
    let face = ManuallyDrop::new(F::wrap(Tether { tally, lifetimes: PhantomData }));
    let guard = AbortGuard;
    let result = catch_unwind(AssertUnwindSafe(|| body(Frame(&*face))));
    let result = catch_unwind(AssertUnwindSafe(|| ended(result)));
    loop {
        settle();
        if tally.live() == 0 {
            break;
        }
    }
    mem::forget(guard);
    result
}
