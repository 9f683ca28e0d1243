//! A place in the cancellation tree: [`Node`].
//!
//! A scope or a region is a node; a job shares its scope's node and gets one of its own on first need. Below a node hang
//! its children; beside it, who is to be told: parked seats, callbacks, a channel that disconnects, a hook.
//!
//! | bit | means | set |
//! |---|---|---|
//! | `OWN` | this node itself was cancelled, not only an ancestor | once, never cleared |
//! | `STOPPING` | code here is to stop, by the node's own cancel or by what it sees of one above; what every check reads | once, never cleared |
//! | `ENDED` | the time for cleaning up is over: seen by `cleanup` below, too | once, never cleared |
//! | `BROKEN` | nothing can go on: seen behind shields, too | once, never cleared |
//! | `DUE` | some instant matters here (`next`, see `deadline.rs`), so a look asks the clock | by walks |
//! | `WATCHED` | somebody tells us when it passes, so a look need not ask the clock | see `deadline.rs` |
//!
//! Each of `BROKEN`, `ENDED` and `STOPPING` comes with the next. What a node sees of those above is its [`Sight`]: a cancel
//! does not walk behind shields, and only its end reaches `cleanup`.
//!
//! # Promises
//!
//! 1. *Sticky.* A mark is never taken back. The first cause stays; below, everybody shows the origin's.
//! 2. *Cause before flag.* Who sees `STOPPING` finds a cause.
//! 3. *Complete.* When [`cancel`](Node::cancel) returns, also to a second caller, every node below that sees it is marked,
//!    also one that is being linked meanwhile. So it is with instants that are moved.
//! 4. *Told.* Every seat registered below is poked; every callback runs once, outside all locks, on the cancelling
//!    thread and outside its ambient context; a node that is merely *closed* runs none.
//! 5. *Iterative.* A chain of 100,000 nodes cancels and drops on a small stack.
//! 6. *One budget.* The grace of a node runs from the moment that it begins to stop; below, the earliest end counts.
//!
//! # Does not know
//!
//! Scopes, jobs, threads: a [`Hook`] is told that its node stops, and pokes go to seats.
//!
//! # Why no mark is lost
//!
//! What rewrites subtrees (cancel, moving a deadline, the end of a grace, close with children) holds one lock for the whole
//! process, the tree lock. One per tree would not do: a scope may have a second parent in another tree
//! ([`Parents::also`]), and marking through it must be finished, too, when `cancel` returns. Besides, only the first look
//! below a deadline takes it: a program without deadlines and cancels never meets it.
//!
//! A rewriter changes a node, and then visits what is below it: each node [refreshes](Node::refresh) itself, under its own
//! lock, from what its parents show, and where this changes something the walk goes on below. The list of children is read
//! in the same lock in which the node is changed.
//!
//! A child is linked under its parent's list lock alone: it is inserted, and then compares itself with what the parents
//! show. So either the child is in the list that the walk reads, and is visited after the parent was changed; or the change
//! is there for the child to see. Both refresh under the child's lock and from all parents, so the later of the two sees
//! all that the earlier saw. The models are `model.rs`, `a_child_linked_during_a_cancel_is_marked` and
//! `a_child_linked_during_a_move_has_the_new_deadline`.
//!
//! A seat is registered in the same manner: insert, and look at the flag, in the lock.

