//! What users open and hold: scopes, their options, jobs and handles, and regions.
//!
//! | file | owns |
//! |---|---|
//! | `open` | [`scope`](open::scope), [`Scope`](open::Scope) and its builders: the public face |
//! | `options` | [`ScopeOptions`](options::ScopeOptions) |
//! | `core` | what a scope's threads share: queue, running jobs, failures |
//! | `job` | one job: its state and outcome |
//! | `run` | running a job, sweeping it, giving it up |
//! | `threads` | where jobs get their threads; the wait at the exit |
//! | `exit` | what the body's end means; the result |
//! | `handle` | [`JobHandle`](handle::JobHandle) |
//! | `join` | two pieces of code at once |
//! | `region` | time limits, shields and cleanup, without jobs |
//!
//! # Does not know
//!
//! OS threads: the pool has them.

pub(crate) mod core;
pub(crate) mod exit;
pub(crate) mod handle;
pub(crate) mod job;
pub(crate) mod join;
pub(crate) mod open;
pub(crate) mod options;
pub(crate) mod region;
pub(crate) mod run;
mod threads;
