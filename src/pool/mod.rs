//! Threads: growing, feeding, shrinking.
//!
//! | file | owns |
//! |---|---|
//! | `core` | [`PoolCore`]: tickets, idle workers, when to grow; the worker's loop |
//! | `roster` | who is idle: the hand-off of a wake-up against a worker that leaves |
//! | `face` | [`Pool`], [`PoolBuilder`], [`PoolStats`]: the public face |
//!
//! # Does not know
//!
//! What a scope or an error is: it sees a [`Source`] of jobs.

mod core;
mod face;
mod roster;

pub(crate) use self::core::{PoolCore, Source, UsePool, while_blocked};
pub use self::face::{BuildError, Pool, PoolBuilder, PoolStats, ShutdownError};
