//! What a scope records, until its exit makes a group of it.
//!
//! # Promises
//!
//! 1. *Never wrapped twice.* A group that a job returns, beneath whatever contexts, or throws (`resume_panic`), is one
//!    child; the contexts are its notes.
//! 2. All but [`Log::into_group`] and dropping it is plain data, and runs nobody's code.
//!
//! # Does not know
//!
//! Which stop belongs to whom: the scope decides that, by its nodes.

use std::{collections::BTreeMap, num::NonZeroU32};

use super::{
    group::{ErrorGroup, Node, ScopeInfo, SubGroup},
    join::JoinError,
    leaf::{Cause, Failure, JobId, Leaf, Origin},
    repeat::{beneath, without_repeats},
};

/// The failures of one scope, in the order in which they were recorded.
///
/// Plain data: nothing but [`into_group`](Self::into_group) and dropping it runs code of the user.
#[derive(Default)]
pub(crate) struct Log {
    /// Made by the first failure: most scopes have none.
    leaves: Option<Box<Leaves>>,
    /// How many failures may be kept; none is no limit.
    limit: Option<NonZeroU32>,
    /// How many are kept that count against the limit.
    kept: u32,
    dropped: u64,
}

#[derive(Default)]
struct Leaves {
    by_number: BTreeMap<u64, Leaf>,
    first_of: BTreeMap<JobId, u64>,
    next: u64,
}

impl Log {
    pub(crate) fn new() -> Self {
        Log::default()
    }

