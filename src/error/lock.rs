//! Why a lock was not taken.
//!
//! # Does not know
//!
//! Locks and waiting.

use std::{error::Error, fmt};

use super::join::write_ring;
use crate::cancel::reason::{Cancelled, is_looked_for};

/// Tells why a wait for a [`Mutex`](crate::sync::Mutex), [`RwLock`](crate::sync::RwLock), [`Condvar`](crate::sync::Condvar)
/// or [`OnceCell`](crate::sync::OnceCell) gave nothing.
///
/// Passing it on with `?` is right: a scope takes [`LockError::Cancelled`] for the stop that it is.
///
/// # Examples
///
/// ```
/// use tassel::sync::{LockError, Mutex};
/// let mutex = Mutex::new(1);
/// let guard = mutex.lock()?;
/// let again = mutex.lock(); // a mutex of std would hang, or panic
/// assert!(matches!(again, Err(LockError::WouldDeadlock { .. })));
/// # Ok::<(), tassel::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LockError {
    /// The code here was told to stop.
    Cancelled(Cancelled),
    /// The code here would wait for itself for ever: its own thread has the lock, or whoever has it waits for this code.
    WouldDeadlock {
        /// The names of those who would wait, each for the next and the last for the first.
        cycle: Vec<String>,
    },
}

impl LockError {
    /// Tells whether the code here was told to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, LockError::Cancelled(_))
    }

    pub(super) fn stop(&self) -> Option<&Cancelled> {
        match self {
            LockError::Cancelled(stop) => Some(stop),
            LockError::WouldDeadlock { .. } => None,
        }
    }
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Cancelled(_) => f.write_str("the wait for a lock was stopped"),
            LockError::WouldDeadlock { cycle } => {
                f.write_str("locking would deadlock")?;
                write_ring(f, cycle)
            }
        }
    }
}

impl Error for LockError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            _ if is_looked_for() => Some(self),
            LockError::Cancelled(stop) => Some(stop),
            LockError::WouldDeadlock { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{
        around_stop,
        given::{plain, stop},
        stop_in,
    };

    #[derive(Debug, thiserror::Error)]
    enum Mine {
        #[error(transparent)]
        Lock(#[from] LockError),
    }

    #[test]
    fn a_lock_error_says_why_and_a_stop_in_it_is_found() {
        let stopped = LockError::Cancelled(stop("crawl"));
        assert!(stopped.is_cancelled());
        let text = plain(&format!("{:#}", anyhow::Error::new(stopped.clone())));
        assert_eq!(text, "the wait for a lock was stopped: scope `crawl` was stopped: deadline of 2s (x.rs:1)");
        for error in [anyhow::Error::new(stopped.clone()), Mine::from(stopped).into()] {
            assert!(stop_in(&error).is_some());
            assert_eq!(around_stop(&error), [""; 0], "it has nothing to add");
        }
    }

    #[test]
    fn a_deadlock_is_no_stop_and_names_who_would_wait() {
        let deadlock =
            |names: &[&str]| LockError::WouldDeadlock { cycle: names.iter().map(ToString::to_string).collect() };
        assert!(stop_in(&Mine::from(deadlock(&["a"])).into()).is_none());
        let told = |names: &[&str]| deadlock(names).to_string();
        assert_eq!(told(&["a"]), "locking would deadlock: job `a` waits for itself");
        assert_eq!(told(&["thread"]), "locking would deadlock: a thread waits for itself");
        assert_eq!(told(&["a", "b"]), "locking would deadlock: job `a` waits for job `b`, which waits for job `a`");
    }
}
