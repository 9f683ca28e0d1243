//! The tree that a cancel walks down: nodes, the public handle on them, and where the running code stands in it.
//!
//! | file | owns |
//! |---|---|
//! | `node` | a place in the tree: its links, its looks, who is to be told |
//! | `mark` | how a cancel, or a moved instant, goes down the tree |
//! | `deadline` | the instants of a node: moving, passing, watching them |
//! | `callback` | calling each callback of a cancel once |
//! | `reason` | why code was told to stop |
//! | `roots` | the scopes that stand below no other |
//! | `token` | the public handle on a node |
//! | `current` | where the running code stands |
//!
//! # Does not know
//!
//! Jobs, scopes, pools, errors. It has seats poked, and calls one upward hook per node, outside its locks.

pub(crate) mod callback;
pub(crate) mod current;
pub(crate) mod deadline;
pub(crate) mod mark;
pub(crate) mod node;
pub(crate) mod reason;
pub(crate) mod roots;
pub(crate) mod token;
