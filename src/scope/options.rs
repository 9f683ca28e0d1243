//! How a scope is to be opened: [`ScopeOptions`].
//!
//! # Does not know
//!
//! What a scope does with it: that is in `open` and `core`.

use crate::{cancel::token::CancelToken, pool::Pool};
use smol_str::SmolStr;
use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// What the failure of a job does to its siblings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFailure {
    /// It cancels them, and the body: the default.
    #[default]
    FailFast,
    /// Nothing. All failures come back in the group. A failure of the *body* cancels the jobs all the same.
    KeepGoing,
}

/// What becomes of a panic in a job or in the body, after everybody has been joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnPanic {
    /// It is a leaf of the group, with its payload: the default.
    #[default]
    Report,
    /// It is raised again, as [`ErrorGroup::resume_panic`](crate::ErrorGroup::resume_panic) does.
    Resume,
}

/// Options for a scope. Start with [`new`](ScopeOptions::new), end with [`open`](ScopeOptions::open).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::{OnFailure, ScopeOptions};
/// let sum = ScopeOptions::new()
///     .name("sum")
///     .timeout(Duration::from_secs(60))
///     .on_failure(OnFailure::KeepGoing)
///     .open(|s| Ok(s.spawn(|| Ok(1)).join()? + 1))?;
/// assert_eq!(sum, 2);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until `open` is called"]
pub struct ScopeOptions {
    pub(crate) name: Option<SmolStr>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) grace: Option<Duration>,
    pub(crate) under: Option<CancelToken>,
    pub(crate) on_failure: OnFailure,
    pub(crate) on_panic: OnPanic,
    pub(crate) keep: Option<NonZeroU32>,
    pub(crate) no_inline: bool,
    pub(crate) pool: Option<Pool>,
}

impl ScopeOptions {
    /// Starts with the defaults, which are those of [`scope`](crate::scope).
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the scope, for errors, reasons and snapshots. Without, it is called after the place that opens it.
    pub fn name(mut self, name: impl AsRef<str>) -> Self {
        self.name = Some(name.as_ref().into());
        self
    }

    /// Stops the scope this long after it was opened. A time beyond the clock means never.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Stops the scope at this instant (of [`now`](crate::now)). With a timeout too, the earlier one counts.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Gives code in [`cleanup`](crate::region::cleanup) this long after the scope begins to stop, whatever stops it.
    ///
    /// It is one budget for all cleanup below the scope, also in inner scopes, and it runs from the moment of the stop; a
    /// shorter one of an outer scope stays in force. Zero ends cleanup at once. Without a grace, each `cleanup` ends at its own
    /// limit. [`Scope::cancel_with_grace`](crate::Scope::cancel_with_grace) says another for one cancel, and
    /// [`Scope::cancel_now`](crate::Scope::cancel_now) ends it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tassel::{ScopeOptions, checkpoint, region::cleanup, sleep};
    /// let options = ScopeOptions::new().timeout(Duration::ZERO).grace(Duration::from_millis(1));
    /// let group = options
    ///     .open(|_| {
    ///         let stop = checkpoint();
    ///         let flushed = cleanup(Duration::from_secs(3600), || Ok(sleep(Duration::MAX)?));
    ///         assert!(flushed.is_err(), "cut at the end of the grace");
    ///         Ok(stop?)
    ///     })
    ///     .unwrap_err();
    /// assert!(group.find::<tassel::region::TimedOut>().is_some());
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Puts the scope under `token` as well: the token's cancel stops it from outside.
    pub fn under(mut self, token: &CancelToken) -> Self {
        self.under = Some(token.clone());
        self
    }

    /// Says what the failure of a job does to its siblings.
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// Keeps the first `limit` failures of jobs, at least one; further ones are counted, and dropped at once.
    ///
    /// For scopes that keep going for long. Without, all are kept. The group says how many were not
    /// ([`ErrorGroup::dropped`](crate::ErrorGroup::dropped)). A failure of the body is always kept, and so is that of an
    /// isolated job, for its handle. An error is dropped on the thread that ran its job.
    ///
    /// # Examples
    ///
    /// ```
    /// use tassel::{OnFailure, ScopeOptions};
    /// let group = ScopeOptions::new()
    ///     .on_failure(OnFailure::KeepGoing)
    ///     .keep_failures(10)
    ///     .open(|s| {
    ///         for _ in 0..1000 {
    ///             s.spawn(|| -> tassel::Result<()> { anyhow::bail!("refused") });
    ///         }
    ///         Ok(())
    ///     })
    ///     .unwrap_err();
    /// assert_eq!((group.len(), group.dropped()), (10, 990));
    /// ```
    pub fn keep_failures(mut self, limit: usize) -> Self {
        self.keep = NonZeroU32::new(u32::try_from(limit).unwrap_or(u32::MAX).max(1));
        self
    }

    /// Says what becomes of a panic after the join.
    pub fn on_panic(mut self, on_panic: OnPanic) -> Self {
        self.on_panic = on_panic;
        self
    }

    /// Says whether the opener and joiners may run queued jobs on their own thread while they wait; they do by default.
    ///
    /// Forbid it where a thread-local borrow, or a lock of the opener's thread, is held around the scope.
    pub fn inline(mut self, inline: bool) -> Self {
        self.no_inline = !inline;
        self
    }

    /// Runs the jobs on `pool`. Without, a scope uses the pool of the code that opens it, else the global one.
    pub fn pool(mut self, pool: &Pool) -> Self {
        self.pool = Some(pool.clone());
        self
    }
}
