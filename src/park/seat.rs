//! A thread's parking place.
//!
//! A thread that must wait registers its [`Seat`] wherever a change would be of interest, then looks, parks, and looks
//! again. Whoever makes a change pokes the seat after it.
//!
//! | state | the thread | a poke |
//! |---|---|---|
//! | `RUNNING` | runs, or is about to look | leaves `POKED` |
//! | `PARKED` | sleeps in its parker, or is about to | leaves `POKED`, unparks |
//! | `PARKED_BESIDE` | sleeps in a channel of the user's, or is about to | leaves `POKED`, puts a message into the mailbox |
//! | `PARKED_IN_RUN` | has handed the baton of a virtual run on, or is about to | leaves `POKED`, tells the run |
//! | `POKED` | will look before it parks | leaves `POKED` |
//!
//! # Promises
//!
//! 1. A poke after a change makes the owner look again after that change.
//! 2. A park may end for no reason: the caller always looks again.
//! 3. `std::thread::park` is not used, so a token that user code is owed is never eaten; but for waits on the user's own
//!    channels, which are asleep where crossbeam puts them.
//! 4. Of a [`Crowd`] everybody is poked. Who wakes it pays for one sleeper; those who have been woken wake the others, before
//!    they run anybody's code, so that a few are on their way at any time until nobody is left.
//!
//! # Does not know
//!
//! What is waited for.
//!
//! # Why no wake-up is lost
//!
//! ```text
//! waiter                          poker
//! look: not yet                   change
//! state.swap(PARKED)              state.swap(POKED)
//! POKED? do not park              PARKED? unpark
//! ```
//!
//! Both swap one word, so one comes second. If it is the waiter, it finds `POKED` and looks again, and its swap
//! acquires what the poker's released: it sees the change. If it is the poker, it finds `PARKED` and unparks, and
//! a parker keeps the token until it is used. A token or `POKED` left over from an earlier wait costs one extra look.
//! Modelled in `model/seat.rs`, `a_poke_is_never_lost`.
//!
//! A thread that waits on a channel of the user's sleeps in a `Select` over that channel and its *mailbox*, a channel with
//! room for one message. The argument is the same, with the message for the token: it stays there until it is taken, also
//! if it comes before the `Select`, and one that finds the mailbox full says no more than the one that is there. The mailbox
//! is made before the swap to `PARKED_BESIDE`, so whoever finds that finds the mailbox. That a message of the *user's* wakes
//! the thread is the channel's own promise; if both come, the `Select` takes one, and the look after it finds the other.
//! Modelled in `model/seat.rs`, `a_poke_is_not_lost_beside_a_channel`.
//!
//! # Why a crowd wakes up
//!
//! Whoever has a part in the wake-up takes seats from one list, one at a time, counts each as *coming*, and pokes it. A thread
//! that was found `PARKED`, and that got the crowd in the lock in which it was poked, is a helper. It is about to leave its
//! park, be it by this poke, a token, or because its time is over: it finds `POKED` there, takes the same lock, and finds the
//! crowd. (If code is to be called on the way, for the alarm, it looks before that, too.) So each helper does come: it counts
//! itself out, and takes part in turn. Who is awake, or was poked already, or helps another crowd, is poked, and counted out
//! by who has poked it.
//!
//! Nobody leaves off while there are seats in the list and nobody is coming: list and count stand under one lock. Modelled in
//! `model/seat.rs`, `a_crowd_is_woken_by_those_who_are_woken` and the two that follow it.
//!
//! Seats that are still in the list look as if they stood still. Until it is empty, and each helper has been there, no thread
//! outside a virtual run counts as standing. In a virtual run there is no crowd: there, pokes have an order.

use crate::{
    park::{
        alarm,
        standstill::{Party, Wait},
        turns::Meeting,
    },
    prim::{AtomicU8, AtomicU64, Mailbox, Mutex, OnceLock, Ordering, Parker, Unparker},
    raw::{PerProcess, generation},
};
use slab::Slab;
#[cfg(not(tassel_loom))]
use std::cell::Cell;
use std::{
    fmt,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Instant,
};

const RUNNING: u8 = 0;
const PARKED: u8 = 1;
const PARKED_IN_RUN: u8 = 2;
const POKED: u8 = 3;
const PARKED_BESIDE: u8 = 4;

