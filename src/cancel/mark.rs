//! How a change goes down the tree: cancels, moved deadlines, ends of graces.
//!
//! # Promises
//!
//! 1. *Complete.* When [`cancel`](Node::cancel) returns, also to a second caller, every node below that sees it is marked,
//!    also one that is being linked meanwhile. So it is with instants that are moved.
//! 2. *Cause before flag.* Who sees `STOPPING` finds a cause: at the node, if its own cancel came first, else above it.
//! 3. *One budget.* The grace of a node runs from the moment that it begins to stop; below, the earliest end counts.
//! 4. No user code runs, and nothing of the user's is dropped, under a lock: a walk collects [`Effects`].
//!
//! # Does not know
//!
//! Why something is cancelled, but for what nobody may be shielded from.
//!
//! # Why no mark is lost
//!
//! What rewrites subtrees (cancel, moving a deadline, the end of a grace, close with children) holds one lock for the whole
//! process, the tree lock. One per tree would not do: a scope may have a second parent in another tree
//! ([`Parents::also`](super::node::Parents::also)), and marking through it must be finished, too, when `cancel` returns. Besides, only the first look
//! below a deadline takes it: a program without deadlines and cancels never meets it. A forked child has another, as the
//! parent's may be held by a thread that the child does not have.
//!
//! A rewriter changes a node, and then visits what is below it: each node [refreshes](Node::refresh) itself, under its own
//! lock, from what its parents show, and where this changes something the walk goes on below. The list of children is read
//! in the same lock in which the node is changed.
//!
//! A child is linked under its parent's list lock alone: it is inserted, and then compares itself with what the parents
//! show. So either the child is in the list that the walk reads, and is visited after the parent was changed; or the change
//! is there for the child to see. Both refresh under the child's lock and from all parents, so the later of the two sees
//! all that the earlier saw. The models are `model/cancel.rs`, `a_child_linked_during_a_cancel_is_marked` and
//! `a_child_linked_during_a_move_has_the_new_deadline`.

use crate::{
    cancel::{
        callback::Callback,
        deadline::Tick,
        node::{BROKEN, DUE, ENDED, Inner, MARKS, Node, OWN, Own, SECOND, STOPPING, Sight, WATCHED},
        reason::{Reason, ReasonKind},
    },
    park::seat::{Crowd, Seat},
    prim::{Mutex, MutexGuard, Ordering},
};
use crossbeam::channel::{Receiver, Sender};
use slab::Slab;
use std::{convert::Infallible, mem, sync::Arc, time::Duration};

/// Takes the one lock of the process that serialises what rewrites subtrees.
#[cfg(not(tassel_loom))]
pub(crate) fn tree_lock() -> MutexGuard<'static, ()> {
    static TREE: crate::raw::PerProcess<Mutex<()>> = crate::raw::PerProcess::new(Mutex::default);
    TREE.get().lock()
}

#[cfg(tassel_loom)]
loom::lazy_static! {
    static ref TREE: Mutex<()> = Mutex::default();
}

#[cfg(tassel_loom)]
pub(crate) fn tree_lock() -> MutexGuard<'static, ()> {
    TREE.lock()
}

/// What a node sees above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Above {
    marks: u32,
    deadline: Tick,
    next: Tick,
    end: Tick,
}

impl Above {
    pub(super) const NOTHING: Above = Above { marks: 0, deadline: Tick::NEVER, next: Tick::NEVER, end: Tick::NEVER };

    pub(super) fn has(self, mark: u32) -> bool {
        self.marks & mark != 0
    }
}

/// What a refresh has changed.
pub(super) struct Change {
    /// It stops from now on.
    begins: bool,
    /// Whoever waits here has planned for a later instant.
    nearer: bool,
    /// What those below see.
    shown: bool,
}

/// Waits until a cancel that has begun to mark has marked all: for who may have been told of another's stop before its own.
#[cfg(not(any(tassel_loom, tassel_shuttle)))]
pub(crate) fn await_marks() {
    drop(tree_lock());
}

impl Node {
    /// Whether a stop of a parent in that state is one that this node sees.
    fn sees(&self, state: u32) -> bool {
        let mark = match self.sight {
            Sight::Open => STOPPING,
            Sight::End => ENDED,
            Sight::Shielded if mutant!("shield_does_not_hold") => STOPPING,
            Sight::Shielded => BROKEN,
        };
        state & mark != 0
    }

    /// Looks at the parents. Stable under the tree lock; else what changes meanwhile is brought by a walk.
    pub(super) fn above(&self) -> Above {
        let mut above = Above::NOTHING;
        for up in self.ups() {
            // Pairs with the release in `write`: with a mark the cause is there, with `DUE` the instants.
            let state = up.state.load(Ordering::Acquire);
            if self.sees(state) {
                above.marks |= state & MARKS;
            }
            // What neither stops nor has anything due has no instants.
            let silent = state & (STOPPING | DUE) == 0 || self.sight == Sight::Shielded;
            if silent || !up.clock.is_same(&self.clock) {
                continue;
            }
            let (mut deadline, mut next, end) = (up.deadline.get(), up.next.get(), up.end.get());
            if self.sight == Sight::End {
                // A deadline above is no deadline here; but it is to be marked in time, since a grace may begin with it.
                deadline = end;
                next = next.min(end);
            }
            above.deadline = above.deadline.min(deadline);
            above.next = above.next.min(next);
            above.end = above.end.min(end);
        }
        above
    }

