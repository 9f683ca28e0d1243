//! Taking a group apart in two: by value, so that no error is copied.
//!
//! The names are those of Python's exception groups (PEP 654): `split`, `subgroup`, and in `handle` what is `except*` there.
//!
//! # Promises
//!
//! 1. *A partition.* Each leaf lands on exactly one side, as it was recorded: with name, place, time and notes, and still
//!    the scope's first failure if it was that.
//! 2. *The shape stays.* Both sides keep the groups around their leaves, with all that is known of these; notes are
//!    copied. A group left empty disappears, and so no side is ever an empty group.
//! 3. Nothing here recurses.
//!
//! # Does not know
//!
//! How a group came to be.

use std::{mem, vec};

use super::group::{Child, ErrorGroup, Node, SubGroup};

/// A group of which both sides are being collected.
struct Frame {
    /// None at the top.
    owner: Option<Box<SubGroup>>,
    rest: vec::IntoIter<Node>,
    yes: Vec<Node>,
    no: Vec<Node>,
}

impl Frame {
    fn new(owner: Option<Box<SubGroup>>, children: Vec<Node>) -> Self {
        Frame { owner, rest: children.into_iter(), yes: Vec::new(), no: Vec::new() }
    }
}

impl SubGroup {
    /// Makes the two sides of a group whose children were taken.
    fn fill(self, yes: Vec<Node>, no: Vec<Node>) -> [Option<Node>; 2] {
        let SubGroup { origin, during_cancellation, panicked, also, group } = self;
        group.fill(yes, no).map(|half| {
            let (origin, also) = (origin.clone(), also.clone());
            half.map(|group| Node::Group(Box::new(SubGroup { origin, during_cancellation, panicked, also, group })))
        })
    }
}

impl ErrorGroup {
    /// As [`SubGroup::fill`].
    fn fill(self, yes: Vec<Node>, no: Vec<Node>) -> [Option<ErrorGroup>; 2] {
        let both = !yes.is_empty() && !no.is_empty();
        let mut twin = both.then(|| ErrorGroup::hollow(self.0.info.clone()));
        if let Some(twin) = &mut twin {
            twin.0.notes.clone_from(&self.0.notes);
            twin.0.dropped = self.0.dropped;
        }
        let with = |mut group: ErrorGroup, children| {
            group.0.children = children;
            group.count();
            group
        };
        match twin {
            Some(twin) => [Some(with(self, yes)), Some(with(twin, no))],
            None if no.is_empty() => [Some(with(self, yes)), None],
            None => [None, Some(with(self, no))],
        }
    }

