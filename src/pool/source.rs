//! A scope as the pool sees it: [`Source`], and [`Turns`] of one in a virtual run.
//!
//! # Does not know
//!
//! The pool, and what a job does.

use crate::park::standstill::Party;
use std::{sync::Arc, time::Instant};

/// A scope as the pool sees it: queued jobs that a worker may run.
pub(crate) trait Source: Send + Sync + 'static {
    /// Claims a queued job, if there is one, and runs or sweeps it to its end; and so on with the next, if `go_on` says so, which
    /// is asked after each. Of a virtual run one only. Ends, and tells since when, where it is *crowded*: the jobs are so short, and
    /// others spawn or claim so many, that this worker is in their way. Does not unwind.
    fn run(&self, go_on: &mut dyn FnMut() -> bool) -> Option<Instant>;
    /// How many jobs are queued. Without a lock: a hint for who has not ordered it otherwise.
    fn queued(&self) -> usize;
    /// The numbers of the first and the last job that are queued, or a little before and after. Without a lock: whoever
    /// spawns or runs jobs is not to be held up by who looks.
    fn line(&self) -> Option<(u64, u64)>;
    /// How many workers it could use now: as many as jobs are queued, or in a virtual run as have their turn.
    fn wanted(&self) -> usize {
        self.queued()
    }
    /// Notes, under the lock of its queue, that it is listed, if jobs are queued and it was not; then the caller lists it.
    fn set_listed(&self) -> bool;
    /// Notes, under the lock of its queue, that it is not listed, unless jobs are queued, or `anyway`. Called under the pool's
    /// lock, by who takes it out if this says so.
    fn set_unlisted(&self, anyway: bool) -> bool;
    /// Whether it is listed, or about to be.
    fn is_listed(&self) -> bool;
    /// No thread can be had now: owner and joiners are to help themselves.
    fn rescue(&self);
    /// The thread that opened it.
    fn owner(&self) -> Arc<dyn Party>;
    /// The threads that run code of the scopes around it.
    fn around(&self) -> Vec<Arc<dyn Party>>;
    /// Names its queued jobs, and says what the others wait in; for a message.
    fn picture(&self) -> (Vec<String>, Vec<String>);
    /// Its queued jobs can never start, for this reason.
    fn starve(&self, text: &str);
    /// How to speak to its virtual run, if it is in one.
    fn turns(&self) -> Option<&dyn Turns> {
        None
    }
}

/// What the pool tells a virtual run, in which it gives a thread only to the job whose turn it is.
pub(crate) trait Turns {
    /// No worker can be on its way: the turn of a job of this source is given up. Called under the pool's lock; the
    /// result, after it.
    fn give_up(&self) -> Option<Box<dyn FnOnce() + '_>>;
    /// Time has passed, and a thread may be had now: if the run stands still, it tries again.
    fn retry(&self);
}