    /// Brings the node up to date with itself and its parents. The caller holds its lock, as `inner` shows.
    pub(super) fn refresh(self: &Arc<Self>, inner: &mut Inner) -> Change {
        let above = self.above();
        let before = self.state.load(Ordering::Relaxed);
        let begins = before & STOPPING == 0 && (inner.flags | above.marks) & STOPPING != 0;
        let mut from = before & SECOND;
        if begins {
            // The cause is there, here or above: see `cause`.
            let second = self.ups().position(|up| self.sees(up.state.load(Ordering::Acquire))) == Some(1);
            from = if second { SECOND } else { 0 };
            match self.grace {
                Some(_) if inner.end.is_some() || self.begins_closed() => {}
                Some(Duration::ZERO) => inner.flags |= ENDED,
                Some(grace) => inner.end = self.clock.after(grace),
                None => {}
            }
        }
        let marks = (before & MARKS) | inner.flags | above.marks;
        let own = Tick::at(inner.deadline.map(|deadline| deadline.at));
        let next = if marks & STOPPING == 0 { above.next.min(own) } else { above.next };
        let end = above.end.min(Tick::at(inner.end));
        let deadline = above.deadline.min(own);

        let watch = match inner.watch {
            _ if marks & ENDED != 0 => None,
            _ if marks & STOPPING != 0 => inner.end,
            Some(_) => inner.deadline.map(|deadline| deadline.at),
            None => None,
        };
        // If it is refused: who waits or looks below marks by the clock.
        self.set_watch(inner, watch);
        // Also where `next` is as before: it may be somebody else's instant now.
        let unwatched = before & WATCHED != 0 && marks & STOPPING == 0 && next != Tick::NEVER;
        let change = Change {
            begins,
            nearer: next < self.next.get(),
            shown: marks != before & MARKS
                || (next, end, deadline) != (self.next.get(), self.end.get(), self.deadline.get()),
        };
        self.next.set(next);
        self.end.set(end);
        self.deadline.set(deadline);
        let keep = before & (OWN | if unwatched { 0 } else { WATCHED });
        let due = if next == Tick::NEVER { 0 } else { DUE };
        self.write(inner, keep | from | marks | due);
        change
    }

    /// Refreshes this node, which the caller has changed, and all below it. The caller holds the tree lock.
    ///
    /// Of a node at which nobody waits and nothing is registered it takes a reference and the lock, and writes the word. The
    /// reference is dropped at once: also if it is the last, that takes the locks of parents and of the alarm, runs no code of
    /// the user's, and the walk holds no lock of a node then.
    pub(super) fn spread(self: &Arc<Self>) -> Effects {
        let mut effects = Effects::default();
        let mut todo = vec![Arc::clone(self)];
        let mut to_watch = Vec::new();
        while let Some(node) = todo.pop() {
            let mut guard = node.inner.lock();
            let inner = &mut *guard;
            let watched = node.has(WATCHED);
            let change = node.refresh(inner);
            if change.begins {
                effects.take(&node, inner);
            } else if change.nearer {
                effects.seats.extend(inner.seats.iter().map(|(_, seat)| Arc::clone(seat)));
            }
            if change.shown {
                todo.extend(inner.children.iter().filter_map(|(_, child)| child.upgrade()));
            }
            drop(guard);
            if watched && !node.has(WATCHED) {
                to_watch.push(node);
            }
        }
        for node in to_watch {
            node.watch_in_tree();
        }
        effects
    }

    /// The reason of a parent whose stop is seen here.
    pub(super) fn cause_above(&self) -> Option<&Reason> {
        // Pairs with the release in `write`.
        self.ups().find(|up| self.sees(up.state.load(Ordering::Acquire)))?.cause()
    }

    /// Why it stops: its own cause, or that of the parent by which it began to stop. It is looked up when somebody asks, so
    /// that a walk need not, and kept at each node on the way.
    pub(super) fn cause(&self) -> Option<&Reason> {
        let (mut here, mut way) = (self, Vec::new());
        let cause = loop {
            // Pairs with the release in `write`. Before the look for a cause of its own, which comes before the flag.
            let state = here.state.load(Ordering::Acquire);
            if let Some(cause) = here.cause.get() {
                break cause;
            }
            if state & STOPPING == 0 {
                return None;
            }
            way.push(here);
            here = here.ups().nth(usize::from(state & SECOND != 0))?;
        };
        for node in way {
            let _ = node.cause.set(cause.clone());
        }
        self.cause.get()
    }

