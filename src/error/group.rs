//! All failures of a scope, as a tree that mirrors the code.
//!
//! A scope keeps a [`Log`]. At its exit the log becomes an [`ErrorGroup`], whose children are the failures in the order
//! in which they were recorded: leaves, and the groups of inner scopes.
//!
//! # Promises
//!
//! 1. *Always a group, never an empty one.* One failure has the same shape as ten.
//! 2. *Never wrapped twice.* A group that a job returns, beneath whatever contexts, or throws (`resume_panic`), is one
//!    child; the contexts are its notes.
//! 3. *Told once.* A failure that only tells of another in the group, a `JoinError` beneath contexts, is removed, and
//!    its contexts become notes of that other. See *Repeats* below.
//! 4. *Deep trees are harmless.* Nothing here recurses; all walks keep their stack on the heap.
//! 5. What an exit asks, whether all is a stop, costs no walk: every group counts its kinds of leaves once.
//!
//! # Repeats
//!
//! A leaf that tells of job `a` is an alias of the leaf of `a`, which may itself be an alias, as when `c` joined `b`
//! that had joined `a`. Following aliases ends at a *home*: a leaf that is no alias, or one whose target is not here
//! (an isolated job's error, claimed by its joiner). A home stays, so a removal never empties the group. A subgroup is
//! a home while one of its leaves is no alias; else it goes with its last leaf. A home remembers the ids of what was
//! removed in its favour, so that an outer exit can find it by them.
//!
//! # Does not know
//!
//! Which stop belongs to whom: the scope decides that, by its nodes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    error::Error,
    fmt, mem,
    panic::{Location, resume_unwind},
    ptr, slice,
    sync::Arc,
    thread,
    time::Duration,
    vec,
};

use super::{
    join::JoinError,
    leaf::{Cause, Failure, JobId, Leaf, Origin},
    panic::{CHAIN, drop_guarded, shown, source_of},
};
use crate::cancel::reason::{Cancelled, Reason, is_looked_for};

/// What a group says about its scope.
#[derive(Clone, Debug)]
pub(crate) struct ScopeInfo {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) place: &'static Location<'static>,
    /// Jobs spawned in all.
    pub(crate) jobs: u64,
    /// Why the scope was cancelled, if it was.
    pub(crate) reason: Option<Reason>,
    /// Whether its own token or `cancel` ended it, and no failure did.
    pub(crate) stopped: bool,
}

/// The failures of one scope, in the order in which they were recorded.
///
/// Plain data: nothing but [`into_group`](Self::into_group) and dropping it runs code of the user.
#[derive(Default)]
pub(crate) struct Log {
    leaves: BTreeMap<u64, Leaf>,
    first_of: BTreeMap<JobId, u64>,
    next: u64,
}

impl Log {
    pub(crate) fn new() -> Self {
        Log::default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    pub(crate) fn push(&mut self, origin: Origin, failure: Failure, during_cancellation: bool) {
        self.put(Leaf::new(origin, failure, during_cancellation));
    }

    pub(crate) fn put(&mut self, leaf: Leaf) {
        self.first_of.entry(leaf.id()).or_insert(self.next);
        self.leaves.insert(self.next, leaf);
        self.next += 1;
    }

    /// Takes out a job's first failure, for the joiner of an isolated job.
    pub(crate) fn take(&mut self, id: JobId) -> Option<Leaf> {
        self.leaves.remove(&self.first_of.remove(&id)?)
    }

    /// Makes the group. Runs code of the user (`Display`, `source` and `Drop` of errors), all of it guarded.
    ///
    /// # Panics
    ///
    /// Panics if there is no failure.
    pub(crate) fn into_group(self, info: ScopeInfo) -> ErrorGroup {
        assert!(!self.is_empty(), "an error group of no errors: look at `Log::is_empty` first");
        let children = self.leaves.into_values().map(Node::new).collect();
        let mut group = ErrorGroup::hollow(info);
        group.0.children = without_repeats(children);
        group.seal();
        group
    }
}

/// A child, owned.
enum Node {
    Leaf(Leaf),
    Group(Box<SubGroup>),
}

impl Node {
    fn new(mut leaf: Leaf) -> Self {
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
            Cause::Stopped(_) | Cause::TimedOut(_) | Cause::Gone => None,
        };
        match group {
            None => Node::Leaf(leaf),
            Some(group) => Node::Group(Box::new(SubGroup {
                origin: leaf.origin().clone(),
                during_cancellation: leaf.during_cancellation(),
                panicked,
                notes,
                also: Vec::new(),
                group,
            })),
        }
    }

