//! Why a lock was not taken.
//!
//! # Does not know
//!
//! Locks and waiting.

use std::{error::Error, fmt, panic::Location};

use super::join::{Quoted, write_ring};
use crate::cancel::reason::{Cancelled, is_looked_for};

/// Tells why a wait for a [`Mutex`](crate::sync::Mutex), [`RwLock`](crate::sync::RwLock), [`Condvar`](crate::sync::Condvar)
/// or [`OnceCell`](crate::sync::OnceCell) gave nothing.
///
/// Passing it on with `?` is right: a [`LockError::Cancelled`] is to the scope the [`Cancelled`] that it holds, and reads like
/// it.
///
/// # Examples
///
/// ```
/// use tassel::sync::{LockError, Mutex};
/// let mutex = Mutex::new(1);
/// let guard = mutex.lock()?;
/// let again = mutex.lock(); // a mutex of std would hang, or panic
/// assert!(matches!(again, Err(LockError::WouldDeadlock { .. })));
/// // waiting for a mutex (src/main.rs:4) would deadlock: this thread has it already, and must let it go first
/// # Ok::<(), tassel::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LockError {
    /// The code here was told to stop.
    Cancelled(Cancelled),
    /// The code here would wait for itself for ever: its own thread has the lock, or whoever has it waits for this code.
    WouldDeadlock {
        /// What was asked for: ``mutex `accounts` ``, ``lock `config` `` (an `RwLock`) or ``cell `table` ``; without a name,
        /// `a mutex`, `a lock` or `a cell`.
        lock: String,
        /// Where it was asked for.
        place: &'static Location<'static>,
        /// The names of those who would wait, each for the next and the last for the first. If it is one, it has already what
        /// it asks for.
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
            LockError::Cancelled(stop) => stop.fmt(f),
            LockError::WouldDeadlock { lock, place, cycle } => {
                write!(f, "waiting for {lock} ({}:{}) would deadlock: ", place.file(), place.line())?;
                match cycle.as_slice() {
                    [only] => write_own(f, lock, only),
                    ring => write_ring(f, ring),
                }
            }
        }
    }
}

/// Why a lock is asked for in vain by who has it.
fn write_own(f: &mut fmt::Formatter<'_>, lock: &str, who: &str) -> fmt::Result {
    match who {
        "thread" => f.write_str("this thread")?,
        who => write!(f, "{}", Quoted(who))?,
    }
    // What is made is not there to be let go.
    let is_made = lock.trim_start_matches("a ").starts_with("cell");
    f.write_str(if is_made { " is making its value" } else { " has it already, and must let it go first" })
}

impl Error for LockError {
    /// None, as of the [`Cancelled`] whose text it has; to the library's own search, itself.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        is_looked_for().then_some(self as _)
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
        assert_eq!(text, "scope `crawl` was stopped: deadline of 2s (x.rs:1)");
        for error in [anyhow::Error::new(stopped.clone()), Mine::from(stopped).into()] {
            assert!(stop_in(&error).is_some());
            assert_eq!(around_stop(&error), [""; 0], "it has nothing to add");
        }
    }

    #[test]
    fn a_deadlock_is_no_stop_and_names_who_would_wait() {
        let place = Location::caller();
        let deadlock = |names: &[&str]| {
            let cycle = names.iter().map(ToString::to_string).collect();
            LockError::WouldDeadlock { lock: "mutex `accounts`".into(), place, cycle }
        };
        assert!(stop_in(&Mine::from(deadlock(&["a"])).into()).is_none());
        let told = |names: &[&str], text| {
            let at = format!("{}:{}", place.file(), place.line());
            assert_eq!(
                deadlock(names).to_string(),
                format!("waiting for mutex `accounts` ({at}) would deadlock: {text}")
            );
        };
        told(&["a"], "job `a` has it already, and must let it go first");
        told(&["thread"], "this thread has it already, and must let it go first");
        let cell = LockError::WouldDeadlock { lock: "a cell".into(), place, cycle: vec!["a".into()] };
        assert!(cell.to_string().ends_with(" would deadlock: job `a` is making its value"), "{cell}");
        told(&["a", "b"], "job `a` waits for job `b`, which waits for job `a`");
    }
}
