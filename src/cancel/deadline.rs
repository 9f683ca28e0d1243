//! The instants of a node: deadlines, which can be moved, and the ends of graces.
//!
//! Each node keeps three instants that hold for the code at it, brought up to date by every walk that changes one above:
//!
//! | cell | means |
//! |---|---|
//! | `deadline` | the earliest deadline in force, of this node or above, up to a shield; readable after it has passed |
//! | `next` | the earliest instant at which something is to be marked that matters here: a deadline that is not marked yet, or, in `cleanup`, the end of the grace |
//! | `end` | when cleaning up is to end, for the graces that run at this node and above, up to a shield |
//!
//! A deadline that has been marked is out of `next`: whoever waits has no reason to wake for it again.
//!
//! # Promises
//!
//! 1. *Who looks, marks.* Whoever finds an instant passed marks what it is of, outermost first, so that two limits which
//!    have passed are one stop (S62).
//! 2. *Moved is moved.* When [`set_deadline`](Node::set_deadline) returns, every node below has the new instant; who waits
//!    below was poked if it has come nearer, and is watched anew. A later instant wakes nobody.
//! 3. *Passed is passed.* A deadline that has passed when it is moved is marked first; one that is marked moves no more.
//! 4. *One entry.* A node has at most one entry with the alarm, however often its deadline moves.
//!
//! # Does not know
//!
//! Who waits, and for what.
//!
//! # Why nobody sleeps past a deadline that was moved
//!
//! A mover stores the new instant and takes the list of seats under one lock of the node, and pokes after it. A waiter
//! enters its seat under that lock, and reads the instant before each park. So either its seat is in the list, and it
//! reads again after the poke, or it has entered after the store and reads the new instant.
//! Modelled in `model/deadline.rs`, `a_seat_registered_during_a_move_is_poked_or_sees_it`.
//!
//! # Why the alarm misses nothing
//!
//! `WATCHED` on a node says that the alarm has an entry for its `next`, at the node whose instant it is. The bit is set
//! under the tree lock, after the entry was made; or, without it, by copying the parent's under the node's own lock while
//! both have the same instant. A walk that changes a parent visits the node after it, and there clears the bit, under the
//! same lock, and watches anew.

use crate::{
    cancel::{
        mark::tree_lock,
        node::{ENDED, Inner, Node, Own, STOPPING, Sight, WATCHED},
        reason::{Reason, ReasonKind},
    },
    park::{alarm::Due, clock::Clock},
    prim::{AtomicU64, Ordering},
};
use std::{
    collections::HashMap,
    panic::Location,
    sync::{Arc, LazyLock, Weak},
    time::{Duration, Instant},
};

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

/// An instant in one word, in the order of time: nanoseconds from [`BASE`], which is in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u64);

static BASE: LazyLock<Instant> = LazyLock::new(|| Clock::Real.now());

const MIDDLE: u64 = 1 << 63;

impl Tick {
    /// Comes after everything else.
    pub(super) const NEVER: Tick = Tick(u64::MAX);

    /// What is 292 years away or more counts as just that.
    pub(super) fn of(at: Instant) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match at.checked_duration_since(*BASE) {
            Some(after) => Tick(MIDDLE + nanos(after).min(MIDDLE - 2)),
            None => Tick(MIDDLE - nanos(BASE.duration_since(at)).min(MIDDLE)),
        }
    }

    pub(super) fn at(at: Option<Instant>) -> Self {
        at.map_or(Tick::NEVER, Tick::of)
    }

    fn instant(self) -> Option<Instant> {
        if self == Tick::NEVER {
            return None;
        }
        match self.0.checked_sub(MIDDLE) {
            Some(after) => BASE.checked_add(Duration::from_nanos(after)),
            None => BASE.checked_sub(Duration::from_nanos(MIDDLE - self.0)),
        }
    }
}

/// A [`Tick`] that walks change. It orders nothing by itself: between a change and who must see it stands the lock of the
/// node, the tree lock, a poke, or the bit `DUE`, which is set after it.
#[derive(Debug)]
pub(super) struct TickCell(AtomicU64);

impl TickCell {
    pub(super) fn never() -> Self {
        TickCell(AtomicU64::new(Tick::NEVER.0))
    }