    /// Leaves in it that only tell of another.
    fn repeats(&self) -> usize {
        match self {
            Node::Leaf(leaf) => usize::from(leaf.joined().is_some()),
            Node::Group(sub) => sub.group.0.repeats,
        }
    }

    fn id(&self) -> JobId {
        match self {
            Node::Leaf(leaf) => leaf.id(),
            Node::Group(sub) => sub.origin.id,
        }
    }

    fn also(&self) -> &[JobId] {
        match self {
            Node::Leaf(leaf) => leaf.also(),
            Node::Group(sub) => &sub.also,
        }
    }

    /// The job whose failure is all that this tells, if so.
    fn alias_of(&self) -> Option<JobId> {
        match self {
            Node::Leaf(leaf) => leaf.joined(),
            Node::Group(sub) => sub.group.0.alias_of,
        }
    }

    fn add(&mut self, news: News) {
        let (notes, also) = match self {
            Node::Leaf(leaf) => {
                leaf.also_mut().extend(news.also);
                (leaf.notes_mut(), None)
            }
            Node::Group(sub) => (&mut sub.notes, Some((&mut sub.also, news.also))),
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

/// Finds an `E` with nothing but anyhow's contexts around it, and the texts of these, innermost first.
fn beneath<E: Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<(&E, Vec<String>)> {
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

/// Removes what only tells of another failure here; see *Repeats* at the top.
fn without_repeats(children: Vec<Node>) -> Vec<Node> {
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
                heard.notes.append(&mut sub.notes);
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
        let mut walk = vec![children.iter()];
        while let Some(level) = walk.last_mut() {
            let Some(node) = level.next() else {
                walk.pop();
                continue;
            };
            real.extend(node.also());
            match node.alias_of() {
                Some(of) => {
                    told.entry(node.id()).or_insert(of);
                }
                None => {
                    real.insert(node.id());
                }
            }
            if let Node::Group(sub) = node {
                walk.push(sub.group.0.children.iter());
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
#[must_use = "it holds the errors of every job"]
pub struct ErrorGroup(Box<Inner>);

struct Inner {
    info: ScopeInfo,
    children: Vec<Node>,
    leaves: usize,
    stops: usize,
    panics: usize,
    repeats: usize,
    /// Of the first child, if all leaves are repeats. Kept here, as a search for it would cost the depth of the tree.
    alias_of: Option<JobId>,
}

impl ErrorGroup {
    /// A group without children, which must not get out.
    fn hollow(info: ScopeInfo) -> Self {
        let (children, alias_of) = (Vec::new(), None);
        ErrorGroup(Box::new(Inner { info, children, leaves: 0, stops: 0, panics: 0, repeats: 0, alias_of }))
    }

    /// Takes a group out of an error that will be dropped. Taking it by value would drop the contexts around it
    /// without a guard.
    fn hollow_out(&mut self) -> ErrorGroup {
        let info = self.0.info.clone();
        mem::replace(self, ErrorGroup::hollow(info))
    }

    /// Counts, and marks the primary leaf, after a change of children.
    fn seal(&mut self) {
        let inner = &mut *self.0;
        (inner.leaves, inner.stops, inner.panics, inner.repeats) = (0, 0, 0, 0);
        for (at, child) in inner.children.iter_mut().enumerate() {
            inner.repeats += child.repeats();
            match child {
                Node::Leaf(leaf) => {
                    leaf.set_primary(at == 0);
                    inner.leaves += 1;
                    inner.stops += usize::from(leaf.stop().is_some());
                    inner.panics += usize::from(leaf.is_panic());
                }
                Node::Group(sub) => {
                    inner.leaves += sub.group.0.leaves;
                    inner.stops += sub.group.0.stops;
                    inner.panics += sub.group.0.panics;
                }
            }
        }
        let first = inner.children.first().filter(|_| inner.repeats == inner.leaves);
        inner.alias_of = first.and_then(Node::alias_of);
    }

    /// The jobs whose failures are told in it, inner groups included.
    pub(super) fn ids(&self) -> HashSet<JobId> {
        let mut ids = HashSet::new();
        let mut walk = vec![self.0.children.iter()];
        while let Some(level) = walk.last_mut() {
            let Some(node) = level.next() else {
                walk.pop();
                continue;
            };
            ids.insert(node.id());
            ids.extend(node.also());
            if let Node::Group(sub) = node {
                walk.push(sub.group.0.children.iter());
            }
        }
        ids
    }

    pub(crate) fn info(&self) -> &ScopeInfo {
        &self.0.info
    }

    /// The stop, if every leaf is one.
    pub(crate) fn as_stop(&self) -> Option<&Cancelled> {
        if self.0.stops == self.0.leaves { self.primary().stop() } else { None }
    }

    /// Returns the name of the scope, or a place such as `src/main.rs:4`.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        let info = self.info();
        match &info.name {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("{}:{}", info.place.file(), info.place.line())),
        }
    }

    /// Returns where the scope was opened.
    #[must_use]
    pub fn place(&self) -> &'static Location<'static> {
        self.info().place
    }

    /// Returns why the scope was cancelled, if it was.
    ///
    /// Most often that is because a job failed.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        self.info().reason.as_ref()
    }

    /// Returns whether the scope was stopped on purpose, and not by a failure.
    ///
    /// That is, by its own token or `cancel`. Neither a stop that came from outside nor a deadline counts. See [`or_stopped`](OrStopped::or_stopped).
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.info().stopped
    }

    /// Returns the number of leaves in the whole tree, which is at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is no empty group")]
    pub fn len(&self) -> usize {
        self.0.leaves
    }

    /// Returns the direct children, in the order in which they were recorded.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Child<'_>> + ExactSizeIterator {
        self.0.children.iter().map(|node| match node {
            Node::Leaf(leaf) => Child::Leaf(leaf),
            Node::Group(sub) => Child::Group(sub),
        })
    }

    /// Returns every leaf of the tree, depth first.
    ///
    /// # Examples
    ///
    /// ```
    /// let group = tassel::scope(|s| {
    ///     s.job("crawl").spawn(|| {
    ///         tassel::scope(|s| {
    ///             s.job("parse").spawn(|| -> tassel::Result<()> { anyhow::bail!("bad tag") });
    ///             Ok(())
    ///         })?;
    ///         Ok(())
    ///     });
    ///     Ok(())
    /// })
    /// .unwrap_err();
    ///
    /// let told: Vec<_> = group.leaves().map(|leaf| format!("{leaf:#}")).collect();
    /// assert_eq!(told, ["job `parse` failed: bad tag"]);
    /// ```
    pub fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        Leaves { walk: vec![self.0.children.iter()] }
    }

    /// Takes the tree apart into its leaves, depth first.
    ///
    /// The notes of inner groups are dropped.
    pub fn into_leaves(mut self) -> impl Iterator<Item = Leaf> {
        IntoLeaves { walk: vec![mem::take(&mut self.0.children).into_iter()] }
    }

    /// Returns the first leaf whose error is an `E` beneath its contexts, as that.
    ///
    /// The causes of an error type of yours are not looked at; they are in the `chain` of [`Leaf::error`], as
    /// [recipes](crate::docs::recipes#errors-by-type) shows.
    ///
    /// # Examples
    ///
    /// ```
    /// let group = tassel::scope(|s| {
    ///     s.spawn(|| Ok("twelve".parse::<u32>()?));
    ///     Ok(())
    /// })
    /// .unwrap_err();
    ///
    /// assert!(group.find::<std::num::ParseIntError>().is_some());
    /// ```
    #[must_use]
    pub fn find<E>(&self) -> Option<&E>
    where
        E: fmt::Display + fmt::Debug + Send + Sync + 'static,
    {
        self.leaves().find_map(Leaf::downcast_ref)
    }

    /// Returns the first failure: the one that made the scope cancel the rest.
    ///
    /// If the first child is a group, it is that group's first failure.
    ///
    /// # Panics
    ///
    /// Never: there is no empty group.
    #[must_use]
    pub fn primary(&self) -> &Leaf {
        let mut group = self;
        loop {
            match group.0.children.first() {
                Some(Node::Leaf(leaf)) => return leaf,
                Some(Node::Group(sub)) => group = &sub.group,
                None => unreachable!("a group of no errors got out"),
            }
        }
    }

    /// Returns the leaf, if it is the only one of the whole tree.
    ///
    /// The notes of the groups around it become notes of the leaf.
    ///
    /// # Errors
    ///
    /// Returns the group unchanged if there are more.
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
    /// let leaf = group.into_single()?;
    /// assert_eq!(leaf.into_error().to_string(), "disk full");
    /// # Ok::<(), tassel::ErrorGroup>(())
    /// ```
    pub fn into_single(mut self) -> Result<Leaf, ErrorGroup> {
        if self.0.leaves != 1 {
            return Err(self);
        }
        let mut around = Vec::new();
        let mut children = mem::take(&mut self.0.children);
        loop {
            match children.pop() {
                Some(Node::Leaf(mut leaf)) => {
                    leaf.notes_mut().extend(around.into_iter().rev().flatten());
                    return Ok(leaf);
                }
                Some(Node::Group(mut sub)) => {
                    around.push(mem::take(&mut sub.notes));
                    children = mem::take(&mut sub.group.0.children);
                }
                None => return Err(self),
            }
        }
    }

    /// Turns the group into a plain error.
    ///
    /// This is for functions that use a scope without showing it. The error is the job's own error if only one job failed, else the group itself.
    ///
    /// # Examples
    ///
    /// ```
    /// fn total(words: &[&str]) -> anyhow::Result<u32> {
    ///     tassel::scope(|s| {
    ///         let jobs: Vec<_> = words.iter().map(|w| s.spawn(|| Ok(w.parse::<u32>()?))).collect();
    ///         jobs.into_iter().map(|job| Ok(job.join()?)).sum::<tassel::Result<u32>>()
    ///     })
    ///     .map_err(tassel::ErrorGroup::into_error)
    /// }
    ///
    /// assert_eq!(total(&["twelve"]).unwrap_err().to_string(), "invalid digit found in string");
    /// ```
    #[must_use]
    pub fn into_error(self) -> anyhow::Error {
        match self.into_single() {
            Ok(leaf) => leaf.into_error(),
            Err(group) => group.into(),
        }
    }

    /// Goes on with a panic, if one of the jobs panicked.
    ///
    /// What is thrown is the job's own payload if its leaf is the only one, else the whole group. The panic hook is not
    /// called again.
    ///
    /// Returns the group if no job panicked, or if the thread is already unwinding.
    ///
    /// # Examples
    ///
    /// ```
    /// let thrown = std::panic::catch_unwind(|| {
    ///     tassel::scope(|s| {
    ///         s.spawn(|| -> tassel::Result<()> { std::panic::panic_any(7) });
    ///         Ok(())
    ///     })
    ///     .map_err(tassel::ErrorGroup::resume_panic)
    /// });
    ///
    /// assert_eq!(thrown.unwrap_err().downcast_ref(), Some(&7));
    /// ```
    pub fn resume_panic(self) -> ErrorGroup {
        if self.0.panics == 0 || thread::panicking() {
            return self;
        }
        match self.into_single().map(Leaf::into_payload) {
            Ok(Ok(payload)) => resume_unwind(payload),
            // A panic's leaf has its payload until it is taken by value, which takes the leaf.
            Ok(Err(leaf)) => unreachable!("{leaf}, and its payload is gone"),
            Err(group) => resume_unwind(Box::new(group)),
        }
    }
}

impl Error for ErrorGroup {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if is_looked_for() { Some(self) } else { Some(self.primary()) }
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

/// Holds the group of an inner scope, as a child of the outer scope's group.
///
/// Besides, it tells in which job that was, where and when.
pub struct SubGroup {
    origin: Origin,
    during_cancellation: bool,
    panicked: bool,
    notes: Vec<String>,
    also: Vec<JobId>,
    group: ErrorGroup,
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

