//! Time limits and shields around code, without jobs: `move_on_*`, `fail_*`, `shield*` and `cleanup`.
//!
//! A region is a node below the code that opens it, and a frame for as long as its closure runs. It stops the code inside
//! it, not jobs spawned inside it: those belong to their scope (D7).
//!
//! # Promises
//!
//! 1. What becomes of a stop is decided at the exit, from the state of the nodes (D17): one from outside passes on.
//!    Whatever has expired is marked first, outermost first, so of two limits that passed the outer one has it (S62).
//! 2. A value wins, even if the limit has passed; so does an error of another kind (S61).
//! 3. A limit that has passed on entry starts the code and fails its first checkpoint (D9).
//! 4. What a shield or `cleanup` keeps out is still there when it is left: the next checkpoint outside meets it (S54).
//! 5. The node is closed when the region is left, by a panic too; before that its fate is decided.
//!
//! # Does not know
//!
//! Jobs.

use crate::{
    cancel::{
        current::{self, Frame, Strand},
        deadline::Deadline,
        node::{Node, Parents, Sight, Terms},
        reason::{Cancelled, Label, Reason, ReasonKind, TimedOut},
    },
    error::{around_stop, drop_guarded, stop_in},
    park::clock::Clock,
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
    /// Stopped by the region's own limit, or by a cancel of its token; and what the code made of it.
    Stopped(Reason, anyhow::Error),
}

fn enter<T>(
    deadline: impl FnOnce(&Clock) -> Option<Deadline>,
    place: &'static Location<'static>,
    f: impl FnOnce() -> anyhow::Result<T>,
) -> Left<T> {
    enter_as(Sight::Open, deadline, place, f)
}

fn enter_as<T>(
    sight: Sight,
    deadline: impl FnOnce(&Clock) -> Option<Deadline>,
    place: &'static Location<'static>,
    f: impl FnOnce() -> anyhow::Result<T>,
) -> Left<T> {
    let here = current::node();
    let clock = current::clock();
    let what = match sight {
        Sight::Open => "region",
        Sight::End => "cleanup",
        Sight::Shielded => "shield",
    };
    let label = Label::new(what, None, place);
    let terms = Terms { deadline: deadline(&clock), sight, ..Terms::default() };
    let node = Node::with(&Parents { parent: here.as_ref(), also: None }, label.clone(), clock, terms);
    let close = Close(Arc::clone(&node));
    let result = current::with(|frame| match frame {
        Some(frame) => current::enter(Frame { base: &node, is_region: true, scope: 0, ..*frame }, f),
        None => current::enter(Frame::of(&Strand::at(label.clone(), label.name(), 0, &node)), f),
    });
    let left = judge(&node, result);
    drop(close);
    left
}

/// D17: whose stop is it?
fn judge<T>(node: &Arc<Node>, result: anyhow::Result<T>) -> Left<T> {
    node.expire();
    let error = match result {
        Ok(value) => return Left::With(Ok(value)),
        Err(error) => error,
    };
    if stop_in(&error).is_none() || (node.outside().is_some() && !mutant!("absorbed_under_an_outer_stop")) {
        return Left::With(Err(error));
    }
    // Without one of its own it is somebody else's stop: a failure here.
    let Some(own) = node.own() else { return Left::With(Err(error)) };
    Left::Stopped(own.reason, error)
}

fn move_on<T>(left: Left<T>) -> anyhow::Result<Option<T>> {
    match left {
        Left::With(result) => result.map(Some),
        Left::Stopped(_, error) => {
            drop_guarded(error);
            Ok(None)
        }
    }
}

fn fail<T>(left: Left<T>) -> anyhow::Result<T> {
    match left {
        Left::With(result) => result,
        Left::Stopped(reason, error) => {
            let around = around_stop(&error);
            drop_guarded(error);
            let own: anyhow::Error = match reason.kind() {
                ReasonKind::Deadline => TimedOut::new(reason).into(),
                _ => Cancelled::new(reason).into(),
            };
            Err(around.into_iter().fold(own, anyhow::Error::context))
        }
    }
}

/// Runs `f` with a time limit; if the limit stops it, the result is `Ok(None)`.
///
/// It stops the code inside at its next checkpoint, *not* the jobs that are spawned inside: those belong to their scope.
/// For them there is [`job(..).timeout(..)`](crate::JobBuilder::timeout), or a scope opened inside the region.
///
/// A value that `f` returns is returned, even if the limit has passed. With a limit of zero, `f` starts and its first
/// checkpoint fails. A limit too long for the clock, such as [`Duration::MAX`], is none. In virtual time the limit is of
/// the virtual clock.
///
/// # Cancellation
///
/// Itself no checkpoint. A stop from outside passes through: `f`'s error is returned as it is. A cancel of the region's
/// own token (see [`CancelToken::current`](crate::CancelToken::current)) is `Ok(None)`, too.
///
/// # Errors
///
/// Returns the error of `f`, but for the stop of this region.
///
/// # Panics
///
/// A panic of `f` passes through.
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

