//! Every blocking point, all built on one wait.
//!
//! [`wait`] is the loop, and [`park`] the one place where a thread of the library goes to sleep. A blocking call is a
//! `look` that says what it waits for: it takes what is there, or enters the seat with whoever will bring it.
//!
//! # Promises
//!
//! 1. *Entry, then data* (D24): a cancelled place answers `Stopped` on entry and takes nothing; after that what is there
//!    wins, then a stop, then the wait's own limit.
//! 2. A cancel or a deadline, also of an outer scope, ends the wait at once, without polling. A waiter times itself
//!    out: no alarm is set.
//! 3. A wait is announced to the pool and shows as an activity.
//! 4. Where nothing needs waiting for, nothing is registered and nobody is told.
//!
//! # Does not know
//!
//! What is waited for, and what time it is: the caller brings a `look`, the frame a clock.
//!
//! # Why no wake-up is lost
//!
//! The seat is registered with the node, and by `look` with whatever it waits for, before the look that precedes a park;
//! whoever makes a change pokes after it. So does whoever moves a deadline nearer, and each park is planned with the
//! instants as they are then. The rest is the seat's own argument (`park/seat.rs`). A stop that comes between
//! the entry check and the registration is found by the look at the node that follows it.
//!
//! A job waits at the nearest node that exists: its scope's, as a rule, so that a cancel of a scope of sleepers has one node to
//! visit. Who needs one of the job's own, to cancel it alone, makes it, and pokes: the waiter moves there before it parks
//! again. Modelled in `model/claim.rs`, `a_job_that_waits_at_its_scope_s_node_is_stopped_by_its_handle`.

pub(crate) mod abandon;
pub(crate) mod barrier;
pub(crate) mod blocking;
#[cfg(not(any(tassel_loom, tassel_shuttle)))]
pub(crate) mod channel;
pub(crate) mod condvar;
pub(crate) mod cycle;
pub(crate) mod door;
pub(crate) mod event;
mod graph;
pub(crate) mod mutex;
pub(crate) mod once;
pub(crate) mod reading;
pub(crate) mod rwlock;
pub(crate) mod semaphore;
pub(crate) mod time;
pub(crate) mod turnstile;

use crate::{
    cancel::{
        current::{self, Activity, Doing, On, Thing},
        node::Node,
        reason::Cancelled,
    },
    park::{
        clock::Clock,
        seat::{Chair, Channel, Looking, Seat, with_chair},
        standstill::Wait,
    },
    pool,
};
use std::{panic::Location, sync::Arc, time::Instant};

/// A blocking call, as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) activity: Activity,
    pub(crate) place: &'static Location<'static>,
    pub(crate) on: Option<On>,
    /// What ends it, besides a limit and a stop.
    pub(crate) ends: Wait,
}

impl Call {
    /// A call of the user's, at the place of the caller.
    #[track_caller]
    pub(crate) fn new(activity: Activity, ends: Wait) -> Self {
        Call { activity, place: Location::caller(), on: None, ends }
    }

    /// The same for something that jobs share, which others are shown as it is when they look. Jobs end it.
    #[track_caller]
    pub(crate) fn of(activity: Activity, thing: &Arc<impl Thing + 'static>) -> Self {
        Call { on: Some(On::Thing(Arc::clone(thing) as Arc<dyn Thing>)), ..Call::new(activity, Wait::Closed) }
    }

    /// Shows it.
    pub(crate) fn doing(&self) -> Doing {
        Doing::new(self.activity, self.place, self.on.clone())
    }
}

/// Why a wait ended without what it waited for.
#[derive(Debug)]
pub(crate) enum End {
    Stopped(Cancelled),
    TimedOut,
}

impl End {
    /// What has ended a wait that has no limit of its own.
    pub(crate) fn stop(self) -> Cancelled {
        match self {
            End::Stopped(stop) => stop,
            End::TimedOut => unreachable!("a wait without a limit"),
        }
    }
}

