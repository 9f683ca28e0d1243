//! What runs, as plain data.
//!
//! # Does not know
//!
//! How anything is run: it only reads.

mod drawing;
pub(crate) mod snapshot;
