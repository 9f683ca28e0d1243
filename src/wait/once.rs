//! A value that is made once, by the first who needs it, while the others wait: [`OnceCell`].
//!
//! # Promises
//!
//! 1. One initialiser at a time runs, and after one that succeeds none.
//! 2. An initialiser that fails, panics or is stopped leaves its turn to the next who waits; so does a waiter that was chosen
//!    and is stopped before it begins (S40).
//! 3. When there is a value, all who wait go on.
//!
//! # Does not know
//!
//! How a turn is waited for: that is the [`Turnstile`]'s, whose header says why no wake-up is lost.

use crate::{
    cancel::current::{self, Activity, Look, Thing},
    error::LockError,
    prim::OnceLock,
    wait::{
        Call,
        cycle::{Asks, Has, Kind, Owned},
        turnstile::{Rule, Ticket, Turnstile},
    },
};
use smol_str::SmolStr;
use std::{convert::Infallible, fmt, sync::Arc};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Free,
    /// Somebody's, who is not there yet.
    Given,
    /// That of a thread and a line of code.
    Taken(u64, u64),
    /// There is a value.
    Over,
}

impl Rule for Turn {
    type Want = ();
    /// Whether it is to make the value.
    type Pass = bool;

    fn admit(&mut self, (): &()) -> bool {
        match self {
            Turn::Free => *self = Turn::Given,
            Turn::Given | Turn::Taken(..) => return false,
            Turn::Over => {}
        }
        true
    }

    fn enter(&mut self, (): &()) -> bool {
        if *self == Turn::Over {
            return false;
        }
        *self = Turn::Taken(current::thread(), current::line());
        true
    }

    fn give_back(&mut self, (): &()) {
        if *self == Turn::Given {
            *self = Turn::Free;
        }
    }
}

struct Shared {
    name: Option<SmolStr>,
    turns: Turnstile<Turn>,
}

impl Owned for Shared {
    fn what(&self) -> (&'static str, Option<SmolStr>) {
        ("cell", self.name.clone())
    }

    fn own(&self, _: Kind) -> Option<u64> {
        self.turns.look(|turn, _| match *turn {
            Turn::Taken(thread, line) if thread == current::thread() => Some(line),
            _ => None,
        })
    }

    fn has(&self, _: Option<Ticket>) -> bool {
        true
    }

    fn owners(&self, _: Kind, _: Option<Ticket>) -> Vec<u64> {
        self.turns.look(|turn, _| match *turn {
            Turn::Taken(thread, _) => vec![thread],
            Turn::Free | Turn::Given | Turn::Over => Vec::new(),
        })
    }
}

impl Thing for Shared {
    fn look(&self) -> Look {
        self.turns.look(|turn, waiting| {
            let holder = if let Turn::Taken(_, line) = turn { Some(*line) } else { None };
            Look { name: self.name.clone(), holders: holder.into_iter().collect(), used: None, waiting }
        })
    }
}

/// A value that is made once, when it is needed first.
///
/// As [`std::sync::OnceLock`], but a cancel ends the wait for an initialiser, and an initialiser may fail: the next caller that
/// waits then tries its own.
///
/// # Examples
///
/// ```
/// use tassel::{scope, sync::OnceCell};
/// let table = OnceCell::new();
/// scope(|s| {
///     for n in 0..4 {
///         let table = &table;
///         s.spawn(move || {
///             let squares = table.get_or_init(|| [0, 1, 4, 9])?;
///             assert_eq!(squares[n], n * n);
///             Ok(())
///         });
///     }
///     Ok(())
/// })?;
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
pub struct OnceCell<T> {
    shared: Arc<Shared>,
    cell: OnceLock<T>,
}

/// Ends the turn of an initialiser.
struct Ends<'a> {
    shared: &'a Shared,
    turn: Turn,
    _has: Has,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.shared.turns.change(|turn| *turn = self.turn);
    }
}

impl<T> OnceCell<T> {
    /// Makes an empty cell.
    #[must_use]
    pub fn new() -> Self {
        OnceCell::make(None)
    }

