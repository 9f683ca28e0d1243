//! Looking at a group, and adding notes to it.
//!
//! # Promises
//!
//! 1. All is read only but for notes, so what a group has counted stays true.
//! 2. Nothing here recurses.
//!
//! # Does not know
//!
//! How a group came to be, and how it reads.

use std::{borrow::Cow, fmt, panic::Location};

use super::{
    group::{Child, ErrorGroup, Node, Walk},
    leaf::Leaf,
};
use crate::cancel::reason::Reason;

impl ErrorGroup {
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

    /// Returns how many failures of the scope were not kept, because they were more than
    /// [`keep_failures`](crate::ScopeOptions::keep_failures) allows.
    ///
    /// Those of inner scopes are counted in their own groups. Parts of a group say what the whole says: nobody knows to which
    /// part these failures would belong.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped
    }

    /// Returns the direct children, in the order in which they were recorded.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Child<'_>> + ExactSizeIterator {
        self.0.children.iter().map(Node::shown)
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
        Walk::new(&self.0.children).filter_map(|node| match node {
            Node::Leaf(leaf) => Some(leaf),
            Node::Group(_) => None,
        })
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

    /// Returns what was said about the group while it travelled, oldest first.
    ///
    /// Trees show it below the group. In an outer group, the contexts that were put around the group follow.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// Appends a note to the group.
    ///
    /// # Examples
    ///
    /// ```
    /// let crawl = || {
    ///     tassel::scope(|s| {
    ///         s.job("load").spawn(|| -> tassel::Result<()> { anyhow::bail!("disk full") });
    ///         Ok(())
    ///     })
    /// };
    /// let Err(mut group) = crawl() else { panic!("the disk is not full") };
    /// group.add_note("on the second attempt");
    /// assert!(format!("{group:?}").contains("\nnote: on the second attempt\n"));
    /// ```
    pub fn add_note(&mut self, note: impl Into<String>) {
        self.0.notes.push(note.into());
    }

    /// Appends to each leaf of the tree the note that `note` has for it.
    ///
    /// # Examples
    ///
    /// ```
    /// # let mut group = tassel::scope(|_| -> tassel::Result<()> { anyhow::bail!("disk full") }).unwrap_err();
    /// group.note_leaves(|leaf| leaf.is_panic().then(|| "please report this".to_owned()));
    /// # assert!(group.primary().notes().is_empty());
    /// ```
    pub fn note_leaves(&mut self, mut note: impl FnMut(&Leaf) -> Option<String>) {
        let mut levels = vec![self.0.children.iter_mut()];
        while let Some(level) = levels.last_mut() {
            match level.next() {
                None => drop(levels.pop()),
                Some(Node::Group(sub)) => levels.push(sub.group.0.children.iter_mut()),
                Some(Node::Leaf(leaf)) => {
                    if let Some(note) = note(leaf) {
                        leaf.add_note(note);
                    }
                }
            }
        }
    }

    /// Returns the first failure: the one that made the scope cancel the rest.
    ///
    /// If the first child is a group, it is that group's first failure. In a part of a group ([`split`](Self::split)) it
    /// is the first that the part has; [`Leaf::is_primary`] tells whether it is the scope's.
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
    use super::*;
    use crate::error::{
        Failure, Log, ScopeInfo,
        given::{body, deadline, failed, group, info, job, mixed, returned, stop},
    };

    #[test]
    fn find_looks_at_every_leaf() {
        let inner = group("parse", 1, [(job(1, "B.1"), Failure::Error(anyhow::Error::new(fmt::Error).context("c")))]);
        let outer = group("crawl", 2, [(job(2, "a"), failed("x")), (job(3, "B"), returned(inner))]);
        assert!(outer.find::<fmt::Error>().is_some());
        assert!(outer.find::<std::io::Error>().is_none());
        assert_eq!(outer.into_leaves().map(|leaf| leaf.name().into_owned()).collect::<Vec<_>>(), ["a", "B.1"]);
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

    // S25:
    #[test]
    fn a_note_is_put_on_the_leaves_that_it_is_for() {
        let mut group = mixed();
        group.note_leaves(|leaf| leaf.is_panic().then(|| format!("report {}", leaf.name())));
        let notes: Vec<_> = group.leaves().map(|leaf| leaf.notes().to_vec()).collect();
        assert_eq!(notes, [vec![], vec![], vec!["report B.2".to_owned()], vec!["report c".to_owned()]]);
    }
}