use crate::{
    cancel::{
        callback::Callback,
        deadline::{Deadline, Tick, TickCell},
        reason::{Label, Reason, ReasonKind},
    },
    park::{alarm::Watch, clock::Clock, seat::Seat},
    prim::{AtomicU32, Mutex, Ordering, tree_lock},
};
use crossbeam::channel::{Receiver, Sender, bounded};
use slab::Slab;
use std::{
    any::Any,
    convert::Infallible,
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

const OWN: u32 = 1;
pub(super) const STOPPING: u32 = 1 << 1;
pub(super) const ENDED: u32 = 1 << 2;
const BROKEN: u32 = 1 << 3;
const DUE: u32 = 1 << 4;
pub(super) const WATCHED: u32 = 1 << 5;

/// What is handed down.
const MARKS: u32 = STOPPING | ENDED | BROKEN;

/// Told, outside all locks, that its node has begun to stop.
pub(crate) trait Hook: Send + Sync {
    /// Must not block.
    fn stopping(&self);

    /// Itself, for observers, who know what it is.
    fn host(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// How a node was cancelled by itself.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) reason: Reason,
    /// The scope's own wish: its `cancel`, or a job's handle. Everything else stops against its will.
    pub(crate) by_will: bool,
}

/// What a node sees of a stop above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sight {
    /// All: most nodes.
    #[default]
    Open,
    /// Only that the time for cleaning up is over.
    End,
    /// Nothing, unless nothing can go on.
    Shielded,
}

/// What a new node comes with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) deadline: Option<Deadline>,
    /// How long `cleanup` below may go on once the node begins to stop. `None`: as long as others let it.
    pub(crate) grace: Option<Duration>,
    pub(crate) sight: Sight,
}

struct Up {
    node: Arc<Node>,
    slot: usize,
}

/// What a new node hangs below.
#[derive(Debug, Default)]
pub(crate) struct Parents<'a> {
    /// The place where the code that opens it runs.
    pub(crate) parent: Option<&'a Arc<Node>>,
    /// A second one, of `ScopeOptions::under`.
    pub(crate) also: Option<&'a Arc<Node>>,
}

#[derive(Default)]
pub(super) struct Inner {
    children: Slab<Weak<Node>>,
    seats: Slab<Arc<Seat>>,
    pub(super) callbacks: Slab<Callback>,
    channel: Option<(Sender<Infallible>, Receiver<Infallible>)>,
    pub(super) own: Option<Own>,
    /// The marks that this node has by itself.
    pub(super) flags: u32,
    pub(super) deadline: Option<Deadline>,
    /// When the grace of this node is over; set when it begins to stop.
    pub(super) end: Option<Instant>,
    /// The alarm's entry: for the deadline, then for the end.
    pub(super) watch: Option<Watch>,
}

/// A place in the cancellation tree. See the module header.
pub(crate) struct Node {
    state: AtomicU32,
    pub(super) deadline: TickCell,
    pub(super) next: TickCell,
    pub(super) end: TickCell,
    pub(super) sight: Sight,
    grace: Option<Duration>,
    label: Label,
    clock: Clock,
    up: Option<Up>,
    also: Option<Up>,
    /// Whether there is a scope here or above: a picture of all scopes comes by.
    observed: bool,
    hook: OnceLock<Weak<dyn Hook>>,
    cause: OnceLock<Reason>,
    pub(super) inner: Mutex<Inner>,
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
    const NOTHING: Above = Above { marks: 0, deadline: Tick::NEVER, next: Tick::NEVER, end: Tick::NEVER };

    pub(super) fn has(self, mark: u32) -> bool {
        self.marks & mark != 0
    }
}

/// What a refresh has changed.
struct Change {
    /// It stops from now on.
    begins: bool,
    /// Whoever waits here has planned for a later instant.
    nearer: bool,
    /// What those below see.
    shown: bool,
}

impl Node {
    /// Makes a node that sees all, linked below its parents, and marked if one of them is.
    pub(crate) fn new(parents: &Parents<'_>, label: Label, clock: Clock, deadline: Option<Deadline>) -> Arc<Self> {
        Node::with(parents, label, clock, Terms { deadline, ..Terms::default() })
    }

