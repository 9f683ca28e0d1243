//! A picture of a scope at one moment: [`of`].
//!
//! # Promises
//!
//! 1. Taking one stops nobody, and takes one lock of the scope for as long as it lists the jobs.
//! 2. A job shows from its spawn to its end, in the order of spawning.
//!
//! # Does not know
//!
//! What jobs do; only what they wait in.

use crate::{cancel::current::Activity, error::JobId, scope::open::Scope};
use std::fmt;

/// What a job, or a body, does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// It waits for a thread.
    Queued,
    /// It moves, or blocks where the library does not see it.
    Running,
    /// It waits in a call of the library, such as `sleep` or `join`.
    Waiting {
        /// The call.
        on: &'static str,
    },
}

impl State {
    fn of(activity: Activity) -> Self {
        match activity {
            Activity::Running => State::Running,
            waiting => State::Waiting { on: waiting.name() },
        }
    }

    /// Tells whether it moves at this moment, as far as the library sees.
    #[must_use]
    pub fn is_running(self) -> bool {
        self == State::Running
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Queued => f.write_str("queued"),
            State::Running => f.write_str("running"),
            State::Waiting { on } => write!(f, "waiting in {on}"),
        }
    }
}

/// One job in a [`ScopeSnapshot`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobSnapshot {
    /// Its name, or its spawn place and number.
    pub name: String,
    /// The number that its handle shows as well.
    pub id: JobId,
    /// What it does.
    pub state: State,
}

/// A scope at one moment; see [`of`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScopeSnapshot {
    /// Its name, or the place that opened it.
    pub name: String,
    /// What the body does; after its end it waits in `scope exit`.
    pub body: State,
    /// The jobs that are alive, in the order of spawning.
    pub jobs: Vec<JobSnapshot>,
}

/// Takes a picture of a scope: its body and its live jobs.
///
/// From any thread, at any time; stops nobody. A job whose thread runs another one inline is *waiting*, the inline one
/// *running*.
///
/// # Examples
///
/// ```
/// tassel::scope(|s| {
///     let picture = tassel::snapshot::of(s);
///     assert!(picture.body.is_running() && picture.jobs.is_empty());
///     Ok(())
/// })?;
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[must_use]
pub fn of(scope: &Scope<'_, '_>) -> ScopeSnapshot {
    let core = scope.core();
    let jobs = core.alive().into_iter().map(|job| JobSnapshot {
        name: job.strand.label.name().to_string(),
        id: job.id(),
        state: if job.has_started() { State::of(job.strand.activity()) } else { State::Queued },
    });
    ScopeSnapshot { name: core.label().name().to_string(), body: State::of(core.body.activity()), jobs: jobs.collect() }
}