/// What a virtual run does for those that wait in it.
pub(crate) trait Baton: Send + Sync {
    /// Hands the baton on, and returns when it is back after a poke, or after `until`.
    fn park(&self, chair: &Chair, order: u64, until: Option<Instant>, channel: Option<Looking<'_>>);
    /// Makes a parked thread ready.
    fn wake(&self, seat: u64);
}

/// A channel of the user's, in which a thread can sleep. It wakes the thread by itself, and pokes nobody.
pub(crate) trait Channel {
    /// Sleeps until the channel has done what it is wanted for, `until` has come, or there is a message in the mailbox, which
    /// is taken then.
    fn sleep(&mut self, mailbox: &Mailbox, until: Option<Instant>);

    /// Whether only those meet in it who sleep in it.
    fn is_for_meeting(&self) -> bool;

    /// As [`sleep`](Channel::sleep), in a run, if it is for meeting.
    fn meet(&mut self, meeting: &Meeting);
}

/// A wait on a channel in a run: there the thread has to look from time to time.
pub(crate) struct Looking<'c> {
    pub(crate) channel: &'c mut dyn Channel,
    /// All that it has done since it waited last is to look.
    pub(crate) again: bool,
}

/// The public end of a thread's parking place: anyone may poke it.
pub(crate) struct Seat {
    /// Unique in the process.
    pub(crate) id: u64,
    /// The name of its thread, if it has one.
    pub(crate) thread: Option<Arc<str>>,
    state: AtomicU8,
    /// How often its thread has parked: two equal readings around a set of looks show that it stayed parked.
    parks: AtomicU64,
    /// How the wait that it is in, or was in last, can end.
    wait: Mutex<Wait>,
    /// A crowd that its thread is to help to wake, once it is out of its parker.
    helps: Mutex<Helps>,
    unparker: Unparker,
    /// Made when its thread first waits beside it.
    mailbox: OnceLock<Mailbox>,
    /// Of the process that its thread belongs to: a forked child has the seat without the thread.
    generation: u64,
    /// The run whose baton this seat has handed on while `PARKED_IN_RUN`.
    run: Mutex<Option<Arc<dyn Baton>>>,
}

#[derive(Default)]
struct Helps {
    crowd: Option<Arc<Crowd>>,
    /// It stands in for the alarm, and may run code of the user's.
    serves: bool,
}

impl Seat {
    /// Makes the owner look again, after everything that the caller did before.
    pub(crate) fn poke(&self) {
        mutant!("poke_after_a_poke" => if self.is_poked() { return });
        mutant!("poke_without_swap" => return self.state.store(POKED, Ordering::Release));
        // Pairs with the swaps in `Chair::park_as`: what the caller changed is visible to the look that follows.
        let before = self.state.swap(POKED, Ordering::AcqRel);
        self.wake_from(before);
    }

    /// As [`poke`](Seat::poke), for a crowd. `true` if the thread leaves its park now, and helps.
    fn poke_in(&self, crowd: &Arc<Crowd>) -> bool {
        let mut helps = self.helps.lock();
        // As in `poke`. In the lock, so that the thread, who finds `POKED` and then takes the lock, finds the crowd.
        let before = self.state.swap(POKED, Ordering::AcqRel);
        let leaves = matches!(before, PARKED | PARKED_BESIDE) || mutant!("awake_is_to_help");
        let will_help = leaves && helps.crowd.is_none() && !helps.serves && self.is_here();
        if will_help {
            helps.crowd = Some(Arc::clone(crowd));
        }
        drop(helps);
        self.wake_from(before);
        will_help
    }

    /// Wakes the thread out of what it was in when it was poked.
    fn wake_from(&self, state: u8) {
        match state {
            PARKED => self.unparker.unpark(),
            PARKED_BESIDE => {
                mutant!("mailbox_left_empty" => return self.unparker.unpark());
                if let Some(mailbox) = self.mailbox.get() {
                    mailbox.put();
                }
            }
            PARKED_IN_RUN => {
                let run = self.run.lock().clone();
                if let Some(run) = run {
                    run.wake(self.id);
                }
            }
            _ => {}
        }
    }

    /// Helps to wake the crowd that it was woken with, if there is one. Called by its thread alone.
    fn help(&self) {
        mutant!("woken_wakes_nobody" => return);
        let crowd = self.helps.lock().crowd.take();
        if let Some(crowd) = crowd {
            crowd.help();
        }
    }

    /// Lets the thread go on, on behalf of a run that gives it the baton.
    pub(crate) fn unpark(&self) {
        self.unparker.unpark();
    }

    /// Tells whether a poke has come since the thread went to park.
    pub(crate) fn is_poked(&self) -> bool {
        // Pairs with the swap in `poke`.
        self.state.load(Ordering::Acquire) == POKED
    }

    /// Tells whether its thread is of this process. A forked child has the seats of threads that it does not have.
    pub(crate) fn is_here(&self) -> bool {
        self.generation == generation()
    }

