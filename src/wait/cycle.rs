//! Joins, locks and exits of scopes that wait for each other in a ring, found when the last of them is about to wait.
//!
//! The graph has lines of code ([`Strand`]), threads and scopes for its nodes, and an edge from each that cannot go on before
//! a wait has ended to what is waited for: the job that is joined, the thread that has the lock, the scope that is left.
//!
//! Those who cannot go on are the thread that waits, and so each line on it: the waiter; what stands below it, since it runs a
//! job inline or has opened a scope. And the ancestors of all these, since a scope's exit waits for its jobs: they, and the
//! scopes whose jobs they are, cannot *end*. A line is waited for until it ends, by a join; a scope, by its exit. A thread is
//! waited for until it moves, by who wants its lock. An exit stops its thread alone: for joins it needs no edges, since who
//! waits in one of its jobs has entered its opener as well.
//!
//! # Promises
//!
//! 1. Exactly one wait of a ring is refused: the one that closes it. The others go on waiting, and end as that one's job does.
//!    An exit cannot be refused: where it closes a ring, the wait for a lock that its thread has is.
//! 2. A join of a job that has ended, or that is run by the joiner, does not come here, nor does a lock that is free.
//! 3. Nobody is refused by what was so once: who has a lock is asked during the search. Of many who read, each is waited for
//!    by who wants to write.
//!
//! # Does not know
//!
//! Waits that end by something else, or by a limit of their own: the caller keeps them out.
//!
//! # Why no ring is missed
//!
//! Edges are entered and searched for in one step, under one lock for the process. All edges of a wait lead to the same nodes,
//! so a ring that they close leads from one of these back to somebody who was entered.
//!
//! A thread stands at its lock as the holder before it waits for anything else, so before it enters that wait here: whoever
//! searches after it, under the same lock, sees it there.
//!
//! A wait that an exit has refused finds that out when it looks again, and is poked after it was set.
//!
//! # Why nobody is refused for nothing
//!
//! The search asks one lock after the other, while they change hands. But it only goes on from somebody who was entered before
//! it and is so until after it, and what it then finds, that this one still queues, and who is in its way, was so at one
//! moment. So this one has not moved until then: what was found before, that it has a lock or comes first somewhere, is so
//! still. Who does not queue any more is entered for a moment longer, and keeps nobody. Nor does who has been told to stop and
//! has not woken yet, or has been given a deadline: it lets go what it has without anybody in the ring.

use crate::{
    cancel::current::{self, Ground, Post, Strand},
    error::LockError,
    park::seat::Seat,
    prim::{Mutex, MutexGuard, OnceLock, thread_local},
    wait::turnstile::Ticket,
};
use smol_str::SmolStr;
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    marker::PhantomData,
    panic::Location,
    ptr,
    sync::{self, Arc},
};

/// How a lock is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// For one.
    Alone,
    /// For all who share.
    Shared,
}

thread_local! {
    /// How many locks this thread has.
    static HAS: Cell<usize> = const { Cell::new(0) };
}

/// One lock that this thread has, until this is dropped: there, too.
pub(crate) struct Has {
    _stays_on_its_thread: PhantomData<sync::MutexGuard<'static, ()>>,
}

impl Has {
    #[inline]
    pub(crate) fn new() -> Self {
        HAS.with(|has| has.set(has.get() + 1));
        Has { _stays_on_its_thread: PhantomData }
    }

    /// Whether this thread has any.
    fn any() -> bool {
        HAS.with(Cell::get) > 0
    }
}

impl Drop for Has {
    #[inline]
    fn drop(&mut self) {
        HAS.with(|has| has.set(has.get() - 1));
    }
}

/// Something that threads have.
pub(crate) trait Owned: Send + Sync {
    /// Its kind, and its name, for errors.
    fn what(&self) -> (&'static str, Option<SmolStr>);

    /// The line of code on this thread that keeps it from who wants it here in this way.
    fn own(&self, kind: Kind) -> Option<u64>;

    /// The threads that keep it from one that waits for it in this way, as far as they are known: who has it, and who comes
    /// first. Nobody, if that one does not queue any more.
    fn owners(&self, kind: Kind, ticket: Option<Ticket>) -> Vec<u64>;
}

/// What is waited for.
#[derive(Clone)]
pub(crate) enum For {
    /// The end of a job.
    Job(Arc<Strand>),
    /// Whoever keeps it from the one with that ticket, where it gives tickets.
    Lock(Arc<dyn Owned>, Kind, Option<Ticket>),
    /// The jobs of a scope.
    Jobs(Key),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A line of code, by its number.
    Line(u64),
    Thread(u64),
    /// A scope, by the address of its ground.
    Scope(usize),
}

impl For {
    fn keys(&self) -> Vec<Key> {
        match self {
            For::Job(strand) => vec![Key::Line(strand.id)],
            For::Lock(lock, kind, ticket) => lock.owners(*kind, *ticket).into_iter().map(Key::Thread).collect(),
            For::Jobs(scope) => vec![*scope],
        }
    }
}

/// One wait.
struct Wait {
    to: For,
    /// Where the code stands that waits. `None`: nothing stops it.
    post: Option<Post>,
    /// Of the thread that waits.
    seat: Arc<Seat>,
    /// Set where an exit has closed a ring: the names of those in it.
    refused: OnceLock<Vec<String>>,
}

impl Wait {
    fn new(to: For, post: Option<Post>, seat: &Arc<Seat>) -> Arc<Self> {
        Arc::new(Wait { to, post, seat: Arc::clone(seat), refused: OnceLock::new() })
    }

