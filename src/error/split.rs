//! Taking a group apart: by value, so that no error is copied.
//!
//! The names are those of Python's exception groups (PEP 654): `split`, `subgroup`, and `handle` for `except*`.
//!
//! # Promises
//!
//! 1. *A partition.* Each leaf lands on exactly one side, as it was recorded: with name, place, time and notes, and still
//!    the scope's first failure if it was that.
//! 2. *The shape stays.* Both sides keep the groups around their leaves, with all that is known of these; notes are
//!    copied. A group left empty disappears, and so no side is ever an empty group.
//! 3. Nothing is lost: what a handler returns or throws joins what it was not asked about.
//! 4. Nothing here recurses.
//!
//! # Does not know
//!
//! How a group came to be.

use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind},
    thread,
    time::Duration,
    vec,
};

use super::{
    group::{Child, ErrorGroup, Node, SubGroup},
    leaf::{Failure, JobId, Leaf, Origin, Role, thread_name},
    panic::drop_guarded,
    stop::{around_stop, stop_in},
};
use crate::cancel::current;

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
    /// let (panics, errors) = group.split(|child| child.leaf().is_some_and(|leaf| leaf.is_panic()));
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

    /// Gives all leaves whose error is an `E` to a handler, and returns the rest.
    ///
    /// What Python writes as `except*`. Leaves match as [`Leaf::downcast_ref`] finds, beneath contexts and in inner groups;
    /// the handler gets them as a group of the same shape, and is not called if there are none. Then they are gone. If
    /// nothing is left, the result is `None`.
    ///
    /// If the handler fails, by an error or a panic, that failure joins the rest as its last child: a leaf called
    /// `handler`, whose place is this call and whose time is that of the last failure that it was given; or a group, if
    /// it returned one. So a handler that is not done with what it got may give it back. If the handler was
    /// told to stop, the leaf is a stop ([`Leaf::stop`]), and if nothing else is left, a cancelled scope around takes the
    /// group in as one. Failures that the scope did not keep ([`dropped`](Self::dropped)) cannot be asked about: `None`
    /// says that all kept ones were handled.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{io, num::ParseIntError};
    /// use tassel::{OnFailure, ScopeOptions};
    ///
    /// let group = ScopeOptions::new()
    ///     .on_failure(OnFailure::KeepGoing)
    ///     .open(|s| {
    ///         s.spawn(|| Ok("twelve".parse::<u32>()?));
    ///         s.spawn(|| -> tassel::Result<()> { Err(io::Error::other("disk full").into()) });
    ///         Ok(())
    ///     })
    ///     .unwrap_err();
    ///
    /// let mut bad_words = 0;
    /// let rest = group.handle::<ParseIntError>(|bad| Ok(bad_words += bad.len()));
    /// assert_eq!((bad_words, rest.map(|rest| rest.len())), (1, Some(1)));
    /// ```
    #[must_use = "it holds the errors that were not handled"]
    #[track_caller]
    pub fn handle<E>(self, handler: impl FnOnce(ErrorGroup) -> anyhow::Result<()>) -> Option<ErrorGroup>
    where
        E: fmt::Display + fmt::Debug + Send + Sync + 'static,
    {
        let place = Location::caller();
        let (given, rest) = self.split(|child| child.leaf().is_some_and(|leaf| leaf.downcast_ref::<E>().is_some()));
        let Some(given) = given else { return rest };
        let (info, dropped) = (given.0.info.clone(), given.0.dropped);
        let offset = given.0.children.iter().map(|child| child.shown().origin().offset).max();
        let (failure, notes) = match catch_unwind(AssertUnwindSafe(|| handler(given))) {
            Ok(Ok(())) => return rest,
            Ok(Err(error)) => match stop_in(&error) {
                Some(stop) => {
                    let notes = around_stop(&error);
                    drop_guarded(error);
                    (Failure::Stopped(stop), notes)
                }
                None => (Failure::Error(error), Vec::new()),
            },
            Err(payload) => (Failure::Panic(payload), Vec::new()),
        };
        let origin = handler_origin(place, offset.unwrap_or_default());
        let mut all = rest.unwrap_or_else(|| ErrorGroup::hollow(info));
        all.0.dropped = dropped;
        all.0.children.push(Node::new(Leaf::new(origin, failure, false).with_notes(notes)));
        // It is no longer the group of a scope that only stopped on purpose.
        all.0.info.stopped = false;
        all.count();
        Some(all)
    }

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