    /// Splits the group into what `matches` and what does not.
    ///
    /// Asked about each inner group before what is in it: if it matches, all of it goes to the first side, unchanged. Each
    /// leaf lands on exactly one side. Both sides keep the groups around their leaves, with names, places, times and notes;
    /// groups left empty disappear. If all leaves match, or none, the group itself is returned on that side, and the
    /// other is `None`. Errors are moved, never copied.
    ///
    /// # Panics
    ///
    /// A panic of `matches` passes through, and the group is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use tassel::{ErrorGroup, OnFailure, ScopeOptions};
    ///
    /// let group = ScopeOptions::new()
    ///     .on_failure(OnFailure::KeepGoing)
    ///     .open(|s| {
    ///         s.job("load").spawn(|| Ok("twelve".parse::<u32>()?));
    ///         s.job("draw").spawn(|| -> tassel::Result<()> { panic!("no ink") });
    ///         Ok(())
    ///     })
    ///     .unwrap_err();
    ///
    /// let (panics, errors) = group.split(|child| child.is_panic());
    /// assert_eq!(panics.unwrap().primary().name(), "draw");
    /// assert_eq!(errors.unwrap().primary().name(), "load");
    /// ```
    pub fn split(mut self, mut matches: impl FnMut(Child<'_>) -> bool) -> (Option<ErrorGroup>, Option<ErrorGroup>) {
        let mut frame = Frame::new(None, mem::take(&mut self.0.children));
        let mut outer = Vec::new();
        loop {
            match frame.rest.next() {
                Some(node) if matches(node.shown()) => frame.yes.push(node),
                Some(leaf @ Node::Leaf(_)) => frame.no.push(leaf),
                Some(Node::Group(mut sub)) => {
                    let inner = mem::take(&mut sub.group.0.children);
                    outer.push(mem::replace(&mut frame, Frame::new(Some(sub), inner)));
                }
                None => {
                    let Frame { owner, yes, no, .. } = frame;
                    let (Some(sub), Some(around)) = (owner, outer.pop()) else {
                        let [yes, no] = self.fill(yes, no);
                        return (yes, no);
                    };
                    let [yes, no] = (*sub).fill(yes, no);
                    frame = around;
                    frame.yes.extend(yes);
                    frame.no.extend(no);
                }
            }
        }
    }

    /// Keeps what `matches`, and drops the rest: the first half of [`split`](Self::split).
    ///
    /// # Panics
    ///
    /// As [`split`](Self::split).
    #[must_use = "what does not match was dropped"]
    pub fn subgroup(self, matches: impl FnMut(Child<'_>) -> bool) -> Option<ErrorGroup> {
        self.split(matches).0
    }
}

#[cfg(test)]
mod tests {
    use std::{
        borrow::Cow,
        panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    };

    use super::*;
    use crate::error::{
        Leaf,
        given::{child, failed, group, is_panic, job, mixed, names, nested, on_a_small_stack, panicked, tree},
    };

    const NO: fn(Child<'_>) -> bool = |_| false;

    // S20, S22, S24:
    #[test]
    fn both_sides_of_a_split_keep_shape_names_places_times_and_notes() {
        let (yes, no) = mixed().split(is_panic);
        let (mut panics, errors) = (yes.unwrap(), no.unwrap());
        let golden = "\
scope `crawl` (x.rs:1): 2 of 8 jobs failed
note: noted
├─ job `B` (x.rs:1) failed after 4s, while being cancelled: scope `parse` (x.rs:1): 1 of 3 jobs failed
│  note: inside
│  note: around
│  └─ job `B.2` (x.rs:1) panicked after 2s, while being cancelled: boom
└─ job `c` (x.rs:1) panicked after 5s, while being cancelled: y";
        assert_eq!(tree(&panics), golden);
        let golden = "\
scope `crawl` (x.rs:1): 2 of 8 jobs failed
note: noted
├─ job `a` (x.rs:1) failed after 3s: x
└─ job `B` (x.rs:1) failed after 4s, while being cancelled: scope `parse` (x.rs:1): 1 of 3 jobs failed
   note: inside
   note: around
   └─ job `B.1` (x.rs:1) failed after 1s: cannot save: disk full";
        assert_eq!(tree(&errors), golden);
        // Copied, not shared.
        panics.add_note("of the panics");
        assert_eq!((panics.notes().len(), errors.notes().len()), (2, 1));
    }

    // S20:
    #[test]
    fn where_all_or_none_match_the_group_comes_back_whole() {
        let whole = tree(&mixed());
        let (yes, no) = mixed().split(|child| child.leaf().is_some());
        assert_eq!((tree(&yes.unwrap()), no.is_none()), (whole.clone(), true));
        let (yes, no) = mixed().split(NO);
        assert_eq!((yes.is_none(), tree(&no.unwrap())), (true, whole));
        assert!(mixed().subgroup(NO).is_none());
    }

    // S20:
    #[test]
    fn a_group_that_matches_moves_as_it_is_and_its_leaves_are_not_asked_about() {
        let mut asked = Vec::new();
        let (yes, no) = mixed().split(|child| {
            asked.push(child.origin().name().into_owned());
            child.group().is_some()
        });
        assert_eq!(asked, ["a", "B", "c"]);
        assert_eq!(names(&no.unwrap()), ["a", "c"]);
        let yes = yes.unwrap();
        assert_eq!(format!("{:?}", child(&yes, 0)), format!("{:?}", child(&mixed(), 1)));
        assert_eq!(yes.iter().len(), 1);
    }

    // S20, S14:
    #[test]
    fn a_part_knows_its_numbers_and_that_it_lacks_the_first_failure() {
        let (yes, no) = mixed().split(is_panic);
        let (panics, errors) = (yes.unwrap(), no.unwrap());
        assert_eq!((panics.len(), errors.len()), (2, 2));
        assert_eq!((panics.primary().name(), panics.primary().is_primary()), (Cow::Borrowed("B.2"), false));
        let firsts = |group: &ErrorGroup| group.leaves().map(Leaf::is_primary).collect::<Vec<_>>();
        // In `parse` it was `B.1`.
        assert_eq!((firsts(&panics), firsts(&errors)), (vec![false, false], vec![true, true]));
        assert_eq!(errors.resume_panic().len(), 2);
        assert!(catch_unwind(AssertUnwindSafe(|| panics.resume_panic())).is_err());
    }

    // S23:
    #[test]
    fn deep_groups_are_taken_apart_on_a_small_stack() {
        on_a_small_stack(|| {
            let two = || nested(group("s", 2, [(job(1, "a"), failed("x")), (job(2, "b"), panicked("y"))]));
            let (yes, no) = two().split(is_panic);
            assert_eq!((names(&yes.unwrap()), names(&no.unwrap())), (vec!["b".to_owned()], vec!["a".to_owned()]));
            assert!(two().subgroup(NO).is_none());
            let flat = two().flatten();
            assert_eq!((flat.iter().len(), flat.len()), (2, 2));
            let mut noted = two();
            noted.note_leaves(|_| Some("deep".to_owned()));
            assert_eq!(noted.primary().notes(), ["deep"]);
            let mut left = 50_000;
            let half_way = catch_unwind(AssertUnwindSafe(|| {
                let _ = noted.split(|_| {
                    left -= 1;
                    if left == 0 { resume_unwind(Box::new("enough")) } else { false }
                });
            }));
            assert!(half_way.is_err());
        });
    }
}
