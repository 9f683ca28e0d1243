//! The threads that jobs run on: growing, feeding, shrinking.
//!
//! Most programs need nothing of this: there is one global pool, which has as many threads as the jobs need and lets them
//! go. A pool of one's own has limits of its own, and can be shut down.

// | file | owns |
// |---|---|
// | `core` | tickets, idle workers, when to grow; the worker's loop |
// | `roster` | who is idle: the hand-off of a wake-up against a worker that leaves |
// | `face` | `Pool`, `PoolBuilder`, `PoolStats` |
//
// Does not know what a scope or an error is: it sees a source of jobs.

mod core;
mod face;
mod roster;
#[cfg(all(test, not(tassel_loom)))]
mod tests;

pub(crate) use self::core::{PoolCore, Source, Turns, UsePool, apart, set_arrived, set_coming, while_blocked};
pub use self::face::{BuildError, Pool, PoolBuilder, PoolStats, ShutdownError};