    /// Makes a node, linked below its parents, and marked as they are.
    pub(crate) fn with(parents: &Parents<'_>, label: Label, clock: Clock, terms: Terms) -> Arc<Self> {
        let Terms { deadline, grace, sight } = terms;
        let reserve = |parent: Option<&Arc<Node>>| {
            parent.map(|node| Up { slot: node.inner.lock().children.insert(Weak::new()), node: Arc::clone(node) })
        };
        let observed = label.what == "scope" || parents.parent.is_some_and(|parent| parent.observed);
        let node = Arc::new(Node {
            state: AtomicU32::new(0),
            deadline: TickCell::never(),
            next: TickCell::never(),
            end: TickCell::never(),
            sight,
            grace,
            label,
            clock,
            up: reserve(parents.parent),
            also: reserve(parents.also),
            observed,
            hook: OnceLock::new(),
            cause: OnceLock::new(),
            inner: Mutex::new(Inner { deadline, ..Inner::default() }),
        });
        for up in [&node.up, &node.also].into_iter().flatten() {
            up.node.inner.lock().children[up.slot] = Arc::downgrade(&node);
        }
        // After it is in the lists: see the header.
        if deadline.is_some() || node.above() != Above::NOTHING {
            node.refresh(&mut node.inner.lock());
        }
        node
    }

    fn ups(&self) -> impl Iterator<Item = &Arc<Node>> {
        [&self.up, &self.also].into_iter().flatten().map(|up| &up.node)
    }

    /// The parents whose instants mean something here: those of another clock do not.
    pub(super) fn ups_in_time(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.ups().filter(|up| up.clock.is_same(&self.clock))
    }

    /// Whether a stop of a parent in that state is one that this node sees.
    fn sees(&self, state: u32) -> bool {
        let mark = match self.sight {
            Sight::Open => STOPPING,
            Sight::End => ENDED,
            Sight::Shielded => BROKEN,
        };
        state & mark != 0
    }

