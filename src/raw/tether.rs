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
//! 4. *No late touch.* When the count is zero the frame may be gone (rust-lang/rust#98498). So who lowers it has the tally from
//!    elsewhere than from what held the count up: from an [`Arc`], or a reference into the frame of code that the frame
//!    itself waits for.
//! 5. A [`Tied`] that is leaked is never lowered: `tether` then waits for ever, which is safe.
//!
//! The count changes under the tally's lock, which also guards what its user likes ([`Home::Held`]): who queues a closure, or
//! takes the next one, has the lock anyway, and pays nothing more for the count.
//!
//! # Does not know
//!
//! How the owner waits and what the closures do: both are the caller's.

use crate::{
    prim::{AtomicUsize, Mutex, MutexGuard, Ordering},
    raw::cell::{Reader, Shared, Writer, cell},
};
use std::{
    fmt,
    marker::PhantomData,
    mem::{self, ManuallyDrop},
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    process, ptr,
    sync::{Arc, Weak},
    thread,
};

/// What a [`Tally`] holds, and tells when the count reaches zero.
pub(crate) trait Home: Send + Sync + 'static {
    /// What stands under the lock.
    type Held: Send;

    /// Called by whoever lowered the count to zero, after that, without the lock: wakes the owner.
    fn all_home(&self);
}

/// The count of tied closures that are not gone yet, beside what their threads may reach (`home`).
pub(crate) struct Tally<H: Home> {
    /// Changed under the lock.
    live: AtomicUsize,
    held: Mutex<H::Held>,
    home: H,
}

impl<H: Home> Tally<H> {
    #[cfg(all(test, any(tassel_loom, tassel_shuttle)))]
    pub(crate) fn new(home: H, held: H::Held) -> Arc<Self> {
        Arc::new(Tally { live: AtomicUsize::new(0), held: Mutex::new(held), home })
    }

    /// Makes a tally with a home that knows where it is.
    pub(crate) fn new_cyclic(held: H::Held, home: impl FnOnce(&Weak<Self>) -> H) -> Arc<Self> {
        Arc::new_cyclic(|me| Tally { live: AtomicUsize::new(0), held: Mutex::new(held), home: home(me) })
    }

    /// Tells how many tied closures are not gone yet.
    #[inline]
    pub(crate) fn live(&self) -> usize {
        mutant!("count_read_relaxed" => return self.live.load(Ordering::Relaxed));
        // Pairs with the release in `Held::lower`: what a closure wrote is visible to who sees it gone. Those that were gone
        // before it come with it, by the lock. A raise publishes nothing; but a zero is never one.
        self.live.load(Ordering::Acquire)
    }

    /// Takes the lock.
    #[inline]
    pub(crate) fn lock(&self) -> Held<'_, H> {
        Held { guard: self.held.lock(), tally: self, tells: Tells(None) }
    }
}

/// A tally's lock.
///
/// Subtle: fields drop in the order they stand, the lock before the owner is told.
pub(crate) struct Held<'a, H: Home> {
    guard: MutexGuard<'a, H::Held>,
    tally: &'a Tally<H>,
    tells: Tells<'a, H>,
}

/// Tells the owner when dropped, if anything is to be told.
struct Tells<'a, H: Home>(Option<&'a H>);

impl<H: Home> Drop for Tells<'_, H> {
    #[inline]
    fn drop(&mut self) {
        if let Some(home) = self.0 {
            home.all_home();
        }
    }
}

impl<'a, H: Home> Held<'a, H> {
    /// Lowers the count for a closure that is [spent](Writer::spend), whose halves these are. Gives back what went with it, to be
    /// dropped without the lock.
    ///
    /// Promise 4: `self` borrows the tally from elsewhere, as both halves are moved.
    #[inline]
    pub(crate) fn give_back<S, E>(&mut self, kept: Kept<H, S, E>, lent: Lent<S, E>) -> Shared<S, E> {
        let tied = kept.whole(lent);
        assert!(ptr::eq(self.tally, tied.count.0), "a closure comes back to the tally that it was tied to");
        let Tied { writer, count } = tied;
        mutant!("count_before_captures" => mem::forget(count); self.lower(); return writer.end());
        // Before the count is lowered: if it was not spent, it is now.
        let shared = writer.end();
        mem::forget(count);
        self.lower();
        shared
    }

    #[inline]
    fn lower(&mut self) {
        let live = &self.tally.live;
        let told_before = mutant!("poke_before_count");
        if told_before {
            self.tally.home.all_home();
        }
        // Changes come under the lock alone.
        let left = live.load(Ordering::Relaxed) - 1;
        // Pairs with the acquire in `Tally::live`: everything this closure did is published here.
        live.store(left, Ordering::Release);
        if left == 0 && !told_before {
            let tally: &'a Tally<H> = self.tally;
            self.tells.0 = Some(&tally.home);
        }
    }
}

