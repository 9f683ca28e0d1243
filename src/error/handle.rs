//! Handling failures by kind: what Python writes as `except*`.
//!
//! # Promises
//!
//! Nothing is lost: what a handler returns or throws joins what it was not asked about.
//!
//! # Does not know
//!
//! Whose a stop of a handler is: an exit further out judges that, as of any other.

use std::{
    fmt,
    panic::{AssertUnwindSafe, Location, catch_unwind},
    time::Duration,
};

use super::{
    group::{ErrorGroup, Node},
    leaf::{Failure, JobId, Leaf, Origin, Role, thread_name},
    panic::drop_guarded,
    stop::{around_stop, stop_in},
};
use crate::cancel::current;

impl ErrorGroup {
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
    ///
    /// One handler after the other, in a function that returns what is left for its caller: `?` ends it as soon as nothing
    /// is.
    ///
    /// ```
    /// use std::{io, num::ParseIntError};
    /// use tassel::{ErrorGroup, OnFailure, ScopeOptions};
    ///
    /// fn report(group: ErrorGroup) -> Option<ErrorGroup> {
    ///     group
    ///         .handle::<ParseIntError>(|bad| Ok(eprintln!("{} bad words", bad.len())))?
    ///         .handle::<io::Error>(|lost| Ok(eprintln!("not saved: {}", lost.primary())))
    /// }
    ///
    /// let group = ScopeOptions::new()
    ///     .on_failure(OnFailure::KeepGoing)
    ///     .open(|s| {
    ///         s.spawn(|| Ok("twelve".parse::<u32>()?));
    ///         s.spawn(|| -> tassel::Result<()> { Err(io::Error::other("disk full").into()) });
    ///         Ok(())
    ///     })
    ///     .unwrap_err();
    /// assert!(report(group).is_none());
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
}

fn handler_origin(place: &'static Location<'static>, offset: Duration) -> Origin {
    let above = current::with(|frame| frame.map(|frame| frame.line.path()));
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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::error::{
        Log, ScopeInfo,
        given::{body, child, deadline, failed, group, info, job, mixed, names, plain, returned, stop, tree},
    };

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
        assert_ne!(Some(leaf.id()), rest.leaves().last().map(Leaf::id), "each handler has a number of its own");
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
        let mut log = Log::new();
        log.push(body(1), Failure::Stopped(stop("s")), true);
        let own = log.into_group(ScopeInfo { stopped: true, reason: Some(deadline("s")), ..info("s", 0) });
        let rest = own.handle::<crate::Cancelled>(|_| anyhow::bail!("disk full")).unwrap();
        assert!(!rest.stopped());
        assert!(rest.to_string().ends_with("`s`: the handler failed"), "{rest}");
    }
}