    /// Returns the contexts that were put around the group, oldest first.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

struct Leaves<'g> {
    walk: Vec<slice::Iter<'g, Node>>,
}

impl<'g> Iterator for Leaves<'g> {
    type Item = &'g Leaf;

    fn next(&mut self) -> Option<&'g Leaf> {
        loop {
            match self.walk.last_mut()?.next() {
                Some(Node::Leaf(leaf)) => return Some(leaf),
                Some(Node::Group(sub)) => self.walk.push(sub.group.0.children.iter()),
                None => {
                    self.walk.pop();
                }
            }
        }
    }
}

struct IntoLeaves {
    walk: Vec<vec::IntoIter<Node>>,
}

impl Iterator for IntoLeaves {
    type Item = Leaf;

    fn next(&mut self) -> Option<Leaf> {
        loop {
            match self.walk.last_mut()?.next() {
                Some(Node::Leaf(leaf)) => return Some(leaf),
                Some(Node::Group(mut sub)) => self.walk.push(mem::take(&mut sub.group.0.children).into_iter()),
                None => {
                    self.walk.pop();
                }
            }
        }
    }
}

/// Makes a scope that was stopped on purpose an ordinary outcome.
pub trait OrStopped<T> {
    /// Turns a group that is [`stopped`](ErrorGroup::stopped) into `Ok(None)`.
    ///
    /// # Errors
    ///
    /// Returns every other group: of failures, of a deadline, of a stop that came from outside.
    fn or_stopped(self) -> Result<Option<T>, ErrorGroup>;
}

impl<T> OrStopped<T> for Result<T, ErrorGroup> {
    fn or_stopped(self) -> Result<Option<T>, ErrorGroup> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(group) if group.stopped() => Ok(None),
            Err(group) => Err(group),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, UnwindSafe, catch_unwind};

