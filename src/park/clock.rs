//! What time it is: [`Clock`].
//!
//! Every node of the cancellation tree has a clock, that of its parent; nothing outside `park/` asks the system for the
//! time.

use crate::{
    park::{
        alarm::{self, Due, Watch},
        seat::{Baton, Chair, Looking},
        virtual_run::Run,
    },
    prim,
};
use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// The system's monotonic clock, or that of a virtual-time run.
#[derive(Clone)]
pub(crate) enum Clock {
    Real,
    #[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "only the feature `testing` starts runs"))]
    Virtual(Arc<Run>),
}

impl Clock {
    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::Real => prim::now(),
            Clock::Virtual(run) => run.now(),
        }
    }

    /// Converts a timeout into an instant. An overflow means never.
    pub(crate) fn after(&self, timeout: Duration) -> Option<Instant> {
        self.now().checked_add(timeout)
    }

    pub(crate) fn is_same(&self, other: &Clock) -> bool {
        match (self, other) {
            (Clock::Real, Clock::Real) => true,
            (Clock::Virtual(a), Clock::Virtual(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    pub(crate) fn run(&self) -> Option<&Arc<Run>> {
        match self {
            Clock::Real => None,
            Clock::Virtual(run) => Some(run),
        }
    }

    /// Parks until poked or until `until`, an instant of this clock; `order` is the spawn order of the code that waits.
    ///
    /// The caller looked before, and looks again after: see `seat.rs`.
    pub(crate) fn park(&self, chair: &Chair, until: Option<Instant>, order: u64) {
        match self {
            Clock::Real => chair.park(until),
            Clock::Virtual(run) => park_in(run, chair, until, order, None),
        }
    }

    /// As [`park`](Clock::park), where a channel may wake the thread, too.
    pub(crate) fn park_beside(&self, chair: &Chair, looking: Looking<'_>, until: Option<Instant>, order: u64) {
        match self {
            Clock::Real => chair.park_beside(looking.channel, until),
            Clock::Virtual(run) => park_in(run, chair, until, order, Some(looking)),
        }
    }

    /// Has `target` told once, soon after `at`. `None` if the system refuses the thread that would.
    pub(crate) fn watch(&self, at: Instant, target: Weak<dyn Due>) -> Option<Watch> {
        match self {
            Clock::Real => alarm::watch(at, target),
            Clock::Virtual(run) => Some(run.watch(at, target)),
        }
    }

    /// Forgets a watch; one that has come due already is no error.
    pub(crate) fn unwatch(&self, watch: Watch) {
        match self {
            Clock::Real => alarm::unwatch(watch),
            Clock::Virtual(run) => run.unwatch(watch),
        }
    }
}

fn park_in(run: &Arc<Run>, chair: &Chair, until: Option<Instant>, order: u64, channel: Option<Looking<'_>>) {
    let baton: Arc<dyn Baton> = Arc::clone(run) as Arc<dyn Baton>;
    chair.park_in(&baton, until, order, channel);
}

/// Keeps the clock of a virtual run from moving while the code here waits for somebody outside of it.
#[derive(Debug)]
pub(crate) struct Hold(Clock);

impl Hold {
    pub(crate) fn new(clock: Clock) -> Self {
        if let Some(run) = clock.run() {
            run.hold();
        }
        Hold(clock)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(run) = self.0.run() {
            run.release();
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Clock::Real => "Real",
            Clock::Virtual(_) => "Virtual",
        })
    }
}
