//! All failures of a scope, as a tree that mirrors the code.
//!
//! The children of an [`ErrorGroup`] are the failures in the order in which they were recorded: leaves, and the groups of
//! inner scopes.
//!
//! # Promises
//!
//! 1. *Always a group, never an empty one.* One failure has the same shape as ten.
//! 2. *Deep trees are harmless.* Nothing here recurses; all walks keep their stack on the heap.
//! 3. What an exit asks, whether all is a stop, costs no walk: every group counts its kinds of leaves once.
//!
//! # Does not know
//!
//! How failures are recorded (`log`), which only tell of another (`repeat`), and how a group is taken apart (`split`).

use smol_str::SmolStr;
use std::{borrow::Cow, collections::HashSet, error::Error, io, mem, panic::Location, slice, time::Duration};

use super::{
    leaf::{JobId, Leaf, Origin},
    panic::drop_guarded,
};
use crate::cancel::reason::{Cancelled, Reason, is_looked_for};

/// What a group says about its scope.
#[derive(Clone, Debug)]
pub(crate) struct ScopeInfo {
    pub(crate) name: Option<SmolStr>,
    pub(crate) place: &'static Location<'static>,
    /// Jobs spawned in all.
    pub(crate) jobs: u64,
    /// Why the scope was cancelled, if it was.
    pub(crate) reason: Option<Reason>,
    /// Whether its own token or `cancel` ended it, and no failure did.
    pub(crate) stopped: bool,
}

/// A child, owned.
pub(super) enum Node {
    Leaf(Leaf),
    Group(Box<SubGroup>),
}

impl Node {
    /// Leaves in it that only tell of another.
    pub(super) fn repeats(&self) -> usize {
        match self {
            Node::Leaf(leaf) => usize::from(leaf.joined().is_some()),
            Node::Group(sub) => sub.group.0.repeats,
        }
    }

    pub(super) fn shown(&self) -> Child<'_> {
        match self {
            Node::Leaf(leaf) => Child::Leaf(leaf),
            Node::Group(sub) => Child::Group(sub),
        }
    }

    pub(super) fn id(&self) -> JobId {
        match self {
            Node::Leaf(leaf) => leaf.id(),
            Node::Group(sub) => sub.origin.id,
        }
    }

    pub(super) fn also(&self) -> &[JobId] {
        match self {
            Node::Leaf(leaf) => leaf.also(),
            Node::Group(sub) => &sub.also,
        }
    }

    /// The job whose failure is all that this tells, if so.
    pub(super) fn alias_of(&self) -> Option<JobId> {
        match self {
            Node::Leaf(leaf) => leaf.joined(),
            Node::Group(sub) => sub.group.0.alias_of,
        }
    }
}

/// Holds every failure of a scope.
///
/// This is what [`scope`](crate::scope) returns if anything failed.
/// Its children are the failures in the order in which they happened, each with job, place and time. A scope that
/// failed inside a job is a group of its own there ([`SubGroup`]). There is always at least one leaf.
///
/// Return it from `main`, and what is printed is the whole tree (`Debug`). `Display` is one line without causes; the
/// [`source`](Error::source) is the first failure; `{:#}` is both.
///
/// # Examples
///
/// ```
/// let group = tassel::scope(|s| {
///     s.job("load").spawn(|| -> tassel::Result<()> { anyhow::bail!("disk full") });
///     Ok(())
/// })
/// .unwrap_err();
///
/// assert_eq!(group.len(), 1);
/// assert_eq!(group.primary().to_string(), "job `load` failed");
/// assert_eq!(format!("{:#}", group.primary()), "job `load` failed: disk full");
/// ```
///
/// # Serialization
///
/// With the feature `serde` a group can be serialized, for logs and other programs. The form is flat, so that depth is no
/// danger to whoever writes or reads it: one object, `{"text": …, "nodes": […]}`, whose `nodes` are the groups and leaves of
/// the tree, depth first, the group itself first.
///
/// | field of a node | of | holds |
/// |---|---|---|
/// | `parent` | all | the index of the node around, `null` for the first |
/// | `kind` | all | `group`, or of a leaf `error`, `panic`, `stop` or `timeout` |
/// | `text` | all | what `Display` says: of the scope, or of who failed |
/// | `notes` | all | texts, oldest first |
/// | `job` | all | whose failure it is, as below; `null` for the first |
/// | `during_cancellation` | all | as [`Leaf::during_cancellation`]; `false` for the first |
/// | `children` | groups | the indices of the nodes in it |
/// | `scope` | groups | `name`, `place`, `jobs` (spawned in all), `dropped`, `stopped`, and `reason`: `kind`, `text` and `who`, or `null` |
/// | `causes` | leaves | the texts of the error and its sources, outermost first |
/// | `primary` | leaves | as [`Leaf::is_primary`] |
///
/// A `job` has `id`, `role` (`job`, `body` or `handler`), `name`, `path`, `place`, `thread`, and in seconds `offset` and
/// `took`. Places are `file:line:column`. A [`Leaf`] alone is such a node without `parent`. Fields may be added in minor
/// releases. Payloads of panics and backtraces are left out.
#[must_use = "it holds the errors of every job"]
pub struct ErrorGroup(pub(super) Box<Inner>);

