//! Joins, locks and exits of scopes that wait for each other in a ring, found when the last of them is about to wait.
//!
//! The [`Graph`] has lines of code ([`Strand`]), threads and scopes for its nodes, and an edge from each that cannot go on
//! before a wait has ended to what is waited for: the job that is joined, the thread that has the lock, the scope that is left.
//!
//! Those who cannot go on are the thread that waits, and so each line on it: the waiter; what stands below it, since it runs a
//! job inline or has opened a scope. And the ancestors of all these, since a scope's exit waits for its jobs: they, and the
//! scopes whose jobs they are, cannot *end*. A line is waited for until it ends, by a join; a scope, by its exit. A thread is
//! waited for until it moves, by who wants its lock.
//!
//! So most exits need no edges: who waits in one of a scope's jobs has entered its opener as well. Only an exit whose thread has
//! a lock, or runs on top of a line that is no ancestor, is entered.
//!
//! # Promises
//!
//! 1. Exactly one wait of a ring is refused: the one that closes it. The others go on waiting, and end as that one's job does.
//!    An exit cannot be refused: where it closes a ring, one of the scope's jobs is, and another of each ring besides.
//! 2. A join of a job that has ended, or that is run by the joiner, does not come here, nor does a lock that is free.
//! 3. Nobody is refused by what was so once: who has a lock is asked during the search. Of many who read, each is waited for
//!    by who wants to write; of many who queue to write, each by who reads after them.
//!
//! # Does not know
//!
//! Waits that end by something else, or by a limit of their own: these are not entered. A deadline that is taken away later may
//! leave a ring that nobody looks for.
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
//!
//! Who runs a job while it waits moves meanwhile, and is not entered: an exit is while it parks, a join until it runs the job.

use crate::{
    cancel::current::{self, Ground, Post, Strand},
    error::LockError,
    park::seat::Seat,
    prim::{Mutex, MutexGuard, thread_local},
    wait::{
        graph::{Graph, Key, Stands, Wait, name},
        turnstile::Ticket,
    },
};
use std::{
    cell::Cell,
    marker::PhantomData,
    panic::Location,
    sync::{self, Arc},
};

pub(crate) use crate::wait::graph::{For, Kind, Owned};

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
    number: u64,
    stands: Stands,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut graph = graph();
        let gone = graph.leave(self.number, &self.stands);
        drop(graph);
        drop(gone);
    }
}

/// Enters a wait by the first of `chain`, on this thread with that seat; the others are all who cannot go on before it does.
/// `Err` if it closes a ring: the names of those in it, each of whom waits for the next.
pub(crate) fn enter(
    chain: &[Arc<Strand>],
    target: For,
    post: Option<Post>,
    seat: &Arc<Seat>,
) -> Result<Entered, Vec<String>> {
    let stands = Stands::new(current::thread(), chain);
    let wait = Wait::new(target, post, seat, &stands);
    let mut entered = graph();
    if let Some(ring) = entered.rings(&wait, &stands, false).first() {
        return Err(ring.names(&stands));
    }
    mutant!("ring_entered_after_unlock" => drop(entered); entered = graph());
    let number = entered.enter(&wait, &stands);
    drop(entered);
    Ok(Entered { wait, number, stands })
}

/// Enters that this thread waits for the jobs of a scope whose body was here, and refuses those of them that wait for it.
///
/// `None` where nobody can: it has no lock, and runs no job on top of a line that somebody may join.
pub(crate) fn enter_exit(ground: &Arc<Ground>, seat: &Arc<Seat>) -> Option<Entered> {
    let inlined = || current::with(|frame| frame.map_or(0, |frame| frame.inlined));
    if !Has::any() && (inlined() == 0 || mutant!("exit_above_an_inline_run_forgotten")) {
        return None;
    }
    let stands = Stands::new(current::thread(), &current::chain());
    let (wait, scope) = (Wait::new(For::Jobs(Arc::clone(ground)), None, seat, &stands), Key::scope(ground));
    let mut refused: Vec<Arc<Wait>> = Vec::new();
    let all = !mutant!("exit_refuses_one");
    let mut graph = graph();
    loop {
        let before = refused.len();
        for ring in graph.rings(&wait, &stands, all) {
            let victim = ring.victim(&stands, |number| graph.has(scope, number));
            // One that was refused by another ring of this search is no news.
            refused.extend(victim.and_then(|(wait, names)| wait.refused.set(names).is_ok().then_some(wait)));
        }
        // Once more: those that were refused stand in nobody's way now, and a search sees each but by one way.
        if refused.len() == before || !all {
            break;
        }
    }
    let number = graph.enter(&wait, &stands);
    drop(graph);
    for wait in refused {
        mutant!("refused_without_a_poke" => continue);
        wait.seat.poke();
    }
    Some(Entered { wait, number, stands })
}

/// The entry of a wait of the code here.
#[derive(Default)]
pub(crate) enum Entry {
    /// It has not been looked at yet.
    #[default]
    None,
    In(Entered),
    /// It ends by itself, or is no wait any more.
    Out,
}

impl Entry {
    /// The waiter has looked in vain. Enters it, at the first time, unless it ends by itself. `Some`: it would never end, and is
    /// refused. The names of those in the ring, each of whom waits for the next.
    pub(crate) fn look(&mut self, target: impl FnOnce() -> For, seat: &Arc<Seat>) -> Option<Vec<String>> {
        match self {
            Entry::None => {}
            // Set before the poke that has brought the waiter here, if one has.
            Entry::In(entered) => return entered.wait.refused.get().cloned(),
            Entry::Out => return None,
        }
        let post = Post::here();
        if post.as_ref().is_some_and(Post::ends_waits) {
            *self = Entry::Out;
            return None;
        }
        match enter(&current::chain(), target(), post, seat) {
            Ok(entered) => *self = Entry::In(entered),
            Err(ring) => return Some(ring),
        }
        None
    }
}

/// A wait for a lock by the code here.
pub(crate) struct Asks<'a, L> {
    lock: &'a Arc<L>,
    kind: Kind,
    place: &'static Location<'static>,
    entry: Entry,
}

impl<'a, L: Owned + 'static> Asks<'a, L> {
    /// `Err` if this thread has it: that needs no search, and a limit is no reason to wait.
    pub(crate) fn new(lock: &'a Arc<L>, kind: Kind, place: &'static Location<'static>) -> Result<Self, LockError> {
        let asks = Asks { lock, kind, place, entry: Entry::default() };
        match lock.own(kind) {
            None => Ok(asks),
            Some(line) => Err(asks.refused(own_ring(line))),
        }
    }

    /// The waiter has looked in vain, and queues. `Some`: it is refused.
    pub(crate) fn look(&mut self, ticket: Option<Ticket>, seat: &Arc<Seat>) -> Option<LockError> {
        let target = || For::Lock(Arc::clone(self.lock) as Arc<dyn Owned>, self.kind, ticket);
        self.entry.look(target, seat).map(|ring| self.refused(ring))
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