    /// As [`is_closed`](Node::is_closed), for a node that is about to be marked.
    fn begins_closed(&self) -> bool {
        let cause = self.cause.get().or_else(|| self.cause_above());
        cause.is_some_and(|cause| cause.kind() == ReasonKind::Closed)
    }

    /// Cancels this node and everything below it that sees it. A second cancel changes nothing, but returns as late:
    /// promise 1.
    pub(crate) fn cancel(self: &Arc<Self>, reason: &Reason, by_will: bool) {
        self.cancel_within(reason, by_will, None);
    }

    /// Cancels, and ends `cleanup` below after `grace`: at once if it is zero, as the node's terms say if it is `None`.
    ///
    /// Of a node that is cancelled already it may bring the end nearer, and does nothing else.
    pub(crate) fn cancel_within(self: &Arc<Self>, reason: &Reason, by_will: bool, grace: Option<Duration>) {
        mutant!("second_cancel_does_not_wait" => if self.has(OWN) { return });
        let tree = tree_lock();
        let mut inner = self.inner.lock();
        if !self.mark_own(&mut inner, Own { reason: reason.clone(), by_will }) && grace.is_none() {
            return;
        }
        if matches!(reason.kind(), ReasonKind::Deadlock | ReasonKind::Starved) {
            // Who waits behind a shield waits for ever.
            inner.flags |= ENDED | BROKEN;
        }
        match grace {
            Some(Duration::ZERO) => inner.flags |= ENDED,
            Some(grace) => inner.end = [inner.end, self.clock.after(grace)].into_iter().flatten().min(),
            None => {}
        }
        drop(inner);
        let effects = self.spread();
        drop(tree);
        effects.carry_out();
    }

    /// Takes note of the node's own cancel, to be spread after it. `false` if it has one.
    pub(super) fn mark_own(&self, inner: &mut Inner, own: Own) -> bool {
        if inner.own.is_some() {
            return false;
        }
        let is_first = !self.has(STOPPING);
        mutant!("flag_before_cause" => self.set(inner, STOPPING));
        if is_first {
            let _ = self.cause.set(own.reason.clone());
        }
        // A wish that comes after another's cancel has stopped nothing.
        inner.own = Some(Own { by_will: own.by_will && is_first, ..own });
        inner.flags |= STOPPING;
        self.set(inner, OWN);
        true
    }

    /// Leaves the node: whatever still hangs below is cancelled with reason *closed*.
    pub(crate) fn close(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        let alone = inner.children.is_empty()
            && inner.callbacks.is_empty()
            && inner.seats.is_empty()
            && inner.channel.is_none();
        if alone {
            // Nobody below: no walk, so no tree lock. A child linked later sees the mark.
            if inner.own.is_none() {
                self.mark_own(&mut inner, Own { reason: self.closed_reason(), by_will: true });
            }
            mutant!("close_after_unlock" => drop(inner); return self.set(&mut self.inner.lock(), STOPPING));
            // The cause is there.
            self.set(&mut inner, STOPPING);
            self.set_watch(&mut inner, None);
            return;
        }
        drop(inner);
        self.cancel(&self.closed_reason(), true);
    }

    fn closed_reason(&self) -> Reason {
        Reason::new(ReasonKind::Closed, self.label().clone(), self.clock.now())
    }
}

/// What a walk has found to do; carried out when no lock is held.
#[derive(Default)]
pub(super) struct Effects {
    /// To be poked here and now: in the order of a virtual run, or to plan anew.
    seats: Vec<Arc<Seat>>,
    /// Those of nodes that begin to stop, to wake each other.
    crowds: Vec<Slab<Arc<Seat>>>,
    /// With whether they are called: not those of what was merely left.
    callbacks: Vec<(Callback, bool)>,
    senders: Vec<(Sender<Infallible>, Receiver<Infallible>)>,
    /// Of what begins to stop, those that are to be told.
    hooked: Vec<Arc<Node>>,
}

impl Effects {
    /// Takes out who is to be told that a node begins to stop. In the lock in which its flag was set: who comes later finds
    /// the flag.
    fn take(&mut self, node: &Arc<Node>, inner: &mut Inner) {
        if !inner.seats.is_empty() {
            let seats = mem::take(&mut inner.seats);
            match node.clock.run() {
                None => self.crowds.push(seats),
                Some(_) => self.seats.extend(seats.into_iter().map(|(_, seat)| seat)),
            }
        }
        if !inner.callbacks.is_empty() {
            let call = !node.is_closed();
            for callback in inner.callbacks.drain() {
                callback.take_out();
                self.callbacks.push((callback, call));
            }
        }
        self.senders.extend(inner.channel.take());
        if inner.hook.is_some() {
            self.hooked.push(Arc::clone(node));
        }
    }

    pub(super) fn carry_out(self) {
        for seat in &self.seats {
            seat.poke();
        }
        Crowd::wake(self.crowds);
        drop(self.senders);
        for node in &self.hooked {
            node.call_hook();
        }
        for (callback, call) in self.callbacks {
            if call {
                callback.call();
            } else {
                callback.skip();
            }
        }
    }
}