impl<H: Home> Deref for Held<'_, H> {
    type Target = H::Held;

    #[inline]
    fn deref(&self) -> &H::Held {
        &self.guard
    }
}

impl<H: Home> DerefMut for Held<'_, H> {
    #[inline]
    fn deref_mut(&mut self) -> &mut H::Held {
        &mut self.guard
    }
}

impl<H: Home> fmt::Debug for Held<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

impl<H: Home> Deref for Tally<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.home
    }
}

/// The right to tie closures that borrow for `'t`. Invariant in both lifetimes, as std's scope is.
pub(crate) struct Tether<'t, 'env: 't, H: Home> {
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

    /// Makes `closure` ownable by any thread, with something that goes with it, has `put` put it under the tally's lock, and gives
    /// the end where its value will be. The frame stays open until the [`Tied`] is gone. `put` must not drop it.
    #[inline]
    pub(crate) fn tie<S, V, E, R>(
        &'t self,
        shared: S,
        closure: impl FnOnce() -> Result<V, E> + Send + 't,
        put: impl FnOnce(&mut H::Held, Tied<H, S, E>) -> R,
    ) -> (R, Reader<'t, S, V, E>)
    where
        S: Send + Sync + 'static,
        V: Send + 't,
        E: 'static,
    {
        // SAFETY: the writer is gone before what the closure borrows for `'t`.
        // * That is there until `tether` returns. The body has to accept any `'t`, so all that it can borrow for that long is
        //   older than the call of `tether` (`'env`), or is the face in its frame.
        // * The writer is gone before `tether` returns. A `Tether` comes from `tether` alone, whose frame is open while
        //   there is a `&'t Tether`; here it is an argument, and nothing but a `Tied` leaves with the writer. The count that
        //   the frame waits for is raised before there is one; it is lowered only after the content was dropped
        //   (a `Tied`'s fields drop in that order; `give_back`, the other way down, ends the writer first; nothing else takes a
        //   `Count`); `tether` does not return while the count is up, and aborts the process if anything unwinds through it.
        let (writer, reader) = unsafe { cell(shared, closure) };
        let mut held = self.tally.lock();
        // No sum of closures, each in memory of its own, overflows.
        let live = self.tally.live.load(Ordering::Relaxed) + 1;
        // Publishes nothing: the closure reaches its thread by other means.
        self.tally.live.store(live, Ordering::Relaxed);
        let tied = Tied { writer, count: Count(Arc::as_ptr(self.tally)) };
        (put(&mut held, tied), reader)
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
        // Promise 4.
        let tally = self.keep();
        tally.lock().lower();
    }
}

/// A [`Writer`] that holds its frame open. Dropping it unrun drops the closure, then lets the frame go, under the tally's lock.
///
/// Subtle: fields drop in the order they stand, the closure before the count.
pub(crate) struct Tied<H: Home, S: 'static, E: 'static> {
    writer: Writer<S, E>,
    count: Count<H>,
}

/// The half of a [`Tied`] that runs it. Whoever lets go of the whole needs both halves.
pub(crate) struct Lent<S: 'static, E: 'static>(ManuallyDrop<Writer<S, E>>);

/// The half of a [`Tied`] that stays behind while the other one is at work. It holds the frame open, also if it is dropped: then for
/// ever.
pub(crate) struct Kept<H: Home, S: 'static, E: 'static>(ManuallyDrop<Tied<H, S, E>>);

impl<H: Home, S, E> Tied<H, S, E> {
    pub(crate) fn tally(&self) -> &Tally<H> {
        self.count.tally()
    }

    /// Parts it.
    #[inline]
    pub(crate) fn lend(self) -> (Lent<S, E>, Kept<H, S, E>) {
        // SAFETY: of the two writers only the one that is lent is used, until the two are one again.
        let writer = unsafe { ptr::read(&raw const self.writer) };
        (Lent(ManuallyDrop::new(writer)), Kept(ManuallyDrop::new(self)))
    }
}

impl<H: Home, S, E> Deref for Tied<H, S, E> {
    type Target = Writer<S, E>;

    #[inline]
    fn deref(&self) -> &Writer<S, E> {
        &self.writer
    }
}

impl<H: Home, S, E> fmt::Debug for Tied<H, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tied").finish_non_exhaustive()
    }
}

impl<S, E> fmt::Debug for Lent<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").finish_non_exhaustive()
    }
}

impl<S, E> Deref for Lent<S, E> {
    type Target = Writer<S, E>;

    #[inline]
    fn deref(&self) -> &Writer<S, E> {
        &self.0
    }
}

impl<H: Home, S, E> Kept<H, S, E> {
    /// What goes with the closure.
    #[inline]
    pub(crate) fn shared(&self) -> &Shared<S, E> {
        self.0.shared()
    }