    pub(super) fn get(&self) -> Tick {
        Tick(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, tick: Tick) {
        self.0.store(tick.0, Ordering::Relaxed);
    }
}

/// What is to be marked when its instant has come.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Deadline,
    End,
}

impl Node {
    /// Returns the earliest deadline in force here: one's own or above, up to a shield; in `cleanup`, also the grace's end.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.get().instant()
    }

    /// Returns when whoever waits here must look, at the latest.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.next.get().instant()
    }

    /// Moves, sets or takes away the node's own deadline. One in the past cancels, before this returns.
    pub(crate) fn set_deadline(self: &Arc<Self>, deadline: Option<Deadline>) {
        // Promise 3.
        self.expire();
        let tree = tree_lock();
        let mut inner = self.inner.lock();
        if inner.own.is_some() {
            return;
        }
        inner.deadline = deadline;
        mutant!("move_without_a_walk" => self.refresh(&mut inner); return);
        drop(inner);
        let effects = self.spread();
        drop(tree);
        effects.carry_out();
        self.expire();
    }

    /// Compares with the clock, and marks what has passed, here and above, outermost first.
    #[inline]
    pub(crate) fn expire(self: &Arc<Self>) {
        let due = self.next.get().min(self.end.get());
        if due != Tick::NEVER {
            self.expire_if(due);
        }
    }

    fn expire_if(self: &Arc<Self>, due: Tick) {
        if self.above().has(STOPPING) {
            return;
        }
        let now = self.clock().now();
        if due <= Tick::of(now) {
            self.mark_due(now);
        }
    }

    fn mark_due(self: &Arc<Self>, now: Instant) {
        while let Some((node, mark)) = self.outermost_due(now) {
            node.mark_passed(mark, now);
        }
    }

    /// What has passed and is not marked at this node itself.
    fn passed(&self, inner: &Inner, now: Instant) -> Option<Mark> {
        if inner.end.is_some_and(|end| end <= now) && !self.has(ENDED) {
            return Some(Mark::End);
        }
        let deadline = inner.deadline.is_some_and(|deadline| deadline.at <= now) && !self.has(STOPPING);
        deadline.then_some(Mark::Deadline)
    }

    fn outermost_due(self: &Arc<Self>, now: Instant) -> Option<(&Arc<Self>, Mark)> {
        let tick = Tick::of(now);
        let mut outermost = (0, None);
        let mut look = vec![(1_usize, self)];
        // Nodes with two parents make many ways to one ancestor; each is gone once for each greater height.
        let mut seen = HashMap::new();
        while let Some((height, node)) = look.pop() {
            if seen.get(&Arc::as_ptr(node)).is_some_and(|seen| *seen >= height) {
                continue;
            }
            seen.insert(Arc::as_ptr(node), height);
            if height > outermost.0 {
                let passed = node.passed(&node.inner.lock(), now);
                if let Some(mark) = passed {
                    outermost = (height, Some((node, mark)));
                }
            }
            if node.sight != Sight::Shielded {
                let ups = node.ups_in_time().filter(|up| up.next.get().min(up.end.get()) <= tick);
                look.extend(ups.map(|up| (height + 1, up)));
            }
        }
        outermost.1
    }

    /// Marks what was found to have passed, unless it was moved or marked meanwhile.
    fn mark_passed(self: &Arc<Self>, mark: Mark, now: Instant) {
        let tree = tree_lock();
        let mut inner = self.inner.lock();
        match (self.passed(&inner, now), mark) {
            (Some(Mark::Deadline), Mark::Deadline) => {
                if let Some(deadline) = inner.deadline {
                    let reason = self.deadline_reason(&deadline);
                    self.mark_own(&mut inner, Own { reason, by_will: false });
                }
            }
            (Some(Mark::End), Mark::End) => inner.flags |= ENDED,
            _ => return,
        }
        drop(inner);
        let effects = self.spread();
        drop(tree);
        effects.carry_out();
    }

    fn deadline_reason(&self, deadline: &Deadline) -> Reason {
        Reason::new(ReasonKind::Deadline, self.label().clone(), deadline.at)
            .limit_is(deadline.limit)
            .place_is(deadline.place)
    }

    /// Sees to it that what comes next marks this node without anybody looking, also after it was moved.
    pub(crate) fn watch(self: &Arc<Self>) {
        if self.has(WATCHED | STOPPING) || self.copy_watch() {
            return;
        }
        let _tree = tree_lock();
        self.watch_in_tree();
    }

    /// Where the parent is watched for the very instant that it gives to this node, so is the node. See the header.
    fn copy_watch(&self) -> bool {
        let mut inner = self.inner.lock();
        let next = self.next.get();
        let own = Tick::at(inner.deadline.map(|deadline| deadline.at));
        let copy = self.sight == Sight::Open
            && next != Tick::NEVER
            && own != next
            && self.ups_in_time().any(|up| up.next.get() == next && up.has(WATCHED));
        if copy {
            self.set(&mut inner, WATCHED);
        }
        drop(inner);
        copy
    }

    /// As [`watch`](Node::watch). The caller holds the tree lock.
    pub(super) fn watch_in_tree(self: &Arc<Self>) {
        let next = self.next.get();
        if next == Tick::NEVER {
            self.set(&mut self.inner.lock(), WATCHED); // for when a walk brings something
            return;
        }
        let mut way = vec![self];
        let mut here = self;
        loop {
            let mut inner = here.inner.lock();
            let own = Tick::at(inner.deadline.map(|deadline| deadline.at));
            if own == next && !here.has(STOPPING) {
                if !here.set_watch(&mut inner, next.instant()) {
                    return; // no thread for the alarm: later looks go on asking the clock
                }
                break;
            }
            if Tick::at(inner.end) == next && here.has(STOPPING) {
                break; // a running grace is watched from its start
            }
            drop(inner);
            let Some(up) = here.ups_in_time().find(|up| up.next.get() == next || up.end.get() == next) else { return };
            if up.next.get() == next {
                way.push(up);
            }
            here = up;
        }
        for node in way {
            node.set(&mut node.inner.lock(), WATCHED);
        }
    }

    /// Has exactly one entry with the alarm, at `at`, or none. `false` if the system refuses the thread for it.
    pub(super) fn set_watch(self: &Arc<Self>, inner: &mut Inner, at: Option<Instant>) -> bool {
        if inner.watch.map(|watch| watch.0) == at {
            return true;
        }
        if let Some(watch) = inner.watch.take() {
            self.clock().unwatch(watch);
        }
        let Some(at) = at else { return true };
        let target: Weak<Node> = Arc::downgrade(self);
        inner.watch = self.clock().watch(at, target);
        inner.watch.is_some()
    }
}

