//! All the `unsafe` of the crate, in small types that are safe to use from outside.
//!
//! # Does not know
//!
//! Scopes, pools, errors, cancellation.

mod cell;
mod fork;
mod stack;
mod tether;

pub(crate) use cell::{Ended, Head, Reader, Shared};
pub(crate) use fork::{PerProcess, generation};
pub(crate) use stack::{Layer, Stack};
pub(crate) use tether::{Face, Held, Home, Kept, Lent, Tally, Tether, Tied, tether};
