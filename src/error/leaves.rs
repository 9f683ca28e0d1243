//! Taking a group apart into its leaves, or into what its only leaf was.
//!
//! # Promises
//!
//! 1. Each leaf comes out once, depth first, and with the notes of the groups around it that no leaf before it has taken.
//! 2. Nothing here recurses.
//!
//! # Does not know
//!
//! How a group came to be.

use std::{mem, panic::resume_unwind, thread, vec};

use super::{
    group::{ErrorGroup, Node},
    leaf::Leaf,
};

impl ErrorGroup {
    /// Makes all leaves of the tree direct children of one group, depth first.
    ///
    /// The group counts the jobs of all the scopes. The notes of an inner group become notes of its first leaf; what else
    /// is known of inner groups is dropped. Each leaf still tells where it stood: see [`Leaf::path`].
    ///
    /// # Examples
    ///
    /// ```
    /// let group = tassel::scope(|s| {
    ///     s.job("crawl").spawn(|| {
    ///         tassel::scope(|_| -> tassel::Result<()> { anyhow::bail!("bad tag") })?;
    ///         Ok(())
    ///     });
    ///     Ok(())
    /// })
    /// .unwrap_err();
    ///
    /// assert!(group.iter().all(|child| child.group().is_some()));
    /// assert!(group.flatten().iter().all(|child| child.leaf().is_some()));
    /// ```
    pub fn flatten(mut self) -> ErrorGroup {
        let mut leaves = IntoLeaves::new(mem::take(&mut self.0.children), Vec::new());
        self.0.children = leaves.by_ref().map(Node::Leaf).collect();
        self.0.info.jobs += leaves.jobs;
        self.0.dropped += leaves.dropped;
        self.count();
        self
    }

    /// Takes the tree apart into its leaves, depth first.
    ///
    /// The notes of a group become notes of its first leaf.
    pub fn into_leaves(mut self) -> impl Iterator<Item = Leaf> {
        IntoLeaves::new(mem::take(&mut self.0.children), mem::take(&mut self.0.notes))
    }

    /// Returns the leaf, if it is the only one of the whole tree.
    ///
    /// The notes of the groups around it become notes of the leaf, the outermost last.
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
    pub fn into_single(self) -> Result<Leaf, ErrorGroup> {
        if self.0.leaves != 1 {
            return Err(self);
        }
        self.into_leaves().next().ok_or_else(|| unreachable!("a group of no errors got out"))
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

struct IntoLeaves {
    levels: Vec<vec::IntoIter<Node>>,
    /// Of the groups entered since the last leaf.
    notes: Vec<Vec<String>>,
    /// Of all inner scopes met so far.
    jobs: u64,
    dropped: u64,
}

impl IntoLeaves {
    fn new(children: Vec<Node>, notes: Vec<String>) -> Self {
        IntoLeaves { levels: vec![children.into_iter()], notes: vec![notes], jobs: 0, dropped: 0 }
    }
}

impl Iterator for IntoLeaves {
    type Item = Leaf;

    fn next(&mut self) -> Option<Leaf> {
        loop {
            match self.levels.last_mut()?.next() {
                Some(Node::Leaf(mut leaf)) => {
                    leaf.notes_mut().extend(self.notes.drain(..).rev().flatten());
                    return Some(leaf);
                }
                Some(Node::Group(mut sub)) => {
                    self.jobs += sub.group.0.info.jobs;
                    self.dropped += sub.group.0.dropped;
                    self.notes.push(mem::take(&mut sub.group.0.notes));
                    self.levels.push(mem::take(&mut sub.group.0.children).into_iter());
                }
                None => {
                    self.levels.pop();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        borrow::Cow,
        fmt,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use super::*;
    use crate::error::{
        Failure,
        given::{failed, group, job, mixed, names, nested, on_a_small_stack, panicked},
    };

    // S16:
    #[test]
    fn flat_a_group_has_leaves_only_and_their_notes() {
        let flat = mixed().flatten();
        assert_eq!(names(&flat), ["a", "B.1", "B.2", "c"]);
        assert!(flat.iter().all(|child| child.leaf().is_some()));
        assert_eq!(flat.notes(), ["noted"]);
        let notes: Vec<_> = flat.leaves().map(|leaf| leaf.notes().join(", ")).collect();
        assert_eq!(notes, ["", "inside, around", "", ""]);
        assert_eq!(flat.to_string(), "scope `crawl`: 4 of 11 jobs failed; first: job `a` failed");
        let leaves: Vec<_> = mixed().into_leaves().collect();
        assert_eq!((leaves.len(), leaves[0].notes(), leaves[1].notes().len()), (4, &["noted".to_owned()][..], 2));
    }

    #[test]
    fn only_one_leaf_in_the_whole_tree_is_a_single() {
        let inner = group("parse", 1, [(job(1, "B.1"), failed("x"))]);
        let error = anyhow::Error::new(inner).context("noted");
        let mut outer = group("crawl", 1, [(job(2, "B"), Failure::Error(error))]);
        outer.add_note("last");
        let leaf = outer.into_single().unwrap();
        assert_eq!((leaf.name(), leaf.notes().join(", ")), (Cow::Borrowed("B.1"), "noted, last".to_owned()));
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
}