    /// What keeps who waits from going on.
    fn keys(&self) -> Vec<Key> {
        let is_to_stop = self.post.as_ref().is_some_and(Post::ends_waits) && !mutant!("who_is_to_stop_waits");
        if is_to_stop || self.refused.get().is_some() { Vec::new() } else { self.to.keys() }
    }
}

/// One of those whom a wait keeps from going on.
struct Edge {
    wait: Arc<Wait>,
    /// Its name.
    from: String,
}

#[derive(Default)]
struct Graph {
    edges: BTreeMap<Key, Vec<Edge>>,
}

#[cfg(not(tassel_loom))]
fn graph() -> MutexGuard<'static, Graph> {
    static GRAPH: crate::raw::PerProcess<Mutex<Graph>> = crate::raw::PerProcess::new(Mutex::default);
    GRAPH.get().lock()
}

#[cfg(tassel_loom)]
loom::lazy_static! {
    static ref GRAPH: Mutex<Graph> = Mutex::default();
}

#[cfg(tassel_loom)]
fn graph() -> MutexGuard<'static, Graph> {
    GRAPH.lock()
}

/// A wait that was entered, for as long as this lives.
#[must_use]
pub(crate) struct Entered {
    wait: Arc<Wait>,
    keys: BTreeSet<Key>,
}

impl Entered {
    /// Tells whether an exit has closed a ring since: the names of those in it.
    fn refused(&self) -> Option<&Vec<String>> {
        self.wait.refused.get()
    }
}

/// Enters a wait of the code here, on the thread with that seat. `Ok(None)`: it ends by itself. `Err` if it closes a ring: the
/// names of those in it, each of whom waits for the next.
pub(crate) fn enter_here(target: For, seat: &Arc<Seat>) -> Result<Option<Entered>, Vec<String>> {
    let post = Post::here();
    if post.as_ref().is_some_and(Post::ends_waits) {
        return Ok(None);
    }
    enter(&current::chain(), target, post, seat).map(Some)
}

/// Enters a wait by the first of `chain`, on this thread; the others are all who cannot go on before it does.
pub(crate) fn enter(
    chain: &[Arc<Strand>],
    target: For,
    post: Option<Post>,
    seat: &Arc<Seat>,
) -> Result<Entered, Vec<String>> {
    let wait = Wait::new(target, post, seat);
    let me = chain.first().map_or_else(|| "thread".to_owned(), name);
    let thread = Key::Thread(current::thread());
    let lines = chain.iter().map(|strand| Key::Line(strand.id));
    let scopes = chain.iter().filter_map(|strand| strand.job_of()).map(scope);
    let keys: BTreeSet<Key> = lines.chain(scopes).chain([thread]).collect();
    let mut entered = graph();
    if let Some(found) = entered.way(&wait.to, &keys) {
        let (names, last) = (found.names(), found.last);
        drop(entered);
        // Its last is the waiter itself, or somebody who waits for it.
        let other = chain.iter().skip(1).find(|strand| last == Key::Line(strand.id)).map(name);
        return Err([me].into_iter().chain(names).chain(other).collect());
    }
    mutant!("ring_entered_after_unlock" => drop(entered); entered = graph());
    for key in &keys {
        let strand = chain.iter().find(|strand| *key == Key::Line(strand.id));
        let from = strand.map_or_else(|| me.clone(), name);
        entered.edges.entry(*key).or_default().push(Edge { wait: Arc::clone(&wait), from });
    }
    Ok(Entered { wait, keys })
}

