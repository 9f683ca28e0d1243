//! A place in the cancellation tree: [`Node`].
//!
//! A scope or a region is a node; a job shares its scope's node and gets one of its own on first need. Below a node hang
//! its children; beside it, who is to be told: parked seats, callbacks, a channel that disconnects, a hook.
//!
//! | bit | means | set |
//! |---|---|---|
//! | `OWN` | this node itself was cancelled, not only an ancestor | once, never cleared |
//! | `STOPPING` | effectively cancelled: itself or an ancestor; what every check reads | once, never cleared |
//! | `CLOSED` | its scope or region was left | once |
//! | `DEADLINE` | there is an effective deadline | at birth |
//! | `WATCHED` | somebody tells us when the effective deadline passes, so a look need not ask the clock | once |
//!
//! # Promises
//!
//! 1. *Sticky.* A bit is never cleared. The first cause stays; below, everybody shows the origin's.
//! 2. *Cause before flag.* Who sees `STOPPING` finds a cause.
//! 3. *Complete.* When [`cancel`](Node::cancel) returns, also to a second caller, every node below is marked, also one
//!    that is being linked meanwhile.
//! 4. *Told.* Every seat registered below is poked; every callback runs once, outside all locks, on the cancelling
//!    thread and outside its ambient context; a node that is merely *closed* runs none.
//! 5. *Iterative.* A chain of 100,000 nodes cancels and drops on a small stack.
//! 6. *Deadlines mark.* Whoever finds a deadline passed marks the outermost expired ancestor, and so all below it.
//!
//! # Does not know
//!
//! Scopes, jobs, threads: a [`Hook`] is told that its node stops, and pokes go to seats.
//!
//! # Why no mark is lost
//!
//! What rewrites subtrees (cancel, close with children) holds one lock for the whole process, the tree lock. One per
//! tree would not do: a scope may have a second parent in another tree ([`Parents::also`]), and marking through it
//! must be finished, too, when `cancel` returns. It is taken by nobody else, so an uncancelled program never meets it.
//!
//! A child is linked under its parent's list lock alone: insert, and copy the parent's flag, both in the lock. The walk
//! sets a node's flag and reads its list in the same lock. So either the child is in the list that the walk reads, or
//! the flag is there for the child to copy. The model is `model.rs`, `a_child_linked_during_a_cancel_is_marked`.
//!
//! A seat is registered in the same manner: insert, and look at the flag, in the lock.

use crate::{
    cancel::{
        current,
        reason::{Label, Reason, ReasonKind},
    },
    park::{
        alarm::{Due, Watch},
        clock::Clock,
        seat::Seat,
    },
    prim::{AtomicU32, Condvar, Mutex, Ordering, ThreadId, current_thread, tree_lock},
};
use crossbeam::channel::{Receiver, Sender, bounded};
use slab::Slab;
use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    fmt,
    panic::{AssertUnwindSafe, Location, catch_unwind},
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

const OWN: u32 = 1;
const STOPPING: u32 = 1 << 1;
const CLOSED: u32 = 1 << 2;
const DEADLINE: u32 = 1 << 3;
const WATCHED: u32 = 1 << 4;

/// A deadline as it was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// The timeout it was made of, for messages.
    pub(crate) limit: Option<Duration>,
    pub(crate) place: &'static Location<'static>,
}

impl Deadline {
    /// Converts a timeout that starts now; `None` if it overflows, which means never.
    pub(crate) fn after(clock: &Clock, limit: Duration, place: &'static Location<'static>) -> Option<Self> {
        let at = clock.after(limit)?;
        Some(Deadline { at, limit: Some(limit), place })
    }

