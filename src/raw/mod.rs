//! All the `unsafe` of the crate, in small types that are safe to use from outside.
//!
//! # Does not know
//!
//! Scopes, pools, errors, cancellation.

mod cell;
#[cfg(not(tassel_shuttle))]
mod fork;
mod stack;
mod tether;

#[cfg(tassel_shuttle)]
pub(crate) use crate::prim::{PerProcess, generation};
pub(crate) use cell::{Ended, Head, Reader, Shared};
#[cfg(not(tassel_shuttle))]
pub(crate) use fork::{PerProcess, generation};
pub(crate) use stack::{Layer, Stack};
#[cfg(all(test, any(tassel_loom, tassel_shuttle)))]
pub(crate) use tether::given;
pub(crate) use tether::{Face, Held, Home, Kept, Lent, Tally, Tether, Tied, tether};