/// Enters that this thread waits for the jobs of a scope whose body was here. Refuses those of them who wait for what it has;
/// if that is nothing, there is nothing to enter.
pub(crate) fn enter_exit(ground: &Arc<Ground>, seat: &Arc<Seat>) -> Option<Entered> {
    if !Has::any() {
        return None;
    }
    let (thread, wait) = (Key::Thread(current::thread()), Wait::new(For::Jobs(scope(ground)), None, seat));
    let (keys, me) = (BTreeSet::from([thread]), "body".to_owned());
    let mut refused = Vec::new();
    let mut graph = graph();
    // One after the other: each may have a ring of its own with it.
    while let Some(found) = graph.way(&wait.to, &keys) {
        let mut ring = found.names();
        let last = found.way.last().map(|edge| Arc::clone(&edge.wait));
        let Some(last) = last.filter(|last| last.refused.get().is_none()) else { break };
        // It is the first now, which waits for the body.
        ring.insert(0, me.clone());
        ring.rotate_right(1);
        let _ = last.refused.set(ring);
        refused.push(last);
        mutant!("exit_refuses_one" => break);
    }
    graph.edges.entry(thread).or_default().push(Edge { wait: Arc::clone(&wait), from: me });
    drop(graph);
    for wait in refused {
        mutant!("refused_without_a_poke" => continue);
        wait.seat.poke();
    }
    Some(Entered { wait, keys })
}

/// A wait for a lock by the code here.
pub(crate) struct Asks<'a, L> {
    pub(crate) lock: &'a Arc<L>,
    pub(crate) kind: Kind,
    pub(crate) place: &'static Location<'static>,
}

impl<L: Owned + 'static> Asks<'_, L> {
    /// `Err` if this thread has it: that needs no search, and a limit is no reason to wait.
    pub(crate) fn refuse_own(&self) -> Result<(), LockError> {
        self.lock.own(self.kind).map_or(Ok(()), |line| Err(self.refused(own_ring(line))))
    }

    /// Enters the wait, unless it ends by itself.
    pub(crate) fn enter(&self, ticket: Option<Ticket>, seat: &Arc<Seat>) -> Result<Option<Entered>, LockError> {
        let lock = Arc::clone(self.lock) as Arc<dyn Owned>;
        enter_here(For::Lock(lock, self.kind, ticket), seat).map_err(|cycle| self.refused(cycle))
    }

    /// `Err` if an exit has closed a ring since.
    pub(crate) fn check(&self, entered: Option<&Entered>) -> Result<(), LockError> {
        entered.and_then(Entered::refused).map_or(Ok(()), |cycle| Err(self.refused(cycle.clone())))
    }

    #[cold]
    fn refused(&self, cycle: Vec<String>) -> LockError {
        let lock = match self.lock.what() {
            (what, Some(name)) => format!("{what} `{name}`"),
            (what, None) => format!("a {what}"),
        };
        LockError::WouldDeadlock { lock, place: self.place, cycle }
    }
}

/// The ring of the code here and a line on this thread that has what it wants: itself, as a rule, or one that stands below it.
fn own_ring(line: u64) -> Vec<String> {
    let chain = current::chain();
    let mut ring = vec![chain.first().map_or_else(|| "thread".to_owned(), name)];
    let below = chain.iter().skip(1).find(|strand| strand.id == line).map(name);
    ring.extend(below.filter(|below| below != "body" || ring[0] != "body"));
    ring
}

/// A body can wait, too; it is not called after its scope here.
fn name(strand: &Arc<Strand>) -> String {
    match strand.label.what {
        "job" => strand.label.name().to_string(),
        _ => "body".to_owned(),
    }
}

/// How something that is waited for waits itself.
struct Found<'g> {
    /// From edge to edge.
    way: Vec<&'g Edge>,
    /// What was looked for.
    last: Key,
}

impl Found<'_> {
    /// Of those on the way.
    fn names(&self) -> Vec<String> {
        self.way.iter().map(|edge| edge.from.clone()).collect()
    }
}

impl Graph {
    /// The way from `target` to the first that is in `to`.
    fn way(&self, target: &For, to: &BTreeSet<Key>) -> Option<Found<'_>> {
        let mut todo = target.keys();
        // Each with the edge by which it was found.
        let mut found: BTreeMap<Key, Option<(Key, &Edge)>> = todo.iter().map(|first| (*first, None)).collect();
        while let Some(last) = todo.pop() {
            if to.contains(&last) {
                let (mut way, mut at) = (Vec::new(), last);
                while let Some((before, edge)) = found.get(&at).copied().flatten() {
                    way.push(edge);
                    at = before;
                }
                way.reverse();
                return Some(Found { way, last });
            }
            for edge in self.edges.get(&last).into_iter().flatten() {
                for next in edge.wait.keys() {
                    found.entry(next).or_insert_with(|| {
                        todo.push(next);
                        Some((last, edge))
                    });
                }
            }
        }
        None
    }
}

fn scope(ground: &Arc<Ground>) -> Key {
    Key::Scope(ptr::from_ref(&**ground).addr())
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut gone = Vec::new();
        let mut graph = graph();
        for key in &self.keys {
            let Some(edges) = graph.edges.get_mut(key) else { continue };
            if let Some(at) = edges.iter().position(|edge| Arc::ptr_eq(&edge.wait, &self.wait)) {
                gone.push(edges.swap_remove(at));
            }
            if edges.is_empty() {
                graph.edges.remove(key);
            }
        }
        drop(graph);
        drop(gone);
    }
}
