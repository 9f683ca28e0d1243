//! Who is idle: [`Roster`], under the pool's lock, and [`Bed`], where an idle worker sleeps.
//!
//! # Promises
//!
//! 1. Last in, first out, so that spare workers grow old at the bottom and leave.
//! 2. *Leaving the roster is the decision.* Who wakes a worker takes it out; a worker whose time has run out takes itself
//!    out; both under the pool's lock, so exactly one of them does. A worker that was taken stays, whatever its clock says.
//!
//! # Does not know
//!
//! What there is to do.
//!
//! # Why no hand-off is lost
//!
//! A worker lies down under the pool's lock, after it has seen that there is no work for it. Who has work comes later to
//! that lock and finds it. The wake-up is a token in the worker's parker, which keeps it until the worker parks.

use crate::prim::{Parker, Unparker};
use std::{collections::VecDeque, time::Instant};

/// Where a worker sleeps. Its own; nobody else parks here.
#[derive(Debug)]
pub(crate) struct Bed {
    parker: Parker,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Bed { parker: Parker::new() }
    }

    /// Sleeps until woken or until `until`; may return early.
    pub(crate) fn sleep(&self, until: Option<Instant>) {
        match until {
            Some(until) => self.parker.park_deadline(until),
            None => self.parker.park(),
        }
    }
}

/// Which time a worker has lain down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Night(u64);

/// The idle workers, in the order in which they lay down. Lives under the pool's lock, so to look for one of ten thousand is a
/// bisection.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    idle: VecDeque<(Night, Unparker)>,
    nights: u64,
}

impl Roster {
    pub(crate) fn len(&self) -> usize {
        self.idle.len()
    }

    /// A worker lies down.
    pub(crate) fn lie_down(&mut self, bed: &Bed) -> Night {
        self.nights += 1;
        let night = Night(self.nights);
        self.idle.push_back((night, bed.parker.unparker().clone()));
        night
    }

    /// Takes the worker that lay down last; the caller wakes it after unlocking.
    pub(crate) fn take(&mut self) -> Option<Unparker> {
        mutant!("taken_worker_stays_idle" => return self.idle.back().map(|(_, unparker)| unparker.clone()));
        self.idle.pop_back().map(|(_, unparker)| unparker)
    }

    /// Takes everybody.
    pub(crate) fn take_all(&mut self) -> Vec<Unparker> {
        self.idle.drain(..).map(|(_, unparker)| unparker).collect()
    }

    fn find(&self, night: Night) -> Option<usize> {
        self.idle.binary_search_by_key(&night, |(night, _)| *night).ok()
    }

    /// A worker that woke for whatever reason looks: still idle?
    pub(crate) fn is_idle(&self, night: Night) -> bool {
        self.find(night).is_some()
    }

    /// A worker whose time has run out leaves, unless it was taken: then it stays. Who leaves has lain there the longest, as a
    /// rule.
    pub(crate) fn leave(&mut self, night: Night) -> bool {
        let gone = self.find(night).and_then(|at| self.idle.remove(at));
        gone.is_some()
    }
}
