//! Failures that only tell of another: each failure is told once.
//!
//! A failure that only tells of another in the group, a `JoinError` beneath contexts, is removed, and its contexts become
//! notes of that other.
//!
//! # Aliases and homes
//!
//! A leaf that tells of job `a` is an alias of the leaf of `a`, which may itself be an alias, as when `c` joined `b`
//! that had joined `a`. Following aliases ends at a *home*: a leaf that is no alias, or one whose target is not here
//! (an isolated job's error, claimed by its joiner). A home stays, so a removal never empties the group. A subgroup is
//! a home while one of its leaves is no alias; else it goes with its last leaf. A home remembers the ids of what was
//! removed in its favour, so that an outer exit can find it by them.
//!
//! # Promises
//!
//! 1. A removal never empties a group.
//! 2. Nothing here recurses.
//!
//! # Does not know
//!
//! Scopes and handles: a job is an id.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    mem, ptr, vec,
};

use super::{
    group::{Node, SubGroup, Walk},
    join::JoinError,
    leaf::JobId,
    panic::{CHAIN, shown, source_of},
};

/// Finds an `E` with nothing but anyhow's contexts around it, and the texts of these, innermost first.
pub(super) fn beneath<E: Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<(&E, Vec<String>)> {
    let found = error.downcast_ref::<E>()?;
    let mut contexts = Vec::new();
    let mut link: &(dyn Error + 'static) = &**error;
    // An `E` that is a context itself, and so hides what it was put on, is no link of the chain.
    while !link.downcast_ref::<E>().is_some_and(|e| ptr::eq(e, found)) {
        if contexts.len() == CHAIN {
            return None;
        }
        contexts.push(shown(link));
        link = source_of(link)?;
    }
    contexts.reverse();
    Some((found, contexts))
}

/// What a home learns from what was removed in its favour.
#[derive(Default)]
struct News {
    notes: Vec<String>,
    also: Vec<JobId>,
}

/// One group being filtered: what is left to look at, and what stays.
struct Frame {
    owner: Option<Box<SubGroup>>,
    rest: vec::IntoIter<Node>,
    kept: Vec<Node>,
    home: Option<JobId>,
}

impl Frame {
    fn new(owner: Option<Box<SubGroup>>, children: Vec<Node>) -> Self {
        Frame { owner, kept: Vec::with_capacity(children.len()), rest: children.into_iter(), home: None }
    }
}

/// Removes what only tells of another failure here; see the top of the file.
pub(super) fn without_repeats(children: Vec<Node>) -> Vec<Node> {
    // Inner groups were filtered at their own exit, so only what comes together here can be news.
    if children.len() < 2 || children.iter().all(|child| child.repeats() == 0) {
        return children;
    }
    let homes = Homes::of(&children);
    let mut news: HashMap<JobId, News> = HashMap::new();
    let mut kept = Vec::new();
    let mut frames = vec![Frame::new(None, children)];
    while let Some(mut frame) = frames.pop() {
        let Some(node) = frame.rest.next() else {
            let Some(mut sub) = frame.owner else {
                kept = frame.kept;
                break;
            };
            let Some(outer) = frames.last_mut() else { break };
            if let (true, Some(home)) = (frame.kept.is_empty(), frame.home) {
                let heard = news.entry(home).or_default();
                heard.notes.append(&mut sub.group.0.notes);
                heard.also.push(sub.origin.id);
                heard.also.append(&mut sub.also);
                outer.home = Some(home);
            } else {
                sub.group.0.children = frame.kept;
                sub.group.seal();
                outer.kept.push(Node::Group(sub));
            }
            continue;
        };
        match node {
            Node::Leaf(leaf) => match leaf.joined().and_then(|job| homes.home(job)) {
                Some(home) if home != leaf.id() => {
                    let heard = news.entry(home).or_default();
                    if let Some((_, contexts)) = leaf.error().and_then(beneath::<JoinError>) {
                        heard.notes.extend(contexts);
                    }
                    heard.notes.extend_from_slice(leaf.notes());
                    heard.also.push(leaf.id());
                    heard.also.extend_from_slice(leaf.also());
                    frame.home = Some(home);
                }
                _ => frame.kept.push(Node::Leaf(leaf)),
            },
            Node::Group(mut sub) if sub.group.0.repeats > 0 => {
                let inner = mem::take(&mut sub.group.0.children);
                frames.push(frame);
                frames.push(Frame::new(Some(sub), inner));
                continue;
            }
            node @ Node::Group(_) => frame.kept.push(node),
        }
        frames.push(frame);
    }
    deliver(&mut kept, news);
    kept
}

fn deliver(children: &mut [Node], mut news: HashMap<JobId, News>) {
    let mut walk = vec![children.iter_mut()];
    while let Some(level) = walk.last_mut() {
        if news.is_empty() {
            return;
        }
        let Some(node) = level.next() else {
            walk.pop();
            continue;
        };
        let heard = news.remove(&node.id());
        let as_another: Vec<_> = node.also().iter().filter_map(|id| news.remove(id)).collect();
        for heard in heard.into_iter().chain(as_another) {
            node.add(heard);
        }
        if let Node::Group(sub) = node {
            walk.push(sub.group.0.children.iter_mut());
        }
    }
}

/// Where each failure that only tells of another is at home.
struct Homes {
    real: HashSet<JobId>,
    alias: HashMap<JobId, Option<JobId>>,
}

impl Homes {
    fn of(children: &[Node]) -> Self {
        let mut real = HashSet::new();
        let mut told = HashMap::new();
        for node in Walk::new(children) {
            real.extend(node.also());
            match node.alias_of() {
                Some(of) => {
                    told.entry(node.id()).or_insert(of);
                }
                None => {
                    real.insert(node.id());
                }
            }
        }
        let mut alias: HashMap<JobId, Option<JobId>> = HashMap::new();
        for &start in told.keys() {
            let mut way = vec![start];
            let mut seen = HashSet::from([start]);
            let home = loop {
                let here = way[way.len() - 1];
                if real.contains(&here) {
                    break Some(here);
                }
                if let Some(&known) = alias.get(&here) {
                    break known;
                }
                match told.get(&here) {
                    // Its target is not here, so it stays.
                    Some(next) if !real.contains(next) && !told.contains_key(next) => break Some(here),
                    Some(&next) if seen.insert(next) => way.push(next),
                    // No joins make a circle; if ids lie, all of it stays.
                    _ => break None,
                }
            };
            alias.extend(way.into_iter().map(|id| (id, home)));
        }
        Homes { real, alias }
    }

    fn home(&self, job: JobId) -> Option<JobId> {
        if self.real.contains(&job) { Some(job) } else { self.alias.get(&job).copied().flatten() }
    }
}

impl Node {
    fn add(&mut self, news: News) {
        let (notes, also) = match self {
            Node::Leaf(leaf) => {
                leaf.also_mut().extend(news.also);
                (leaf.notes_mut(), None)
            }
            Node::Group(sub) => (&mut sub.group.0.notes, Some((&mut sub.also, news.also))),
        };
        for note in news.notes {
            if notes.last() != Some(&note) {
                notes.push(note);
            }
        }
        if let Some((known, more)) = also {
            known.extend(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{
        Failure,
        given::{body, child, failed, group, job, join_failed, names, nested, on_a_small_stack, returned, told},
    };

    #[test]
    fn a_failure_told_again_by_its_joiner_is_removed_and_its_context_noted() {
        let retold = join_failed(1, "a").context("older").context("newer");
        let group = group("s", 1, [(body(2), Failure::Error(retold)), (job(1, "a"), failed("disk full"))]);
        assert_eq!(names(&group), ["a"]);
        assert_eq!(group.primary().notes(), ["older", "newer"]);
        assert!(group.primary().is_primary());
    }

    #[test]
    fn a_failure_told_by_a_chain_of_joiners_is_told_once() {
        let group = group(
            "s",
            3,
            [
                (job(1, "a"), failed("disk full")),
                (job(2, "b"), told(1, "a")),
                (job(3, "c"), told(2, "b")),
                (body(4), told(3, "c")),
            ],
        );
        assert_eq!(names(&group), ["a"]);
    }

    #[test]
    fn a_failure_told_in_an_inner_scope_is_found_at_the_outer_exit() {
        let inner = group("parse", 1, [(body(2), Failure::Error(join_failed(1, "a").context("inside")))]);
        let mixed = group("mixed", 1, [(body(3), told(1, "a")), (job(4, "real"), failed("x"))]);
        let outer = group(
            "crawl",
            3,
            [
                (job(5, "B"), Failure::Error(anyhow::Error::new(inner).context("outside"))),
                (job(6, "C"), returned(mixed)),
                (job(1, "a"), failed("disk full")),
                (body(7), told(5, "B")),
            ],
        );
        assert_eq!(names(&outer), ["real", "a"]);
        assert_eq!(outer.iter().len(), 2);
        assert!(outer.primary().is_primary());
        assert_eq!(outer.leaves().nth(1).unwrap().notes(), ["inside", "outside"]);
    }

    #[test]
    fn a_failed_inner_scope_told_by_its_joiner_is_told_once() {
        let inner = group("parse", 1, [(job(1, "B.1"), failed("x"))]);
        let retold = join_failed(2, "B").context("noted");
        let outer = group("crawl", 1, [(job(2, "B"), returned(inner)), (body(3), Failure::Error(retold))]);
        assert_eq!(names(&outer), ["B.1"]);
        assert_eq!(child(&outer, 0).notes(), ["noted"]);
    }

    #[test]
    fn a_removed_failure_is_still_known_at_an_outer_exit() {
        let inner = group("parse", 2, [(job(1, "a"), failed("disk full")), (job(2, "b"), told(1, "a"))]);
        let outer = group("crawl", 1, [(job(3, "B"), returned(inner)), (body(4), told(2, "b"))]);
        assert_eq!(names(&outer), ["a"]);
    }

    #[test]
    fn what_tells_of_a_failure_that_is_not_here_stays_and_is_a_home_itself() {
        let group = group("s", 2, [(job(2, "b"), told(1, "isolated")), (body(3), told(2, "b"))]);
        assert_eq!(names(&group), ["b"]);
        let inner = crate::error::given::group("s", 2, [(body(2), told(1, "isolated"))]);
        let outer = crate::error::given::group("t", 1, [(job(3, "B"), returned(inner)), (body(4), told(3, "B"))]);
        assert_eq!((outer.len(), outer.iter().len()), (1, 1));
        assert_eq!(outer.primary().id().get(), 2);
    }

    #[test]
    fn ids_that_lie_never_empty_a_group() {
        let own =
            group("s", 1, [(job(1, "a"), told(1, "a")), (job(2, "b"), told(3, "c")), (job(3, "c"), told(2, "b"))]);
        assert_eq!(own.len(), 3);
        let (one, two) = (group("s", 1, [(body(11), told(20, "B"))]), group("t", 1, [(body(21), told(10, "A"))]));
        let outer = group("u", 2, [(job(10, "A"), returned(one)), (job(20, "B"), returned(two))]);
        assert_eq!(outer.len(), 2);
    }

    #[test]
    fn a_retold_failure_inside_an_error_of_the_user_stays() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot load")]
        struct Mine(#[source] JoinError);
        let join = join_failed(1, "a").downcast::<JoinError>().unwrap();
        let group = group("s", 1, [(job(1, "a"), failed("x")), (body(2), Failure::Error(Mine(join).into()))]);
        assert_eq!(names(&group), ["a", "body"]);
        assert!(format!("{group:?}").ends_with("cannot load: because job `a` failed"));
    }

    #[test]
    fn repeats_are_found_at_any_depth_on_a_small_stack() {
        on_a_small_stack(|| {
            let deep = nested(group("s", 1, [(body(2), told(1, "a"))]));
            let all = group("t", 2, [(job(3, "deep"), returned(deep)), (job(1, "a"), failed("x"))]);
            assert_eq!((all.len(), all.iter().len()), (1, 1));
            assert_eq!(names(&all), ["a"]);
        });
    }

    #[test]
    fn a_long_chain_of_joiners_is_followed_in_no_time() {
        let jobs = (2..=20_000).map(|id| (job(id, "j"), told(id - 1, "j")));
        let group = group("s", 20_000, jobs.chain([(job(1, "a"), failed("x"))]));
        assert_eq!(names(&group), ["a"]);
    }
}