    /// Keeps the first `limit` failures.
    pub(crate) fn with_limit(limit: Option<NonZeroU32>) -> Self {
        Log { limit, ..Log::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.leaves.as_ref().is_none_or(|leaves| leaves.by_number.is_empty())
    }

    pub(crate) fn push(&mut self, origin: Origin, failure: Failure, during_cancellation: bool) {
        self.put(Leaf::new(origin, failure, during_cancellation));
    }

    /// As [`put`](Self::put), unless the limit is reached: then the leaf is counted, and comes back to be dropped, which
    /// runs code of the user.
    #[must_use]
    pub(crate) fn put_bounded(&mut self, leaf: Leaf) -> Option<Leaf> {
        if self.limit.is_some_and(|limit| self.kept >= limit.get()) {
            self.dropped += 1;
            return Some(leaf);
        }
        self.kept = self.kept.saturating_add(1);
        self.put(leaf);
        None
    }

    pub(crate) fn put(&mut self, leaf: Leaf) {
        let Leaves { by_number, first_of, next } = &mut **self.leaves.get_or_insert_default();
        first_of.entry(leaf.id()).or_insert(*next);
        by_number.insert(*next, leaf);
        *next += 1;
    }

    /// Takes out a job's first failure, for the joiner of an isolated job.
    pub(crate) fn take(&mut self, id: JobId) -> Option<Leaf> {
        let leaves = self.leaves.as_mut()?;
        leaves.by_number.remove(&leaves.first_of.remove(&id)?)
    }

    /// Makes the group. Runs code of the user (`Display`, `source` and `Drop` of errors), all of it guarded.
    ///
    /// # Panics
    ///
    /// Panics if there is no failure.
    pub(crate) fn into_group(self, info: ScopeInfo) -> ErrorGroup {
        assert!(!self.is_empty(), "an error group of no errors: look at `Log::is_empty` first");
        let leaves = self.leaves.unwrap_or_default().by_number;
        let children = leaves.into_values().map(Node::new).collect();
        let mut group = ErrorGroup::hollow(info);
        group.0.dropped = self.dropped;
        group.0.children = without_repeats(children);
        group.seal();
        group
    }
}

impl Node {
    /// Makes a child of a failure: a group, if that is what the job returned or threw.
    pub(super) fn new(mut leaf: Leaf) -> Self {
        let mut notes = Vec::new();
        let mut panicked = false;
        let group = match leaf.cause_mut() {
            Cause::Error(error) => {
                if let Some((group, contexts)) = beneath::<ErrorGroup>(error) {
                    if group.as_stop().is_some() {
                        None // a stop that was not the job's own (D16): one failure, not a group of them
                    } else {
                        notes = contexts;
                        error.downcast_mut::<ErrorGroup>().map(ErrorGroup::hollow_out)
                    }
                } else {
                    let joined = beneath::<JoinError>(error).and_then(|(join, _)| join.told());
                    leaf.set_joined(joined);
                    None
                }
            }
            Cause::Panic(payload) => {
                panicked = true;
                payload.get_mut().and_then(|any| any.downcast_mut::<ErrorGroup>()).map(ErrorGroup::hollow_out)
            }
            Cause::Stopped(_) | Cause::TimedOut { .. } | Cause::Gone => None,
        };
        match group {
            None => Node::Leaf(leaf),
            Some(mut group) => {
                group.0.notes.append(&mut notes);
                Node::Group(Box::new(SubGroup {
                    origin: leaf.origin().clone(),
                    during_cancellation: leaf.during_cancellation(),
                    panicked,
                    also: Vec::new(),
                    group,
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        borrow::Cow,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use super::*;
    use crate::error::{
        Child,
        given::{child, failed, group, info, job, names, panicked},
    };

    #[test]
    #[should_panic(expected = "an error group of no errors")]
    fn there_is_no_empty_group() {
        let _ = Log::new().into_group(info("s", 0));
    }

    // D12:
    #[test]
    fn a_log_with_a_limit_keeps_the_first_failures_and_counts_the_others() {
        let leaf = |id| Leaf::new(job(id, "a"), failed("x"), false);
        for (limit, kept) in [(2, 2), (4, 4), (0, 4)] {
            let mut log = Log::with_limit(NonZeroU32::new(limit)); // 0 is none
            let over = (1..=4).filter_map(|id| log.put_bounded(leaf(id))).count();
            assert_eq!(over, 4 - kept);
            log.put(leaf(5)); // of an isolated job: for its joiner, whatever the limit
            let group = log.into_group(info("s", 5));
            assert_eq!((group.len(), group.dropped()), (kept + 1, over as u64));
        }
    }

    #[test]
    fn an_isolated_failure_is_taken_by_its_joiner_once() {
        let mut log = Log::new();
        log.push(job(1, "a"), failed("x"), false);
        log.push(job(2, "b"), failed("y"), true);
        assert_eq!(log.take(JobId::new(2)).unwrap().name(), "b");
        assert!(log.take(JobId::new(2)).is_none());
        assert_eq!(log.take(JobId::new(1)).unwrap().name(), "a");
        assert!(log.is_empty());
    }

    #[test]
    fn an_inner_group_is_one_child_and_the_contexts_around_it_are_notes() {
        let inner = group("parse", 1, [(job(1, "B.1"), failed("x"))]);
        let error = anyhow::Error::new(inner).context("older").context("newer");
        let outer = group("crawl", 1, [(job(2, "B"), Failure::Error(error))]);
        let sub = child(&outer, 0);
        assert_eq!((sub.name(), sub.group().name()), (Cow::Borrowed("B"), Cow::Borrowed("parse")));
        assert_eq!(sub.notes(), ["older", "newer"]);
        assert!(!sub.is_panic());
        assert_eq!((outer.len(), outer.iter().len(), sub.group().iter().len()), (1, 1, 1));
        assert_eq!(outer.primary().name(), "B.1");
    }

    #[test]
    fn a_group_in_an_io_error_is_the_error_of_one_leaf() {
        let inner = group("parse", 2, [(job(1, "B.1"), panicked("x")), (job(2, "B.2"), failed("y"))]);
        let outer = group("crawl", 1, [(job(3, "B"), Failure::Error(std::io::Error::from(inner).into()))]);
        assert_eq!((names(&outer), outer.len()), (vec!["B".to_owned()], 1));
        let error = outer.primary().downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(error.get_ref().unwrap().downcast_ref::<ErrorGroup>().unwrap().len(), 2);
    }

    #[test]
    fn a_group_that_was_thrown_is_a_group_again() {
        let inner = group("parse", 2, [(job(1, "B.1"), panicked("x")), (job(2, "B.2"), failed("y"))]);
        let thrown = catch_unwind(AssertUnwindSafe(|| inner.resume_panic())).unwrap_err();
        let outer = group("crawl", 1, [(job(3, "B"), Failure::Panic(thrown))]);
        assert!(child(&outer, 0).is_panic());
        assert!(outer.iter().all(Child::is_panic));
        assert_eq!(child(&outer, 0).group().iter().map(Child::is_panic).collect::<Vec<_>>(), [true, false]);
        assert_eq!(names(&outer), ["B.1", "B.2"]);
    }

    #[test]
    fn a_group_inside_an_error_of_the_user_is_a_leaf_of_that_error() {
        #[derive(Debug, thiserror::Error)]
        #[error("mine")]
        struct Mine(#[from] ErrorGroup);
        let inner = group("parse", 1, [(job(1, "B.1"), failed("x"))]);
        let outer = group("crawl", 1, [(job(2, "B"), Failure::Error(Mine(inner).into()))]);
        assert!(outer.find::<Mine>().is_some());
        assert_eq!(names(&outer), ["B"]);
    }

    #[test]
    fn a_group_that_is_itself_a_context_hides_no_error() {
        let context = group("parse", 1, [(job(1, "B.1"), failed("x"))]);
        let error = anyhow::anyhow!("the real one").context(context);
        let outer = group("crawl", 1, [(job(2, "B"), Failure::Error(error))]);
        assert!(format!("{:#}", outer.primary()).ends_with("the real one"));
    }
}
