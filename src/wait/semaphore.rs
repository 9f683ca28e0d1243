//! A number of permits that are lent: [`Semaphore`], [`Permit`].
//!
//! # Promises
//!
//! 1. Never more than the limit is lent anew; after [`resize`](Semaphore::resize) to less, what was lent before is waited for.
//! 2. First come, first served, whatever each wants.
//! 3. A permit that was given to somebody who is told to stop goes on to the next (S40).
//!
//! # Does not know
//!
//! Who waits, and how a turn is handed on: that is the [`Turnstile`]'s, whose header says why no wake-up is lost.

use crate::{
    cancel::{
        current::{self, Activity, Look, Thing},
        reason::Cancelled,
    },
    wait::{
        Call, End,
        turnstile::{Rule, Turnstile},
    },
};
use slab::Slab;
use smol_str::SmolStr;
use std::{collections::BTreeSet, fmt, sync::Arc};

#[derive(Clone, Copy, Debug)]
struct Want {
    permits: usize,
    /// The line of code that asks.
    line: u64,
}

#[derive(Debug)]
struct Permits {
    limit: usize,
    used: usize,
    /// Those who are there, each with its line of code.
    holders: Slab<u64>,
}

impl Rule for Permits {
    type Want = Want;
    type Pass = usize;

    fn admit(&mut self, want: &Want) -> bool {
        let used = self.used.checked_add(want.permits).filter(|used| *used <= self.limit);
        self.used = used.unwrap_or(self.used);
        used.is_some()
    }

    fn enter(&mut self, want: &Want) -> usize {
        self.holders.insert(want.line)
    }

    fn give_back(&mut self, want: &Want) {
        self.used -= want.permits;
    }
}

struct Shared {
    name: Option<SmolStr>,
    turns: Turnstile<Permits>,
}

impl Thing for Shared {
    fn look(&self) -> Look {
        self.turns.look(|permits, waiting| Look {
            name: self.name.clone(),
            holders: permits.holders.iter().map(|(_, line)| *line).collect::<BTreeSet<_>>().into_iter().collect(),
            used: Some((permits.used, permits.limit)),
            waiting,
        })
    }
}

/// Lends a number of permits, to bound how many do something at once.
///
/// First come, first served: who asks for much is not passed by those who ask for less, and nobody takes a permit while
/// others wait. The number can be changed while it is in use.
///
/// *Deadlocks* are not answered, as they are by a [`Mutex`](crate::sync::Mutex): a permit may be given back by any thread, so
/// nobody can say that it never will. Who has some and wants more may wait for ever: take what is needed in one
/// [`acquire_many`](Semaphore::acquire_many), or wait with a limit. In virtual time a standstill is reported.
///
/// A [`Permit`] is given back when it is dropped, by whichever thread and also by a panic. It borrows nothing, so it may
/// outlive the semaphore, and go where its work goes.
///
/// # Examples
///
/// ```
/// use tassel::{scope, sync::Semaphore};
/// let connections = Semaphore::named("connections", 2);
/// scope(|s| {
///     for _ in 0..10 {
///         s.spawn(|| {
///             let _one_of_two = connections.acquire()?;
///             Ok(())
///         });
///     }
///     Ok(())
/// })?;
/// assert_eq!(connections.in_use(), 0);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
pub struct Semaphore {
    shared: Arc<Shared>,
}

