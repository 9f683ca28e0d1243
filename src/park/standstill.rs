//! Who can never go on: threads that wait for each other, or for jobs for which there is no thread.
//!
//! The graph has two kinds of [`Party`], threads ([`Seat`](super::seat::Seat)) and pools, and an edge from each to those
//! that it waits for. Where nothing that can be reached moves, nothing ever will.
//!
//! # Promises
//!
//! 1. *Careful.* A standstill is one: what moves, or may move by itself (a deadline, a foreign waker), is never missed. One
//!    that is not proved yet is found by a later look.
//!
//! # Does not know
//!
//! What a party waits for, and why.
//!
//! # Why two looks suffice
//!
//! Each still party gives the number of its standstill: of this very park, say. If all give the same numbers at a second
//! look, begun after the first was complete, then there was a moment, between the two, at which all of them stood, with
//! the edges that the first look has seen.

use std::{collections::HashMap, fmt, sync::Arc};

/// Something that moves, or waits for others that may.
pub(crate) trait Party: Send + Sync {
    /// The number of the standstill that it is in now; `None` if it moves, or may by itself.
    fn still(&self) -> Option<u64>;

    /// Who can let it go on. `None`: somebody within the library, but it is not known who.
    fn enders(&self) -> Option<Vec<Arc<dyn Party>>>;

    /// Tries again what it stands for; tells whether there was anything to try. After that all are looked at anew.
    fn try_again(self: Arc<Self>) -> bool {
        false
    }
}

/// What a thread waits for.
pub(crate) trait Awaited: Send + Sync {
    /// Who can end the wait.
    fn enders(&self) -> Vec<Arc<dyn Party>>;
}

/// How a wait can end.
#[derive(Clone, Default)]
pub(crate) enum Wait {
    /// By itself, or by something that is not the library's.
    #[default]
    Open,
    /// By the library's jobs only; by which of them is not known.
    Closed,
    /// By the library's jobs only: these.
    For(Arc<dyn Awaited>),
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wait::Open => "Open",
            Wait::Closed => "Closed",
            Wait::For(_) => "For",
        })
    }
}

/// Somebody who moves.
#[derive(Debug)]
pub(crate) struct Moving;

impl Party for Moving {
    fn still(&self) -> Option<u64> {
        None
    }

    fn enders(&self) -> Option<Vec<Arc<dyn Party>>> {
        None
    }
}

/// Tells whether `first`, and all that they wait for, stand still. `anybody` are those who may end a wait of which it is
/// not known who ends it.
pub(crate) fn is_standstill(first: Vec<Arc<dyn Party>>, anybody: &[Arc<dyn Party>]) -> bool {
    let Some(mut seen) = walk(first.clone(), anybody) else { return false };
    let mut tried = false;
    for (party, _) in seen.values() {
        tried |= Arc::clone(party).try_again();
    }
    if tried {
        seen = match walk(first, anybody) {
            Some(seen) => seen,
            None => return false,
        };
    }
    mutant!("standstill_by_one_look" => return true);
    seen.values().all(|(party, number)| party.still() == Some(*number))
}

/// Still parties, each with the number of its standstill, by address.
type Seen = HashMap<*const (), (Arc<dyn Party>, u64)>;

/// The first look, at all that can be reached; `None` if anybody moves.
fn walk(first: Vec<Arc<dyn Party>>, anybody: &[Arc<dyn Party>]) -> Option<Seen> {
    let mut seen = HashMap::new();
    let mut todo = first;
    while let Some(party) = todo.pop() {
        let key = Arc::as_ptr(&party).cast::<()>();
        if seen.contains_key(&key) {
            continue;
        }
        let number = party.still()?;
        match party.enders() {
            Some(enders) => todo.extend(enders),
            None => todo.extend_from_slice(anybody),
        }
        seen.insert(key, (party, number));
    }
    Some(seen)
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    };

    /// Stands, from the look of that number on differently, for others.
    struct Node {
        looks: AtomicU64,
        changes_at: u64,
        enders: Mutex<Option<Vec<Arc<dyn Party>>>>,
    }

    fn still(changes_at: u64) -> Arc<Node> {
        Arc::new(Node { looks: AtomicU64::new(0), changes_at, enders: Mutex::new(Some(Vec::new())) })
    }

    impl Node {
        fn waits_for(&self, other: &Arc<dyn Party>) {
            self.enders.lock().unwrap().get_or_insert_default().push(Arc::clone(other));
        }
    }

    impl Party for Node {
        fn still(&self) -> Option<u64> {
            Some(u64::from(self.looks.fetch_add(1, Ordering::Relaxed) >= self.changes_at))
        }

        fn enders(&self) -> Option<Vec<Arc<dyn Party>>> {
            self.enders.lock().unwrap().clone()
        }
    }

    fn ring(changes_at: u64) -> Arc<dyn Party> {
        let (a, b) = (still(u64::MAX), still(changes_at));
        let (first, second): (Arc<dyn Party>, Arc<dyn Party>) = (a.clone(), b.clone());
        a.waits_for(&second);
        b.waits_for(&first);
        first
    }

    #[test]
    fn a_ring_of_still_parties_is_a_standstill() {
        assert!(is_standstill(vec![ring(u64::MAX)], &[]));
    }

    #[test]
    fn a_ring_that_was_left_between_the_looks_is_none() {
        assert!(!is_standstill(vec![ring(1)], &[]));
    }

    #[test]
    fn one_who_moves_anywhere_behind_is_enough() {
        let moving: Arc<dyn Party> = Arc::new(Moving);
        let (a, b) = (still(u64::MAX), still(u64::MAX));
        b.waits_for(&moving);
        let b: Arc<dyn Party> = b;
        a.waits_for(&b);
        assert!(!is_standstill(vec![a, ring(u64::MAX)], &[]));
    }

    #[test]
    fn a_wait_for_nobody_known_is_for_anybody() {
        let wait = || -> Vec<Arc<dyn Party>> {
            let node = still(u64::MAX);
            *node.enders.lock().unwrap() = None;
            vec![node]
        };
        assert!(is_standstill(wait(), &[]));
        assert!(!is_standstill(wait(), &[Arc::new(Moving)]));
    }
}
