//! Where threads wait and what time it is.
//!
//! A [`Seat`](seat::Seat) is a thread's parking place, a [`Clock`](clock::Clock) tells the time, real or virtual, and
//! an [alarm](alarm) calls what must be told that an instant has passed. In virtual time a [`Run`](virtual_run::Run)
//! decides who moves, and a [standstill] is where nobody ever will.
//!
//! # Does not know
//!
//! Why a thread waits, and what an instant means.

pub(crate) mod alarm;
pub(crate) mod clock;
mod kernel;
pub(crate) mod seat;
pub(crate) mod standstill;
pub(crate) mod turns;
#[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "only the feature `testing` starts runs"))]
pub(crate) mod virtual_run;
