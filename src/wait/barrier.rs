//! A meeting point for a fixed number of threads: [`Barrier`].
//!
//! # Promises
//!
//! 1. The last to arrive opens the barrier for all, and it can be used again at once.
//! 2. A waiter that is told to stop takes its arrival back, unless the barrier has opened: then it passes.
//!
//! # Why no wake-up is lost
//!
//! A waiter enters its seat under the lock under which the last one opens the barrier; the seats are poked after it.

use crate::{
    cancel::{current::Activity, reason::Cancelled},
    park::seat::Seat,
    prim::Mutex,
    wait::{self, End},
};
use std::{fmt, sync::Arc};

#[derive(Default)]
struct State {
    /// Counts openings.
    generation: u64,
    waiting: Vec<Arc<Seat>>,
}

/// Lets `n` threads wait for each other; as [`std::sync::Barrier`], but a cancel ends the wait.
///
/// # Examples
///
/// ```
/// use tassel::{scope, sync::Barrier};
/// let barrier = Barrier::new(2);
/// scope(|s| {
///     s.spawn(|| barrier.wait().map(drop).map_err(Into::into));
///     barrier.wait()?;
///     Ok(())
/// })?;
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
pub struct Barrier {
    n: usize,
    state: Mutex<State>,
}

impl Barrier {
    /// Makes a barrier for `n` threads. With 0 it acts as with 1: nobody waits.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Barrier { n, state: Mutex::new(State::default()) }
    }

    /// Blocks until `n` threads have come. Returns `true` to one of them, the last.
    ///
    /// # Cancellation
    ///
    /// Always a checkpoint. A waiter that is told to stop does not count any more.
    ///
    /// # Errors
    ///
    /// Returns [`Cancelled`] if the code here is to stop.
    pub fn wait(&self) -> Result<bool, Cancelled> {
        let mut arrived = None;
        let waited = wait::wait(Activity::Barrier, None, |seat| {
            let mut state = self.state.lock();
            match arrived {
                Some(generation) => (state.generation != generation).then_some(false),
                None if state.waiting.len() + 1 >= self.n => {
                    state.generation += 1;
                    let others = std::mem::take(&mut state.waiting);
                    drop(state);
                    for other in others {
                        other.poke();
                    }
                    Some(true)
                }
                None => {
                    arrived = Some(state.generation);
                    state.waiting.push(Arc::clone(seat));
                    None
                }
            }
        });
        match waited {
            Ok(leads) => Ok(leads),
            // There is no time limit: a wait without data was stopped.
            Err(End::TimedOut) => Ok(false),
            Err(End::Stopped(stop)) => {
                let Some(generation) = arrived else { return Err(stop) };
                let mut state = self.state.lock();
                if state.generation != generation {
                    return Ok(false); // it opened meanwhile: data wins
                }
                // The seat is this thread's only one, and it waits here once.
                let mine = crate::park::seat::with_chair(|chair| chair.seat().id);
                if let Some(at) = state.waiting.iter().position(|seat| seat.id == mine) {
                    drop(state.waiting.remove(at));
                }
                Err(stop)
            }
        }
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.state.lock().waiting.len();
        f.debug_struct("Barrier").field("n", &self.n).field("waiting", &waiting).finish()
    }
}
