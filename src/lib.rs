#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod mutant;

mod cancel;
mod error;
mod observe;
mod park;
pub mod pool;
mod prim;
#[expect(unsafe_code, reason = "the one place for it; each block is argued")]
mod raw;
mod scope;
pub mod value;
mod wait;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(all(test, any(tassel_loom, tassel_shuttle)))]
mod model;

#[doc(inline)]
pub use crate::{
    cancel::{
        reason::{Cancelled, Reason, ReasonKind},
        token::{CancelReceiver, CancelToken, OnCancel},
    },
    error::{Child, ErrorGroup, JobId, JoinError, Leaf, OrStopped, SubGroup},
    scope::{
        handle::JobHandle,
        join::join,
        open::{IsolatedBuilder, JobBuilder, Return, Scope, ScopeCancelled, ScopeOnCancel, scope},
        options::{OnFailure, OnPanic, ScopeOptions},
    },
    wait::time::{checkpoint, is_cancelled, now, sleep, sleep_until, yield_now},
    wait::{abandon::abandon, blocking::blocking},
};

/// What bodies, jobs and regions return: [`anyhow::Result`].
pub type Result<T, E = anyhow::Error> = anyhow::Result<T, E>;

/// The error of jobs, bodies and regions: [`anyhow::Error`].
pub use anyhow::Error;

/// Time limits, shields and cleanup, without jobs.
pub mod region {
    pub use crate::{
        cancel::reason::TimedOut,
        scope::region::{cleanup, fail_after, fail_at, move_on_after, move_on_at, shield, shield_unbounded},
    };
}

/// Meeting points, locks and permits whose waits a cancel ends.
///
/// Their constructors allocate, and are not `const`: a static is a [`LazyLock`](std::sync::LazyLock), as in
/// `static SLOTS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::named("slots", 4));`.
///
/// All but [`Barrier`](sync::Barrier) and [`Event`](sync::Event) have a `named` form, whose name shows in
/// [snapshots](crate::snapshot), with who has it and how many wait.
pub mod sync {
    pub use crate::error::LockError;
    pub use crate::wait::{
        barrier::Barrier,
        condvar::Condvar,
        event::Event,
        mutex::{Mutex, MutexGuard},
        once::OnceCell,
        rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard},
        semaphore::{Permit, Semaphore},
    };
}

/// Waits on crossbeam's channels that a cancel ends.
///
/// The channels are your own, and nothing is wrapped: [`bounded`](channel::bounded), [`unbounded`](channel::unbounded) and
/// the types are crossbeam's. What they lack is here, as functions, so that a call cannot be taken for crossbeam's own
/// method, which sits through a cancel: [`recv`](channel::recv), [`send`](channel::send), both with a timeout or a deadline,
/// and [`iter`](channel::iter).
///
/// ```
/// use tassel::{channel, scope};
///
/// let (words, to_measure) = channel::bounded(8);
/// let (lengths, to_sum) = channel::bounded(8);
/// let total = scope(|s| {
///     s.job("read").spawn(move || {
///         for word in ["to", "be", "or"] {
///             channel::send(&words, word.to_owned())?;
///         }
///         Ok(())
///     });
///     s.job("measure").spawn(move || {
///         for word in channel::iter(&to_measure) {
///             channel::send(&lengths, word?.len())?;
///         }
///         Ok(())
///     });
///     let mut total = 0;
///     for length in channel::iter(&to_sum) {
///         total += length?;
///     }
///     Ok(total)
/// })?;
/// assert_eq!(total, 6);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
///
/// **One outcome.** Each call either did what it says, or tells why not: closed, cancelled, timed out. A call that begins
/// when the code is to stop already takes and sends nothing. After that, a value that is there wins over a stop that comes
/// together with it, and what was not sent comes back in the error. So nothing is lost: what is in a channel after a stop
/// can be taken with crossbeam's `try_recv` and `try_iter`, which ask nobody.
///
/// **A `select!` of your own** sees a cancel by [`CancelToken::receiver`], and [`checkpoint`] turns it into an error. An arm
/// that gets its message by [`received`](channel::received) tells a stop from a channel that is closed, which may come first
/// where the senders stop, too:
///
/// ```
/// use tassel::{CancelToken, channel, checkpoint, scope};
///
/// let (_work, inbox) = channel::unbounded::<u32>();
/// let (_urgent, signals) = channel::unbounded::<u32>();
/// let done = scope(|s| {
///     s.spawn(move || -> tassel::Result<()> {
///         let stop = CancelToken::current().receiver();
///         loop {
///             channel::select! {
///                 recv(inbox) -> number => println!("{}", channel::received(number)?),
///                 recv(signals) -> number => println!("{}", channel::received(number)?),
///                 recv(stop) -> _ => checkpoint()?,
///             }
///         }
///     });
///     s.cancel();
///     Ok(())
/// });
/// assert!(done.is_ok());
/// ```
///
/// **Cost.** With a value or room there, it is crossbeam's and a look at the place. A thread that must wait tries as often as
/// crossbeam's does before it sleeps; the pool hears of it only then, and finds its place another worker at once.
///
/// **In virtual time** a thread that waits here looks for a value whenever somebody has done something and nobody else is
/// ready, so the order repeats, whichever end calls plain crossbeam methods that do not block. One that blocks in a plain
/// method, or in a `select!`, is found asleep after a while, as in any call that is not the library's. Timers of crossbeam
/// (`after`, `tick`) go by the real clock: use timeouts and deadlines.
#[cfg(not(any(tassel_loom, tassel_shuttle)))]
pub mod channel {
    pub use crate::wait::channel::{
        Iter, RecvError, SendError, iter, received, recv, recv_deadline, recv_timeout, send, send_deadline,
        send_timeout, sent,
    };
    #[doc(no_inline)]
    pub use crossbeam::channel::{Receiver, Sender, bounded, never, select, unbounded};
}

/// Calls that are left behind where somebody stops who waits for them: options and limits of [`abandon`](fn@crate::abandon).
pub mod abandon {
    pub use crate::wait::abandon::{Limit, Options, Stats, stats};
}

/// Pictures of what runs.
pub mod snapshot {
    pub use crate::observe::snapshot::{Entry, Kind, Resource, Snapshot, State, all, below, of};
}

/// Long chapters.
pub mod docs {
    #[doc = include_str!("../docs/design.md")]
    pub mod design {}
    #[doc = include_str!("../docs/recipes.md")]
    pub mod recipes {}
    // The chapter's plot is a file beside it, and here in the text: of two definitions of a link, the first counts.
    #[doc = concat!("[plot]: ", include_str!("../docs/costs.uri"), "\n\n", include_str!("../docs/costs.md"))]
    pub mod costs {}
}

#[cfg(doctest)]
#[doc = include_str!("../tests/compile_fail.md")]
pub mod compile_fail {}