    /// Returns the number of the park that the thread is in now, unless it moves or was poked.
    pub(crate) fn parked(&self) -> Option<u64> {
        // Pairs with the swaps in `Chair::park_as` and `park_in`, which come after the number was raised. The number is read
        // first: if the thread goes on meanwhile, a second reading gives another. What it did before it parked, a poke of
        // somebody else say, is visible to looks after this one.
        let parks = self.parks.load(Ordering::SeqCst);
        matches!(self.state.load(Ordering::SeqCst), PARKED | PARKED_BESIDE | PARKED_IN_RUN).then_some(parks)
    }

    /// Says, before a park, how it can end; the caller takes it back after.
    pub(crate) fn set_wait(&self, wait: Wait) {
        let before = std::mem::replace(&mut *self.wait.lock(), wait);
        drop(before);
    }
}

impl Party for Seat {
    fn still(&self) -> Option<u64> {
        let parks = self.parked()?;
        if CROWDS.get().load(SeqCst) > 0 && self.state.load(Ordering::Acquire) != PARKED_IN_RUN {
            return None; // it may be one of them
        }
        if matches!(*self.wait.lock(), Wait::Open) { None } else { Some(parks) }
    }

    fn enders(&self) -> Option<Vec<Arc<dyn Party>>> {
        let wait = self.wait.lock().clone();
        match wait {
            Wait::Open | Wait::Closed => None,
            Wait::For(awaited) => Some(awaited.enders()),
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("id", &self.id).field("parked", &self.parked()).finish_non_exhaustive()
    }
}

/// The owner's end of a [`Seat`]: only its thread parks.
#[derive(Debug)]
pub(crate) struct Chair {
    seat: Arc<Seat>,
    parker: Parker,
}

impl Chair {
    pub(crate) fn new() -> Self {
        // A std atomic: ids are not part of any protocol.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let parker = Parker::new();
        let seat = Arc::new(Seat {
            id: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            thread: std::thread::current().name().map(Arc::from),
            state: AtomicU8::new(RUNNING),
            parks: AtomicU64::new(0),
            wait: Mutex::new(Wait::Open),
            helps: Mutex::default(),
            generation: generation(),
            unparker: parker.unparker().clone(),
            mailbox: OnceLock::new(),
            run: Mutex::new(None),
        });
        Chair { seat, parker }
    }

    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Parks until poked or until `until`.
    ///
    /// The caller looked before, and looks again after: see the module header.
    pub(crate) fn park(&self, until: Option<Instant>) {
        self.park_as(PARKED, until, |until| match until {
            Some(until) => self.parker.park_deadline(until),
            None => self.parker.park(),
        });
    }

    /// As [`park`](Chair::park), but asleep in a channel, with the mailbox beside it.
    pub(crate) fn park_beside(&self, channel: &mut dyn Channel, until: Option<Instant>) {
        let mailbox = self.seat.mailbox.get_or_init(Mailbox::new);
        self.park_as(PARKED_BESIDE, until, |until| channel.sleep(mailbox, until));
    }

    fn park_as(&self, state: u8, until: Option<Instant>, sleep: impl FnOnce(Option<Instant>)) {
        let seat = &self.seat;
        let unserved = alarm::unserved();
        seat.parks.fetch_add(1, Ordering::SeqCst);
        mutant!("park_forgets_a_poke" => seat.state.store(RUNNING, Ordering::Release));
        // Pairs with the swap in `poke`: after it, the caller sees the change. And with the loads in `parked`.
        if seat.state.swap(state, Ordering::AcqRel) != POKED {
            sleep([until, unserved].into_iter().flatten().min());
        }
        if unserved.is_some() {
            // Code of the user's may run: no crowd is to wait for that, one that came before or one that comes now.
            seat.helps.lock().serves = true;
            seat.help();
            // Before the swap: to those who look for a standstill, this thread still stands in its wait.
            alarm::serve_due();
            seat.helps.lock().serves = false;
        }
        // Pairs with the swap in `poke`: a poke that it takes away is one whose change the caller's look sees.
        if seat.state.swap(RUNNING, Ordering::AcqRel) == POKED {
            seat.help();
        }
    }

    /// As [`park`](Chair::park), by the clock of a run. `order` is the spawn order of the code that waits.
    pub(crate) fn park_in(
        &self,
        run: &Arc<dyn Baton>,
        until: Option<Instant>,
        order: u64,
        channel: Option<Looking<'_>>,
    ) {
        let seat = &self.seat;
        seat.parks.fetch_add(1, Ordering::SeqCst);
        *seat.run.lock() = Some(Arc::clone(run));
        // As in `park_as`.
        if seat.state.swap(PARKED_IN_RUN, Ordering::AcqRel) != POKED {
            run.park(self, order, until, channel);
        }
        let gone = seat.run.lock().take();
        drop(gone);
        // As in `park_as`.
        seat.state.swap(RUNNING, Ordering::AcqRel);
    }