/// Parks once, by the clock and with the spawn order of the current frame, until poked or `until` (any deadline in force
/// included), or for no reason. The caller has looked, and looks again. Without an instant, only what `wait` says ends it.
pub(crate) fn park(chair: &Chair, wait: &Wait, until: Option<Instant>) {
    park_by(chair, wait, until, |clock, order| clock.park(chair, until, order));
}

/// As [`park`], where a channel may wake the thread, too.
fn park_beside(chair: &Chair, wait: &Wait, until: Option<Instant>, looking: Looking<'_>) {
    park_by(chair, wait, until, |clock, order| clock.park_beside(chair, looking, until, order));
}

fn park_by(chair: &Chair, wait: &Wait, until: Option<Instant>, sleep: impl FnOnce(&Clock, u64)) {
    struct Over<'a>(&'a Seat);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.set_wait(Wait::Open);
        }
    }
    let (clock, order) =
        current::with(|frame| frame.map_or((Clock::Real, 0), |frame| (frame.clock(), frame.line.order())));
    chair.seat().set_wait(if until.is_some() { Wait::Open } else { wait.clone() });
    let _over = Over(chair.seat());
    pool::while_blocked(|| sleep(&clock, order));
}

/// The entry check of what may wait. Unlike [`current::check`] it has no deadline watched: a waiter times itself out.
pub(crate) fn enter() -> Result<(), Cancelled> {
    // The frame is let go first: to expire may run callbacks, which stand outside any frame.
    let node = current::with(|frame| {
        let frame = frame?;
        let node = frame.nearest();
        (node.is_stopping() || node.next_due().is_some()).then(|| Arc::clone(node))
    });
    node.map_or(Ok(()), |node| stop_at(&node))
}

/// Looks at the clock, too.
fn stop_at(node: &Arc<Node>) -> Result<(), Cancelled> {
    node.expire();
    match node.reason() {
        None => Ok(()),
        Some(reason) => Err(Cancelled::new(reason)),
    }
}

/// A node at which a seat is registered, until this is dropped; unless it refused, because it stops.
struct Registered {
    node: Arc<Node>,
    key: Option<usize>,
}

impl Registered {
    /// Sees to it that the seat stands at the node that is the nearest now: a job waits at its scope's, and others may make
    /// it one of its own meanwhile.
    fn follow(here: &mut Option<Self>, seat: &Arc<Seat>) {
        while let Some(node) = current::nearest_but(here.as_ref().map(|here| &here.node)) {
            let key = node.add_seat(seat).ok();
            *here = Some(Registered { node, key });
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.node.remove_seat(key);
        }
    }
}

/// Waits until `look` has something, the place is cancelled, or `until` has come. See the module header.
///
/// `look` gets the seat that it may enter somewhere. To take it out again after an `Err` is up to the caller.
pub(crate) fn wait<T>(
    call: &Call,
    until: Option<Instant>,
    mut look: impl FnMut(&Arc<Seat>) -> Option<T>,
) -> Result<T, End> {
    enter().map_err(End::Stopped)?;
    with_chair(|chair| wait_in(chair, call, until, &mut look))
}

/// As [`wait`], on the calling thread's chair.
pub(crate) fn wait_in<T>(
    chair: &Chair,
    call: &Call,
    until: Option<Instant>,
    look: &mut dyn FnMut(&Arc<Seat>) -> Option<T>,
) -> Result<T, End> {
    struct ByLook<'l, T>(&'l mut dyn FnMut(&Arc<Seat>) -> Option<T>);
    impl<T> Awaited<T> for ByLook<'_, T> {
        fn look(&mut self, seat: &Arc<Seat>) -> Option<T> {
            (self.0)(seat)
        }
    }
    wait_for(chair, call, until, &mut ByLook(look))
}

/// What a wait is for.
pub(crate) trait Awaited<T> {
    /// Takes what is there, or enters the seat with whoever will bring it.
    fn look(&mut self, seat: &Arc<Seat>) -> Option<T>;

    /// The channel of the user's that brings it. `None`: who brings it pokes.
    fn channel(&mut self) -> Option<&mut dyn Channel> {
        None
    }
}

