#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod mutant;

mod cancel;
mod error;
mod observe;
mod park;
pub mod pool;
mod prim;
#[expect(unsafe_code, reason = "the one place for it; each block is argued")]
mod raw;
mod scope;
mod wait;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(all(test, tassel_loom))]
mod model;

#[doc(inline)]
pub use crate::{
    cancel::{
        reason::{Cancelled, Reason, ReasonKind},
        token::{CancelReceiver, CancelToken, OnCancel},
    },
    error::{Child, ErrorGroup, JobId, JoinError, Leaf, OrStopped, SubGroup},
    scope::{
        handle::JobHandle,
        join::join,
        open::{IsolatedBuilder, JobBuilder, Return, Scope, ScopeCancelled, ScopeOnCancel, scope},
        options::{OnFailure, OnPanic, ScopeOptions},
    },
    wait::blocking::blocking,
    wait::time::{checkpoint, is_cancelled, now, sleep, sleep_until, yield_now},
};

/// What bodies, jobs and regions return: [`anyhow::Result`].
pub type Result<T, E = anyhow::Error> = anyhow::Result<T, E>;

/// The error of jobs, bodies and regions: [`anyhow::Error`].
pub use anyhow::Error;

/// Time limits, shields and cleanup, without jobs.
pub mod region {
    pub use crate::{
        cancel::reason::TimedOut,
        scope::region::{cleanup, fail_after, fail_at, move_on_after, move_on_at, shield, shield_unbounded},
    };
}

/// Meeting points, locks and permits whose waits a cancel ends.
pub mod sync {
    pub use crate::wait::{
        barrier::Barrier,
        event::Event,
        semaphore::{Permit, Semaphore},
    };
}

/// Pictures of what runs.
pub mod snapshot {
    pub use crate::observe::snapshot::{Entry, Kind, Resource, Snapshot, State, all, below, of};
}

/// Long chapters.
pub mod docs {
    #[doc = include_str!("../docs/design.md")]
    pub mod design {}
    #[doc = include_str!("../docs/recipes.md")]
    pub mod recipes {}
    #[doc = include_str!("../docs/costs.md")]
    pub mod costs {}
}

#[cfg(doctest)]
#[doc = include_str!("../tests/compile_fail.md")]
pub mod compile_fail {}