    /// Makes one of the two halves.
    #[inline]
    fn whole(self, Lent(writer): Lent<S, E>) -> Tied<H, S, E> {
        assert!(self.shared().is(writer.shared()), "the halves are of one closure");
        ManuallyDrop::into_inner(self.0)
    }
}

impl<H: Home, S, E> fmt::Debug for Kept<H, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
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

#[cfg(test)]
pub(crate) mod given {
    //! What tests and models of frames need.

    use super::{Face, Home, Tether};
    use std::marker::PhantomData;

    /// No face: the tether itself.
    pub(crate) struct Bare<H: Home>(PhantomData<H>);

    impl<H: Home> Face for Bare<H> {
        type Home = H;
        type Of<'t, 'env>
            = Tether<'t, 'env, H>
        where
            'env: 't;

        fn wrap<'t, 'env>(tether: Tether<'t, 'env, H>) -> Tether<'t, 'env, H> {
            tether
        }
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::{given::Bare, *};
    use crate::raw::Ended;
    use std::{cell::RefCell, rc::Rc, sync::atomic::AtomicU32};

    struct Quiet;

    impl Home for Quiet {
        type Held = ();

        fn all_home(&self) {}
    }

    /// A capture or a value that counts how often it was dropped, and sees that the frame is open.
    struct Borrows<'a>(&'a AtomicU32, &'a Tally<Quiet>);

    impl Drop for Borrows<'_> {
        fn drop(&mut self) {
            assert_ne!(self.1.live(), 0, "the frame may be gone");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tally() -> Arc<Tally<Quiet>> {
        Tally::new_cyclic((), |_| Quiet)
    }

    fn is_all_home(result: &thread::Result<thread::Result<()>>) -> bool {
        matches!(result, Ok(Ok(())))
    }

    #[test]
    fn what_is_given_back_before_it_was_spent_is_dropped_while_the_frame_is_open() {
        let (tally, drops) = (tally(), AtomicU32::new(0));
        let result = tether::<Bare<Quiet>, _, _>(
            &tally,
            |frame| {
                let capture = Borrows(&drops, &tally);
                let work = move || {
                    let _ = &capture;
                    Ok::<(), ()>(())
                };
                let (tied, _reader) = frame.0.tie((), work, |(), tied| tied);
                let (lent, kept) = tied.lend();
                let shared = tally.lock().give_back(kept, lent);
                drop(shared);
            },
            |ended| ended,
            || (),
        );
        assert!(is_all_home(&result));
        assert_eq!(drops.into_inner(), 1);
    }

    #[test]
    fn what_is_given_back_to_another_tally_is_dropped_while_the_frame_is_open() {
        let (mine, other, drops) = (tally(), tally(), AtomicU32::new(0));
        let result = tether::<Bare<Quiet>, _, _>(
            &mine,
            |frame| {
                let capture = Borrows(&drops, &mine);
                let work = move || {
                    let _ = &capture;
                    Ok::<(), ()>(())
                };
                let (tied, _reader) = frame.0.tie((), work, |(), tied| tied);
                let (lent, kept) = tied.lend();
                let refused = catch_unwind(AssertUnwindSafe(|| drop(other.lock().give_back(kept, lent))));
                assert!(refused.is_err());
            },
            |ended| ended,
            || (),
        );
        assert!(is_all_home(&result));
        assert_eq!((drops.into_inner(), mine.live()), (1, 0));
    }

    #[test]
    fn a_value_of_a_closure_that_publishes_itself_is_dropped_while_the_frame_is_open() {
        thread_local! {
            static LENT: RefCell<Option<Rc<Lent<(), ()>>>> = const { RefCell::new(None) };
        }
        let (tally, drops) = (tally(), AtomicU32::new(0));
        let mut shared = None;
        let result = tether::<Bare<Quiet>, _, _>(
            &tally,
            |frame| {
                let work = || {
                    let lent = LENT.with(|lent| lent.borrow().clone()).unwrap();
                    assert!(matches!(lent.publish(1), Ok(0)));
                    Ok::<_, ()>(Borrows(&drops, &tally))
                };
                let (tied, reader) = frame.0.tie((), work, |(), tied| tied);
                shared = Some(tied.shared().clone());
                let (lent, kept) = tied.lend();
                let lent = Rc::new(lent);
                LENT.set(Some(Rc::clone(&lent)));
                assert!(matches!(lent.run(), Some(Ended::Value)));
                LENT.take();
                // Nobody takes it: a value that is there would be dropped with the cell.
                mem::forget(reader);
                lent.spend();
                drop(tally.lock().give_back(kept, Rc::into_inner(lent).unwrap()));
            },
            |ended| ended,
            || (),
        );
        assert!(is_all_home(&result));
        assert_eq!(drops.load(Ordering::Relaxed), 1);
        drop(shared);
    }
}
