//! What a joiner is told.
//!
//! The scope owns every failure, so a joiner learns *that* the job failed, and the text; the error itself is in the
//! group. A joiner that passes this on with `?` does not make the failure two: the group recognises it by the id.
//!
//! # Does not know
//!
//! Handles and waiting.

use std::{error::Error, fmt, sync::Arc};

use super::leaf::JobId;
use crate::cancel::reason::{Cancelled, Reason, is_looked_for};

/// Tells why joining a job gave no value.
///
/// The job's error itself stays with its scope, which returns it in the [`ErrorGroup`](crate::ErrorGroup). Passing a
/// `JoinError` on with `?` is right: a failure that only tells of one that the group already has is left out of it, and
/// the context added to it becomes notes of the original.
///
/// # Examples
///
/// ```
/// use anyhow::Context;
///
/// let group = tassel::scope(|s| {
///     let job = s.job("load").spawn(|| -> tassel::Result<()> { anyhow::bail!("disk full") });
///     job.join().context("while starting")?;
///     Ok(())
/// })
/// .unwrap_err();
///
/// assert_eq!(group.len(), 1);
/// assert_eq!(group.primary().notes(), ["while starting"]);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// The job returned an error.
    Failed {
        /// The job.
        id: JobId,
        /// What it is called.
        name: Arc<str>,
        /// Its error with all causes.
        text: Arc<str>,
    },
    /// The job panicked.
    Panicked {
        /// The job.
        id: JobId,
        /// What it is called.
        name: Arc<str>,
        /// The message of the panic.
        text: Arc<str>,
    },
    /// The job was cancelled.
    Cancelled {
        /// The job.
        id: JobId,
        /// What it is called.
        name: Arc<str>,
        /// Why.
        reason: Reason,
        /// Whether it had started; if not, it never ran.
        started: bool,
    },
    /// The joiner was told to stop while it waited. Nothing is known of the job.
    You(Cancelled),
    /// The jobs would wait for each other for ever.
    WouldDeadlock {
        /// The names of those who would wait, each for the next and the last for the first.
        cycle: Vec<String>,
    },
}

impl JoinError {
    /// Tells whether the job panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self, JoinError::Panicked { .. })
    }

    /// Tells whether the *job* was cancelled. `false` for [`JoinError::You`]: there the joiner was.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, JoinError::Cancelled { .. })
    }

    /// The failed job of which this tells, if the leaf of that is what counts.
    pub(super) fn told(&self) -> Option<JobId> {
        match self {
            JoinError::Failed { id, .. } | JoinError::Panicked { id, .. } => Some(*id),
            JoinError::Cancelled { .. } | JoinError::You(_) | JoinError::WouldDeadlock { .. } => None,
        }
    }

    pub(super) fn stop(&self) -> Option<Cancelled> {
        match self {
            JoinError::Cancelled { reason, .. } => Some(Cancelled::new(reason.clone())),
            JoinError::You(stop) => Some(stop.clone()),
            JoinError::Failed { .. } | JoinError::Panicked { .. } | JoinError::WouldDeadlock { .. } => None,
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Failed { name, text, .. } => write!(f, "job `{name}` failed: {text}"),
            JoinError::Panicked { name, text, .. } => write!(f, "job `{name}` panicked: {text}"),
            JoinError::Cancelled { name, reason, started, .. } => {
                let before = if *started { "" } else { " before it started" };
                write!(f, "job `{name}` was cancelled{before}{}", reason.behind_cancelled())
            }
            JoinError::You(_) => f.write_str("the joiner was stopped"),
            JoinError::WouldDeadlock { cycle } => {
                f.write_str("joining would deadlock")?;
                if !cycle.is_empty() {
                    f.write_str(": ")?;
                }
                write_ring(f, cycle)
            }
        }
    }
}

impl Error for JoinError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            _ if is_looked_for() => Some(self),
            JoinError::You(stop) => Some(stop),
            _ => None,
        }
    }
}

