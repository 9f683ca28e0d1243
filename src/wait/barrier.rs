//! A meeting point for a fixed number of threads: [`Barrier`].
//!
//! # Promises
//!
//! 1. The last to arrive opens the barrier for all, and it can be used again at once: who arrives then is of the next
//!    generation.
//! 2. A waiter that is told to stop takes its arrival back, unless the barrier has opened: then it passes (S40).
//!
//! # Does not know
//!
//! Scopes: any thread may wait.
//!
//! # Why no wake-up is lost
//!
//! A waiter enters its seat under the lock under which the last one counts the opening, and looks at that count before
//! it parks; the seats are poked after it, outside the lock.

use crate::{
    cancel::{current::Activity, reason::Cancelled},
    park::{seat::Seat, standstill::Wait},
    prim::Mutex,
    wait::{self, Call},
};
use slab::Slab;
use std::{fmt, mem, sync::Arc};

#[derive(Default)]
struct State {
    /// Counts openings.
    generation: u64,
    /// Who has arrived since the last opening.
    waiting: Slab<Arc<Seat>>,
}

/// Lets `n` threads wait for each other; as [`std::sync::Barrier`], but a cancel ends the wait.
///
/// # Examples
///
/// ```
/// use tassel::{scope, sync::Barrier};
/// let barrier = Barrier::new(2);
/// scope(|s| {
///     s.spawn(|| -> tassel::Result<()> {
///         barrier.wait()?;
///         Ok(())
///     });
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
    /// Always a checkpoint. A waiter that is told to stop does not count any more: the barrier then waits for one more
    /// thread. If the barrier opens at the same time, the waiter passes and meets the stop at its next checkpoint.
    ///
    /// # Errors
    ///
    /// Returns [`Cancelled`] if the code here is to stop.
    ///
    /// # Examples
    ///
    /// ```
    /// let barrier = tassel::sync::Barrier::new(1);
    /// assert!(barrier.wait()?);
    /// # Ok::<(), tassel::Cancelled>(())
    /// ```
    #[track_caller]
    pub fn wait(&self) -> Result<bool, Cancelled> {
        // The generation of our arrival and its key there.
        let mut arrival = None;
        let waited = wait::wait(&Call::new(Activity::Barrier, Wait::Closed), None, |seat| {
            let mut state = self.state.lock();
            if let Some((generation, _)) = arrival {
                return (state.generation != generation).then_some(false);
            }
            if state.waiting.len() + 1 < self.n {
                let key = state.waiting.insert(Arc::clone(seat));
                arrival = Some((state.generation, key));
                return None;
            }
            state.generation += 1;
            let others = mem::take(&mut state.waiting);
            drop(state);
            for (_, other) in others {
                other.poke();
            }
            Some(true)
        });
        let stop = match waited {
            Ok(is_last) => return Ok(is_last),
            Err(end) => end.stop(),
        };
        if let Some((generation, key)) = arrival {
            let mut state = self.state.lock();
            if state.generation != generation && !mutant!("opening_lost_to_a_stop") {
                return Ok(false); // it has opened meanwhile, and counted us
            }
            let seat = state.waiting.try_remove(key);
            drop(state);
            drop(seat);
        }
        Err(stop)
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.state.lock().waiting.len();
        f.debug_struct("Barrier").field("n", &self.n).field("waiting", &waiting).finish()
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::wait::given::{cancel, node, soon, stand, stopped_after, until};
    use std::thread;

    #[test]
    fn one_of_each_generation_is_the_last() {
        soon(|| {
            let barrier = Barrier::new(4);
            let leaders = thread::scope(|s| {
                let wait = || (0..50).filter(|_| matches!(barrier.wait(), Ok(true))).count();
                let threads: Vec<_> = (0..4).map(|_| s.spawn(wait)).collect();
                threads.into_iter().filter_map(|thread| thread.join().ok()).sum::<usize>()
            });
            assert_eq!(leaders, 50);
            assert_eq!(format!("{barrier:?}"), "Barrier { n: 4, waiting: 0 }");
        });
    }

    #[test]
    fn none_and_one_do_not_wait() {
        assert!(matches!(Barrier::new(0).wait(), Ok(true)));
        let one = Barrier::new(1);
        assert!(matches!(one.wait(), Ok(true)) && matches!(one.wait(), Ok(true)));
    }

    #[test]
    fn a_cancelled_waiter_takes_its_arrival_back() {
        soon(|| {
            let barrier = Arc::new(Barrier::new(2));
            let node = node(None);
            let waiter = thread::spawn({
                let (barrier, node) = (Arc::clone(&barrier), Arc::clone(&node));
                move || stand(&node, || barrier.wait())
            });
            until(|| barrier.state.lock().waiting.len() == 1);
            cancel(&node);
            assert!(matches!(waiter.join(), Ok(Err(_))));
            assert!(barrier.state.lock().waiting.is_empty());
            let second = thread::spawn({
                let barrier = Arc::clone(&barrier);
                move || barrier.wait()
            });
            until(|| barrier.state.lock().waiting.len() == 1);
            assert!(matches!(barrier.wait(), Ok(true)));
            assert!(matches!(second.join(), Ok(Ok(false))));
        });
    }

    #[test]
    fn a_cancelled_place_does_not_arrive() {
        let node = node(None);
        cancel(&node);
        stand(&node, || {
            assert!(Barrier::new(1).wait().is_err());
        });
    }

    #[test]
    fn an_opening_between_the_last_look_and_the_stop_lets_the_waiter_pass() {
        soon(|| {
            let barrier = Arc::new(Barrier::new(2));
            let other = Arc::clone(&barrier);
            let arrive = move || assert!(matches!(other.wait(), Ok(true)));
            assert!(matches!(stopped_after(arrive, || barrier.wait()), Ok(false)));
            assert!(barrier.state.lock().waiting.is_empty());
        });
    }

    #[test]
    fn a_cancel_and_an_opening_at_once_lose_nobody() {
        soon(|| {
            for _ in 0..200 {
                let barrier = Arc::new(Barrier::new(2));
                let node = node(None);
                let waiter = thread::spawn({
                    let (barrier, node) = (Arc::clone(&barrier), Arc::clone(&node));
                    move || stand(&node, || barrier.wait())
                });
                until(|| barrier.state.lock().waiting.len() == 1);
                let canceller = thread::spawn(move || cancel(&node));
                let outer = crate::wait::given::node(None);
                let opener = thread::spawn({
                    let (barrier, outer) = (Arc::clone(&barrier), Arc::clone(&outer));
                    move || stand(&outer, || barrier.wait())
                });
                assert!(canceller.join().is_ok());
                let passed = matches!(waiter.join(), Ok(Ok(_)));
                if !passed {
                    cancel(&outer);
                }
                assert_eq!(matches!(opener.join(), Ok(Ok(true))), passed);
                assert!(barrier.state.lock().waiting.is_empty());
            }
        });
    }
}
