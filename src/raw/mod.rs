//! All the `unsafe` of the crate, in small types that are safe to use from outside.
//!
//! # Does not know
//!
//! Scopes, pools, errors, cancellation.

mod fork;
mod tether;

pub(crate) use fork::{PerProcess, generation};
pub(crate) use tether::{Face, Home, Tally, Tether, Tied, tether};