    /// The earlier of two.
    pub(crate) fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

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
struct Inner {
    children: Slab<Weak<Node>>,
    seats: Slab<Arc<Seat>>,
    callbacks: Slab<Callback>,
    channel: Option<(Sender<Infallible>, Receiver<Infallible>)>,
    cause: Option<Reason>,
    own: Option<Own>,
    watch: Option<Watch>,
}

/// A place in the cancellation tree. See the module header.
pub(crate) struct Node {
    state: AtomicU32,
    label: Label,
    clock: Clock,
    own_deadline: Option<Deadline>,
    deadline: Option<Instant>,
    up: Option<Up>,
    also: Option<Up>,
    /// Whether there is a scope here or above: a picture of all scopes comes by.
    observed: bool,
    hook: OnceLock<Weak<dyn Hook>>,
    inner: Mutex<Inner>,
}

impl Node {
    /// Makes a node, linked below its parents, and marked if one of them is.
    pub(crate) fn new(parents: &Parents<'_>, label: Label, clock: Clock, own_deadline: Option<Deadline>) -> Arc<Self> {
        let inherited = [parents.parent, parents.also].into_iter().flatten();
        // An outer deadline means nothing to another clock.
        let inherited = inherited.filter(|node| node.clock.is_same(&clock)).filter_map(|node| node.deadline);
        let deadline = inherited.chain(own_deadline.map(|d| d.at)).min();
        let reserve = |parent: Option<&Arc<Node>>| {
            parent.map(|node| Up { slot: node.inner.lock().children.insert(Weak::new()), node: Arc::clone(node) })
        };
        let observed = label.what == "scope" || parents.parent.is_some_and(|parent| parent.observed);
        let node = Arc::new(Node {
            state: AtomicU32::new(if deadline.is_some() { DEADLINE } else { 0 }),
            label,
            clock,
            own_deadline,
            deadline,
            up: reserve(parents.parent),
            also: reserve(parents.also),
            observed,
            hook: OnceLock::new(),
            inner: Mutex::new(Inner::default()),
        });
        for up in [&node.up, &node.also].into_iter().flatten() {
            let mut inner = up.node.inner.lock();
            inner.children[up.slot] = Arc::downgrade(&node);
            let cause = if up.node.is_stopping() { inner.cause.clone() } else { None };
            drop(inner);
            if let Some(cause) = cause {
                let mut inner = node.inner.lock();
                inner.cause.get_or_insert(cause);
                // Pairs with the acquire in `is_stopping`: the cause is there.
                node.state.fetch_or(STOPPING, Ordering::AcqRel);
            }
        }
        node
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

    fn has(&self, bit: u32) -> bool {
        // Pairs with the release of whoever set the bit: what goes with it (the cause) is visible.
        self.state.load(Ordering::Acquire) & bit != 0
    }

    /// Tells whether the node is marked. Does not ask the clock: see [`is_cancelled`](Node::is_cancelled).
    pub(crate) fn is_stopping(&self) -> bool {
        self.has(STOPPING)
    }

    /// Tells whether an ancestor's cancel is visible here.
    pub(crate) fn outside(&self) -> Option<Reason> {
        let ups = [&self.up, &self.also].into_iter().flatten();
        ups.filter(|up| up.node.is_stopping()).find_map(|up| up.node.reason())
    }

    /// Returns how the node was cancelled by itself, if it was.
    pub(crate) fn own(&self) -> Option<Own> {
        if self.has(OWN) { self.inner.lock().own.clone() } else { None }
    }

    /// Returns why the node stops, if it does.
    pub(crate) fn reason(&self) -> Option<Reason> {
        if self.is_stopping() { self.inner.lock().cause.clone() } else { None }
    }

    /// Returns the earliest deadline in force here.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The look without the clock: `None` if the clock must be asked.
    pub(crate) fn seen(&self) -> Option<bool> {
        // Pairs with the release in `mark`.
        let state = self.state.load(Ordering::Acquire);
        match state {
            _ if state & STOPPING != 0 => Some(true),
            _ if state & DEADLINE == 0 || state & WATCHED != 0 => Some(false),
            _ => None,
        }
    }

    /// The look of code that does not wait: marked, or past its deadline.
    ///
    /// The first look below a deadline has the deadline watched; after that it is one load.
    pub(crate) fn is_cancelled(self: &Arc<Self>) -> bool {
        // Pairs with the release in `mark`.
        let state = self.state.load(Ordering::Acquire);
        if state & (STOPPING | DEADLINE) == 0 {
            return false;
        }
        if state & STOPPING != 0 {
            return true;
        }
        if state & WATCHED == 0 {
            self.watch();
            self.expire();
        }
        self.is_stopping()
    }

    /// Sees to it that the effective deadline marks this node without anybody looking.
    pub(crate) fn watch(self: &Arc<Self>) {
        if !self.has(DEADLINE) || self.has(WATCHED | STOPPING) {
            return;
        }
        let mut owner = self;
        while owner.own_deadline.map(|d| d.at) != self.deadline {
            let ups = [&owner.up, &owner.also].into_iter().flatten();
            match ups.map(|up| &up.node).find(|up| up.deadline == self.deadline) {
                Some(up) => owner = up,
                None => return,
            }
        }
        let mut inner = owner.inner.lock();
        if inner.watch.is_none() && !owner.is_stopping() {
            let Some(at) = owner.deadline else { return };
            let target: Weak<Node> = Arc::downgrade(owner);
            inner.watch = owner.clock.watch(at, target);
            if inner.watch.is_none() {
                return; // no thread for the alarm: later looks go on asking the clock
            }
        }
        drop(inner);
        owner.state.fetch_or(WATCHED, Ordering::Relaxed); // publishes nothing: the alarm has locks of its own
        self.state.fetch_or(WATCHED, Ordering::Relaxed);
    }

    /// Compares with the clock, and marks the outermost ancestor whose deadline has passed.
    pub(crate) fn expire(self: &Arc<Self>) {
        let Some(deadline) = self.deadline else { return };
        if self.is_stopping() && self.outside().is_some() {
            return;
        }
        let now = self.clock.now();
        if now < deadline {
            return;
        }
        let mut outermost = (0, None);
        let mut look = vec![(1_usize, self)];
        // Nodes with two parents make many ways to one ancestor; each is gone once for each greater height.
        let mut seen = HashMap::new();
        while let Some((height, node)) = look.pop() {
            if seen.get(&Arc::as_ptr(node)).is_some_and(|seen| *seen >= height) {
                continue;
            }
            seen.insert(Arc::as_ptr(node), height);
            if node.own_deadline.is_some_and(|d| d.at <= now) && height > outermost.0 {
                outermost = (height, Some(node));
            }
            let ups = [&node.up, &node.also].into_iter().flatten();
            let ups = ups.filter(|up| up.node.clock.is_same(&node.clock) && up.node.deadline.is_some_and(|d| d <= now));
            look.extend(ups.map(|up| (height + 1, &up.node)));
        }
        if let (_, Some(node)) = outermost {
            if let Some(deadline) = node.own_deadline {
                let reason = node.deadline_reason(&deadline);
                node.cancel(&reason, false);
            }
        }
    }

    fn deadline_reason(&self, deadline: &Deadline) -> Reason {
        Reason::new(ReasonKind::Deadline, self.label.clone(), deadline.at)
            .limit_is(deadline.limit)
            .place_is(deadline.place)
    }

    /// Cancels this node and everything below it. A second cancel changes nothing, but returns as late: promise 3.
    pub(crate) fn cancel(self: &Arc<Self>, reason: &Reason, by_will: bool) {
        let tree = tree_lock();
        let mut inner = self.inner.lock();
        if inner.own.is_some() {
            return;
        }
        inner.own = Some(Own { reason: reason.clone(), by_will });
        // The cause goes first, so that the bits never show without one.
        inner.cause.get_or_insert_with(|| reason.clone());
        self.state.fetch_or(OWN, Ordering::AcqRel);
        drop(inner);
        let effects = mark(self, reason);
        drop(tree);
        effects.carry_out(reason.kind() != ReasonKind::Closed);
    }

    /// Leaves the node: whatever still hangs below is cancelled with reason *closed*.
    pub(crate) fn close(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        let alone = inner.children.is_empty()
            && inner.callbacks.is_empty()
            && inner.seats.is_empty()
            && inner.channel.is_none()
            && inner.watch.is_none();
        if alone {
            // Nobody below: no walk, so no tree lock. A child linked later copies the flag from here.
            if inner.own.is_none() {
                let reason = self.closed_reason();
                inner.cause.get_or_insert_with(|| reason.clone());
                inner.own = Some(Own { reason, by_will: true });
            }
            // Pairs with the acquire in `is_stopping`.
            self.state.fetch_or(OWN | STOPPING, Ordering::AcqRel);
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

    /// Registers a callback; see [`CancelToken::on_cancel`](super::token::CancelToken::on_cancel).
    pub(crate) fn on_cancel(self: &Arc<Self>, run: Box<dyn FnOnce() + Send>) -> Registration {
        self.watch();
        self.expire();
        let state = Arc::new(CallbackState { status: Mutex::new(Status::Waiting), done: Condvar::default() });
        let callback = Callback { run, state: Arc::clone(&state) };
        let mut inner = self.inner.lock();
        if self.is_stopping() {
            let closed = inner.cause.as_ref().is_some_and(|cause| cause.kind() == ReasonKind::Closed);
            drop(inner);
            if closed {
                drop(callback);
            } else {
                callback.call();
            }
            return Registration { entry: None, state };
        }
        let key = inner.callbacks.insert(callback);
        drop(inner);
        Registration { entry: Some((Arc::clone(self), key)), state }
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

impl Due for Node {
    fn due(self: Arc<Self>) {
        self.inner.lock().watch = None;
        self.expire();
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({}, stopping: {})", self.label, self.is_stopping())
    }
}

/// What a walk has found to do; carried out when no lock is held.
#[derive(Default)]
struct Effects {
    seats: Vec<Arc<Seat>>,
    callbacks: Vec<Callback>,
    senders: Vec<(Sender<Infallible>, Receiver<Infallible>)>,
    nodes: Vec<Arc<Node>>,
    watches: Vec<(Clock, Watch)>,
}

/// Marks `top` and all below it. The caller holds the tree lock.
fn mark(top: &Arc<Node>, reason: &Reason) -> Effects {
    let mut effects = Effects::default();
    let mut todo = vec![Arc::clone(top)];
    while let Some(node) = todo.pop() {
        let mut guard = node.inner.lock();
        let inner = &mut *guard;
        if node.is_stopping() {
            continue; // and so is everything below it
        }
        inner.cause.get_or_insert_with(|| reason.clone());
        // Pairs with the acquire in `is_stopping`: the cause is there.
        node.state.fetch_or(STOPPING, Ordering::AcqRel);
        todo.extend(inner.children.iter().filter_map(|(_, child)| child.upgrade()));
        effects.seats.extend(inner.seats.iter().map(|(_, seat)| Arc::clone(seat)));
        for callback in inner.callbacks.drain() {
            callback.take_out();
            effects.callbacks.push(callback);
        }
        effects.senders.extend(inner.channel.take());
        effects.watches.extend(inner.watch.take().map(|watch| (node.clock.clone(), watch)));
        drop(guard);
        effects.nodes.push(node);
    }
    effects
}

impl Effects {
    fn carry_out(self, call: bool) {
        for seat in &self.seats {
            seat.poke();
        }
        drop(self.senders);
        for node in &self.nodes {
            node.call_hook();
        }
        for (clock, watch) in self.watches {
            clock.unwatch(watch);
        }
        for callback in self.callbacks {
            if call {
                callback.call();
            } else {
                callback.skip();
            }
        }
    }
}

enum Status {
    Waiting,
    /// Taken out of the list, to be called.
    Taken,
    /// Being called by this thread.
    Running(ThreadId),
    /// Called, or given up by its registration before that.
    Done,
}

struct CallbackState {
    status: Mutex<Status>,
    done: Condvar,
}

struct Callback {
    run: Box<dyn FnOnce() + Send>,
    state: Arc<CallbackState>,
}

impl Callback {
    fn take_out(&self) {
        *self.state.status.lock() = Status::Taken;
    }

    /// Calls the user's code, outside the ambient context and all locks. A panic in it ends here: the panic hook has
    /// reported it, and the cancel must reach everybody else.
    fn call(self) {
        let mut status = self.state.status.lock();
        if matches!(*status, Status::Done) {
            drop(status);
            return self.skip(); // its registration was dropped meanwhile, by another callback perhaps
        }
        *status = Status::Running(current_thread().id());
        drop(status);
        let Callback { run, state } = self;
        let outcome = catch_unwind(AssertUnwindSafe(|| current::detached(run)));
        if let Err(payload) = outcome {
            drop_quietly(payload);
        }
        state.finish();
    }

    fn skip(self) {
        let Callback { run, state } = self;
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(run))) {
            drop_quietly(payload);
        }
        state.finish();
    }
}

/// Drops a panic's payload, whose `Drop` may panic in turn; what cannot be dropped is leaked.
fn drop_quietly(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

impl CallbackState {
    fn finish(&self) {
        *self.status.lock() = Status::Done;
        self.done.notify_all();
    }
}

/// Keeps a callback registered. See [`OnCancel`](super::token::OnCancel).
pub(crate) struct Registration {
    entry: Option<(Arc<Node>, usize)>,
    state: Arc<CallbackState>,
}

impl Drop for Registration {
    /// Afterwards the callback is not running, unless this very thread runs it.
    fn drop(&mut self) {
        let Some((node, key)) = self.entry.take() else { return };
        let mut inner = node.inner.lock();
        // A key may have been given out again; the state tells whose it is.
        let ours = inner.callbacks.get(key).is_some_and(|callback| Arc::ptr_eq(&callback.state, &self.state));
        let callback = if ours { inner.callbacks.try_remove(key) } else { None };
        drop(inner);
        if callback.is_some() {
            return;
        }
        let mut status = self.state.status.lock();
        loop {
            match *status {
                Status::Running(thread) if thread != current_thread().id() => self.state.done.wait(&mut status),
                Status::Taken => {
                    *status = Status::Done; // its turn has not come, and never will
                    return;
                }
                _ => return,
            }
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").finish_non_exhaustive()
    }
}
