//! Who waits for a turn, first come, first served: [`Queue`], and [`Turnstile`], which lets them in by a [`Rule`].
//!
//! # Promises
//!
//! 1. Turns are given in the order of arrival, and nobody who comes later passes those who wait.
//! 2. A turn that is given is used or handed on: who leaves, by a stop or a limit, and has been given one, gives it back, and
//!    it goes to the next (S40). A leaver that nobody has chosen leaves nothing behind.
//! 3. A turn is not given to a thread that a forked child has no more.
//!
//! # Does not know
//!
//! What is shared: the rule says who may go in.
//!
//! # Why no wake-up is lost
//!
//! Whether there is room, who waits and who has been let in stand under one lock. A waiter enters its seat there, and looks in
//! the same lock whether its entry is still there; whoever makes room takes out those who are let in before it unlocks, and
//! pokes their seats after that.

use crate::{
    park::seat::Seat,
    prim::{Mutex, MutexGuard},
    wait::{self, Call, End},
};
use std::{collections::BTreeMap, convert::Infallible, ops::Bound, sync::Arc, time::Instant};

/// A place in a [`Queue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// Those who wait, by their order, each with what it wants.
#[derive(Debug)]
pub(crate) struct Queue<W> {
    tickets: u64,
    waiting: BTreeMap<Ticket, (Arc<Seat>, W)>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Queue { tickets: 0, waiting: BTreeMap::new() }
    }
}

impl<W> Queue<W> {
    pub(crate) fn push(&mut self, seat: &Arc<Seat>, want: W) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, (Arc::clone(seat), want));
        ticket
    }

    /// Tells whether it still waits. Who does not, and has not left, was let in.
    pub(crate) fn has(&self, ticket: Ticket) -> bool {
        self.waiting.contains_key(&ticket)
    }

    /// Who stands before that one. Without a ticket: all.
    pub(crate) fn before(&self, ticket: Option<Ticket>) -> impl Iterator<Item = &W> {
        let end = ticket.map_or(Bound::Unbounded, Bound::Excluded);
        self.waiting.range((Bound::Unbounded, end)).map(|(_, (_, want))| want)
    }

    /// Takes out who leaves. `None`: it was let in.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Arc<Seat>> {
        self.waiting.remove(&ticket).map(|(seat, _)| seat)
    }

    /// Returns who is next.
    pub(crate) fn first(&mut self) -> Option<(Ticket, &Arc<Seat>, &W)> {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| !entry.get().0.is_here()) {
            entry.remove();
        }
        self.waiting.first_key_value().map(|(ticket, (seat, want))| (*ticket, seat, want))
    }

    /// Lets in who is next.
    pub(crate) fn pop(&mut self) -> Option<Arc<Seat>> {
        self.first()?;
        self.waiting.pop_first().map(|(_, (seat, _))| seat)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// Who may go in.
pub(crate) trait Rule {
    type Want;
    /// What is held by who has gone in.
    type Pass;

    /// Lets one in, if there is room.
    fn admit(&mut self, want: &Self::Want) -> bool;

    /// One who was let in is there.
    fn enter(&mut self, want: &Self::Want) -> Self::Pass;

    /// One who was let in does not come.
    fn give_back(&mut self, want: &Self::Want);
}

struct State<R: Rule> {
    rule: R,
    queue: Queue<R::Want>,
}

/// A rule, and those who wait for it to let them in.
pub(crate) struct Turnstile<R: Rule> {
    state: Mutex<State<R>>,
}

impl<R: Rule> Turnstile<R> {
    pub(crate) fn new(rule: R) -> Self {
        Turnstile { state: Mutex::new(State { rule, queue: Queue::default() }) }
    }

    /// Goes in, if that is possible at once and nobody else waits.
    pub(crate) fn try_pass(&self, want: &R::Want) -> Option<R::Pass> {
        self.state.lock().try_pass(want)
    }

    /// Waits until it is let in.
    pub(crate) fn pass(&self, call: &Call, until: Option<Instant>, want: &R::Want) -> Result<R::Pass, End>
    where
        R::Want: Clone,
    {
        match self.pass_unless(|_| None::<Infallible>, call, until, want) {
            Ok(Ok(pass)) => Ok(pass),
            Err(end) => Err(end),
        }
    }

    /// Waits until it is let in, or is refused: that is asked for while it queues, whenever it is poked.
    pub(crate) fn pass_unless<X>(
        &self,
        mut refused: impl FnMut(&Arc<Seat>) -> Option<X>,
        call: &Call,
        until: Option<Instant>,
        want: &R::Want,
    ) -> Result<Result<R::Pass, X>, End>
    where
        R::Want: Clone,
    {
        let mut ticket = None;
        let waited = wait::wait(call, until, |seat| {
            let mut state = self.state.lock();
            let passed = match ticket {
                Some(ticket) => (!state.queue.has(ticket)).then(|| state.rule.enter(want)),
                None => state.try_pass(want).or_else(|| {
                    ticket = Some(state.queue.push(seat, want.clone()));
                    None
                }),
            };
            drop(state);
            passed.map(Ok).or_else(|| refused(seat).map(Err))
        });
        if let (Err(_) | Ok(Err(_)), Some(ticket)) = (&waited, ticket) {
            let mut state = self.state.lock();
            let gone = state.queue.remove(ticket);
            if gone.is_none() && !mutant!("turn_lost_to_a_stop") {
                state.rule.give_back(want);
            }
            // Also where it was not let in: it may have stood in the way of others, who want less.
            State::go_on(state);
        }
        waited
    }

    /// Changes the rule, and lets those in for whom there is room now.
    pub(crate) fn change<X>(&self, change: impl FnOnce(&mut R) -> X) -> X {
        let mut state = self.state.lock();
        let result = change(&mut state.rule);
        State::go_on(state);
        result
    }

    /// Looks at the rule, and at how many wait.
    pub(crate) fn look<X>(&self, look: impl FnOnce(&R, usize) -> X) -> X {
        let state = self.state.lock();
        look(&state.rule, state.queue.len())
    }
}

impl<R: Rule> State<R> {
    fn try_pass(&mut self, want: &R::Want) -> Option<R::Pass> {
        (self.queue.first().is_none() && self.rule.admit(want)).then(|| self.rule.enter(want))
    }

    /// Lets in all that can be, in their order, and tells them.
    fn go_on(mut state: MutexGuard<'_, Self>) {
        let mut chosen = Vec::new();
        loop {
            let State { rule, queue } = &mut *state;
            match queue.first() {
                Some((.., want)) if rule.admit(want) => chosen.extend(queue.pop()),
                _ => break,
            }
        }
        drop(state);
        for seat in chosen {
            seat.poke();
        }
    }
}