    /// Looks at the parents. Stable under the tree lock; else what changes meanwhile is brought by a walk.
    pub(super) fn above(&self) -> Above {
        let mut above = Above::NOTHING;
        for up in self.ups() {
            // Pairs with the release in `refresh`: with a mark the cause is there, with `DUE` the instants.
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
    fn refresh(self: &Arc<Self>, inner: &mut Inner) -> Change {
        let above = self.above();
        let before = self.state.load(Ordering::Acquire);
        let begins = before & STOPPING == 0 && (inner.flags | above.marks) & STOPPING != 0;
        if begins {
            // The cause goes first, so that the bits never show without one. It may be there: the node's own.
            if let Some(cause) = self.cause_above() {
                let _ = self.cause.set(cause);
            }
            match self.grace {
                Some(_) if inner.end.is_some() || self.is_closed() => {}
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
        let gone = if unwatched { WATCHED } else { 0 } | if next == Tick::NEVER { DUE } else { 0 };
        if before & gone != 0 {
            self.state.fetch_and(!gone, Ordering::AcqRel);
        }
        let new = marks | if next == Tick::NEVER { 0 } else { DUE };
        if !before & new != 0 {
            // Pairs with the acquires in `has` and `above`: cause and instants are there.
            self.state.fetch_or(new, Ordering::AcqRel);
        }
        change
    }

    /// Refreshes this node, which the caller has changed, and all below it. The caller holds the tree lock.
    pub(super) fn spread(self: &Arc<Self>) -> Effects {
        let mut effects = Effects::default();
        let mut todo = vec![Arc::clone(self)];
        let mut to_watch = Vec::new();
        while let Some(node) = todo.pop() {
            let mut guard = node.inner.lock();
            let inner = &mut *guard;
            let watched = node.has(WATCHED);
            let change = node.refresh(inner);
            let unwatched = watched && !node.has(WATCHED);
            if change.begins || change.nearer {
                effects.seats.extend(inner.seats.iter().map(|(_, seat)| Arc::clone(seat)));
            }
            if change.begins {
                let call = !node.is_closed();
                for callback in inner.callbacks.drain() {
                    callback.take_out();
                    effects.callbacks.push((callback, call));
                }
                effects.senders.extend(inner.channel.take());
            }
            if change.shown {
                todo.extend(inner.children.iter().filter_map(|(_, child)| child.upgrade()));
            }
            drop(guard);
            if unwatched {
                to_watch.push(Arc::clone(&node));
            }
            if change.begins {
                effects.nodes.push(node);
            } else {
                effects.visited.push(node);
            }
        }
        for node in to_watch {
            node.watch_in_tree();
        }
        effects
    }

    /// The reason of a parent whose stop is seen here.
    fn cause_above(&self) -> Option<Reason> {
        // Pairs with the release in `refresh`.
        let up = self.ups().find(|up| self.sees(up.state.load(Ordering::Acquire)))?;
        up.cause.get().cloned()
    }

    pub(crate) fn label(&self) -> &Label {
        &self.label
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Sets what is told when the node stops. If it stops already, it is told at once.
    pub(crate) fn set_hook(&self, hook: Weak<dyn Hook>) {
        if self.hook.set(hook).is_err() {
            return;
        }
        // The walk sets the flag under this lock, and calls the hook after it: either it finds the hook, or we the flag.
        let inner = self.inner.lock();
        let stopping = self.is_stopping();
        drop(inner);
        if stopping {
            self.call_hook();
        }
    }

    /// Whether there is a scope here or above.
    pub(crate) fn is_observed(&self) -> bool {
        self.observed
    }

    /// What has set the hook, if it is there.
    pub(crate) fn host(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.hook.get().and_then(Weak::upgrade).map(Hook::host)
    }

    /// Those that were opened here; not those that have this node as a second parent.
    pub(crate) fn children(self: &Arc<Self>) -> Vec<Arc<Node>> {
        let mut children: Vec<_> = self.inner.lock().children.iter().filter_map(|(_, child)| child.upgrade()).collect();
        children.retain(|child| child.up.as_ref().is_some_and(|up| Arc::ptr_eq(&up.node, self)));
        children
    }

    fn call_hook(&self) {
        if let Some(hook) = self.hook.get().and_then(Weak::upgrade) {
            hook.stopping();
        }
    }

    pub(super) fn has(&self, bit: u32) -> bool {
        // Pairs with the release of whoever set the bit: what goes with it (the cause) is visible.
        self.state.load(Ordering::Acquire) & bit != 0
    }

    pub(super) fn set(&self, bit: u32) {
        // Pairs with the acquire in `has`.
        self.state.fetch_or(bit, Ordering::AcqRel);
    }

    /// Tells whether code here is to stop. Does not ask the clock: see [`is_cancelled`](Node::is_cancelled).
    pub(crate) fn is_stopping(&self) -> bool {
        self.has(STOPPING)
    }

    /// Tells whether it stops because it, or what it hangs below, was left.
    pub(super) fn is_closed(&self) -> bool {
        self.cause.get().is_some_and(|cause| cause.kind() == ReasonKind::Closed)
    }

    /// Returns the reason of a stop above that is seen here.
    pub(crate) fn outside(&self) -> Option<Reason> {
        self.cause_above()
    }

    /// Returns how the node was cancelled by itself, if it was.
    pub(crate) fn own(&self) -> Option<Own> {
        if self.has(OWN) { self.inner.lock().own.clone() } else { None }
    }

    /// Returns why code here is to stop, if it is.
    pub(crate) fn reason(&self) -> Option<Reason> {
        if self.is_stopping() { self.cause.get().cloned() } else { None }
    }

    /// The look without the clock: `None` if the clock must be asked.
    pub(crate) fn seen(&self) -> Option<bool> {
        // Pairs with the release in `refresh`.
        let state = self.state.load(Ordering::Acquire);
        match state {
            _ if state & STOPPING != 0 => Some(true),
            _ if state & DUE == 0 || state & WATCHED != 0 => Some(false),
            _ => None,
        }
    }

    /// The look of code that does not wait: marked, or past its deadline.
    ///
    /// The first look below a deadline has the deadline watched; after that it is one load.
    pub(crate) fn is_cancelled(self: &Arc<Self>) -> bool {
        if let Some(seen) = self.seen() {
            return seen;
        }
        self.watch();
        self.expire();
        self.is_stopping()
    }

    /// Cancels this node and everything below it that sees it. A second cancel changes nothing, but returns as late:
    /// promise 3.
    pub(crate) fn cancel(self: &Arc<Self>, reason: &Reason, by_will: bool) {
        self.cancel_within(reason, by_will, None);
    }

    /// Cancels, and ends `cleanup` below after `grace`: at once if it is zero, as the node's terms say if it is `None`.
    ///
    /// Of a node that is cancelled already it may bring the end nearer, and does nothing else.
    pub(crate) fn cancel_within(self: &Arc<Self>, reason: &Reason, by_will: bool, grace: Option<Duration>) {
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
        let _ = self.cause.set(own.reason.clone());
        inner.own = Some(own);
        inner.flags |= STOPPING;
        self.set(OWN);
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
            // The cause is there.
            self.set(STOPPING);
            self.set_watch(&mut inner, None);
            return;
        }
        drop(inner);
        self.cancel(&self.closed_reason(), true);
    }

    fn closed_reason(&self) -> Reason {
        Reason::new(ReasonKind::Closed, self.label.clone(), self.clock.now())
    }

    /// Registers a seat to be poked when the node stops. `Err` if it stops already.
    pub(crate) fn add_seat(&self, seat: &Arc<Seat>) -> Result<usize, ()> {
        let mut inner = self.inner.lock();
        if self.is_stopping() {
            return Err(());
        }
        Ok(inner.seats.insert(Arc::clone(seat)))
    }

    pub(crate) fn remove_seat(&self, key: usize) {
        let gone = self.inner.lock().seats.try_remove(key);
        drop(gone);
    }

    /// Returns the channel that disconnects when the node stops.
    pub(crate) fn receiver(self: &Arc<Self>) -> Receiver<Infallible> {
        self.watch();
        self.expire();
        let mut inner = self.inner.lock();
        if self.is_stopping() {
            return bounded(0).1;
        }
        inner.channel.get_or_insert_with(|| bounded(0)).1.clone()
    }

    /// Unlinks from the parents and returns them, to be dropped one at a time.
    fn unlink(&mut self) -> [Option<Arc<Node>>; 2] {
        [self.up.take(), self.also.take()].map(|up| {
            up.map(|up| {
                let entry = up.node.inner.lock().children.try_remove(up.slot);
                drop(entry);
                up.node
            })
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(watch) = self.inner.get_mut().watch.take() {
            self.clock.unwatch(watch);
        }
        // Promise 5: a chain of parents that only we held goes one by one, not one inside the other.
        let mut chain: Vec<Arc<Node>> = self.unlink().into_iter().flatten().collect();
        while let Some(parent) = chain.pop() {
            if let Some(mut parent) = Arc::into_inner(parent) {
                chain.extend(parent.unlink().into_iter().flatten());
            }
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({}, stopping: {})", self.label, self.is_stopping())
    }
}

/// What a walk has found to do; carried out when no lock is held.
#[derive(Default)]
pub(super) struct Effects {
    seats: Vec<Arc<Seat>>,
    /// With whether they are called: not those of what was merely left.
    callbacks: Vec<(Callback, bool)>,
    senders: Vec<(Sender<Infallible>, Receiver<Infallible>)>,
    /// What begins to stop.
    nodes: Vec<Arc<Node>>,
    /// Kept until no lock is held: to drop a node takes the locks of its parents.
    visited: Vec<Arc<Node>>,
}

impl Effects {
    pub(super) fn carry_out(self) {
        for seat in &self.seats {
            seat.poke();
        }
        drop(self.senders);
        for node in &self.nodes {
            node.call_hook();
        }
        for (callback, call) in self.callbacks {
            if call {
                callback.call();
            } else {
                callback.skip();
            }
        }
        drop(self.visited);
    }
}
