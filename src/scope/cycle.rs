//! Joins that wait for each other in a ring, found when the last of them is about to wait: [`enter`].
//!
//! The graph has a line of code for each node, a [`Strand`], and an edge from each that cannot go on before a join has
//! ended to the job that is joined. Those are the joiner; what stands below it on its thread, since it runs a job inline or
//! has opened a scope; and the ancestors of all these, since a scope's exit waits for its jobs. So the edges of a scope's
//! exit need not be there: who waits in one of its jobs has entered its opener as well.
//!
//! # Promises
//!
//! 1. Exactly one join of a ring is refused: the one that closes it. The others go on waiting, and end as that one's job does.
//! 2. A join of a job that has ended, or that is run by the joiner, does not come here.
//!
//! # Does not know
//!
//! Waits that can end by themselves, or by something that is no join: the caller keeps them out.
//!
//! # Why no ring is missed
//!
//! Edges are entered and searched for in one step, under one lock for the process. All edges of a join lead to one job, so a
//! ring that they close leads from that job back to somebody who was entered.

use crate::{
    cancel::current::Strand,
    prim::{Mutex, MutexGuard},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

struct Edge {
    join: u64,
    to: Arc<Strand>,
}

#[derive(Default)]
struct Graph {
    joins: u64,
    /// By the number of the strand that waits.
    edges: BTreeMap<u64, Vec<Edge>>,
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

/// A join that waits, for as long as this lives.
#[must_use]
pub(crate) struct Joining {
    join: u64,
    chain: Vec<Arc<Strand>>,
}

/// Enters a join of `target`, by the first of `chain`; the others are all who cannot go on before it does. `Err` if that
/// closes a ring: the names of those in it, each of whom waits for the next.
pub(crate) fn enter(chain: Vec<Arc<Strand>>, target: &Arc<Strand>) -> Result<Joining, Vec<String>> {
    let waiting: BTreeSet<u64> = chain.iter().map(|strand| strand.id).collect();
    let mut entered = graph();
    if let Some(way) = entered.way(target, &waiting) {
        drop(entered);
        let mut ring: Vec<String> = chain.first().map(name).into_iter().collect();
        // Its last is the joiner itself, or somebody who waits for it.
        let same = |strand: &&Arc<Strand>| chain.first().is_none_or(|joiner| joiner.id != strand.id);
        ring.extend(way.iter().filter(same).map(name));
        return Err(ring);
    }
    mutant!("ring_entered_after_unlock" => drop(entered); entered = graph());
    entered.joins += 1;
    let join = entered.joins;
    for strand in &chain {
        entered.edges.entry(strand.id).or_default().push(Edge { join, to: Arc::clone(target) });
    }
    Ok(Joining { join, chain })
}

/// A body can wait, too; it is not called after its scope here.
fn name(strand: &Arc<Strand>) -> String {
    match strand.label.what {
        "job" => strand.label.name().to_string(),
        _ => "body".to_owned(),
    }
}

impl Graph {
    /// The way from `target` to the first that is in `to`, both included.
    fn way(&self, target: &Arc<Strand>, to: &BTreeSet<u64>) -> Option<Vec<Arc<Strand>>> {
        let mut from: BTreeMap<u64, Arc<Strand>> = BTreeMap::new();
        let mut todo = vec![Arc::clone(target)];
        while let Some(strand) = todo.pop() {
            if to.contains(&strand.id) {
                let mut way = vec![strand];
                while let Some(before) = way.last().and_then(|last| from.get(&last.id)) {
                    way.push(Arc::clone(before));
                }
                way.reverse();
                return Some(way);
            }
            for Edge { to: next, .. } in self.edges.get(&strand.id).into_iter().flatten() {
                if next.id != target.id && !from.contains_key(&next.id) {
                    from.insert(next.id, Arc::clone(&strand));
                    todo.push(Arc::clone(next));
                }
            }
        }
        None
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        let mut gone = Vec::new();
        let mut graph = graph();
        for strand in &self.chain {
            let Some(edges) = graph.edges.get_mut(&strand.id) else { continue };
            if let Some(at) = edges.iter().position(|edge| edge.join == self.join) {
                gone.push(edges.swap_remove(at));
            }
            if edges.is_empty() {
                graph.edges.remove(&strand.id);
            }
        }
        drop(graph);
        drop(gone);
    }
}

impl fmt::Debug for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joining").field("join", &self.join).field("chain", &self.chain).finish()
    }
}