    /// As [`new`](OnceCell::new), with a name for snapshots.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        OnceCell::make(Some(name.into().into()))
    }

    fn make(name: Option<SmolStr>) -> Self {
        let turns = Turnstile::new(Turn::Free);
        OnceCell { shared: Arc::new(Shared { name, turns }), cell: OnceLock::new() }
    }

    /// Returns the value, if there is one. Never blocks, never a checkpoint.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.cell.get()
    }

    /// Returns the value; makes it first, if nobody has. While somebody else makes it, blocks.
    ///
    /// # Cancellation
    ///
    /// Always a checkpoint, also if there is a value. While it waits, a cancel ends the wait; what `init` does with one is up
    /// to `init`.
    ///
    /// # Errors
    ///
    /// * [`LockError::Cancelled`] if the code here is to stop.
    /// * [`LockError::WouldDeadlock`] if it is called by the initialiser, or who makes the value waits for the code here.
    #[track_caller]
    pub fn get_or_init(&self, init: impl FnOnce() -> T) -> Result<&T, LockError> {
        match self.make_or_wait(|| Ok::<_, Infallible>(init())) {
            Ok(value) => Ok(value),
            Err(Failed::Lock(error)) => Err(error),
        }
    }

    /// Returns the value; makes it first, if nobody has. While somebody else makes it, blocks.
    ///
    /// An `init` with an error type of its own is wrapped: `cell.get_or_try_init(|| Ok(load()?))`.
    ///
    /// If `init` fails, the cell stays empty, the error is returned here, and the next who waits calls its own `init`. So it
    /// is if `init` panics, or returns the [`Cancelled`](crate::Cancelled) by which it was stopped.
    ///
    /// # Cancellation
    ///
    /// As [`get_or_init`](OnceCell::get_or_init).
    ///
    /// # Errors
    ///
    /// Returns the error of `init`, or a [`LockError`] as [`get_or_init`](OnceCell::get_or_init) does.
    ///
    /// # Examples
    ///
    /// ```
    /// let port = tassel::sync::OnceCell::new();
    /// assert!(port.get_or_try_init(|| Ok("eighty".parse::<u16>()?)).is_err());
    /// assert_eq!(*port.get_or_try_init(|| Ok("80".parse()?))?, 80);
    /// # Ok::<(), tassel::Error>(())
    /// ```
    #[track_caller]
    pub fn get_or_try_init(&self, init: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<&T> {
        match self.make_or_wait(init) {
            Ok(value) => Ok(value),
            Err(Failed::Init(error)) => Err(error),
            Err(Failed::Lock(error)) => Err(error.into()),
        }
    }

    #[inline]
    #[track_caller]
    fn make_or_wait<E>(&self, init: impl FnOnce() -> Result<T, E>) -> Result<&T, Failed<E>> {
        current::check().map_err(|stop| Failed::Lock(LockError::Cancelled(stop)))?;
        match self.cell.get() {
            Some(value) => Ok(value),
            None => self.make_or_wait_slowly(init),
        }
    }

    #[track_caller]
    fn make_or_wait_slowly<E>(&self, init: impl FnOnce() -> Result<T, E>) -> Result<&T, Failed<E>> {
        let is_mine = match self.shared.turns.try_pass(&()) {
            Some(is_mine) => is_mine,
            None => self.wait().map_err(Failed::Lock)?,
        };
        if is_mine {
            let mut ends = Ends { shared: &self.shared, turn: Turn::Free, _has: Has::new() };
            let value = init().map_err(Failed::Init)?;
            // By nobody else: it is this one's turn.
            let _ = self.cell.set(value);
            ends.turn = Turn::Over;
        }
        Ok(self.cell.get().unwrap_or_else(|| unreachable!("turns are over when there is a value")))
    }

    #[track_caller]
    fn wait(&self) -> Result<bool, LockError> {
        let call = Call::of(Activity::Once, &self.shared);
        let mut asks = Asks::new(&self.shared, Kind::Alone, call.place)?;
        let passed = self.shared.turns.pass_unless(|seat| asks.look(None, seat), &call, None, &());
        passed.unwrap_or_else(|end| Err(LockError::Cancelled(end.stop())))
    }

    /// Takes the value out, if there is one.
    pub fn into_inner(self) -> Option<T> {
        self.cell.into_inner()
    }
}

/// Why there is no value.
enum Failed<E> {
    Init(E),
    Lock(LockError),
}

impl<T> Default for OnceCell<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for OnceCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let look = self.shared.look();
        let mut shown = f.debug_struct("OnceCell");
        if let Some(name) = &look.name {
            shown.field("name", name);
        }
        match self.get() {
            Some(value) => shown.field("value", value),
            None => shown.field("value", &format_args!("<empty>")),
        };
        shown.field("waiting", &look.waiting).finish_non_exhaustive()
    }
}