impl Semaphore {
    /// Makes a semaphore of that many permits. With 0 everybody waits, until it is [resized](Semaphore::resize).
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Semaphore::make(None, permits)
    }

    /// As [`new`](Semaphore::new), with a name for snapshots.
    #[must_use]
    pub fn named(name: impl Into<String>, permits: usize) -> Self {
        Semaphore::make(Some(name.into().into()), permits)
    }

    fn make(name: Option<SmolStr>, limit: usize) -> Self {
        let turns = Turnstile::new(Permits { limit, used: 0, holders: Slab::new() });
        Semaphore { shared: Arc::new(Shared { name, turns }) }
    }

    /// Blocks until there is a permit, and takes it.
    ///
    /// # Cancellation
    ///
    /// Always a checkpoint, also if a permit is free. A waiter that is told to stop leaves its place in the queue; a permit
    /// that it was given at that moment goes to the next.
    ///
    /// # Errors
    ///
    /// Returns [`Cancelled`] if the code here is to stop.
    ///
    /// # Examples
    ///
    /// ```
    /// let semaphore = tassel::sync::Semaphore::new(1);
    /// let permit = semaphore.acquire()?;
    /// assert!(semaphore.try_acquire().is_none());
    /// drop(permit);
    /// assert!(semaphore.try_acquire().is_some());
    /// # Ok::<(), tassel::Cancelled>(())
    /// ```
    #[track_caller]
    pub fn acquire(&self) -> Result<Permit, Cancelled> {
        self.acquire_many(1)
    }

    /// Blocks until there are `permits` at once, and takes them as one [`Permit`].
    ///
    /// Who comes later waits behind this call. If `permits` is more than the limit, that lasts until the semaphore is
    /// [resized](Semaphore::resize), or this call is cancelled. With 0 it takes its turn as well, and then holds nothing.
    ///
    /// # Cancellation
    ///
    /// As [`acquire`](Semaphore::acquire).
    ///
    /// # Errors
    ///
    /// Returns [`Cancelled`] if the code here is to stop.
    #[track_caller]
    pub fn acquire_many(&self, permits: usize) -> Result<Permit, Cancelled> {
        current::check()?;
        let want = Want { permits, line: current::line() };
        let key = if let Some(key) = self.shared.turns.try_pass(&want) {
            key
        } else {
            let call = Call::of(Activity::Semaphore, &self.shared);
            self.shared.turns.pass(&call, None, &want).map_err(End::stop)?
        };
        Ok(self.permit(key, permits))
    }

    /// Takes a permit if one is free and nobody waits for it. Never blocks, never a checkpoint.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.try_acquire_many(1)
    }

    /// Takes `permits` at once, if so many are free and nobody waits. Never blocks, never a checkpoint.
    #[must_use]
    pub fn try_acquire_many(&self, permits: usize) -> Option<Permit> {
        let want = Want { permits, line: current::line() };
        self.shared.turns.try_pass(&want).map(|key| self.permit(key, permits))
    }

    fn permit(&self, key: usize, permits: usize) -> Permit {
        Permit { shared: Arc::clone(&self.shared), key, permits }
    }

    /// Changes how many permits there are, at once. Never blocks.
    ///
    /// With more, waiters go on. With less than are in use, those that are lent stay so, and no further one is until enough
    /// have come back.
    ///
    /// # Examples
    ///
    /// ```
    /// let semaphore = tassel::sync::Semaphore::new(2);
    /// let (a, b) = (semaphore.acquire()?, semaphore.acquire()?);
    /// semaphore.resize(1);
    /// drop(a);
    /// assert!(semaphore.try_acquire().is_none());
    /// drop(b);
    /// assert!(semaphore.try_acquire().is_some());
    /// # Ok::<(), tassel::Cancelled>(())
    /// ```
    pub fn resize(&self, permits: usize) {
        self.shared.turns.change(|rule| rule.limit = permits);
    }

    /// Returns how many permits there are.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.shared.turns.look(|rule, _| rule.limit)
    }

    /// Returns how many permits are lent; after a [`resize`](Semaphore::resize) that may be more than the limit.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.shared.turns.look(|rule, _| rule.used)
    }

    /// Returns how many calls wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.turns.look(|_, waiting| waiting)
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let look = self.shared.look();
        let (used, limit) = look.used.unwrap_or_default();
        let mut shown = f.debug_struct("Semaphore");
        if let Some(name) = &look.name {
            shown.field("name", name);
        }
        shown.field("limit", &limit).field("in_use", &used).field("waiting", &look.waiting).finish()
    }
}

/// What was taken of a [`Semaphore`], until it is dropped.
#[must_use = "a permit that is dropped at once permits nothing"]
pub struct Permit {
    shared: Arc<Shared>,
    key: usize,
    permits: usize,
}

impl Permit {
    /// Returns how many permits it stands for.
    #[must_use]
    pub fn permits(&self) -> usize {
        self.permits
    }
}

/// Gives the permits back, and wakes who can have them. Never blocks.
impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.turns.change(|rule| {
            rule.used -= self.permits;
            rule.holders.remove(self.key);
        });
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("permits", &self.permits).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::{
        prim::Mutex,
        wait::given::{soon, stopped_after, until},
    };
    use std::thread;

    /// Without the checkpoint before it, which would have the limit watched by others.
    fn wait_for(semaphore: &Semaphore, permits: usize) -> Result<usize, End> {
        let want = Want { permits, line: 0 };
        semaphore.shared.turns.pass(&Call::of(Activity::Semaphore, &semaphore.shared), None, &want)
    }

    #[test]
    fn a_permit_that_comes_between_the_last_look_and_the_stop_is_handed_on() {
        soon(|| {
            let semaphore = Semaphore::new(2);
            let held = semaphore.try_acquire_many(2);
            assert!(stopped_after(move || drop(held), || wait_for(&semaphore, 1)).is_err());
            assert_eq!(format!("{semaphore:?}"), "Semaphore { limit: 2, in_use: 0, waiting: 0 }");
        });
    }

    #[test]
    fn who_leaves_lets_those_in_who_want_less() {
        soon(|| {
            let semaphore = Arc::new(Semaphore::new(2));
            let held = semaphore.try_acquire();
            let behind = Arc::new(Mutex::new(None));
            let (waits, passed) = (Arc::clone(&semaphore), Arc::clone(&behind));
            // The first wants more than there is; the second would have room.
            let leave = move || {
                *passed.lock() = Some(thread::spawn({
                    let waits = Arc::clone(&waits);
                    move || waits.acquire().is_ok()
                }));
                until(|| waits.waiting() == 2);
            };
            assert!(stopped_after(leave, || wait_for(&semaphore, 2)).is_err());
            let second = behind.lock().take();
            assert!(second.is_some_and(|second| matches!(second.join(), Ok(true))));
            assert_eq!((semaphore.in_use(), semaphore.waiting()), (1, 0));
            drop(held);
        });
    }
}