    use super::*;
    use crate::error::given::{body, deadline, failed, group, info, job, panicked, returned, stop, timeout};

    fn join_failed(id: u64, name: &str) -> anyhow::Error {
        JoinError::Failed { id: JobId::new(id), name: name.into(), text: "disk full".into() }.into()
    }

    fn told(id: u64, name: &str) -> Failure {
        Failure::Error(join_failed(id, name))
    }

    fn names(group: &ErrorGroup) -> Vec<String> {
        group.leaves().map(|leaf| leaf.name().into_owned()).collect()
    }

    fn child(group: &ErrorGroup, at: usize) -> &SubGroup {
        match group.iter().nth(at) {
            Some(Child::Group(sub)) => sub,
            other => panic!("{other:?}"),
        }
    }

    fn on_a_small_stack(f: impl FnOnce() + Send) {
        thread::scope(|s| {
            thread::Builder::new().stack_size(2 << 20).spawn_scoped(s, f).unwrap().join().unwrap();
        });
    }

    const DEEP: usize = 100_000;

    fn nested(mut group: ErrorGroup) -> ErrorGroup {
        for level in 0..DEEP {
            group = super::super::given::group("s", 1, [(job(1_000_000 + level as u64, "j"), returned(group))]);
        }
        group
    }

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
    #[should_panic(expected = "an error group of no errors")]
    fn there_is_no_empty_group() {
        let _ = Log::new().into_group(info("s", 0));
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
    fn a_group_that_was_thrown_is_a_group_again() {
        let inner = group("parse", 2, [(job(1, "B.1"), panicked("x")), (job(2, "B.2"), failed("y"))]);
        let thrown = catch_unwind(AssertUnwindSafe(|| inner.resume_panic())).unwrap_err();
        let outer = group("crawl", 1, [(job(3, "B"), Failure::Panic(thrown))]);
        assert!(child(&outer, 0).is_panic());
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
        let inner = super::super::given::group("s", 2, [(body(2), told(1, "isolated"))]);
        let outer = super::super::given::group("t", 1, [(job(3, "B"), returned(inner)), (body(4), told(3, "B"))]);
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
    fn only_one_leaf_in_the_whole_tree_is_a_single() {
        let inner = group("parse", 1, [(job(1, "B.1"), failed("x"))]);
        let error = anyhow::Error::new(inner).context("noted");
        let outer = group("crawl", 1, [(job(2, "B"), Failure::Error(error))]);
        let leaf = outer.into_single().unwrap();
        assert_eq!((leaf.name(), leaf.notes()), (Cow::Borrowed("B.1"), &["noted".to_owned()][..]));
        let two = group("s", 2, [(job(1, "a"), failed("x")), (job(2, "b"), failed("y"))]);
        assert_eq!(two.into_single().unwrap_err().len(), 2);
    }

    #[test]
    fn a_single_leaf_becomes_its_own_error_and_more_stay_a_group() {
        let one = group("s", 1, [(job(1, "a"), Failure::Error(fmt::Error.into()))]);
        assert!(one.into_error().is::<fmt::Error>());
        let two = group("s", 2, [(job(1, "a"), failed("x")), (job(2, "b"), failed("y"))]);
        assert!(two.into_error().is::<ErrorGroup>());
    }

    #[test]
    fn find_looks_at_every_leaf() {
        let inner = group("parse", 1, [(job(1, "B.1"), Failure::Error(anyhow::Error::new(fmt::Error).context("c")))]);
        let outer = group("crawl", 2, [(job(2, "a"), failed("x")), (job(3, "B"), returned(inner))]);
        assert!(outer.find::<fmt::Error>().is_some());
        assert!(outer.find::<std::io::Error>().is_none());
        assert_eq!(outer.into_leaves().map(|leaf| leaf.name().into_owned()).collect::<Vec<_>>(), ["a", "B.1"]);
    }

    #[test]
    fn a_single_panic_is_thrown_as_it_was_and_more_as_the_group() {
        let one = group("s", 1, [(job(1, "a"), Failure::Panic(Box::new(7_u32)))]);
        let thrown = catch_unwind(AssertUnwindSafe(|| one.resume_panic())).unwrap_err();
        assert_eq!(thrown.downcast_ref(), Some(&7_u32));
        let none = group("s", 1, [(job(1, "a"), failed("x"))]);
        assert_eq!(none.resume_panic().len(), 1);
    }

    #[test]
    fn no_second_panic_is_thrown_by_a_thread_that_unwinds() {
        struct Guard<'g>(&'g mut Option<ErrorGroup>);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                *self.0 = self.0.take().map(ErrorGroup::resume_panic);
            }
        }
        let mut kept = Some(group("s", 1, [(job(1, "a"), panicked("boom"))]));
        let guard = Guard(&mut kept);
        catch_unwind(AssertUnwindSafe(move || {
            let _guard = guard;
            resume_unwind(Box::new("first"))
        }))
        .unwrap_err();
        assert_eq!(kept.map(|group| group.len()), Some(1));
    }

    #[test]
    fn only_a_scope_that_was_stopped_on_purpose_is_an_ordinary_outcome() {
        let mut log = Log::new();
        log.push(body(1), Failure::Stopped(stop("s")), true);
        let own = log.into_group(ScopeInfo { stopped: true, reason: Some(deadline("s")), ..info("s", 0) });
        assert!(own.stopped() && own.reason().is_some());
        assert_eq!(Err::<(), _>(own).or_stopped().unwrap(), None);
        assert_eq!(Ok(7).or_stopped().unwrap(), Some(7));
        let outside = group("s", 0, [(body(1), Failure::Stopped(stop("outer")))]);
        assert!(Err::<(), _>(outside).or_stopped().is_err());
    }

    #[test]
    fn a_group_is_a_stop_if_every_leaf_is() {
        let stopped = || group("s", 0, [(body(1), Failure::Stopped(stop("outer")))]);
        assert!(stopped().as_stop().is_some());
        // Recorded, it was judged a failure, and stays one (D16).
        assert!(group("t", 1, [(job(2, "a"), returned(stopped()))]).as_stop().is_none());
        let mixed = group("t", 1, [(job(2, "a"), returned(stopped())), (body(3), failed("x"))]);
        assert!(mixed.as_stop().is_none());
        assert!(group("s", 0, [(body(1), Failure::TimedOut(timeout("s")))]).as_stop().is_none());
        let judged = group("s", 0, [(body(1), Failure::Error(stop("elsewhere").into()))]);
        assert!(judged.as_stop().is_none());
    }

    #[test]
    fn deep_trees_fit_a_small_stack() {
        on_a_small_stack(|| {
            let deep = nested(group("s", 1, [(job(1, "a"), failed("x"))]));
            assert_eq!((deep.len(), deep.leaves().count()), (1, 1));
            assert!(deep.as_stop().is_none() && deep.find::<fmt::Error>().is_none());
            assert_eq!(deep.primary().name(), "a");
            assert!(format!("{deep} {deep:#} {deep:?} {deep:#?}").ends_with("… and 1 more"));
            assert_eq!(deep.into_single().unwrap().name(), "a");
            drop(nested(group("s", 1, [(job(1, "a"), panicked("x"))])));
            drop(nested(group("s", 1, [(job(1, "a"), failed("x"))])).into_leaves());
        });
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
