//! How a lock is waited for: [`Door`].
//!
//! What a lock guards lies in a cell of `prim`, which is only ever *tried*: nobody waits in it. Who finds it taken queues here,
//! and the first of the queue tries again when it is told that somebody has left. So a lock that nobody waits for costs what
//! the cell does, and one look at the door's *sign* on the way out.
//!
//! | sign | means |
//! |---|---|
//! | `WAITED` | somebody queues |
//! | `COMING` | the first of the queue was told, and has not tried since |
//! | `RESERVED` | it had been told, and found the lock taken again: newcomers queue, whatever they find |
//!
//! # Promises
//!
//! 1. While somebody queues and the lock is free, the first of the queue is on its way to try.
//! 2. A newcomer passes those who queue, if the lock lets it, but not for long: who was told once and came too late is the next
//!    to have it, but for those who had looked before.
//! 3. Who leaves the queue by a stop, and was told, tells the next (S40).
//! 4. Who has it, alone or with others, is known, if it waits for something: before it waits it has said so.
//!
//! # Does not know
//!
//! What the cell is, and what it guards.
//!
//! # Why no wake-up is lost
//!
//! ```text
//! waiter                                leaver
//! lock the queue                        unlock the cell
//! enter it; sign: WAITED, not COMING    read the sign, by an exchange
//! try the cell                          WAITED, not COMING? lock the queue, COMING, poke the first
//! unlock the queue; park
//! ```
//!
//! Both change or exchange one word, so one comes second. If it is the waiter, it acquires what the leaver released, and finds
//! the cell free, or taken by somebody who leaves later. If it is the leaver, it sees `WAITED`. It tells the first of the
//! queue, unless that is `COMING`: it takes that sign away before it tries, so it tries after this leaver has left. Who gets
//! in from the queue, or leaves it, takes its signs with it, and the rest of the queue is told by the next that leaves; or at
//! once, if there might be room.

use crate::{
    cancel::current::{self, Look, Thing},
    error::LockError,
    park::seat::{Seat, with_chair},
    prim::{AtomicU8, AtomicU64, Mutex, Ordering},
    wait::{
        self, Call,
        cycle::{Asks, Has, Kind, Owned},
        reading,
        turnstile::{Queue, Ticket},
    },
};
use smol_str::SmolStr;
use std::{collections::BTreeSet, fmt, hint, sync::Arc};

const WAITED: u8 = 1;
const COMING: u8 = 2;
const RESERVED: u8 = 4;

/// How often a newcomer tries before it queues: locks are held for less than it takes to put a thread to sleep, as a rule.
const SPINS: u32 = 5;

/// What it is the door of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Mutex,
    RwLock,
}

/// One who queues.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    kind: Kind,
    thread: u64,
}

/// Who waits for a lock, and who has it.
pub(crate) struct Door {
    of: Of,
    /// Unique in the process.
    id: u64,
    name: Option<SmolStr>,
    sign: AtomicU8,
    queue: Mutex<Queue<Waiter>>,
    /// The thread and the line of code that have it alone. Published by the lock, or by whatever they wait for next.
    thread: AtomicU64,
    line: AtomicU64,
}

