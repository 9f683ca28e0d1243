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
//! | `ASK` | due and not watched, so that a look has one question | with the two |
//! | `SECOND` | it was the second parent by which the node began to stop | with `STOPPING` |
//!
//! The word is written under the node's lock alone; a look is one load.
//!
//! Each of `BROKEN`, `ENDED` and `STOPPING` comes with the next. What a node sees of those above is its [`Sight`]: a cancel
//! does not walk behind shields, and only its end reaches `cleanup`.
//!
//! # Promises
//!
//! 1. *Sticky.* A mark is never taken back. The first cause stays; below, everybody shows the origin's.
//! 2. *Told.* Every seat registered below a cancel is poked, by the cancelling thread or by those who were woken before
//!    ([`Crowd`](crate::park::seat::Crowd)); every callback runs once, outside all locks, on the cancelling thread and outside
//!    its ambient context; a node that is merely *closed* runs none.
//! 3. *Iterative.* A chain of 100,000 nodes cancels and drops on a small stack.
//! 4. *No trace.* A node keeps no room for children that are gone, but for a few and for what lies before those that stay.
//!
//! # Does not know
//!
//! Scopes, jobs, threads: a [`Hook`] is told that its node stops, and pokes go to seats.
//!
//! # Why no seat is forgotten
//!
//! It is inserted, and the flag looked at, in the lock in which a walk sets the flag and takes the seats. Children: see
//! `mark.rs`.

use crate::{
    cancel::{
        callback::Callback,
        deadline::{Deadline, TickCell},
        mark::Above,
        reason::{Label, Reason, ReasonKind},
    },
    park::{alarm::Watch, clock::Clock, seat::Seat},
    prim::{AtomicU32, Mutex, OnceLock, Ordering},
};
use crossbeam::channel::{Receiver, Sender, bounded};
use slab::Slab;
use std::{
    any::Any,
    convert::Infallible,
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

pub(super) const OWN: u32 = 1;
pub(super) const STOPPING: u32 = 1 << 1;
pub(super) const ENDED: u32 = 1 << 2;
pub(super) const BROKEN: u32 = 1 << 3;
pub(super) const DUE: u32 = 1 << 4;
pub(super) const WATCHED: u32 = 1 << 5;
const ASK: u32 = 1 << 6;
pub(super) const SECOND: u32 = 1 << 7;

/// What is handed down.
pub(super) const MARKS: u32 = STOPPING | ENDED | BROKEN;

/// Room for how many children a node keeps for later, however few there are: what a list holds that was never long.
const SPARE: usize = 64;

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
    /// The scope's own wish: its `cancel`, a job's handle, or the job itself. Everything else stops against its will.
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
    pub(super) children: Slab<Weak<Node>>,
    /// How many children have gone since room was last given back.
    gone: usize,
    pub(super) seats: Slab<Arc<Seat>>,
    pub(super) callbacks: Slab<Callback>,
    pub(super) channel: Option<(Sender<Infallible>, Receiver<Infallible>)>,
    pub(super) hook: Option<Weak<dyn Hook>>,
    pub(super) own: Option<Own>,
    /// The marks that this node has by itself.
    pub(super) flags: u32,
    pub(super) deadline: Option<Deadline>,
    /// When the grace of this node is over; set when it begins to stop.
    pub(super) end: Option<Instant>,
    /// The alarm's entry: for the deadline, then for the end.
    pub(super) watch: Option<Watch>,
}

impl Inner {
    /// Takes a child out. A burst of children leaves its room, and walks would pass by each empty place: it is given back
    /// when they are all gone, and, as far as those allow that are left, each time that half as many have gone as there is
    /// room for. So it costs each of them next to nothing.
    ///
    /// The caller drops the result outside the lock.
    #[must_use]
    fn remove_child(&mut self, slot: usize) -> Option<Weak<Node>> {
        let child = self.children.try_remove(slot)?;
        self.gone += 1;
        let room = self.children.capacity();
        if room > SPARE && (self.children.is_empty() || self.gone >= room / 2) {
            self.children.shrink_to_fit();
            self.gone = 0;
        }
        Some(child)
    }
}

