//! Virtual time: one job moves at a time, and the clock jumps when nobody can.
//!
//! All code below one `testing::virtual_time` call shares a [`Run`]. It has one *baton*. Who holds it moves; who parks
//! or ends hands it on: to whoever has been ready for longest in virtual time, then in order of spawning. When nobody
//! is ready, the clock jumps to the next instant that somebody waits for. So a program's order does not depend on the
//! machine, and hours pass in milliseconds. Who stands where in the order is told in `turns.rs`; here is how threads wait
//! for their turn, and what is done outside the lock.
//!
//! # Promises
//!
//! 1. Between two waits, code of the run is alone (but for guests and those `outside`).
//! 2. The clock moves only when nobody is ready, nobody moves and no guest is about, and then to the earliest instant
//!    that anybody waits for.
//! 3. If there is none, and nobody outside, the run reports a deadlock: also with queued jobs, if all threads that could
//!    take one are parked in the run.
//! 4. Who waits for what pokes nobody, a channel of the user's say, looks again before the clock moves; before it stands for
//!    ever, for some tenths of a second, in which a thread that is not of the run may bring it.
//! 5. Before the clock moves or stands for ever, a thread is asked for again for what is `stuck`, and, if in vain, the
//!    pool is asked whether it *starves*. So that, too, comes at its place in the order.
//!
//! # Does not know
//!
//! Jobs, scopes, nodes: it sees seats, numbers and instants, and something to [`Summon`].
//!
//! # Why no wake-up is lost
//!
//! A seat swaps to `PARKED_IN_RUN` before it calls [`park`](Baton::park), a poke swaps to `POKED` before it calls
//! [`wake`](Baton::wake), and both take the run's lock. If `wake` comes first, `park` finds the seat poked and enters it as
//! ready; if `park` comes first, `wake` finds it parked. The baton itself goes through `holder`, read under the lock
//! by the thread that rests until it is its own; a parker keeps a token that comes early.

