//! Who waits for whom: the [`Graph`], in which `cycle` looks for rings.
//!
//! Its nodes are lines of code, threads and scopes: [`Key`]. A wait is entered as an edge from each of them that cannot go on
//! before it has ended, the [`Stands`], to what it is for.
//!
//! # Promises
//!
//! 1. A search asks each wait that it comes to once for each node from which it comes, and who has a lock once for all who want
//!    that alone.
//! 2. Edges are looked at in the order in which their waits were entered.
//!
//! # Does not know
//!
//! What becomes of a ring.

use crate::{
    cancel::current::{Ground, Post, Strand},
    park::seat::Seat,
    wait::turnstile::Ticket,
};
use smol_str::SmolStr;
use std::{
    collections::BTreeMap,
    ptr,
    sync::{Arc, OnceLock},
};

/// How a lock is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// For one.
    Alone,
    /// For all who share.
    Shared,
}

/// Something that threads have.
pub(crate) trait Owned: Send + Sync {
    /// Its kind, and its name, for errors.
    fn what(&self) -> (&'static str, Option<SmolStr>);

    /// The line of code on this thread that keeps it from who wants it here in this way.
    fn own(&self, kind: Kind) -> Option<u64>;

    /// Whether the one with that ticket still waits.
    fn has(&self, ticket: Option<Ticket>) -> bool;

    /// The threads that keep it from one that waits for it in this way, as far as they are known: who has it, and who comes
    /// first. Nobody, if that one does not wait any more.
    fn owners(&self, kind: Kind, ticket: Option<Ticket>) -> Vec<u64>;
}

/// What is waited for.
pub(crate) enum For {
    /// The end of a job.
    Job(Arc<Strand>),
    /// Whoever keeps it from the one with that ticket, where it gives tickets.
    Lock(Arc<dyn Owned>, Kind, Option<Ticket>),
    /// The end of all jobs that begin there.
    Jobs(Arc<Ground>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A line of code, by its number.
    Line(u64),
    Thread(u64),
    /// A scope, by the address of its ground.
    Scope(usize),
}

impl Key {
    pub(super) fn scope(ground: &Arc<Ground>) -> Self {
        Key::Scope(ptr::from_ref(&**ground).addr())
    }
}

impl For {
    fn keys(&self) -> Vec<Key> {
        match self {
            For::Job(strand) => vec![Key::Line(strand.id)],
            For::Lock(lock, kind, ticket) => lock.owners(*kind, *ticket).into_iter().map(Key::Thread).collect(),
            For::Jobs(ground) => vec![Key::scope(ground)],
        }
    }
}

/// One wait.
pub(super) struct Wait {
    to: For,
    /// Where the code stands that waits. `None`: nothing stops it.
    post: Option<Post>,
    /// Of the thread that waits.
    pub(super) seat: Arc<Seat>,
    /// The waiter's name.
    me: String,
    /// Set where an exit has closed a ring: the names of those in it. Not one of `prim`'s: who sets it pokes after that.
    pub(super) refused: OnceLock<Vec<String>>,
}

impl Wait {
    pub(super) fn new(to: For, post: Option<Post>, seat: &Arc<Seat>, stands: &Stands) -> Arc<Self> {
        let (seat, me) = (Arc::clone(seat), stands.me().to_owned());
        Arc::new(Wait { to, post, seat, me, refused: OnceLock::new() })
    }

    /// Whether it lasts until what it is for has come.
    fn lasts(&self) -> bool {
        let ends = self.post.as_ref().is_some_and(Post::ends_waits) && !mutant!("who_is_to_stop_waits");
        !ends && self.refused.get().is_none()
    }

    /// An exit cannot be.
    fn can_be_refused(&self) -> bool {
        !matches!(self.to, For::Jobs(_))
    }
}

/// Who cannot go on before a wait has ended, by name: the waiter first.
pub(super) struct Stands {
    names: Vec<String>,
    /// Each with the place of its name.
    keys: BTreeMap<Key, usize>,
}

impl Stands {
    /// Of a thread, and the lines of code that wait with it: with each job, its scope.
    pub(super) fn new(thread: u64, chain: &[Arc<Strand>]) -> Self {
        let mut names: Vec<_> = chain.iter().map(name).collect();
        if names.is_empty() {
            names.push("thread".to_owned());
        }
        let mut keys = BTreeMap::from([(Key::Thread(thread), 0)]);
        for (at, strand) in chain.iter().enumerate() {
            keys.entry(Key::Line(strand.id)).or_insert(at);
            if let Some(ground) = strand.job_of() {
                keys.entry(Key::scope(ground)).or_insert(at);
            }
        }
        Stands { names, keys }
    }

    fn me(&self) -> &str {
        &self.names[0]
    }

    fn has(&self, key: Key) -> bool {
        self.keys.contains_key(&key)
    }

