//! What a spawner holds of its job: [`JobHandle`].
//!
//! # Promises
//!
//! 1. Joining says *that* a job failed; the error belongs to the scope (D5), or, of an isolated job, to the handle.
//! 2. A job that has ended, or will never start, answers at once, even to a joiner that is cancelled (D21).
//! 3. A join runs at most the joined job, and only where that cannot outlast the wait (D14), or where no thread can be
//!    had (D18).
//! 4. Dropping a handle detaches nothing: the value is dropped with the job, a failure still counts.
//!
//! # Does not know
//!
//! Threads.
//!
//! # Why no wake-up is lost
//!
//! A joiner registers its seat with the job before it looks for the outcome; the outcome is stored before the seats
//! are taken and poked, under the same lock.

use crate::{
    cancel::{
        current::{self, Activity, Doing, On, Strand},
        reason::ReasonKind,
        token::{self, CancelToken},
    },
    error::{Failure, JobId, JoinError, Leaf},
    park::{
        seat::Seat,
        standstill::{Awaited, Party, Wait},
    },
    raw::{Reader, Tally},
    scope::{
        core::Core,
        job::{Facts, JobRef, Outcome},
        run,
    },
    wait::{
        self, Call, End,
        cycle::{Entry, For},
    },
};
use std::{
    fmt,
    panic::Location,
    sync::Arc,
    time::{Duration, Instant},
};

/// A handle on a spawned job: to wait for its value, to look at it, to cancel it.
///
/// Dropping the handle does not detach the job: the scope still waits for it, and its failure still counts. The value
/// of a job that has ended lives as long as its handle. So a handle that is leaked ([`mem::forget`](std::mem::forget))
/// leaks the value too, which is then never dropped, and keeps a little of the scope's memory; the scope itself ends as
/// ever. Failures are not leaked: they are the scope's, and that of an isolated job comes back in the group.
pub struct JobHandle<'scope, V> {
    core: &'scope Arc<Tally<Core>>,
    job: Reader<'scope, Facts, V, Failure>,
    /// Makes the value of an isolated job out of its failure.
    from_leaf: Option<fn(Leaf) -> V>,
}

impl<'scope, V> JobHandle<'scope, V> {
    pub(crate) fn new(
        core: &'scope Arc<Tally<Core>>,
        job: Reader<'scope, Facts, V, Failure>,
        from_leaf: Option<fn(Leaf) -> V>,
    ) -> Self {
        JobHandle { core, job, from_leaf }
    }

    fn job(&self) -> &JobRef {
        self.job.shared()
    }

    /// The job's strand, made now if need be.
    fn strand(&self) -> &Arc<Strand> {
        self.job().seed.strand(&self.core.ground)
    }

    /// Waits for the job and returns its value.
    ///
    /// Blocks until the job has ended. A job that has not started is run right here, on this thread, if nothing can
    /// end this wait but the job itself: called by the scope's body or one of its jobs, in no region and no inner
    /// scope. [`ScopeOptions::inline`](crate::ScopeOptions::inline) forbids that.
    ///
    /// # Cancellation
    ///
    /// Always a checkpoint of the *joiner*, unless the job has ended already or will never start: that is answered
    /// first. A joiner that is told to stop gets [`JoinError::You`]; the job goes on.
    ///
    /// # Errors
    ///
    /// * [`JoinError::Failed`], [`JoinError::Panicked`]: the job failed; its error will be in the scope's group.
    /// * [`JoinError::Cancelled`]: the *job* was stopped, or never started.
    /// * [`JoinError::You`]: the joiner was stopped.
    /// * [`JoinError::WouldDeadlock`]: the job is the joiner itself, or waits for it, perhaps through others. Of joins that
    ///   wait for each other, the last one gets this; a join with a time limit or a deadline ends by itself.
    ///
    /// # Examples
    ///
    /// ```
    /// let sum = tassel::scope(|s| {
    ///     let a = s.spawn(|| Ok(1));
    ///     let b = s.spawn(|| Ok(2));
    ///     Ok(a.join()? + b.join()?)
    /// })?;
    /// assert_eq!(sum, 3);
    /// # Ok::<(), tassel::ErrorGroup>(())
    /// ```
    #[track_caller]
    pub fn join(self) -> Result<V, JoinError> {
        match self.wait_for_end(None, Location::caller()) {
            Ok(Some(outcome)) => self.claim(outcome),
            Ok(None) => Err(JoinError::WouldDeadlock { cycle: Vec::new() }), // no time limit, so not reached
            Err(error) => Err(error),
        }
    }