fn handler_origin(place: &'static Location<'static>, offset: Duration) -> Origin {
    let above = current::with(|frame| frame.map(|frame| frame.strand.path()));
    let path = match above {
        Some(above) if !above.is_empty() => format!("{above}/handler").into(),
        _ => "handler".into(),
    };
    Origin {
        id: JobId::new(current::next_id()),
        name: None,
        role: Role::Handler,
        place,
        number: 0,
        path,
        offset,
        took: Duration::ZERO,
        thread: thread_name(),
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
        given::{
            body, causes, child, deadline, failed, group, info, job, names, nested, on_a_small_stack, panicked, plain,
            returned, stop, tree,
        },
    };

    /// Two errors and two panics, of which one each is in an inner group, with notes on both groups.
    fn mixed() -> ErrorGroup {
        let mut inner = group("parse", 3, [(job(1, "B.1"), causes()), (job(2, "B.2"), panicked("boom"))]);
        inner.add_note("inside");
        let error = anyhow::Error::new(inner).context("around");
        let all = [(job(3, "a"), failed("x")), (job(4, "B"), Failure::Error(error)), (job(5, "c"), panicked("y"))];
        let mut outer = group("crawl", 8, all);
        outer.add_note("noted");
        outer
    }

    fn is_panic(child: Child<'_>) -> bool {
        child.leaf().is_some_and(Leaf::is_panic)
    }

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

    // S21:
    #[test]
    fn handled_leaves_are_gone_and_the_rest_stays() {
        let mut given = Vec::new();
        let rest = mixed().handle::<fmt::Error>(|_| panic!("there is none"));
        assert_eq!(rest.map(|rest| tree(&rest)), Some(tree(&mixed())));
        let one = || Failure::Error(anyhow::Error::new(fmt::Error).context("formatting"));
        let inner = group("parse", 2, [(job(1, "B.1"), one()), (job(2, "B.2"), failed("x"))]);
        let outer = group("crawl", 2, [(job(3, "a"), one()), (job(4, "B"), returned(inner))]);
        let rest = outer.handle::<fmt::Error>(|sub| {
            given = names(&sub);
            assert_eq!(child(&sub, 1).name(), "B");
            Ok(())
        });
        assert_eq!((given, names(&rest.unwrap())), (vec!["a".to_owned(), "B.1".to_owned()], vec!["B.2".to_owned()]));
        let all = group("crawl", 1, [(job(1, "a"), one())]);
        assert!(all.handle::<fmt::Error>(|_| Ok(())).is_none());
    }

    // S21:
    #[test]
    fn what_a_handler_fails_with_joins_the_rest_as_a_new_child() {
        let group =
            || group("crawl", 8, [(job(1, "a"), Failure::Error(fmt::Error.into())), (job(2, "b"), failed("x"))]);
        let rest = group().handle::<fmt::Error>(|_| anyhow::bail!("no retry")).unwrap();
        assert_eq!(rest.to_string(), "scope `crawl`: 1 of 8 jobs and the handler failed; first: job `b` failed");
        let (line, text) = (line!() - 2, tree(&rest));
        let golden = format!(
            "\
scope `crawl` (x.rs:1): 1 of 8 jobs and the handler failed
├─ job `b` (x.rs:1) failed after 2s, while being cancelled: x
└─ the handler ({}:{line}) failed after 1s: no retry",
            file!()
        );
        assert_eq!(text, golden);
        let thrown = group().handle::<fmt::Error>(|_| panic!("no ink")).unwrap();
        let leaf = thrown.leaves().last().unwrap();
        assert_eq!(
            (leaf.name(), leaf.panic_message(), leaf.path()),
            (Cow::Borrowed("handler"), Some("no ink"), "handler")
        );
        assert_ne!(leaf.id(), thrown.primary().id());
    }

    // S21, S22:
    #[test]
    fn a_handler_that_gives_back_what_it_got_loses_nothing() {
        let group = group("crawl", 2, [(job(1, "a"), Failure::Error(fmt::Error.into())), (job(2, "b"), failed("x"))]);
        let rest = group.handle::<fmt::Error>(|sub| Err(anyhow::Error::new(sub).context("not now"))).unwrap();
        assert_eq!(names(&rest), ["b", "a"]);
        let given_back = child(&rest, 1);
        assert_eq!((given_back.name(), given_back.notes()), (Cow::Borrowed("handler"), &["not now".to_owned()][..]));
        assert!(rest.find::<fmt::Error>().is_some());
    }

    // S21, D16:
    #[test]
    fn a_handler_that_was_stopped_leaves_a_stop() {
        let one = || group("crawl", 2, [(job(1, "a"), Failure::Error(fmt::Error.into()))]);
        let stops = |_| Err(anyhow::Error::new(stop("outer")).context("waiting"));
        let rest = one().handle::<fmt::Error>(stops).unwrap();
        assert!(stop_in(&anyhow::Error::new(rest)).is_some());
        let rest = one().handle::<fmt::Error>(stops).unwrap();
        assert_eq!(rest.primary().notes(), ["waiting"]);
        assert_eq!(plain(&rest.to_string()), "scope `crawl` was stopped: deadline of 2s (x.rs:1)");
    }

    // S21, S36:
    #[test]
    fn a_failed_handler_of_a_stop_is_not_taken_for_a_scope_that_was_stopped() {
        let mut log = crate::error::Log::new();
        log.push(body(1), Failure::Stopped(stop("s")), true);
        let own =
            log.into_group(crate::error::ScopeInfo { stopped: true, reason: Some(deadline("s")), ..info("s", 0) });
        let rest = own.handle::<crate::Cancelled>(|_| anyhow::bail!("disk full")).unwrap();
        assert!(!rest.stopped());
        assert!(rest.to_string().ends_with("`s`: the handler failed"), "{rest}");
    }

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

    // S25:
    #[test]
    fn a_note_is_put_on_the_leaves_that_it_is_for() {
        let mut group = mixed();
        group.note_leaves(|leaf| leaf.is_panic().then(|| format!("report {}", leaf.name())));
        let notes: Vec<_> = group.leaves().map(|leaf| leaf.notes().to_vec()).collect();
        assert_eq!(notes, [vec![], vec![], vec!["report B.2".to_owned()], vec!["report c".to_owned()]]);
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
