//! The threads that jobs run on: growing, feeding, shrinking.
//!
//! Most programs need nothing of this: there is one global pool, which has as many threads as the jobs need and lets them
//! go. A pool of one's own has limits of its own, and can be shut down.
//!
//! # Thread-locals
//!
//! A thread runs many jobs, one after the other, and a job may run on the thread of its scope's opener or of its joiner.
//! What a job leaves in a thread-local of yours stays there, for whichever job comes next, and is dropped when the thread
//! ends: of a pool's thread, after its `keep_alive` or in [`shutdown`](Pool::shutdown). Such a destructor may open scopes.
//! A panic in it ends the process, as in any thread.
//!
//! # The end of the process
//!
//! When `main` returns, or somebody calls [`std::process::exit`], the process ends. Threads of a pool do not hold it up:
//! jobs that run then, in scopes of other threads, are cut off where they stand, and nothing of theirs is dropped.
//!
//! # Fork
//!
//! Of all threads only the one that calls `fork` is in the child. A child starts with an empty global pool, and everything
//! works there as in its parent: scopes on that pool or on one that it builds, sleeps, deadlines, cancels, and so in a child
//! of its own. Threads of the parent that sleep at the fork, idle or in any wait, do it no harm. A [`Pool`] made before the
//! fork refuses scopes there, with a [`Shutdown`](crate::ReasonKind::Shutdown) that says why.
//!
//! A child that was forked inside a scope can look at the time, at tokens and at snapshots, but it can neither open scopes on
//! that scope's pool nor leave the scope, which would wait for jobs that only the parent has: let it `exec` or `exit`.
//!
//! As POSIX has it, a lock that another thread held at the fork stays locked in the child. The library's own for the whole
//! process are made anew there; those of tokens, barriers, events and pools that the parent made are not, nor those of std,
//! which holds one while a thread starts or ends, and while it makes a backtrace. And a thread that had just found a lock of
//! the library taken leaves it in disorder: `parking_lot`, whose locks they are, keeps the queue of those who wait in the
//! memory of their threads, which the child uses again. So fork while no job runs, or `exec` right after;
//! [`std::process::Command`] does.

// | file | owns |
// |---|---|
// | `source` | a scope as the pool sees it |
// | `state` | what a pool knows under its lock: listed sources, counts, whom to call |
// | `core` | what scopes ask of a pool: to be listed, threads, to be counted in and out, shutdown |
// | `worker` | a worker's life |
// | `watch` | what happens while sources are listed: jobs that nobody came for, blocking that nobody announced, refused starts, starvation |
// | `here` | what a thread has to do with pools |
// | `limits` | how many threads the system lets a process have |
// | `roster` | who is idle: the hand-off of a wake-up against a worker that leaves |
// | `face` | `Pool`, `PoolBuilder`, `PoolStats` |
//
// Does not know what a scope or an error is: it sees a source of jobs.

mod core;
mod face;
mod here;
mod limits;
mod roster;
mod source;
mod state;
#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests;
mod watch;
mod worker;

pub use self::face::{BuildError, Pool, PoolBuilder, PoolStats, ShutdownError};
pub(crate) use self::{
    core::{PoolCore, Refused},
    here::{apart, in_use, while_blocked},
    source::{Source, Turns},
    worker::{set_arrived, set_coming},
};