    /// Returns the job's value if it has ended, else gives the handle back. Never blocks, never a checkpoint.
    ///
    /// # Errors
    ///
    /// The outer error is the handle, of a job that has not ended; the inner ones are those of
    /// [`join`](JobHandle::join).
    pub fn try_join(self) -> Result<Result<V, JoinError>, Self> {
        match self.look() {
            Some(outcome) => Ok(self.claim(outcome)),
            None => Err(self),
        }
    }

    /// Waits for the job, but no longer than `timeout`; then gives the handle back. The job goes on.
    ///
    /// # Cancellation
    ///
    /// As [`join`](JobHandle::join): a joiner that is told to stop gets [`JoinError::You`].
    ///
    /// # Errors
    ///
    /// The outer error is the handle, after the timeout; the inner ones are those of [`join`](JobHandle::join).
    #[track_caller]
    pub fn join_timeout(self, timeout: Duration) -> Result<Result<V, JoinError>, Self> {
        // A timeout beyond the clock is as good as none, but for the inline run that it still forbids.
        let until = current::clock().after(timeout);
        let until = until.map_or(Limit::Never, Limit::At);
        match self.wait_for_end(Some(&until), Location::caller()) {
            Ok(Some(outcome)) => Ok(self.claim(outcome)),
            Ok(None) => Err(self),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Tells whether the job has ended, or will never start.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.look().is_some()
    }

    /// Cancels this job and what it has opened; its siblings, the body and the scope go on.
    ///
    /// A job that has not started never will. That the job was stopped is no failure of the scope.
    #[track_caller]
    pub fn cancel(&self) {
        self.cancel_for(None, Location::caller());
    }

    /// Cancels as [`cancel`](JobHandle::cancel) does, with a text for the [`Reason`](crate::Reason).
    #[track_caller]
    pub fn cancel_with(&self, text: impl Into<String>) {
        self.cancel_for(Some(text.into()), Location::caller());
    }

    fn cancel_for(&self, text: Option<String>, place: &'static Location<'static>) {
        if self.job().outcome().is_some() {
            return;
        }
        token::cancel(self.strand().node(), ReasonKind::Explicit, text, place, true);
        run::give_up_now(self.core, self.job());
    }

    /// Returns the job's own token, to hand to others: they may cancel the job, watch it, or move its deadline, also when
    /// this handle is gone.
    ///
    /// It is the token that [`CancelToken::current`] gives in the job. Whose will a cancel is: one by this handle is the
    /// scope's, and so is one by the job itself. One by the token from anywhere else is not: a job that ends with
    /// [`Cancelled`](crate::Cancelled), or never starts, because of it makes the scope's result an `Err` with that reason; the
    /// siblings go on. Once the job has ended, the token is cancelled, and a cancel by it changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// use std::thread;
    /// let group = tassel::scope(|s| {
    ///     let token = s.job("watch").spawn(|| Ok(tassel::sleep(Duration::MAX)?)).token();
    ///     thread::spawn(move || token.cancel_with("unplugged"));
    ///     Ok(())
    /// })
    /// .unwrap_err();
    /// assert_eq!(group.primary().stop().unwrap().reason().text(), Some("unplugged"));
    /// ```
    #[must_use]
    pub fn token(&self) -> CancelToken {
        let node = self.strand().node();
        if self.job().outcome().is_some() {
            node.close(); // whoever ended the job may have found no node
        } else if !self.job().is_watched() && self.job().is_queued() {
            run::watch(self.core, self.job());
        }
        CancelToken::of(node)
    }

    /// Returns the number by which groups and snapshots name the job, unique in the process.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.job().id()
    }

    /// Returns the job's name; one that was given none is called after its spawn place and number.
    #[must_use]
    pub fn name(&self) -> String {
        self.job().label().name().to_string()
    }

    /// The outcome, if there is one or there can be none but *never started*.
    fn look(&self) -> Option<Outcome> {
        let job = self.job();
        // As most that are joined: in the queue, and nothing gives it up.
        if job.is_queued() && job.own().is_none() && !self.core.node.is_stopping() {
            return None;
        }
        job.outcome().or_else(|| {
            run::give_up(self.core, job);
            job.outcome()
        })
    }

    fn claim(self, outcome: Outcome) -> Result<V, JoinError> {
        if let (Outcome::Failed(_) | Outcome::Panicked(_), Some(from_leaf)) = (&outcome, self.from_leaf) {
            if let Some(leaf) = self.core.take_leaf(self.job().id()) {
                return Ok(from_leaf(leaf));
            }
        }
        match self.job().join_error(outcome) {
            Some(error) => Err(error),
            // Only `join` and its kin take the value, and they consume the handle.
            None => self.job.take().ok_or_else(|| JoinError::WouldDeadlock { cycle: Vec::new() }),
        }
    }

