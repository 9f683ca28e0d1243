//! Where threads wait and what time it is.
//!
//! | file | owns |
//! |---|---|
//! | `seat` | a thread's parking place: [`Seat`](seat::Seat) |
//! | `clock` | what time it is, really or virtually: [`Clock`](clock::Clock) |
//! | `alarm` | instants that somebody must be told of although nobody waits for them |
//! | `standstill` | who can never go on |
//! | `virtual_run` | virtual time: how threads wait for their turn, [`Run`](virtual_run::Run) |
//! | `turns` | whose turn it is in a virtual run |
//! | `kernel` | what the kernel says of threads |
//!
//! # Does not know
//!
//! Why a thread waits, and what an instant means.

pub(crate) mod alarm;
pub(crate) mod clock;
pub(crate) mod kernel;
pub(crate) mod seat;
pub(crate) mod standstill;
pub(crate) mod turns;
#[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "only the feature `testing` starts runs"))]
pub(crate) mod virtual_run;
