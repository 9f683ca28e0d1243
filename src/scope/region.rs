//! Time limits around code, without jobs: `move_on_*` and `fail_*`.
//!
//! A region is a node below the code that opens it. It stops the code inside it, not jobs spawned inside it: those belong
//! to their scope (D7).
//!
//! # Promises
//!
//! 1. What becomes of a stop is decided at the exit, from the state of the nodes (D17): one from outside passes on.
//! 2. A value wins, even if the limit has passed; so does an error of another kind (S61).
//!
//! # Does not know
//!
//! Jobs.

use crate::{
    cancel::{
        current::{self, Frame, Strand},
        node::{Deadline, Node, Parents},
        reason::{Cancelled, Label, ReasonKind, TimedOut},
    },
    error::{drop_guarded, stop_in},
};
use std::{
    panic::Location,
    sync::Arc,
    time::{Duration, Instant},
};

/// Closes its node, also when code unwinds through.
struct Close(Arc<Node>);

impl Drop for Close {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What became of the code in a region.
enum Left<T> {
    With(anyhow::Result<T>),
    /// Stopped by the region's own limit.
    ByLimit(TimedOut),
    /// Stopped by a cancel of the region itself, through its token.
    ByCancel(Cancelled),
}

fn enter<T>(
    deadline: impl FnOnce(&crate::park::clock::Clock) -> Option<Deadline>,
    place: &'static Location<'static>,
    f: impl FnOnce() -> anyhow::Result<T>,
) -> Left<T> {
    let here = current::node();
    let clock = current::clock();
    let label = Label::new("region", None, place);
    let deadline = deadline(&clock);
    let node = Node::new(&Parents { parent: here.as_ref(), also: None }, label.clone(), clock, deadline);
    let close = Close(Arc::clone(&node));
    let region = Some(Arc::clone(&node));
    let frame = if let Some(frame) = current::frame() {
        Frame { region, scope: 0, ..frame }
    } else {
        let path = label.name();
        Frame { strand: Strand::at(label, path, 0, &node), region, scope: 0, inlined: 0 }
    };
    let entered = current::enter(frame);
    let result = f();
    drop(entered);
    node.expire();
    let left = match result {
        Err(error) if node.is_stopping() && node.outside().is_none() && stop_in(&error).is_some() => match node.own() {
            Some(own) => {
                drop_guarded(error);
                if own.reason.kind() == ReasonKind::Deadline {
                    Left::ByLimit(TimedOut::new(own.reason))
                } else {
                    Left::ByCancel(Cancelled::new(own.reason))
                }
            }
            None => Left::With(Err(error)),
        },
        result => Left::With(result),
    };
    drop(close);
    left
}

fn move_on<T>(left: Left<T>) -> anyhow::Result<Option<T>> {
    match left {
        Left::With(result) => result.map(Some),
        Left::ByLimit(_) | Left::ByCancel(_) => Ok(None),
    }
}

fn fail<T>(left: Left<T>) -> anyhow::Result<T> {
    match left {
        Left::With(result) => result,
        Left::ByLimit(timed_out) => Err(timed_out.into()),
        Left::ByCancel(stop) => Err(stop.into()),
    }
}

/// Runs `f` with a time limit; a limit that stops it is no error.
///
/// It stops the code inside, at its next checkpoint, not the jobs that it spawns: those belong to their scope. For them
/// there is [`job(..).timeout(..)`](crate::JobBuilder::timeout), or a scope inside the region. A limit that has
/// passed on entry starts `f` and fails its first checkpoint.
///
/// # Cancellation
///
/// A stop from outside passes through.
///
/// # Errors
///
/// Whatever `f` returns, but the stop of this region, which is `Ok(None)`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::{region::move_on_after, sleep};
/// let slept = move_on_after(Duration::from_millis(1), || Ok(sleep(Duration::MAX)?))?;
/// assert_eq!(slept, None);
/// # Ok::<(), tassel::Error>(())
/// ```
#[track_caller]
pub fn move_on_after<T>(limit: Duration, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    let place = Location::caller();
    move_on(enter(|clock| Deadline::after(clock, limit, place), place, f))
}

/// Runs `f` until an instant (of [`now`](crate::now)); see [`move_on_after`].
///
/// # Errors
///
/// As [`move_on_after`].
#[track_caller]
pub fn move_on_at<T>(at: Instant, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    let place = Location::caller();
    move_on(enter(|_| Some(Deadline { at, limit: None, place }), place, f))
}

/// Runs `f` with a time limit; a limit that stops it is a [`TimedOut`], an ordinary error.
///
/// It stops the code inside, at its next checkpoint, not the jobs that it spawns: see [`move_on_after`].
///
/// # Cancellation
///
/// A stop from outside passes through.
///
/// # Errors
///
/// [`TimedOut`] if this limit stopped `f`; else whatever `f` returns. A cancel of the region's own token comes out as
/// the [`Cancelled`](crate::Cancelled) that it is, a failure to the code around.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::{region::{TimedOut, fail_after}, sleep};
/// let error = fail_after(Duration::from_millis(1), || Ok(sleep(Duration::MAX)?)).unwrap_err();
/// assert!(error.is::<TimedOut>());
/// ```
#[track_caller]
pub fn fail_after<T>(limit: Duration, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let place = Location::caller();
    fail(enter(|clock| Deadline::after(clock, limit, place), place, f))
}

/// Runs `f` until an instant (of [`now`](crate::now)); see [`fail_after`].
///
/// # Errors
///
/// As [`fail_after`].
#[track_caller]
pub fn fail_at<T>(at: Instant, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let place = Location::caller();
    fail(enter(|_| Some(Deadline { at, limit: None, place }), place, f))
}
