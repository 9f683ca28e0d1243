//! Two pieces of code at once, with what both return: [`join`].
//!
//! # Does not know
//!
//! How jobs run: it is a scope of one job.

use crate::{
    error::ErrorGroup,
    scope::open::{Return, scope},
};

/// Runs `a` here and `b` as a job beside it, and returns what both return.
///
/// `b` may run on another thread meanwhile, or after `a` on this one. As rayon's `join`, for code that may fail, wait, or be
/// stopped; for code that only computes, and in a recursion, rayon's is cheaper.
///
/// # Cancellation
///
/// Not a checkpoint by itself. If one fails, the other is stopped: it meets a [`Cancelled`](crate::Cancelled) at its next
/// [`checkpoint`](crate::checkpoint), and if it has not started it never does. A cancel from outside stops both.
///
/// # Errors
///
/// Returns an [`ErrorGroup`] with the failures of both: as [`scope`], whose body is `a` and whose job is `b`.
///
/// # Panics
///
/// A panic in either is caught and becomes a leaf of the group, as in a [`scope`].
///
/// # Examples
///
/// ```
/// fn sum(of: &[u64]) -> tassel::Result<u64> {
///     if of.len() <= 1000 {
///         return Ok(of.iter().sum());
///     }
///     let (left, right) = of.split_at(of.len() / 2);
///     let (left, right) = tassel::join(|| sum(left), || sum(right))?;
///     Ok(left + right)
/// }
/// assert_eq!(sum(&[1; 5000])?, 5000);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[track_caller]
pub fn join<A, B, RA, RB>(a: A, b: B) -> Result<(RA::Value, RB::Value), ErrorGroup>
where
    A: FnOnce() -> RA,
    B: FnOnce() -> RB + Send,
    RA: Return,
    RB: Return,
    RB::Value: Send,
{
    scope(|s| {
        let b = s.spawn(b);
        let a = a().into_result()?;
        Ok((a, b.join()?))
    })
}