/// Runs `f` until an instant (of [`now`](crate::now)); if that stops it, the result is `Ok(None)`.
///
/// In all else it is [`move_on_after`]; above all, it does not stop jobs that are spawned inside: for these there is
/// [`job(..).timeout(..)`](crate::JobBuilder::timeout), or a scope opened inside the region.
///
/// # Cancellation
///
/// As [`move_on_after`].
///
/// # Errors
///
/// As [`move_on_after`].
///
/// # Panics
///
/// As [`move_on_after`].
///
/// # Examples
///
/// ```
/// use tassel::{region::move_on_at, sleep_until};
/// # use std::time::Duration;
/// let end = tassel::now() + Duration::from_millis(1);
/// let slept = move_on_at(end, || Ok(sleep_until(end + Duration::from_secs(3600))?))?;
/// assert_eq!(slept, None);
/// # Ok::<(), tassel::Error>(())
/// ```
#[track_caller]
pub fn move_on_at<T>(at: Instant, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    let place = Location::caller();
    move_on(enter(|_| Some(Deadline { at, limit: None, place }), place, f))
}

/// Runs `f` with a time limit; if the limit stops it, the result is a [`TimedOut`], an ordinary error.
///
/// It stops the code inside at its next checkpoint, *not* the jobs that are spawned inside: those belong to their scope.
/// For them there is [`job(..).timeout(..)`](crate::JobBuilder::timeout), or a scope opened inside the region.
///
/// A value that `f` returns is returned, even if the limit has passed; an error of its own likewise. With a limit of zero,
/// `f` starts and its first checkpoint fails: to try something without waiting there are `try_` calls.
///
/// # Cancellation
///
/// Itself no checkpoint. A stop from outside passes through: `f`'s error is returned as it is.
///
/// # Errors
///
/// Returns [`TimedOut`] if this limit stopped `f`; else the error of `f`. A cancel of the region's own token comes out as
/// the [`Cancelled`](crate::Cancelled) that it is, a failure to the code around. Contexts that `f` put around its stop are
/// put around these.
///
/// # Panics
///
/// A panic of `f` passes through.
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

/// Runs `f` until an instant (of [`now`](crate::now)); if that stops it, the result is a [`TimedOut`].
///
/// In all else it is [`fail_after`]; above all, it does not stop jobs that are spawned inside: for these there is
/// [`job(..).timeout(..)`](crate::JobBuilder::timeout), or a scope opened inside the region.
///
/// # Cancellation
///
/// As [`fail_after`].
///
/// # Errors
///
/// As [`fail_after`].
///
/// # Panics
///
/// As [`fail_after`].
///
/// # Examples
///
/// ```
/// use tassel::{region::{TimedOut, fail_at}, checkpoint};
/// // It starts, and computes: a value wins over a limit that has passed.
/// assert_eq!(fail_at(tassel::now(), || Ok(1 + 1))?, 2);
/// let error = fail_at(tassel::now(), || Ok(checkpoint()?)).unwrap_err();
/// assert!(error.is::<TimedOut>());
/// # Ok::<(), tassel::Error>(())
/// ```
#[track_caller]
pub fn fail_at<T>(at: Instant, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let place = Location::caller();
    fail(enter(|_| Some(Deadline { at, limit: None, place }), place, f))
}

/// Runs `f` where no cancel from outside is seen, but no longer than `limit`: an outer stop waits until it is left.
///
/// For a few steps that belong together, once begun: to move a file into place, or to take back a half-made change. What
/// should end when the program has no more time belongs into [`cleanup`].
///
/// *Not stopped* is the code inside, by whatever is cancelled outside, outer deadlines included: also in scopes opened
/// inside, and their jobs. *Stopped* it is by its own limit, by its own token, and by what is opened inside. Jobs that are
/// spawned inside into an outer scope belong to that, and are not shielded; nor are the other jobs of the scope whose
/// body stands here. Only where nothing could ever go on again, a deadlock of a virtual run or jobs that starve, the stop
/// reaches inside.
///
/// When the shield is left, the next checkpoint outside meets what was kept out.
///
/// # Cancellation
///
/// Itself no checkpoint, and it runs `f` also in a place that is cancelled already.
///
/// # Errors
///
/// Returns [`TimedOut`] if this limit stopped `f`, also where the outer scope is cancelled; else the error of `f`. A
/// cancel of the shield's own token comes out as the [`Cancelled`](crate::Cancelled) that it is, a failure to the code
/// around; but where an outer scope is cancelled too, it is a stop there.
///
/// # Panics
///
/// A panic of `f` passes through.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::{checkpoint, region::shield, scope};
/// let group = scope(|s| {
///     s.cancel();
///     let saved = shield(Duration::from_secs(5), || {
///         checkpoint()?; // not seen here
///         Ok("saved")
///     })?;
///     assert_eq!(saved, "saved");
///     Ok(checkpoint()?) // but here
/// })
/// .unwrap_err();
/// assert!(group.stopped());
/// ```
#[track_caller]
pub fn shield<T>(limit: Duration, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let place = Location::caller();
    fail(enter_as(Sight::Shielded, |clock| Deadline::after(clock, limit, place), place, f))
}