impl Door {
    pub(crate) fn new(of: Of, name: Option<SmolStr>) -> Arc<Self> {
        let (sign, queue) = (AtomicU8::new(0), Mutex::default());
        Arc::new(Door {
            of,
            id: current::next_id(),
            name,
            sign,
            queue,
            thread: AtomicU64::new(0),
            line: AtomicU64::new(0),
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Tries, unless those who queue come first.
    #[inline]
    pub(crate) fn pass<G>(&self, take: impl FnOnce() -> Option<G>) -> Option<G> {
        // Orders nothing: who sees the sign late passes once more.
        if self.sign.load(Ordering::Relaxed) & RESERVED == 0 { take() } else { None }
    }

    /// Waits until it can be taken; not a checkpoint if that is so at once.
    #[cold]
    pub(crate) fn wait<G>(
        self: &Arc<Self>,
        call: &Call,
        kind: Kind,
        mut take: impl FnMut() -> Option<G>,
    ) -> Result<G, LockError> {
        if let Some(got) = self.spin(&mut take) {
            return Ok(got);
        }
        let mut asks = Asks::new(self, kind, call.place)?;
        let mut ticket = None;
        let waited = with_chair(|chair| {
            wait::wait_in(chair, call, None, &mut |seat| {
                if let Some(got) = self.look(&mut ticket, kind, seat, &mut take) {
                    return Some(Ok(got));
                }
                // Not before it queues: who comes later does not stand in its way.
                asks.look(ticket, seat).map(Err)
            })
        });
        let got = waited.unwrap_or_else(|end| Err(LockError::Cancelled(end.stop())));
        if let (Err(_), Some(ticket)) = (&got, ticket) {
            self.leave(ticket);
        }
        got
    }

    fn spin<G>(&self, take: &mut impl FnMut() -> Option<G>) -> Option<G> {
        if cfg!(tassel_loom) || current::clock().run().is_some() {
            return None;
        }
        for round in 0..SPINS {
            if self.sign.load(Ordering::Relaxed) != 0 {
                return None;
            }
            for _ in 0..1_u32 << round {
                hint::spin_loop();
            }
            if let Some(got) = self.pass(&mut *take) {
                return Some(got);
            }
        }
        None
    }

    /// One look of a waiter.
    fn look<G>(
        &self,
        ticket: &mut Option<Ticket>,
        kind: Kind,
        seat: &Arc<Seat>,
        take: &mut impl FnMut() -> Option<G>,
    ) -> Option<G> {
        let mut queue = self.queue.lock();
        let is_new = ticket.is_none();
        let mine = *ticket.get_or_insert_with(|| queue.push(seat, Waiter { kind, thread: current::thread() }));
        let is_first = queue.first().is_some_and(|(first, ..)| first == mine);
        let before = if is_first {
            // Pairs with the exchange in `left`, before the cell is tried: see the module header.
            let before = self.sign.fetch_or(WAITED, Ordering::AcqRel);
            self.sign.fetch_and(!COMING, Ordering::AcqRel);
            before
        } else {
            self.sign.fetch_or(WAITED, Ordering::AcqRel)
        };
        let may_pass = is_new && before & RESERVED == 0;
        if !(is_first || may_pass) {
            return None;
        }
        let Some(got) = take() else {
            if is_first && before & COMING != 0 && !mutant!("nothing_is_reserved") {
                self.sign.fetch_or(RESERVED, Ordering::Relaxed);
            }
            return None;
        };
        queue.remove(mine);
        if is_first {
            self.sign.fetch_and(!RESERVED, Ordering::Relaxed);
        }
        // Others who share may come in as well.
        let next = (kind == Kind::Shared).then(|| self.tell(&mut queue, |next| next == Kind::Shared)).flatten();
        self.take_down(&mut queue);
        drop(queue);
        if let Some(next) = next {
            next.poke();
        }
        Some(got)
    }

    /// Leaves the queue without having it.
    fn leave(&self, ticket: Ticket) {
        let mut queue = self.queue.lock();
        let was_first = queue.first().is_some_and(|(first, ..)| first == ticket);
        let gone = queue.remove(ticket);
        let mut next = None;
        if was_first {
            self.sign.fetch_and(!(COMING | RESERVED), Ordering::Relaxed);
            // It may have been told, and is the only one; and what it did not get, the next may.
            if !mutant!("door_turn_lost_to_a_stop") {
                next = self.tell(&mut queue, |_| true);
            }
        }
        self.take_down(&mut queue);
        drop(queue);
        drop(gone);
        if let Some(next) = next {
            next.poke();
        }
    }

    /// Somebody has left: the cell was unlocked before.
    #[inline]
    pub(crate) fn left(&self) {
        // Pairs with the changes in `look`, see the module header: so an exchange, and not a load.
        if self.sign.compare_exchange(0, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            self.left_waited();
        }
    }

    #[cold]
    fn left_waited(&self) {
        // As in `left`: one that fails is only a load.
        if self.sign.fetch_or(0, Ordering::AcqRel) & COMING != 0 {
            return;
        }
        let mut queue = self.queue.lock();
        let next = self.tell(&mut queue, |_| true);
        self.take_down(&mut queue);
        drop(queue);
        if let Some(next) = next {
            next.poke();
        }
    }

    /// Has the first of the queue come, if it is of that kind: the result is to be poked, after the queue is unlocked.
    fn tell(&self, queue: &mut Queue<Waiter>, is: impl FnOnce(Kind) -> bool) -> Option<Arc<Seat>> {
        let (_, seat, _) = queue.first().filter(|(.., waiter)| is(waiter.kind))?;
        // In the lock: the first takes it away before it tries.
        self.sign.fetch_or(COMING, Ordering::Relaxed);
        Some(Arc::clone(seat))
    }

    /// Takes the signs down where nobody queues any more.
    fn take_down(&self, queue: &mut Queue<Waiter>) {
        if queue.first().is_none() {
            self.sign.fetch_and(0, Ordering::Relaxed);
        }
    }

    /// The code here has it alone now.
    #[inline]
    fn hold(&self) {
        self.thread.store(current::thread(), Ordering::Relaxed);
        self.line.store(current::line(), Ordering::Relaxed);
    }

    /// It has not any more; said before the cell is unlocked.
    #[inline]
    fn let_go(&self) {
        self.thread.store(0, Ordering::Relaxed);
        self.line.store(0, Ordering::Relaxed);
    }

    /// The thread and the line that have it alone; 0: none.
    fn holder(&self) -> (u64, u64) {
        (self.thread.load(Ordering::Relaxed), self.line.load(Ordering::Relaxed))
    }

    /// How many queue.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.lock().len()
    }

    /// Shows the lock, with its value unless that is locked.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>, what: &str, value: Option<&dyn fmt::Debug>) -> fmt::Result {
        let mut shown = f.debug_struct(what);
        if let Some(name) = &self.name {
            shown.field("name", name);
        }
        shown.field("value", value.unwrap_or(&format_args!("<locked>")));
        shown.field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl Owned for Door {
    fn what(&self) -> (&'static str, Option<SmolStr>) {
        let what = match self.of {
            Of::Mutex => "mutex",
            Of::RwLock => "lock",
        };
        (what, self.name.clone())
    }

    fn own(&self, kind: Kind) -> Option<u64> {
        let (thread, line) = self.holder();
        let reads = || (self.of == Of::RwLock && kind == Kind::Alone).then(|| reading::here(self.id)).flatten();
        (thread == current::thread()).then_some(line).or_else(reads)
    }

    fn has(&self, ticket: Option<Ticket>) -> bool {
        ticket.is_none_or(|ticket| self.queue.lock().has(ticket))
    }

    fn owners(&self, kind: Kind, ticket: Option<Ticket>) -> Vec<u64> {
        // Locked until all has been seen: who is not let in meanwhile has it not.
        let queue = self.queue.lock();
        if ticket.is_some_and(|ticket| !queue.has(ticket)) && !mutant!("who_has_left_the_queue_waits") {
            return Vec::new();
        }
        let (thread, _) = self.holder();
        let mut owners: Vec<u64> = (thread != 0).then_some(thread).into_iter().collect();
        match kind {
            _ if self.of == Of::Mutex => {}
            Kind::Alone => owners.extend(reading::readers(self.id).into_iter().map(|(thread, _)| thread)),
            // Who reads does not keep it out; but who came before it and wants to write, and waits for those who read. All of
            // them: the first may leave.
            Kind::Shared => {
                let before = queue.before(ticket).filter(|waiter| waiter.kind == Kind::Alone);
                let some = if mutant!("first_of_the_queue_forgotten") { 0 } else { usize::MAX };
                owners.extend(before.take(some).map(|waiter| waiter.thread));
            }
        }
        owners
    }
}

impl Thing for Door {
    fn look(&self) -> Look {
        let readers = if self.of == Of::RwLock { reading::readers(self.id) } else { Vec::new() };
        let lines = readers.into_iter().chain([self.holder()]).map(|(_, line)| line);
        let holders = lines.filter(|line| *line != 0).collect::<BTreeSet<_>>().into_iter().collect();
        Look { name: self.name.clone(), holders, used: None, waiting: self.waiting() }
    }
}

/// Says that the code here has it alone, and, when it is dropped, that it has it no more. For a guard, before that of the cell.
pub(crate) struct Held<'a> {
    door: &'a Door,
    _has: Has,
}

impl<'a> Held<'a> {
    #[inline]
    pub(crate) fn new(door: &'a Door) -> Self {
        door.hold();
        Held { door, _has: Has::new() }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.door.let_go();
    }
}

/// Tells those who queue, when it is dropped, that somebody has left. For a guard, after that of the cell.
pub(crate) struct Leaves<'a>(pub(crate) &'a Door);

impl Drop for Leaves<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.left();
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn who_has_left_the_queue_waits_for_nobody_although_it_is_entered_for_a_moment_longer() {
        let door = Door::new(Of::RwLock, None);
        let (_reads, me) = (reading::Reads::new(door.id()), vec![current::thread()]);
        let [mut writer, mut reader] = [None; 2];
        with_chair(|chair| {
            assert_eq!(door.look(&mut writer, Kind::Alone, chair.seat(), &mut || None::<()>), None);
            assert_eq!(door.look(&mut reader, Kind::Shared, chair.seat(), &mut || None::<()>), None);
            let owners = || [door.owners(Kind::Alone, writer), door.owners(Kind::Shared, reader)];
            assert_eq!(owners(), [me.clone(), me]);
            let mut let_in = writer;
            assert!(door.look(&mut let_in, Kind::Alone, chair.seat(), &mut || Some(())).is_some());
            assert_eq!(owners(), [vec![], vec![]]);
        });
    }
}