/// A place in the cancellation tree. See the module header.
pub(crate) struct Node {
    pub(super) state: AtomicU32,
    pub(super) deadline: TickCell,
    pub(super) next: TickCell,
    pub(super) end: TickCell,
    pub(super) sight: Sight,
    pub(super) grace: Option<Duration>,
    label: Label,
    pub(super) clock: Clock,
    up: Option<Up>,
    also: Option<Up>,
    /// Whether there is a scope here or above: a picture of all scopes comes by.
    observed: bool,
    /// Its own, if that came first; else a copy, made when somebody asked ([`Node::cause`]).
    pub(super) cause: OnceLock<Reason>,
    pub(super) inner: Mutex<Inner>,
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
            cause: OnceLock::new(),
            inner: Mutex::new(Inner { deadline, ..Inner::default() }),
        });
        for up in [&node.up, &node.also].into_iter().flatten() {
            up.node.inner.lock().children[up.slot] = Arc::downgrade(&node);
        }
        mutant!("late_child_unmarked" => return node);
        // After it is in the lists: see `mark.rs`.
        if deadline.is_some() || node.above() != Above::NOTHING {
            node.refresh(&mut node.inner.lock());
        }
        node
    }

    /// The places that it hangs below.
    pub(crate) fn ups(&self) -> impl Iterator<Item = &Arc<Node>> {
        [&self.up, &self.also].into_iter().flatten().map(|up| &up.node)
    }

    /// The parents whose instants mean something here: those of another clock do not.
    pub(super) fn ups_in_time(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.ups().filter(|up| up.clock.is_same(&self.clock))
    }

    pub(crate) fn label(&self) -> &Label {
        &self.label
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Sets what is told when the node stops. If it stops already, it is told at once.
    pub(crate) fn set_hook(&self, hook: Weak<dyn Hook>) {
        // The walk sets the flag, and looks for a hook, under this lock: either it finds the hook, or we the flag.
        let mut inner = self.inner.lock();
        inner.hook = Some(hook);
        mutant!("hook_without_a_look" => return);
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

    fn hook(&self) -> Option<Arc<dyn Hook>> {
        self.inner.lock().hook.as_ref()?.upgrade()
    }

    /// What has set the hook, if it is there.
    pub(crate) fn host(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.hook().map(Hook::host)
    }

    /// Those that were opened here; not those that have this node as a second parent.
    pub(crate) fn children(self: &Arc<Self>) -> Vec<Arc<Node>> {
        let mut children: Vec<_> = self.inner.lock().children.iter().filter_map(|(_, child)| child.upgrade()).collect();
        children.retain(|child| child.up.as_ref().is_some_and(|up| Arc::ptr_eq(&up.node, self)));
        children
    }

    pub(super) fn call_hook(&self) {
        if let Some(hook) = self.hook() {
            hook.stopping();
        }
    }

    #[inline]
    pub(super) fn has(&self, bit: u32) -> bool {
        // Pairs with the release in `write`: what goes with the bit (the cause) is visible.
        self.state.load(Ordering::Acquire) & bit != 0
    }

    pub(super) fn set(&self, inner: &mut Inner, bit: u32) {
        self.write(inner, self.state.load(Ordering::Relaxed) | bit);
    }

    /// Changes the word. The caller holds the lock, as `_inner` shows, so nobody else writes.
    pub(super) fn write(&self, _inner: &mut Inner, state: u32) {
        let ask = if state & (DUE | WATCHED) == DUE { ASK } else { 0 };
        // Pairs with the acquires in `has`, `seen` and `above`: with a mark the cause is there, with `DUE` the instants.
        self.state.store(state & !ASK | ask, Ordering::Release);
    }

    /// Tells whether code here is to stop. Does not ask the clock: see [`is_cancelled`](Node::is_cancelled).
    #[inline]
    pub(crate) fn is_stopping(&self) -> bool {
        self.has(STOPPING)
    }

    /// Tells whether it stops because it, or what it hangs below, was left.
    pub(super) fn is_closed(&self) -> bool {
        self.cause().is_some_and(|cause| cause.kind() == ReasonKind::Closed)
    }

    /// Returns the reason of a stop above that is seen here.
    pub(crate) fn outside(&self) -> Option<Reason> {
        self.cause_above().cloned()
    }

    /// Returns how the node was cancelled by itself, if it was.
    pub(crate) fn own(&self) -> Option<Own> {
        if self.has(OWN) { self.inner.lock().own.clone() } else { None }
    }

    /// Returns how the node was cancelled by itself, if it was before anything above.
    pub(crate) fn own_first(&self) -> Option<Own> {
        self.own().filter(|own| self.cause().is_some_and(|cause| cause.is_same(&own.reason)))
    }

    /// Returns why code here is to stop, if it is.
    pub(crate) fn reason(&self) -> Option<Reason> {
        if self.is_stopping() { self.cause().cloned() } else { None }
    }

    /// The look without the clock: `None` if the clock must be asked.
    #[inline]
    pub(crate) fn seen(&self) -> Option<bool> {
        // Pairs with the release in `write`.
        match self.state.load(Ordering::Acquire) & (STOPPING | ASK) {
            0 => Some(false),
            ASK => None,
            _ => Some(true),
        }
    }

    /// The look of code that does not wait: marked, or past its deadline.
    ///
    /// The first look below a deadline has the deadline watched; after that it is one load.
    #[inline]
    pub(crate) fn is_cancelled(self: &Arc<Self>) -> bool {
        self.seen().unwrap_or_else(|| self.ask_clock())
    }

    #[cold]
    fn ask_clock(self: &Arc<Self>) -> bool {
        self.watch();
        self.expire();
        self.is_stopping()
    }

    /// Registers a seat to be poked when the node stops. `Err` if it stops already.
    pub(crate) fn add_seat(&self, seat: &Arc<Seat>) -> Result<usize, ()> {
        let mut inner = self.inner.lock();
        if self.is_stopping() && !mutant!("seat_without_a_look") {
            return Err(());
        }
        Ok(inner.seats.insert(Arc::clone(seat)))
    }

    /// Lets those go first who register a seat now.
    pub(super) fn pass_lock(&self) {
        drop(self.inner.lock());
    }

    pub(crate) fn remove_seat(&self, key: usize) {
        if self.is_stopping() {
            return; // it goes, or is gone, with the walk that has set the flag
        }
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
                let child = up.node.inner.lock().remove_child(up.slot);
                drop(child);
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
        // Promise 3: a chain of parents that only we held goes one by one, not one inside the other.
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

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use std::panic::Location;

    fn child(parent: &Arc<Node>) -> Arc<Node> {
        let label = Label::new("token", None, Location::caller());
        Node::new(&Parents { parent: Some(parent), also: None }, label, Clock::Real, None)
    }

    fn root() -> Arc<Node> {
        Node::new(&Parents::default(), Label::new("token", None, Location::caller()), Clock::Real, None)
    }

    fn room(node: &Arc<Node>) -> usize {
        node.inner.lock().children.capacity()
    }

    /// A reason is looked up when somebody asks: here, after all that could be taken for it.
    #[test]
    fn the_first_cause_stays_whichever_parent_it_came_by() {
        for first in [0, 1] {
            let parents = [root(), root()];
            let [a, b] = &parents;
            let label = a.label().clone();
            let node = Node::new(&Parents { parent: Some(a), also: Some(b) }, label.clone(), Clock::Real, None);
            let below = child(&node);
            let reasons = [(); 3].map(|()| Reason::new(ReasonKind::Explicit, label.clone(), Instant::now()));
            for at in [first, 1 - first] {
                parents[at].cancel(&reasons[at], false);
            }
            node.cancel(&reasons[2], false);
            for node in [below, node] {
                assert!(node.reason().is_some_and(|reason| reason.is_same(&reasons[first])));
            }
        }
    }

    #[test]
    fn children_one_after_the_other_use_one_place() {
        let root = root();
        for _ in 0..10_000 {
            drop(child(&root));
        }
        assert!(room(&root) <= 4, "{}", room(&root));
    }

    #[test]
    fn a_burst_of_children_leaves_no_room_behind_whoever_goes_first() {
        for backwards in [false, true] {
            let root = root();
            let mut burst: Vec<_> = (0..10_000).map(|_| child(&root)).collect();
            assert!(room(&root) >= burst.len());
            if backwards {
                while burst.pop().is_some() {}
            }
            drop(burst);
            assert!(room(&root) <= SPARE, "{}", room(&root));
        }
    }

    #[test]
    fn a_child_that_stays_does_not_keep_the_room_of_those_that_came_after_it() {
        let root = root();
        let stays = child(&root);
        drop((0..10_000).map(|_| child(&root)).collect::<Vec<_>>());
        for _ in 0..10_000 {
            drop(child(&root));
        }
        assert!(room(&root) <= SPARE, "{}", room(&root));
        let reason = Reason::new(ReasonKind::Explicit, root.label().clone(), Instant::now());
        root.cancel(&reason, false);
        assert!(stays.is_stopping(), "its place is still its own");
    }
}
