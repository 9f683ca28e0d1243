//! The tree that a cancel walks down: nodes, the public handle on them, and where the running code stands in it.
//!
//! # Does not know
//!
//! Jobs, scopes, pools, errors. It pokes seats, and calls one upward hook per node, outside its locks.

pub(crate) mod current;
pub(crate) mod node;
pub(crate) mod reason;
pub(crate) mod token;