    /// The name of one that waits for the waiter.
    fn other(&self, key: Key) -> Option<&str> {
        self.keys.get(&key).filter(|at| **at != 0).map(|at| &*self.names[*at])
    }
}

/// A body can wait, too; it is not called after its scope here.
pub(super) fn name(strand: &Arc<Strand>) -> String {
    match strand.label.what {
        "job" => strand.label.name().to_string(),
        _ => "body".to_owned(),
    }
}

/// That one of those who stand waits.
pub(super) struct Edge {
    wait: Arc<Wait>,
    /// Its name.
    from: String,
}

/// Who waits for whom.
#[derive(Default)]
pub(super) struct Graph {
    waits: u64,
    /// By who waits, and the number of the wait.
    edges: BTreeMap<(Key, u64), Edge>,
}

/// How what is asked for waits for who asks.
pub(super) struct Ring<'g> {
    /// From edge to edge, each with the number of its wait.
    way: Vec<(u64, &'g Edge)>,
    /// To whom it leads.
    last: Key,
}

impl Ring<'_> {
    /// The names of those in it, who asks first.
    pub(super) fn names(&self, asks: &Stands) -> Vec<String> {
        let way = self.way.iter().map(|(_, edge)| &*edge.from);
        [asks.me()].into_iter().chain(way).chain(asks.other(self.last)).map(str::to_owned).collect()
    }

    /// Where the exit of a scope closes it: the wait that is to be refused, and the names of those in the ring, with that
    /// waiter first.
    ///
    /// It is the last one of a job of the scope: those before it wait for that, and those after it have nothing to do with the
    /// scope.
    pub(super) fn victim(&self, exit: &Stands, is_of_scope: impl Fn(u64) -> bool) -> Option<(Arc<Wait>, Vec<String>)> {
        let at = self.way.iter().rposition(|(number, edge)| edge.wait.can_be_refused() && is_of_scope(*number))?;
        let (before, after) = (&self.way[..at], &self.way[at + 1..]);
        let victim = self.way[at].1;
        let mut names = vec![victim.wait.me.as_str()];
        names.extend(after.iter().map(|(_, edge)| &*edge.from));
        names.extend(exit.other(self.last));
        names.push(exit.me());
        names.extend(before.iter().map(|(_, edge)| &*edge.from));
        if victim.from != victim.wait.me {
            names.push(&victim.from);
        }
        Some((Arc::clone(&victim.wait), names.into_iter().map(str::to_owned).collect()))
    }
}

impl Graph {
    /// Enters a wait. The result is its number.
    pub(super) fn enter(&mut self, wait: &Arc<Wait>, stands: &Stands) -> u64 {
        self.waits += 1;
        for (key, at) in &stands.keys {
            let edge = Edge { wait: Arc::clone(wait), from: stands.names[*at].clone() };
            self.edges.insert((*key, self.waits), edge);
        }
        self.waits
    }

    /// Takes it out. What comes back is to be dropped after the lock.
    pub(super) fn leave(&mut self, number: u64, stands: &Stands) -> Vec<Edge> {
        stands.keys.keys().filter_map(|key| self.edges.remove(&(*key, number))).collect()
    }

    /// Whether somebody of that key waits with that wait.
    pub(super) fn has(&self, key: Key, number: u64) -> bool {
        self.edges.contains_key(&(key, number))
    }

    /// The rings that a wait would close: one, or `all`, each by another edge that leads to one of who asks.
    pub(super) fn rings(&self, asked: &Wait, asks: &Stands, all: bool) -> Vec<Ring<'_>> {
        let mut rings = Vec::new();
        let mut todo = asked.to.keys();
        if let Some(own) = todo.iter().find(|key| asks.has(**key)) {
            return vec![Ring { way: Vec::new(), last: *own }];
        }
        // Each with the edge by which it was found.
        let mut found: BTreeMap<Key, Option<(Key, u64)>> = todo.iter().map(|first| (*first, None)).collect();
        let mut locks = Locks::default();
        while let Some(at) = todo.pop() {
            for ((_, number), edge) in self.edges.range((at, 0)..=(at, u64::MAX)) {
                for next in locks.next(&edge.wait, asks) {
                    if asks.has(next) {
                        rings.push(Ring { way: self.way(&found, (at, *number)), last: next });
                        if !all {
                            return rings;
                        }
                    } else {
                        found.entry(next).or_insert_with(|| {
                            todo.push(next);
                            Some((at, *number))
                        });
                    }
                }
            }
        }
        rings
    }

    fn way(&self, found: &BTreeMap<Key, Option<(Key, u64)>>, last: (Key, u64)) -> Vec<(u64, &Edge)> {
        let (mut way, mut next) = (Vec::new(), Some(last));
        while let Some((key, number)) = next {
            way.extend(self.edges.get(&(key, number)).map(|edge| (number, edge)));
            next = found.get(&key).copied().flatten();
        }
        way.reverse();
        way
    }
}

/// Locks whose owners a search has asked for already, for who wants them alone: which of these ask.
#[derive(Default)]
struct Locks(BTreeMap<usize, Vec<Key>>);

impl Locks {
    /// What keeps a wait from going on, unless it was found already.
    fn next(&mut self, wait: &Wait, asks: &Stands) -> Vec<Key> {
        if !wait.lasts() {
            return Vec::new();
        }
        let For::Lock(lock, Kind::Alone, ticket) = &wait.to else { return wait.to.keys() };
        let address = ptr::from_ref(&**lock).addr();
        if let Some(asking) = self.0.get(&address) {
            return if lock.has(*ticket) { asking.clone() } else { Vec::new() };
        }
        let keys = wait.to.keys();
        if !keys.is_empty() {
            self.0.insert(address, keys.iter().copied().filter(|key| asks.has(*key)).collect());
        }
        keys
    }
}