pub(super) struct Inner {
    pub(super) info: ScopeInfo,
    pub(super) children: Vec<Node>,
    pub(super) notes: Vec<String>,
    /// Failures of the scope that were counted, and not kept.
    pub(super) dropped: u64,
    pub(super) leaves: usize,
    /// Of the first child, if all leaves are stops. Kept here, as a search for it would cost the depth of the tree.
    stop: Option<Cancelled>,
    pub(super) panics: usize,
    pub(super) repeats: usize,
    /// Of the first child, if all leaves are repeats.
    alias_of: Option<JobId>,
}

impl ErrorGroup {
    /// A group without children, which must not get out.
    pub(super) fn hollow(info: ScopeInfo) -> Self {
        ErrorGroup(Box::new(Inner {
            info,
            children: Vec::new(),
            notes: Vec::new(),
            dropped: 0,
            leaves: 0,
            stop: None,
            panics: 0,
            repeats: 0,
            alias_of: None,
        }))
    }

    /// Takes a group out of an error that will be dropped. Taking it by value would drop the contexts around it
    /// without a guard.
    pub(super) fn hollow_out(&mut self) -> ErrorGroup {
        let info = self.0.info.clone();
        mem::replace(self, ErrorGroup::hollow(info))
    }

    /// Marks the primary leaf, and counts, once it is known what a scope recorded.
    pub(super) fn seal(&mut self) {
        for (at, child) in self.0.children.iter_mut().enumerate() {
            if let Node::Leaf(leaf) = child {
                leaf.set_primary(at == 0);
            }
        }
        self.count();
    }

    /// Counts, after a change of children.
    pub(super) fn count(&mut self) {
        let inner = &mut *self.0;
        (inner.leaves, inner.panics, inner.repeats) = (0, 0, 0);
        for child in &inner.children {
            inner.repeats += child.repeats();
            match child {
                Node::Leaf(leaf) => {
                    inner.leaves += 1;
                    inner.panics += usize::from(leaf.is_panic());
                }
                Node::Group(sub) => {
                    inner.leaves += sub.group.0.leaves;
                    inner.panics += sub.group.0.panics;
                }
            }
        }
        let stops = inner.children.iter().map(|child| child.shown().stop());
        inner.stop = stops.reduce(|first, next| first.filter(|_| next.is_some())).flatten().cloned();
        let first = inner.children.first().filter(|_| inner.repeats == inner.leaves);
        inner.alias_of = first.and_then(Node::alias_of);
    }

    /// The jobs whose failures are told in it, inner groups included.
    pub(super) fn ids(&self) -> HashSet<JobId> {
        let mut ids = HashSet::new();
        for node in Walk::new(&self.0.children) {
            ids.insert(node.id());
            ids.extend(node.also());
        }
        ids
    }

    pub(crate) fn info(&self) -> &ScopeInfo {
        &self.0.info
    }

    /// The first stop, if every leaf is one.
    pub(crate) fn as_stop(&self) -> Option<&Cancelled> {
        self.0.stop.as_ref()
    }
}

impl Error for ErrorGroup {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if is_looked_for() { Some(self) } else { Some(self.primary()) }
    }
}

impl From<ErrorGroup> for io::Error {
    /// Wraps the group, for functions that return an [`io::Error`]: its kind is [`Other`](io::ErrorKind::Other), and the
    /// group can be had back by [`io::Error::downcast`].
    ///
    /// A group of nothing but stops is one in there, too. A job that returns the `io::Error` has one leaf with that error,
    /// not an inner group.
    fn from(group: ErrorGroup) -> Self {
        io::Error::other(group)
    }
}

impl Drop for ErrorGroup {
    /// Drops each error and payload under a guard of its own.
    fn drop(&mut self) {
        let mut rest = mem::take(&mut self.0.children);
        while let Some(node) = rest.pop() {
            match node {
                Node::Leaf(leaf) => drop_guarded(leaf),
                Node::Group(mut sub) => rest.append(&mut sub.group.0.children),
            }
        }
    }
}

/// Shows a child of an [`ErrorGroup`].
#[derive(Clone, Copy, Debug)]
pub enum Child<'g> {
    /// A job, or the body, failed.
    Leaf(&'g Leaf),
    /// A scope failed inside a job, or inside the body.
    Group(&'g SubGroup),
}

impl<'g> Child<'g> {
    pub(super) fn origin(self) -> &'g Origin {
        match self {
            Child::Leaf(leaf) => leaf.origin(),
            Child::Group(sub) => sub.origin(),
        }
    }

    /// The stop that it is, if so.
    pub(super) fn stop(self) -> Option<&'g Cancelled> {
        match self {
            Child::Leaf(leaf) => leaf.stop(),
            Child::Group(sub) => sub.group.as_stop(),
        }
    }

    /// Returns the leaf, if the child is one.
    #[must_use]
    pub fn leaf(self) -> Option<&'g Leaf> {
        match self {
            Child::Leaf(leaf) => Some(leaf),
            Child::Group(_) => None,
        }
    }

    /// Returns whether the job panicked: as [`Leaf::is_panic`], or with the group of an inner scope
    /// ([`SubGroup::is_panic`]).
    #[must_use]
    pub fn is_panic(self) -> bool {
        match self {
            Child::Leaf(leaf) => leaf.is_panic(),
            Child::Group(sub) => sub.is_panic(),
        }
    }

    /// Returns the inner group, if the child is one.
    #[must_use]
    pub fn group(self) -> Option<&'g SubGroup> {
        match self {
            Child::Leaf(_) => None,
            Child::Group(sub) => Some(sub),
        }
    }
}