impl Due for Node {
    /// If the deadline was moved meanwhile, then its entry was too.
    fn due(self: Arc<Self>) {
        self.mark_due(self.clock().now());
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::cancel::{
        node::{Parents, Terms},
        reason::Label,
    };
    use std::thread;

    const HOUR: Duration = Duration::from_secs(3600);

    fn node(parent: Option<&Arc<Node>>, terms: Terms) -> Arc<Node> {
        let label = Label::new("token", None, Location::caller());
        Node::with(&Parents { parent, also: None }, label, Clock::Real, terms)
    }

    fn at(at: Instant) -> Deadline {
        Deadline { at, limit: None, place: Location::caller() }
    }

    /// Nothing else holds a weak reference to a root.
    fn entries(root: &Arc<Node>) -> usize {
        Arc::weak_count(root)
    }

    #[test]
    fn a_tick_is_exact_in_order_and_far_reaching() {
        let now = Instant::now();
        let nano = Duration::from_nanos(1);
        for instant in [now, now + nano, now + HOUR * 24 * 365 * 200, *BASE, BASE.checked_sub(nano).unwrap_or(now)] {
            assert_eq!(Tick::of(instant).instant(), Some(instant));
        }
        assert!(Tick::of(now) < Tick::of(now + nano));
        let farthest = now.checked_add(HOUR * 24 * 365 * 1000);
        assert!(farthest.is_none_or(|at| Tick::of(at) < Tick::NEVER && Tick::of(at) > Tick::of(now + HOUR)));
        assert_eq!(Tick::at(None), Tick::NEVER);
    }

    #[test]
    fn a_node_has_one_entry_with_the_alarm_however_often_and_by_whom_it_moves() {
        let far = Instant::now() + HOUR;
        let root = node(None, Terms { deadline: Some(at(far)), ..Terms::default() });
        assert_eq!(entries(&root), 0, "nobody looks yet");
        let below: Vec<_> = (0..4).map(|_| node(Some(&root), Terms::default())).collect();
        let registered: Vec<_> = below.iter().map(|node| node.on_cancel(Box::new(|| ()))).collect();
        assert_eq!(entries(&root), 1);
        thread::scope(|t| {
            for mover in 0..4_u64 {
                let root = &root;
                t.spawn(move || {
                    for n in 0..25_000 {
                        root.set_deadline(Some(at(far + Duration::from_millis((n * 7919 + mover) % 1000))));
                    }
                });
            }
        });
        assert_eq!((entries(&root), root.is_stopping()), (1, false));
        assert!(below.iter().all(|node| node.deadline() == root.deadline() && node.seen() == Some(false)));
        root.set_deadline(None);
        assert_eq!(entries(&root), 0);
        root.set_deadline(Some(at(far)));
        assert_eq!(entries(&root), 1, "those below are still to be told");
        root.close();
        drop(registered);
        assert_eq!(entries(&root), 0);
    }

    #[test]
    fn the_entry_stands_at_the_node_whose_deadline_counts() {
        let far = Instant::now() + HOUR;
        let root = node(None, Terms { deadline: Some(at(far)), ..Terms::default() });
        let child = node(Some(&root), Terms { deadline: Some(at(far + HOUR)), ..Terms::default() });
        assert!(!child.is_cancelled() && child.seen() == Some(false));
        assert_eq!((entries(&root), child.inner.lock().watch.is_some()), (1, false));
        root.set_deadline(Some(at(far + 2 * HOUR)));
        assert!(child.inner.lock().watch.is_some_and(|watch| watch.0 == far + HOUR));
        assert_eq!(child.seen(), Some(false), "watched anew before the move returned");
        let parked = node(Some(&child), Terms::default());
        assert_eq!(parked.seen(), None);
        assert!(!parked.is_cancelled() && parked.seen() == Some(false), "the parent's watch is copied");
    }

    #[test]
    fn of_two_parents_with_one_instant_the_other_is_watched_when_one_moves_away() {
        let far = Instant::now() + HOUR;
        let [parent, also] = [(); 2].map(|()| node(None, Terms { deadline: Some(at(far)), ..Terms::default() }));
        let label = Label::new("token", None, Location::caller());
        let parents = Parents { parent: Some(&parent), also: Some(&also) };
        let child = Node::new(&parents, label, Clock::Real, None);
        assert!(!child.is_cancelled());
        for (moved, stays) in [(&parent, &also), (&also, &parent)] {
            moved.set_deadline(None);
            assert_eq!((child.next_due(), child.seen()), (Some(far), Some(false)));
            assert_eq!(entries(stays), 1);
            moved.set_deadline(Some(at(far)));
        }
    }

    #[test]
    fn a_grace_is_watched_until_it_is_over() {
        let root = node(None, Terms { grace: Some(HOUR), ..Terms::default() });
        let cleanup = node(Some(&root), Terms { sight: Sight::End, ..Terms::default() });
        let reason = Reason::new(ReasonKind::Explicit, root.label().clone(), Instant::now());
        root.cancel(&reason, false);
        // One weak reference for the alarm; the child's link is the other way round.
        assert_eq!((entries(&root), root.is_stopping(), cleanup.is_stopping()), (1, true, false));
        assert_eq!(cleanup.deadline(), root.inner.lock().end);
        root.cancel_within(&reason, false, Some(Duration::ZERO));
        assert_eq!((entries(&root), cleanup.is_stopping()), (0, true));
        // What is merely left gives none.
        let left = node(None, Terms { grace: Some(HOUR), ..Terms::default() });
        let below = node(Some(&left), Terms::default());
        left.close();
        assert_eq!((entries(&left), below.is_stopping()), (0, true));
    }
}