    /// Sleeps in the parker once, for a run that hands out the baton; may return early.
    pub(crate) fn rest(&self) {
        match alarm::unserved() {
            None => self.parker.park(),
            Some(until) => {
                self.parker.park_deadline(until);
                alarm::serve_due();
            }
        }
    }
}

/// How many of a crowd are on their way at once, to be woken and to wake others: enough for all CPUs of most machines. If all
/// were, they would stand in each other's way.
const COMING: usize = if cfg!(any(tassel_loom, tassel_shuttle)) { 1 } else { 8 };

/// Crowds that are being woken. A std atomic: it only keeps those who look for a standstill from finding one.
/// A forked child has none of its parent's.
static CROWDS: PerProcess<std::sync::atomic::AtomicUsize> = PerProcess::new(std::sync::atomic::AtomicUsize::default);

/// Threads that are woken together: those who are woken wake the others.
pub(crate) struct Crowd {
    rest: Mutex<Rest>,
    counted: &'static std::sync::atomic::AtomicUsize,
}

struct Rest {
    seats: Vec<slab::IntoIter<Arc<Seat>>>,
    /// How many helpers have been woken, or are being woken, and have not come yet.
    coming: usize,
}

impl Crowd {
    /// Sees to it that each of these seats is poked, after everything that the caller did before.
    pub(crate) fn wake(seats: Vec<Slab<Arc<Seat>>>) {
        if seats.is_empty() {
            return;
        }
        let counted = CROWDS.get();
        counted.fetch_add(1, SeqCst);
        let seats = seats.into_iter().map(Slab::into_iter).collect();
        let rest = Mutex::new(Rest { seats, coming: 0 });
        Arc::new(Crowd { rest, counted }).go_on(1);
    }

    /// A helper has come.
    fn help(self: &Arc<Self>) {
        self.rest.lock().coming -= 1;
        self.go_on(COMING);
    }

    /// Wakes helpers until so many are on their way, or nobody is left.
    fn go_on(self: &Arc<Self>, coming: usize) {
        while let Some(seat) = self.next(coming) {
            if !seat.poke_in(self) {
                self.rest.lock().coming -= 1;
            }
        }
    }

    /// Takes a seat out, and counts it as coming.
    fn next(&self, coming: usize) -> Option<Arc<Seat>> {
        let mut rest = self.rest.lock();
        if rest.coming >= coming {
            return None;
        }
        loop {
            if let Some((_, seat)) = rest.seats.last_mut()?.next() {
                rest.coming += 1;
                return Some(seat);
            }
            rest.seats.pop();
        }
    }
}

impl Drop for Crowd {
    /// Whoever pokes one of it, or is still to, holds it.
    fn drop(&mut self) {
        self.counted.fetch_sub(1, SeqCst);
    }
}

#[cfg(not(tassel_loom))]
crate::prim::thread_local! {
    static CHAIR: Chair = Chair::new();

    /// The one for after that. Never freed; few threads need it. It has no destructor, so it can be had until the end.
    static LATE: Cell<Option<&'static Chair>> = const { Cell::new(None) };
}

/// Calls `f` with this thread's chair, or with its late one where that is gone already (in a destructor of a
/// thread-local). It is the same at each call, so that who opens a scope there is poked where it waits.
#[cfg(not(tassel_loom))]
pub(crate) fn with_chair<R>(f: impl FnOnce(&Chair) -> R) -> R {
    let mut f = Some(f);
    let tried = CHAIR.try_with(|chair| f.take().map(|f| f(chair)));
    let late = |cell: &Cell<Option<&'static Chair>>| {
        let chair = cell.get().unwrap_or_else(|| Box::leak(Box::new(Chair::new())));
        cell.set(Some(chair));
        chair
    };
    match (tried, f) {
        (Ok(Some(result)), _) => result,
        (_, Some(f)) => match LATE.try_with(late) {
            Ok(chair) => f(chair),
            Err(_) => f(&Chair::new()), // where the system destroys even what has no destructor
        },
        (_, None) => unreachable!("the closure is taken only to be called"),
    }
}

/// In a model each wait has a chair of its own.
#[cfg(tassel_loom)]
pub(crate) fn with_chair<R>(f: impl FnOnce(&Chair) -> R) -> R {
    f(&Chair::new())
}