/// Holds the group of an inner scope, as a child of the outer scope's group.
///
/// Besides, it tells in which job that was, where and when.
pub struct SubGroup {
    pub(super) origin: Origin,
    pub(super) during_cancellation: bool,
    pub(super) panicked: bool,
    pub(super) also: Vec<JobId>,
    pub(super) group: ErrorGroup,
}

impl SubGroup {
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the failures of the inner scope.
    pub fn group(&self) -> &ErrorGroup {
        &self.group
    }

    /// Returns the id of the job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.origin.id
    }

    /// Returns what the job is called, as [`Leaf::name`] does.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        self.origin.name()
    }

    /// Returns the names from the outermost scope to the job.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.origin.path
    }

    /// Returns where the job was spawned; for a body, where its scope was opened.
    #[must_use]
    pub fn place(&self) -> &'static Location<'static> {
        self.origin.place
    }

    /// Returns when the failure was recorded, from the outer scope's opening on.
    #[must_use]
    pub fn offset(&self) -> Duration {
        self.origin.offset
    }

    /// Returns how long the job ran.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.origin.took
    }

    /// Returns the name of the thread that ran the job, or its id if it has none.
    #[must_use]
    pub fn thread(&self) -> &str {
        &self.origin.thread
    }

    /// Returns whether the outer scope was already being cancelled when the job failed.
    #[must_use]
    pub fn during_cancellation(&self) -> bool {
        self.during_cancellation
    }

    /// Returns whether the group was thrown by [`ErrorGroup::resume_panic`].
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.panicked
    }

    /// Returns the notes of the group, the contexts that were put around it last.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.group.notes()
    }
}

/// Every node below some children, depth first, each before what is in it.
pub(super) struct Walk<'g> {
    levels: Vec<slice::Iter<'g, Node>>,
}

impl<'g> Walk<'g> {
    pub(super) fn new(children: &'g [Node]) -> Self {
        Walk { levels: vec![children.iter()] }
    }
}

impl<'g> Iterator for Walk<'g> {
    type Item = &'g Node;

    fn next(&mut self) -> Option<&'g Node> {
        loop {
            let Some(node) = self.levels.last_mut()?.next() else {
                self.levels.pop();
                continue;
            };
            if let Node::Group(sub) = node {
                self.levels.push(sub.group.0.children.iter());
            }
            return Some(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::UnwindSafe;

    use super::*;
    use crate::error::{
        Failure,
        given::{body, failed, group, job, names, panicked, returned, stop, timeout},
    };

    #[test]
    fn a_group_goes_everywhere_and_is_one_pointer() {
        fn anywhere<T: Error + Send + Sync + UnwindSafe + 'static>() {}
        anywhere::<ErrorGroup>();
        assert_eq!(size_of::<Result<(), ErrorGroup>>(), size_of::<usize>());
    }

    #[test]
    fn children_stand_in_the_order_of_recording_and_the_first_is_primary() {
        let group = group("s", 3, [(job(2, "b"), failed("x")), (job(1, "a"), panicked("y")), (body(3), failed("z"))]);
        assert_eq!(names(&group), ["b", "a", "body"]);
        assert_eq!(group.primary().name(), "b");
        assert_eq!(group.leaves().map(Leaf::is_primary).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(group.leaves().map(Leaf::during_cancellation).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!((group.len(), group.iter().len()), (3, 3));
        assert_eq!(group.source().unwrap().to_string(), "job `b` failed");
    }

    #[test]
    fn a_group_is_a_stop_if_every_leaf_is() {
        let stopped = || group("s", 0, [(body(1), Failure::Stopped(stop("outer")))]);
        assert!(stopped().as_stop().is_some());
        // Recorded, it was judged a failure, and stays one (D16).
        assert!(group("t", 1, [(job(2, "a"), returned(stopped()))]).as_stop().is_none());
        let mixed = group("t", 1, [(job(2, "a"), returned(stopped())), (body(3), failed("x"))]);
        assert!(mixed.as_stop().is_none());
        let mixed = group("t", 1, [(body(3), Failure::Stopped(stop("outer"))), (job(2, "a"), failed("x"))]);
        assert!(mixed.as_stop().is_none());
        assert!(group("s", 0, [(body(1), Failure::TimedOut(timeout("s")))]).as_stop().is_none());
        let judged = group("s", 0, [(body(1), Failure::Error(stop("elsewhere").into()))]);
        assert!(judged.as_stop().is_none());
    }
}
