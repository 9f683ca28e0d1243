//! Joins and locks that wait for each other in a ring, found when the last of them is about to wait: [`enter`].
//!
//! The graph has lines of code ([`Strand`]) and threads for its nodes, and an edge from each that cannot go on before a wait
//! has ended to what is waited for: the job that is joined, or the thread that has the lock.
//!
//! Those who cannot go on are the thread that waits, and so each line on it: the waiter; what stands below it, since it runs a
//! job inline or has opened a scope. And the ancestors of all these, since a scope's exit waits for its jobs: they cannot
//! *end*. A line is waited for until it ends, by a join. A thread is waited for until it moves, by who wants its lock. So the
//! exit of a scope needs no edges for joins: who waits in one of its jobs has entered its opener as well.
//!
//! # Promises
//!
//! 1. Exactly one wait of a ring is refused: the one that closes it. The others go on waiting, and end as that one's job does.
//! 2. A join of a job that has ended, or that is run by the joiner, does not come here, nor does a lock that is free.
//! 3. Nobody is refused by what was so once: who has a lock is asked during the search. Of many who read, each is waited for
//!    by who wants to write.
//!
//! # Does not know
//!
//! Waits that end by something that is neither a join nor a lock, or by a limit of their own: the caller keeps them out. Nor
//! who stands at the exit of a scope with a lock that one of its jobs wants.
//!
//! # Why no ring is missed
//!
//! Edges are entered and searched for in one step, under one lock for the process. All edges of a wait lead to the same nodes,
//! so a ring that they close leads from one of these back to somebody who was entered.
//!
//! A thread stands at its lock as the holder before it waits for anything else, so before it enters that wait here: whoever
//! searches after it, under the same lock, sees it there.
//!
//! # Why nobody is refused for nothing
//!
//! The search asks one lock after the other, while they change hands. But it only goes on from somebody who was entered before
//! it and is so until after it, and what it then finds, that this one still queues, and who is in its way, was so at one
//! moment. So this one has not moved until then: what was found before, that it has a lock or comes first somewhere, is so
//! still. Who does not queue any more is entered for a moment longer, and keeps nobody. Nor does who has been told to stop and
//! has not woken yet, or has been given a deadline: it lets go what it has without anybody in the ring.

use crate::{
    cancel::current::{self, Post, Strand},
    error::LockError,
    prim::{Mutex, MutexGuard},
    wait::{door::Kind, turnstile::Ticket},
};
use smol_str::SmolStr;
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::Location,
    sync::Arc,
};

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// A line of code, by its number.
    Line(u64),
    Thread(u64),
}

impl For {
    fn keys(&self) -> Vec<Key> {
        match self {
            For::Job(strand) => vec![Key::Line(strand.id)],
            For::Lock(lock, kind, ticket) => lock.owners(*kind, *ticket).into_iter().map(Key::Thread).collect(),
        }
    }
}

struct Edge {
    wait: u64,
    to: For,
    /// Who waits, by name.
    from: String,
    /// Where it does.
    post: Option<Arc<Post>>,
}

impl Edge {
    /// What keeps who waits from going on.
    fn keys(&self) -> Vec<Key> {
        match &self.post {
            Some(post) if post.ends_waits() && !mutant!("who_is_to_stop_waits") => Vec::new(),
            _ => self.to.keys(),
        }
    }
}

#[derive(Default)]
struct Graph {
    waits: u64,
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
#[derive(Debug)]
pub(crate) struct Entered {
    wait: u64,
    keys: BTreeSet<Key>,
}

/// Enters a wait of the code here. `Ok(None)`: it ends by itself. `Err` if it closes a ring: the names of those in it, each of
/// whom waits for the next.
pub(crate) fn enter_here(target: &For) -> Result<Option<Entered>, Vec<String>> {
    let post = Post::here();
    if post.as_ref().is_some_and(Post::ends_waits) {
        return Ok(None);
    }
    enter(&current::chain(), target, post).map(Some)
}

/// Enters a wait by the first of `chain`, on this thread; the others are all who cannot go on before it does.
pub(crate) fn enter(chain: &[Arc<Strand>], target: &For, post: Option<Post>) -> Result<Entered, Vec<String>> {
    let me = chain.first().map_or_else(|| "thread".to_owned(), name);
    let thread = Key::Thread(current::thread());
    let keys: BTreeSet<Key> = chain.iter().map(|strand| Key::Line(strand.id)).chain([thread]).collect();
    let mut entered = graph();
    if let Some((way, last)) = entered.way(target, &keys) {
        drop(entered);
        let mut ring = vec![me];
        ring.extend(way);
        // Its last is the waiter itself, or somebody who waits for it.
        let other = chain.iter().skip(1).find(|strand| last == Key::Line(strand.id));
        ring.extend(other.map(name));
        return Err(ring);
    }
    mutant!("ring_entered_after_unlock" => drop(entered); entered = graph());
    entered.waits += 1;
    let (wait, post) = (entered.waits, post.map(Arc::new));
    for key in &keys {
        let strand = chain.iter().find(|strand| *key == Key::Line(strand.id));
        let from = strand.map_or_else(|| me.clone(), name);
        entered.edges.entry(*key).or_default().push(Edge { wait, to: target.clone(), from, post: post.clone() });
    }
    Ok(Entered { wait, keys })
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
    pub(crate) fn enter(&self, ticket: Option<Ticket>) -> Result<Option<Entered>, LockError> {
        let lock = Arc::clone(self.lock) as Arc<dyn Owned>;
        enter_here(&For::Lock(lock, self.kind, ticket)).map_err(|cycle| self.refused(cycle))
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

impl Graph {
    /// The way from `target` to the first that is in `to`: the names of those before that, and that.
    fn way(&self, target: &For, to: &BTreeSet<Key>) -> Option<(Vec<String>, Key)> {
        let mut todo = target.keys();
        // Each with the edge by which it was found.
        let mut found: BTreeMap<Key, Option<(Key, &Edge)>> = todo.iter().map(|first| (*first, None)).collect();
        while let Some(key) = todo.pop() {
            if to.contains(&key) {
                let (mut way, mut at) = (Vec::new(), key);
                while let Some((before, edge)) = found.get(&at).copied().flatten() {
                    way.push(edge.from.clone());
                    at = before;
                }
                way.reverse();
                return Some((way, key));
            }
            for edge in self.edges.get(&key).into_iter().flatten() {
                for next in edge.keys() {
                    found.entry(next).or_insert_with(|| {
                        todo.push(next);
                        Some((key, edge))
                    });
                }
            }
        }
        None
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut gone = Vec::new();
        let mut graph = graph();
        for key in &self.keys {
            let Some(edges) = graph.edges.get_mut(key) else { continue };
            if let Some(at) = edges.iter().position(|edge| edge.wait == self.wait) {
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
