//! Every blocking point, all built on one wait.
//!
//! # Promises
//!
//! 1. Entry, then data (D24): a cancelled place answers `Cancelled` on entry and takes nothing; after that a value that
//!    is there wins.
//! 2. A cancel or a deadline, also of an outer scope, ends the wait at once, without polling.
//! 3. A wait is announced to the pool and shows as an activity.
//!
//! # Does not know
//!
//! What is waited for: the caller brings a `look`.
//!
//! # Why no wake-up is lost
//!
//! The seat is registered with the node, and by `look` with whatever it waits for, before the look that precedes a park;
//! whoever makes a change pokes after it. The rest is the seat's own argument (`park/seat.rs`).

pub(crate) mod barrier;
pub(crate) mod event;
pub(crate) mod time;

use crate::{
    cancel::{
        current::{self, Activity, Doing},
        node::Node,
        reason::Cancelled,
    },
    park::{
        clock::Clock,
        seat::{Chair, Seat, with_chair},
    },
    pool,
};
use std::{sync::Arc, time::Instant};

/// Why a wait ended without what it waited for.
pub(crate) enum End {
    Stopped(Cancelled),
    TimedOut,
}

/// Parks once. The caller has looked, and looks again.
pub(crate) fn park(chair: &Chair, activity: Activity, until: Option<Instant>) {
    let (clock, order) =
        current::with(|frame| frame.map_or((Clock::Real, 0), |frame| (frame.clock(), frame.strand.order)));
    chair.seat().set_closed(activity.is_closed() && until.is_none());
    pool::while_blocked(|| chair.park(&clock, until, order));
}

struct Registered<'a>(&'a Arc<Node>, usize);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.remove_seat(self.1);
    }
}

/// Waits until `look` has something, the place is cancelled, or `until` has come. See the module header.
pub(crate) fn wait<T>(
    activity: Activity,
    until: Option<Instant>,
    mut look: impl FnMut(&Arc<Seat>) -> Option<T>,
) -> Result<T, End> {
    current::check().map_err(End::Stopped)?;
    with_chair(|chair| {
        if let Some(value) = look(chair.seat()) {
            return Ok(value);
        }
        let _doing = Doing::new(activity);
        let node = current::node();
        let clock = current::clock();
        let registered = node.as_ref().map(|node| node.add_seat(chair.seat()).map(|key| Registered(node, key)));
        let deadline = node.as_ref().and_then(|node| node.deadline());
        let earliest = [until, deadline].into_iter().flatten().min();
        loop {
            if let Some(value) = look(chair.seat()) {
                return Ok(value);
            }
            if let Some(node) = &node {
                node.expire();
                if let Some(reason) = node.reason() {
                    return Err(End::Stopped(Cancelled::new(reason)));
                }
            }
            if until.is_some_and(|until| until <= clock.now()) {
                return Err(End::TimedOut);
            }
            debug_assert!(!matches!(registered, Some(Err(()))), "a stopping node has a reason");
            park(chair, activity, earliest);
        }
    })
}