/// Runs `f` where no cancel from outside is seen, for as long as it takes.
///
/// **Nothing but `f` itself ends it.** If it waits for what never comes, then no cancel, no deadline and no Ctrl-C helps,
/// and the scope around it waits for ever. Give it a limit, as [`shield`] does, wherever one can be named; in all else it is
/// `shield`.
///
/// # Cancellation
///
/// As [`shield`].
///
/// # Errors
///
/// Returns the error of `f`; a cancel of its own token as [`shield`] does.
///
/// # Panics
///
/// As [`shield`].
///
/// # Examples
///
/// ```
/// use tassel::{CancelToken, checkpoint, region::shield_unbounded};
/// let token = CancelToken::new();
/// token.cancel();
/// let sum = token.enter(|| shield_unbounded(|| {
///     checkpoint()?; // not seen here
///     Ok(1 + 1)
/// }))?;
/// assert_eq!(sum, 2);
/// # Ok::<(), tassel::Error>(())
/// ```
#[track_caller]
pub fn shield_unbounded<T>(f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    fail(enter_as(Sight::Shielded, |_| None, Location::caller(), f))
}

/// Runs `f` although the code around is stopped, until `limit` has passed or the time for cleaning up is over.
///
/// For what a stopped job has to do on its way out: say goodbye to a peer, flush, remove a lock file. Time for it
/// is given by who stops: [`ScopeOptions::grace`](crate::ScopeOptions::grace) and
/// [`cancel_with_grace`](crate::CancelToken::cancel_with_grace) set an instant at which all cleanup below ends, however
/// many regions there are, nested or in a row, and [`cancel_now`](crate::CancelToken::cancel_now) ends it at once. Where
/// nobody set a grace, `limit` alone counts.
///
/// It can be entered before anything is stopped; a stop that comes meanwhile is not seen inside, but its end is. A `cleanup`
/// in a `cleanup` is under the same budget, with a limit of its own.
///
/// *Not stopped* is the code inside, until then, also in scopes opened inside, and their jobs. Jobs that are spawned inside
/// into an outer scope belong to that, and are not protected.
///
/// # Cancellation
///
/// Itself no checkpoint, and it runs `f` also when the time is over: the first checkpoint inside fails then. At the end of
/// the grace the stop from outside passes through: `f`'s error is returned as it is.
///
/// # Errors
///
/// Returns [`TimedOut`] if this limit stopped `f`; else the error of `f`. A cancel of its own token comes out as
/// [`shield`]'s does.
///
/// # Panics
///
/// A panic of `f` passes through.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::{Cancelled, region::cleanup, scope, sleep};
/// fn goodbye() -> tassel::Result<()> {
///     Ok(sleep(Duration::from_millis(1))?)
/// }
/// scope(|s| {
///     s.spawn(|| {
///         let worked: Result<(), Cancelled> = sleep(Duration::from_secs(3600));
///         cleanup(Duration::from_secs(2), goodbye)?;
///         Ok(worked?)
///     });
///     s.cancel_with_grace(Duration::from_secs(5));
///     Ok(())
/// })?;
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[track_caller]
pub fn cleanup<T>(limit: Duration, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let place = Location::caller();
    fail(enter_as(Sight::End, |clock| Deadline::after(clock, limit, place), place, f))
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::{
        cancel::token::CancelToken,
        wait::{
            given::{self, LONG, SHORT, node, soon, stand},
            time::{checkpoint, is_cancelled, sleep},
        },
    };
    use anyhow::bail;
    use std::{
        cell::RefCell,
        panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    };

    fn nap() -> anyhow::Result<()> {
        Ok(sleep(LONG)?)
    }

    #[test]
    fn the_own_limit_is_taken_in() {
        soon(|| {
            assert!(matches!(move_on_after(SHORT, nap), Ok(None)));
            assert!(matches!(move_on_at(Instant::now(), nap), Ok(None)));
            let late = [fail_after(SHORT, nap), fail_at(Instant::now(), nap)].map(Result::unwrap_err);
            assert!(late.iter().all(|error| error.is::<TimedOut>() && stop_in(error).is_none()));
            let place = late[0].downcast_ref::<TimedOut>().and_then(|late| late.reason().place());
            assert_eq!(place.map(Location::file), Some(file!()), "track_caller");
        });
    }

    #[test]
    fn a_limit_that_has_passed_starts_the_code_and_fails_its_first_checkpoint() {
        let mut started = false;
        let moved = move_on_after(Duration::ZERO, || {
            started = true;
            Ok(checkpoint()?)
        });
        assert!(matches!(moved, Ok(None)) && started);
    }

    #[test]
    fn a_value_or_an_own_error_wins_over_the_limit() {
        let now = Instant::now();
        assert!(matches!(move_on_at(now, || Ok(7)), Ok(Some(7))));
        assert!(matches!(fail_at(now, || Ok(is_cancelled())), Ok(true)));
        let own = fail_at(now, || -> anyhow::Result<()> { bail!("own") });
        assert_eq!(own.unwrap_err().to_string(), "own");
        let own = move_on_at(now, || -> anyhow::Result<()> { bail!("own") });
        assert_eq!(own.unwrap_err().to_string(), "own");
    }

    #[test]
    fn no_limit_is_reached_by_the_longest() {
        assert!(matches!(fail_after(Duration::MAX, || Ok(checkpoint()?)), Ok(())));
    }

    #[test]
    fn a_stop_from_outside_passes_with_what_is_around_it() {
        let node = node(None);
        stand(&node, || {
            let stopped = move_on_after(LONG, || {
                given::cancel(&node);
                nap().map_err(|error| error.context("around"))
            });
            let error = stopped.unwrap_err();
            assert_eq!(error.to_string(), "around");
            assert!(error.is::<Cancelled>());
            assert!(fail_after(LONG, nap).is_err_and(|error| error.is::<Cancelled>()));
        });
    }

    #[test]
    fn of_two_limits_that_passed_the_outer_one_has_it() {
        let now = Instant::now();
        let outer = fail_at(now, || {
            let inner = fail_at(now, nap);
            assert!(inner.as_ref().is_err_and(anyhow::Error::is::<Cancelled>));
            inner
        });
        assert!(outer.is_err_and(|error| error.is::<TimedOut>()));
        let outer = move_on_at(now, || {
            fail_after(LONG, nap)?;
            Ok(())
        });
        assert!(matches!(outer, Ok(None)));
    }

    #[test]
    fn an_inner_limit_leaves_the_outer_one_alone() {
        soon(|| {
            let outer = fail_after(LONG, || {
                assert!(matches!(move_on_after(SHORT, nap), Ok(None)));
                Ok(checkpoint()?)
            });
            assert!(matches!(outer, Ok(())));
            let outer = move_on_after(LONG, || fail_after(SHORT, nap));
            assert!(outer.is_err_and(|error| error.is::<TimedOut>()));
        });
    }

    #[test]
    fn a_cancel_of_the_own_token_is_no_timeout() {
        let give_up = || {
            CancelToken::current().cancel_with("enough");
            nap()
        };
        assert!(matches!(move_on_after(LONG, give_up), Ok(None)));
        let error = fail_after(LONG, give_up).unwrap_err();
        assert_eq!(error.downcast_ref::<Cancelled>().map(|stop| stop.reason().kind()), Some(ReasonKind::Explicit));
    }

    #[test]
    fn a_stop_of_somebody_else_is_a_failure() {
        let other = node(None);
        given::cancel(&other);
        let stray = || -> anyhow::Result<()> {
            let reason = other.reason().map(Cancelled::new);
            reason.map_or(Ok(()), |stop| Err(stop.into()))
        };
        assert!(move_on_after(LONG, stray).is_err_and(|error| error.is::<Cancelled>()));
    }

    #[test]
    fn a_region_that_was_left_is_closed_by_a_panic_too() {
        let token = RefCell::new(None);
        let enter = |panic: bool| {
            move_on_after(LONG, || {
                *token.borrow_mut() = Some(CancelToken::current());
                if panic {
                    resume_unwind(Box::new("thrown"));
                }
                Ok(())
            })
        };
        let closed = || token.borrow().as_ref().and_then(CancelToken::reason).map(|reason| reason.kind());
        assert!(matches!(enter(false), Ok(Some(()))));
        assert_eq!(closed(), Some(ReasonKind::Closed));
        assert!(catch_unwind(AssertUnwindSafe(|| enter(true))).is_err());
        assert_eq!(closed(), Some(ReasonKind::Closed));
        assert!(current::with(|frame| frame.is_none()));
    }
}
