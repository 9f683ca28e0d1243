//! What runs, as plain data.
//!
//! # Does not know
//!
//! How anything is run: it only reads.

pub(crate) mod snapshot;