use crate::{
    park::{
        alarm::{Due, Watch},
        kernel::{kernel_thread, runnable, sleep_of},
        seat::{Baton, Chair, Looking, Seat},
        turns::{Holder, Meeting, NO_MORE, OnDeadlock, Parked, State, Stranded, Summon, Then, Who, address, here},
    },
    prim::{self, Mutex},
};
use crossbeam::channel::{Receiver, Select};
use std::{
    fmt, mem,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

/// One virtual-time run: the clock and the baton.
pub(crate) struct Run {
    state: Mutex<State>,
}

impl Run {
    /// Starts a run whose baton the calling thread holds.
    pub(crate) fn start(seat: &Arc<Seat>) -> Arc<Self> {
        let run = Arc::new(Run { state: Mutex::new(State::new(Instant::now(), seat.id, kernel_thread())) });
        let watched = Arc::downgrade(&run);
        // Without the observer, a holder that blocks outside the library keeps the baton; nothing else depends on it.
        drop(prim::start_thread("tassel-virtual".into(), None, move || observe(&watched)));
        run
    }

    pub(crate) fn set_on_deadlock(&self, hook: OnDeadlock) {
        self.state.lock().on_deadlock = Some(hook);
    }

    /// Ends the run: its observer leaves.
    pub(crate) fn finish(&self) {
        let mut state = self.state.lock();
        state.over = true;
        let hook = state.on_deadlock.take();
        drop(state);
        drop(hook);
    }

    pub(crate) fn now(&self) -> Instant {
        self.state.lock().now
    }

    pub(crate) fn watch(&self, at: Instant, target: Weak<dyn Due>) -> Watch {
        self.state.lock().watches.insert(at, target)
    }

    pub(crate) fn unwatch(&self, watch: Watch) {
        let gone = self.state.lock().watches.remove(watch);
        drop(gone);
    }

    /// Gives out the next spawn order, from 1; the run's first code has 0.
    pub(crate) fn next_order(&self) -> u64 {
        let mut state = self.state.lock();
        state.orders += 1;
        state.orders
    }

    /// Enters a queued job: it is ready from now on.
    pub(crate) fn queue(&self, order: u64, job: Arc<dyn Summon>) {
        let mut state = self.state.lock();
        if state.early.remove(&order) {
            return; // a worker that was about has claimed it already
        }
        let turn = (state.now, 0, order);
        let spare = state.enter(turn, job);
        let then = state.hand_on();
        drop(state);
        drop(spare);
        self.follow(then);
    }

    /// Which job of `of` a thread that comes is to claim: the one whose turn it is.
    pub(crate) fn turn_of(&self, of: *const ()) -> Option<u64> {
        match &self.state.lock().holder {
            Holder::Summoned(order, _, job) if address(job) == of.addr() => Some(*order),
            _ => None,
        }
    }

    /// Takes a queued job's turn on this thread: returns once the baton is here. The caller has claimed the job.
    pub(crate) fn begin(&self, chair: &Chair, order: u64) {
        let seat = chair.seat();
        let mut state = self.state.lock();
        state.threads.entry(seat.id).or_insert_with(kernel_thread);
        state.let_go(seat.id);
        match &state.holder {
            Holder::Summoned(summoned, ..) if *summoned == order => {
                state.holder = Holder::Seat(seat.id);
                state.turns += 1;
                state.begun = state.turns;
                state.try_anew();
                let going = mem::take(&mut state.going);
                drop(state);
                return settle(&going);
            }
            _ => {}
        }
        state.try_anew();
        let (turn, gone) = state.take_out(order).unwrap_or_else(|| {
            state.early.insert(order);
            ((state.now, 0, order), None)
        });
        state.ready.insert(turn, Who::Thread(Arc::clone(seat)));
        let then = state.hand_on();
        drop(state);
        drop(gone);
        self.follow(then);
        self.await_baton(chair);
    }

    /// Says that no thread can be had for the job whose turn it is, if it was summoned of `of`: others go on, by the
    /// result, until somebody claims it or a thread may be had. May be called under a lock that [`Summon::summon`] takes;
    /// the result not.
    pub(crate) fn refuse(&self, of: *const ()) -> Option<impl FnOnce()> {
        let mut state = self.state.lock();
        let holder = mem::replace(&mut state.holder, Holder::Nobody);
        let (turn, job) = match holder {
            Holder::Summoned(_, turn, job) if address(&job) == of.addr() => (turn, job),
            other => {
                state.holder = other;
                return None;
            }
        };
        // With all that its source has queued.
        state.stuck.insert(of.addr());
        // The caller has the source, too: what is dropped here is not the last of it.
        drop(state.put(turn, job));
        let then = state.hand_on();
        Some(move || self.follow(then))
    }

    /// Asks again for threads, if nobody moves and jobs are stuck: the system may have refused one for a while.
    pub(crate) fn retry(&self) {
        let mut state = self.state.lock();
        if state.stuck.is_empty() || !matches!(state.holder, Holder::Nobody) {
            return;
        }
        state.try_anew();
        let then = state.hand_on();
        drop(state);
        self.follow(then);
    }

    /// Hands the baton on and returns when it is this thread's turn again: at once if nobody else is ready.
    ///
    /// With `behind`, everybody who is ready now goes first; else only those who come before `order`.
    pub(crate) fn pass(&self, chair: &Chair, order: u64, behind: bool) {
        let seat = chair.seat();
        let mut state = self.state.lock();
        state.let_go(seat.id);
        state.stir();
        let yields = if behind {
            // Who would find something to do now is ready, too.
            state.ask();
            state.yields += 1;
            state.yields
        } else {
            0
        };
        let turn = (state.now, yields, order);
        state.ready.insert(turn, Who::Thread(Arc::clone(seat)));
        let then = state.hand_on();
        drop(state);
        self.follow(then);
        self.await_baton(chair);
    }

    /// Leaves the run: this thread's job has ended.
    pub(crate) fn end(&self, seat: &Seat) {
        let mut state = self.state.lock();
        state.let_go(seat.id);
        state.stir();
        state.threads.remove(&seat.id);
        // A thread gets free: what none could be had for may have this one.
        state.unstick();
        let then = state.hand_on();
        drop(state);
        self.follow(then);
    }

    /// Enters a foreign thread that runs bound code. It moves at once, and the clock stands until it waits or ends.
    ///
    /// `false` if the thread moves in this run already.
    pub(crate) fn enter_guest(&self, seat: &Seat) -> bool {
        let mut state = self.state.lock();
        let holds = matches!(state.holder, Holder::Seat(holder) if holder == seat.id);
        if holds || state.guests.contains(&seat.id) || state.outside.contains(&seat.id) {
            return false;
        }
        state.threads.insert(seat.id, kernel_thread());
        state.guests.insert(seat.id)
    }

    /// A bound closure is made: until it runs, or is gone, the clock stands.
    pub(crate) fn invite(&self) -> u64 {
        let mut state = self.state.lock();
        state.orders += 1;
        let number = state.orders;
        state.invited.insert(number);
        number
    }

    /// The bound closure runs (as a guest) or is gone.
    pub(crate) fn uninvite(&self, number: u64) {
        let mut state = self.state.lock();
        if !state.invited.remove(&number) {
            return;
        }
        state.stir();
        let then = state.hand_on();
        drop(state);
        self.follow(then);
    }

    /// A run of its own begins on the thread of the holder, or has ended.
    pub(crate) fn set_inner(&self, begins: bool) {
        let mut state = self.state.lock();
        state.inner = if begins { state.inner + 1 } else { state.inner - 1 };
    }

    /// A wait begins that somebody outside the run is to end: the clock stands until it is [released](Run::release).
    pub(crate) fn hold(&self) {
        self.state.lock().holds += 1;
    }

    /// That wait has ended.
    pub(crate) fn release(&self) {
        let mut state = self.state.lock();
        state.holds -= 1;
        let then = state.hand_on();
        drop(state);
        self.follow(then);
    }

    /// The code of this thread begins a call that may sleep outside the library, and is to hold the clock all the same.
    ///
    /// `false` if that is nothing new.
    pub(crate) fn announce(&self, seat: &Seat) -> bool {
        let mut state = self.state.lock();
        if state.guests.contains(&seat.id) || !state.announced.insert(seat.id) {
            return false;
        }
        if state.outside.remove(&seat.id) {
            state.guests.insert(seat.id);
        }
        true
    }

    /// That call has ended. If the thread has lost the baton in it, this returns when it is back.
    pub(crate) fn rejoin(&self, chair: &Chair, order: u64) {
        let mut state = self.state.lock();
        state.announced.remove(&chair.seat().id);
        let is_guest = state.guests.contains(&chair.seat().id);
        drop(state);
        if is_guest {
            self.pass(chair, order, false);
        }
    }

    fn await_baton(&self, chair: &Chair) {
        let id = chair.seat().id;
        loop {
            let mut state = self.state.lock();
            if matches!(state.holder, Holder::Seat(seat) if seat == id) {
                state.begun = state.turns;
                state.stranded = Stranded::Unknown;
                let going = mem::take(&mut state.going);
                drop(state);
                return settle(&going);
            }
            drop(state);
            chair.rest();
        }
    }

    /// Does what was decided under the lock. Telling what is due may run user code; the baton is kept meanwhile, unless
    /// that code itself waits in this run.
    fn follow(&self, mut then: Then) {
        loop {
            let tells = then.tells();
            if let Some(seat) = then.unpark {
                seat.unpark();
            }
            if let Some(wake) = then.wake {
                let _ = wake.try_send(());
            }
            if let Some(job) = then.summon {
                job.summon();
            }
            if !tells && then.strand.is_empty() {
                return;
            }
            let mut taken = if then.strand.is_empty() { None } else { Some(Vec::new()) };
            for job in then.strand {
                taken = match (taken, job.strand()) {
                    (Some(taken), Some(threads)) => Some([taken, threads].concat()),
                    _ => None,
                };
            }
            if let Some((hook, waiting)) = then.deadlock {
                hook(waiting);
            }
            for target in then.tell.iter().filter_map(Weak::upgrade) {
                target.due();
            }
            let mut state = self.state.lock();
            if tells {
                state.stir();
            }
            if taken.is_some_and(|taken| taken.iter().all(|seat| state.parked.contains_key(seat))) {
                state.stranded = Stranded::ForEver;
            }
            if matches!(state.holder, Holder::Telling(seat) if seat == here()) {
                state.holder = Holder::Nobody;
            }
            let next = state.hand_on();
            drop(state);
            then = next;
        }
    }
}

impl Baton for Run {
    fn park(&self, chair: &Chair, order: u64, until: Option<Instant>, mut channel: Option<Looking<'_>>) {
        let seat = chair.seat();
        let mut state = self.state.lock();
        state.threads.entry(seat.id).or_insert_with(kernel_thread);
        state.let_go(seat.id);
        if !channel.as_ref().is_some_and(|channel| channel.again) {
            state.stir();
        }
        if seat.is_poked() || until.is_some_and(|until| until <= state.now) {
            channel = None;
            let turn = (state.now, 0, order);
            state.ready.insert(turn, Who::Thread(Arc::clone(seat)));
        } else {
            if let Some(until) = until {
                state.timers.insert((until, order, seat.id));
            }
            let looked = channel.is_some().then(|| state.list(seat.id, order));
            state.parked.insert(seat.id, Parked { seat: Arc::clone(seat), order, until, looked });
        }
        let mut meeting = None;
        if channel.as_ref().is_some_and(|looking| looking.channel.is_for_meeting()) {
            let (mine, met) = Meeting::new();
            state.met.insert(seat.id, met.wake);
            state.going.push(met.asleep.clone());
            meeting = Some((mine, met.asleep));
        }
        let then = state.hand_on();
        drop(state);
        self.follow(then);
        if let (Some(looking), Some((meeting, asleep))) = (channel, meeting) {
            looking.channel.meet(&meeting);
            // First that, as the offer must not end for want of takers; and then nobody waits for it.
            drop(meeting);
            drop(asleep);
        }
        self.await_baton(chair);
    }

    fn wake(&self, seat: u64) {
        let mut state = self.state.lock();
        let now = state.now;
        if !state.unpark(seat, now) {
            return;
        }
        let then = state.hand_on();
        drop(state);
        self.follow(then);
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Run")
    }
}

/// Waits until those who are on the way to sleep in a channel are there: who has the baton now is to find them.
fn settle(going: &[Receiver<()>]) {
    for asleep in going {
        let mut select = Select::new();
        select.recv(asleep);
        // It takes as long as a thread needs to go to sleep. Longer only if it calls back code that waits on the way.
        let _ = select.ready_timeout(SETTLES);
    }
}

/// How long the baton is kept for somebody on the way to sleep, at most.
const SETTLES: Duration = Duration::from_secs(1);

/// How often the observer looks at the holder of the baton.
const LOOK: Duration = Duration::from_millis(10);

/// How many looks in a row must show one and the same sleep, on a machine where one thread wants a CPU; where more do, each look
/// counts for so much less. A holder that waits for a lock, of ours or of the allocator, while that lock's holder has no
/// CPU sleeps too. That is over when that one has had some milliseconds.
const LOOKS: u32 = 5;

/// For how much a look counts: the part of a CPU that a thread gets meanwhile. The crowd changes from look to look, so it is
/// added up.
const SHARE: u32 = 1 << 20;

/// Takes the baton from a holder that sleeps outside the library, in a std barrier say. Linux only: elsewhere nothing
/// tells us.
fn observe(run: &Weak<Run>) {
    let mut last = None;
    let mut slept = 0;
    let mut waits = 0;
    loop {
        thread::sleep(LOOK);
        let Some(run) = run.upgrade() else { return };
        let mut state = run.state.lock();
        if state.over {
            return;
        }
        if state.is_held_by_invited() {
            // A thread that was started for it would have run by now, so perhaps it is kept for later.
            waits += 1;
            if waits >= LOOKS && waits >= LOOKS.saturating_mul(runnable()) {
                state.invited.clear();
                let then = state.hand_on();
                drop(state);
                run.follow(then);
            }
            continue;
        }
        waits = 0;
        if let (Holder::Nobody, Some(looks)) = (&state.holder, state.strangers) {
            if looks != NO_MORE {
                // A thread that is not of the run, or has lost the baton, may have done something: who looks does so again.
                let looks = looks.saturating_add(1);
                let alone = state.outside.is_empty() && state.guests.is_empty();
                let enough = alone && looks >= LOOKS.max(LOOKS.saturating_mul(runnable()));
                state.stir();
                state.strangers = Some(if enough { NO_MORE } else { looks.min(NO_MORE - 1) });
                let then = state.hand_on();
                drop(state);
                run.follow(then);
            }
            continue;
        }
        let Holder::Seat(seat) = state.holder else {
            slept = 0;
            continue;
        };
        if state.begun != state.turns || state.inner > 0 {
            slept = 0;
            continue;
        }
        let turn = state.turns;
        let thread = state.threads.get(&seat).cloned();
        drop(state);
        let sleep = thread.as_deref().and_then(sleep_of);
        let Some(sleep) = sleep else {
            slept = 0;
            continue;
        };
        let look = Some((seat, turn, sleep));
        slept = SHARE / runnable().max(1) + if look == last { slept } else { 0 };
        last = look;
        if slept < LOOKS * SHARE {
            continue;
        }
        slept = 0;
        state = run.state.lock();
        if state.turns == turn && matches!(state.holder, Holder::Seat(holder) if holder == seat) {
            state.holder = Holder::Nobody;
            if state.announced.contains(&seat) {
                state.guests.insert(seat);
            } else {
                state.outside.insert(seat);
            }
            let then = state.hand_on();
            drop(state);
            run.follow(then);
        }
    }
}