    /// `Ok(None)`: the limit passed.
    fn wait_for_end(
        &self,
        limit: Option<&Limit>,
        place: &'static Location<'static>,
    ) -> Result<Option<Outcome>, JoinError> {
        if let Some(outcome) = self.look() {
            return Ok(Some(outcome));
        }
        current::check().map_err(JoinError::You)?;
        self.check_ancestors()?;
        let job = self.job();
        if limit.is_none() && !job.own_thread && self.cannot_outlast() && self.core.may_inline() {
            if let Some(entry) = self.core.claim_job(job) {
                let _doing = Doing::since(entry.since, Activity::Join, place, Some(On::Job(job.label())));
                entry.run_and_leave(self.core);
                return Ok(job.outcome()); // there is one: it has run, or was swept
            }
        }
        let mut entry = Entry::default();
        let registered = Joiner { core: self.core, job, seat: None.into() };
        let until = match limit {
            Some(Limit::At(until)) => Some(*until),
            Some(Limit::Never) | None => None,
        };
        let ends = Wait::For(Arc::new(JoinOf { core: Arc::clone(self.core), job: job.clone() }));
        let call = Call { activity: Activity::Join, place, on: Some(On::Job(job.label())), ends };
        let ended = wait::wait(&call, until, |seat| {
            registered.register(seat);
            if let Some(outcome) = self.look() {
                return Some(Ok(outcome));
            }
            if limit.is_some() {
                return None; // ends by itself
            }
            // D18: no thread can be had. The joiner's is one.
            if self.core.is_refused() && !job.own_thread && self.core.may_inline() {
                if let Some(job) = self.core.claim_job(job) {
                    mutant!("joiner_that_runs_waits" => std::mem::forget(std::mem::take(&mut entry)));
                    entry = Entry::Out;
                    job.run_and_leave(self.core);
                    return self.look().map(Ok);
                }
            }
            let cycle = entry.look(|| For::Job(Arc::clone(self.strand())), seat)?;
            Some(Err(JoinError::WouldDeadlock { cycle }))
        });
        match ended {
            Ok(outcome) => outcome.map(Some),
            Err(End::TimedOut) => Ok(None),
            Err(End::Stopped(stop)) => Err(JoinError::You(stop)),
        }
    }

    /// D14: run inline, the job may not outlast a wait that could end before it.
    fn cannot_outlast(&self) -> bool {
        current::with(|frame| {
            frame.is_some_and(|frame| {
                let own = frame.line.made().and_then(|strand| strand.own());
                frame.scope == self.core.id && own.is_none()
            })
        })
    }

    /// Joining oneself, or whoever cannot end before oneself, can never end.
    fn check_ancestors(&self) -> Result<(), JoinError> {
        let Some(job) = self.job().seed.made() else { return Ok(()) }; // nobody stands below it
        let mut strand = current::with(|frame| Some(Arc::clone(frame?.line.strand())));
        let mut cycle = Vec::new();
        while let Some(here) = strand {
            // Bodies and bound code are passed through: only jobs have handles.
            if here.label.what == "job" {
                cycle.push(here.label.name().to_string());
            }
            if Arc::ptr_eq(&here, job) {
                return Err(JoinError::WouldDeadlock { cycle });
            }
            strand = here.parent().cloned();
        }
        Ok(())
    }
}

/// What a joiner waits for.
struct JoinOf {
    core: Arc<Tally<Core>>,
    job: JobRef,
}

impl Awaited for JoinOf {
    fn enders(&self) -> Vec<Arc<dyn Party>> {
        Tally::enders(&self.core, Some(&self.job))
    }
}

enum Limit {
    At(Instant),
    Never,
}

/// Takes the seat out of the job's list when the wait is over.
struct Joiner<'a> {
    core: &'a Tally<Core>,
    job: &'a JobRef,
    seat: std::cell::RefCell<Option<(Arc<Seat>, usize)>>,
}

impl Joiner<'_> {
    fn register(&self, seat: &Arc<Seat>) {
        self.job.add_joiner(seat);
        self.seat.borrow_mut().get_or_insert_with(|| (Arc::clone(seat), self.core.add_joined(self.job)));
    }
}

impl Drop for Joiner<'_> {
    fn drop(&mut self) {
        if let Some((seat, key)) = self.seat.borrow_mut().take() {
            self.core.remove_joined(key);
            self.job.remove_joiner(&seat);
        }
    }
}

impl<V> fmt::Debug for JobHandle<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("JobHandle");
        f.field("id", &self.id()).field("name", &self.name()).field("finished", &self.is_finished()).finish()
    }
}