/// Who waits for whom.
pub(super) fn write_ring(f: &mut fmt::Formatter<'_>, cycle: &[String]) -> fmt::Result {
    let Some(first) = cycle.first() else { return Ok(()) };
    write!(f, "{} waits for ", Quoted(first))?;
    if cycle.len() == 1 {
        return f.write_str("itself");
    }
    for next in &cycle[1..] {
        write!(f, "{}, which waits for ", Quoted(next))?;
    }
    write!(f, "{}", Quoted(first))
}

/// Who waits, in the middle of a sentence. Bodies, and threads outside any scope, can wait without being joined, so only here
/// are they called so.
pub(super) struct Quoted<'n>(pub(super) &'n str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "body" => f.write_str("the body"),
            "thread" => f.write_str("a thread"),
            name => write!(f, "job `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::given::{deadline, plain, stop};

    fn told(error: &JoinError) -> String {
        plain(&format!("{:#}", anyhow::Error::new(error.clone())))
    }

    #[test]
    fn a_join_error_says_what_became_of_the_job() {
        let (id, name, text) = (JobId::new(1), Arc::from("a"), Arc::from("disk full"));
        let failed = JoinError::Failed { id, name, text };
        assert_eq!(told(&failed), "job `a` failed: disk full");
        let (name, text) = (Arc::from("a"), Arc::from("boom"));
        assert_eq!(told(&JoinError::Panicked { id, name, text }), "job `a` panicked: boom");
        let cancelled = |started| JoinError::Cancelled { id, name: "a".into(), reason: deadline("crawl"), started };
        assert_eq!(told(&cancelled(false)), "job `a` was cancelled before it started: deadline of 2s (x.rs:1)");
        assert_eq!(told(&cancelled(true)), "job `a` was cancelled: deadline of 2s (x.rs:1)");
    }

    #[test]
    fn what_became_of_the_job_can_be_asked() {
        let (id, name, text) = (JobId::new(1), Arc::from("a"), Arc::from("boom"));
        let asked = |error: JoinError| (error.is_panic(), error.is_cancelled());
        assert_eq!(asked(JoinError::Panicked { id, name, text }), (true, false));
        let (name, text) = (Arc::from("a"), Arc::from("disk full"));
        assert_eq!(asked(JoinError::Failed { id, name, text }), (false, false));
        let cancelled = JoinError::Cancelled { id, name: "a".into(), reason: deadline("crawl"), started: true };
        assert_eq!(asked(cancelled), (false, true));
        assert_eq!(asked(JoinError::You(stop("crawl"))), (false, false));
        assert_eq!(asked(JoinError::WouldDeadlock { cycle: Vec::new() }), (false, false));
    }

    #[test]
    fn the_stop_of_the_joiner_is_the_source() {
        let you = JoinError::You(stop("crawl"));
        assert_eq!(you.to_string(), "the joiner was stopped");
        assert!(you.source().unwrap().is::<Cancelled>());
        assert_eq!(told(&you), "the joiner was stopped: scope `crawl` was stopped: deadline of 2s (x.rs:1)");
    }

    #[test]
    fn a_cycle_is_told_from_end_to_end() {
        let cycle =
            |names: &[&str]| JoinError::WouldDeadlock { cycle: names.iter().map(ToString::to_string).collect() };
        assert_eq!(told(&cycle(&["a"])), "joining would deadlock: job `a` waits for itself");
        assert_eq!(
            told(&cycle(&["a", "b"])),
            "joining would deadlock: job `a` waits for job `b`, which waits for job `a`"
        );
        assert_eq!(
            told(&cycle(&["a", "b", "body"])),
            "joining would deadlock: job `a` waits for job `b`, which waits for the body, which waits for job `a`"
        );
        assert_eq!(told(&cycle(&[])), "joining would deadlock");
    }
}