/// As [`wait_in`], for what may wake the thread by itself.
pub(crate) fn wait_for<T>(
    chair: &Chair,
    call: &Call,
    until: Option<Instant>,
    awaited: &mut dyn Awaited<T>,
) -> Result<T, End> {
    if let Some(value) = awaited.look(chair.seat()) {
        return Ok(value);
    }
    let _doing = call.doing();
    let clock = current::clock();
    // Before it is registered: who makes the code a node of its own finds one of the two.
    current::with(|frame| {
        if let Some(frame) = frame {
            frame.line.strand().set_seat(chair.seat());
        }
    });
    let mut here = None;
    let mut again = false;
    loop {
        // Refused by a node that stops: the look at it below comes before any park.
        Registered::follow(&mut here, chair.seat());
        if let Some(value) = awaited.look(chair.seat()) {
            return Ok(value);
        }
        let node = here.as_ref().map(|here| &here.node);
        if let Some(node) = node {
            let was_due = node.next_due().is_some_and(|due| due <= clock.now());
            stop_at(node).map_err(End::Stopped)?;
            if was_due {
                // To mark what has passed may run callbacks, which may wait on this thread, and so take a poke.
                again = false;
                continue;
            }
        }
        if until.is_some_and(|until| until <= clock.now()) {
            return Err(End::TimedOut);
        }
        // Read before each park: it may have moved, and then a poke is owed or the new instant is read.
        let earliest = [until, node.and_then(|node| node.next_due())].into_iter().flatten().min();
        match awaited.channel() {
            None => park(chair, &call.ends, earliest),
            Some(channel) => park_beside(chair, &call.ends, earliest, Looking { channel, again }),
        }
        again = true;
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
pub(crate) mod given {
    //! What tests of waits need.

    use crate::{
        cancel::{
            current::{self, Frame, Strand},
            deadline::Deadline,
            node::{Node, Parents},
            reason::{Label, Reason, ReasonKind},
        },
        park::{clock::Clock, seat::with_chair, virtual_run::Run},
    };
    use std::{
        panic::{Location, resume_unwind},
        sync::{Arc, mpsc},
        thread,
        time::{Duration, Instant},
    };

    /// Long enough that nobody waits for its end, and no test reaches it.
    pub(crate) const LONG: Duration = Duration::from_secs(3600);
    pub(crate) const SHORT: Duration = Duration::from_millis(2);

    /// Runs `f`, but not for ever: the failure of this crate is a hang.
    pub(crate) fn soon<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, wait) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let _done = done;
            f()
        });
        assert_ne!(wait.recv_timeout(Duration::from_secs(20)), Err(mpsc::RecvTimeoutError::Timeout), "a test hangs");
        thread.join().unwrap_or_else(|payload| resume_unwind(payload))
    }

    /// Spins until something is so.
    pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            thread::yield_now();
        }
    }

    pub(crate) fn node(deadline: Option<Duration>) -> Arc<Node> {
        let place = Location::caller();
        let deadline = deadline.map(|limit| Deadline { at: Instant::now() + limit, limit: Some(limit), place });
        Node::new(&Parents::default(), Label::new("region", None, place), Clock::Real, deadline)
    }

    /// Calls `f` at `node`.
    pub(crate) fn stand<R>(node: &Arc<Node>, f: impl FnOnce() -> R) -> R {
        let strand = Strand::at(node.label().clone(), "test".into(), 0, node);
        current::enter(Frame::of(&strand), f)
    }

    pub(crate) fn cancel(node: &Arc<Node>) {
        node.cancel(&Reason::new(ReasonKind::Explicit, node.label().clone(), Instant::now()), false);
    }

    /// Waits at a place whose limit passes meanwhile, and has `change` made between the last look and the stop: by the
    /// waiter itself, as it marks what has passed.
    pub(crate) fn stopped_after<R>(change: impl FnOnce() + Send + 'static, wait: impl FnOnce() -> R) -> R {
        let (run, place) = (with_chair(|chair| Run::start(chair.seat())), Location::caller());
        let (clock, label) = (Clock::Virtual(Arc::clone(&run)), Label::new("region", None, place));
        let deadline = Deadline::after(&clock, LONG, place);
        let node = Node::new(&Parents::default(), label.clone(), clock, deadline);
        // Of another clock, so that nobody watches the limit for it, and marks it before.
        let below = Node::new(&Parents { parent: Some(&node), also: None }, label, Clock::Real, None);
        let _registration = below.on_cancel(Box::new(change));
        stand(&node, || {
            let result = wait();
            assert!(node.is_stopping());
            run.finish();
            result
        })
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::{
        given::{LONG, SHORT, cancel, node, soon, stand},
        *,
    };
    use crate::{
        cancel::{
            deadline::Deadline,
            node::{Parents, Sight, Terms},
            reason::{Label, ReasonKind},
        },
        park::{standstill::Party, virtual_run::Run},
        prim::Mutex,
    };
    use std::{
        cell::Cell,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    #[test]
    fn a_cancelled_place_answers_on_entry_and_takes_nothing() {
        let node = node(None);
        cancel(&node);
        stand(&node, || {
            let waited =
                wait(&Call::new(Activity::Event, Wait::Closed), None, |_| -> Option<()> { panic!("it looked") });
            assert!(matches!(waited, Err(End::Stopped(_))));
        });
    }

    #[test]
    fn what_is_there_on_entry_registers_nothing() {
        let node = node(Some(LONG));
        stand(&node, || {
            let looks = Cell::new(0);
            let waited = wait(&Call::new(Activity::Event, Wait::Closed), None, |_| {
                looks.set(looks.get() + 1);
                Some(7)
            });
            assert!(matches!(waited, Ok(7)));
            assert_eq!(looks.get(), 1);
        });
    }

    #[test]
    fn data_wins_over_a_cancel_that_comes_during_the_wait() {
        let node = node(None);
        stand(&node, || {
            let looks = Cell::new(0);
            let waited = wait(&Call::new(Activity::Event, Wait::Closed), None, |_| {
                looks.set(looks.get() + 1);
                cancel(&node);
                (looks.get() == 2).then_some(())
            });
            assert!(matches!(waited, Ok(())));
        });
    }

    #[test]
    fn a_stop_wins_over_the_own_limit() {
        let node = node(None);
        stand(&node, || {
            let waited = wait(&Call::new(Activity::Event, Wait::Closed), Some(Instant::now()), |_| {
                cancel(&node);
                None::<()>
            });
            assert!(matches!(waited, Err(End::Stopped(_))));
        });
    }

    #[test]
    fn the_own_limit_ends_a_wait_also_outside_any_scope() {
        soon(|| {
            let waited = wait(&Call::new(Activity::Event, Wait::Closed), Some(Instant::now() + SHORT), |_| None::<()>);
            assert!(matches!(waited, Err(End::TimedOut)));
        });
    }

    #[test]
    fn a_deadline_of_the_place_ends_a_wait_and_marks_the_node() {
        soon(|| {
            let node = node(Some(SHORT));
            stand(&node, || {
                let waited =
                    wait(&Call::new(Activity::Event, Wait::Closed), Some(Instant::now() + LONG), |_| None::<()>);
                let Err(End::Stopped(stop)) = waited else { panic!("{waited:?}") };
                assert_eq!(stop.reason().kind(), ReasonKind::Deadline);
                assert!(node.is_stopping());
            });
        });
    }

    #[test]
    fn a_cancel_wakes_a_parked_thread() {
        soon(|| {
            let node = node(None);
            let seat = Arc::new(Mutex::new(None::<Arc<Seat>>));
            let waiter = thread::spawn({
                let (node, seat) = (Arc::clone(&node), Arc::clone(&seat));
                move || {
                    stand(&node, || {
                        wait(&Call::new(Activity::Event, Wait::Closed), None, |mine| {
                            *seat.lock() = Some(Arc::clone(mine));
                            None::<()>
                        })
                    })
                }
            });
            // Nothing but the library can end this wait, and it shows.
            given::until(|| seat.lock().as_ref().is_some_and(|seat| seat.still().is_some()));
            cancel(&node);
            assert!(matches!(waiter.join(), Ok(Err(End::Stopped(_)))));
        });
    }

    #[test]
    fn a_wait_with_a_deadline_in_force_is_not_closed() {
        soon(|| {
            let node = node(Some(LONG));
            let seat = Arc::new(Mutex::new(None::<Arc<Seat>>));
            let waiter = thread::spawn({
                let (node, seat) = (Arc::clone(&node), Arc::clone(&seat));
                move || {
                    stand(&node, || {
                        wait(&Call::new(Activity::Join, Wait::Closed), None, |mine| {
                            *seat.lock() = Some(Arc::clone(mine));
                            None::<()>
                        })
                    })
                }
            });
            given::until(|| seat.lock().as_ref().is_some_and(|seat| seat.parked().is_some()));
            assert_eq!(seat.lock().as_ref().and_then(|seat| seat.still()), None);
            cancel(&node);
            assert!(matches!(waiter.join(), Ok(Err(End::Stopped(_)))));
        });
    }

    #[test]
    fn a_wait_shows_its_activity_and_takes_it_back() {
        let node = node(None);
        stand(&node, || {
            let strand = current::with(|frame| frame.map(|frame| Arc::clone(frame.line.strand())));
            let shown = || strand.as_ref().map(|strand| strand.activity());
            let looks = Cell::new(0);
            let waited = wait(&Call::new(Activity::Barrier, Wait::Closed), None, |_| {
                looks.set(looks.get() + 1);
                (looks.get() == 2).then(shown).flatten()
            });
            assert!(matches!(waited, Ok(Activity::Barrier)));
            assert_eq!(shown(), Some(Activity::Running));
        });
    }

    /// In `cleanup` a deadline above ends no wait, but the waiter marks it, and runs what goes with that.
    #[test]
    fn a_waiter_looks_again_after_a_callback_that_has_waited_in_its_seat() {
        soon(|| {
            let (run, place) = (with_chair(|chair| Run::start(chair.seat())), Location::caller());
            let (clock, label) = (Clock::Virtual(Arc::clone(&run)), Label::new("cleanup", None, place));
            let deadline = Deadline::after(&clock, LONG, place);
            let node = Node::new(&Parents::default(), label.clone(), clock.clone(), deadline);
            let parents = Parents { parent: Some(&node), also: None };
            // Of another clock, so that nobody watches the limit for it, and marks it before.
            let below = Node::new(&parents, label.clone(), Clock::Real, None);
            let came = Arc::new(AtomicBool::new(false));
            let comes = Arc::clone(&came);
            let _registration = below.on_cancel(Box::new(move || {
                comes.store(true, Ordering::Relaxed);
                with_chair(|chair| {
                    chair.seat().poke();
                    chair.park(None); // takes the poke
                });
            }));
            let cleanup = Node::with(&parents, label, clock, Terms { sight: Sight::End, ..Terms::default() });
            let waited = stand(&cleanup, || {
                let until = run.now() + 2 * LONG;
                let call = Call::new(Activity::Event, Wait::Closed);
                let waited = wait(&call, Some(until), |_| came.load(Ordering::Relaxed).then_some(()));
                waited.is_ok() && run.now() < until
            });
            run.finish();
            assert!(waited);
        });
    }

    #[test]
    fn an_entry_that_finds_the_deadline_passed_runs_the_callbacks() {
        let node = node(Some(LONG));
        let inner = Node::new(
            &Parents { parent: Some(&node), also: None },
            node.label().clone(),
            Clock::Real,
            Some(Deadline { at: Instant::now(), limit: None, place: node.label().place }),
        );
        let called = Arc::new(AtomicBool::new(false));
        let below = Node::new(
            &Parents { parent: Some(&inner), also: None },
            node.label().clone(),
            // Another clock, so that to register does not expire the node already.
            Clock::Virtual(with_chair(|chair| Run::start(chair.seat()))),
            None,
        );
        let _registration = below.on_cancel(Box::new({
            let called = Arc::clone(&called);
            move || called.store(current::with(|frame| frame.is_none()), Ordering::Relaxed)
        }));
        stand(&inner, || {
            assert!(wait(&Call::new(Activity::Event, Wait::Closed), None, |_| None::<()>).is_err());
            assert!(called.load(Ordering::Relaxed), "called, and outside any frame");
        });
    }
}
