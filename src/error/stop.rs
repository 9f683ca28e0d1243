//! What counts as a stop, and what was said around it.
//!
//! # Promises
//!
//! 1. A [`Cancelled`] is found anywhere in the chain of an error, also where an error forwards `source` to what it holds
//!    and so leaves it out: an `io::Error`, a `transparent` enum of `thiserror`, an `anyhow::Error` in either. There the
//!    question is passed on to the hidden error, which answers with itself; see [`looking`].
//! 2. The search ends at the first error of the library. A group, leaf or time-out that was judged a failure stays one,
//!    whatever lies beneath.
//!
//! # Does not know
//!
//! Whether somebody is in fact cancelled: the scope decides that, by its nodes.

use std::error::Error;

use super::{
    group::ErrorGroup,
    join::JoinError,
    leaf::Leaf,
    lock::LockError,
    panic::{CHAIN, shown, source_of},
};
use crate::cancel::reason::{Cancelled, looking};

/// The first error of the library in a chain.
#[derive(Clone, Copy)]
enum Ours<'e> {
    Stop(&'e Cancelled),
    Group(&'e ErrorGroup),
    Leaf(&'e Leaf),
    Join(&'e JoinError),
    Lock(&'e LockError),
}

impl<'e> Ours<'e> {
    fn of(link: &'e (dyn Error + 'static)) -> Option<Self> {
        None.or_else(|| link.downcast_ref().map(Ours::Stop))
            .or_else(|| link.downcast_ref().map(Ours::Group))
            .or_else(|| link.downcast_ref().map(Ours::Leaf))
            .or_else(|| link.downcast_ref().map(Ours::Join))
            .or_else(|| link.downcast_ref().map(Ours::Lock))
    }

    /// Looks down a chain, and shows what it passes.
    fn find(error: &'e anyhow::Error, mut pass: impl FnMut(&'e (dyn Error + 'static))) -> Option<Self> {
        let mut link: &(dyn Error + 'static) = &**error;
        for _ in 0..CHAIN {
            let ours = Ours::of(link);
            if ours.is_some() {
                return ours;
            }
            pass(link);
            link = looking(|| source_of(link))?;
        }
        None
    }

    fn stop(self) -> Option<Cancelled> {
        match self {
            Ours::Stop(stop) => Some(stop.clone()),
            Ours::Group(group) => group.as_stop().cloned(),
            Ours::Leaf(leaf) => leaf.stop().cloned(),
            Ours::Join(join) => join.stop(),
            Ours::Lock(lock) => lock.stop().cloned(),
        }
    }
}

/// Finds the stop that an error is, if it is one: a [`Cancelled`] in its chain, a `JoinError` or `LockError` that speaks of a
/// cancel, a leaf that is a stop, or a group that holds nothing else.
///
/// Runs the user's `source`.
pub(crate) fn stop_in(error: &anyhow::Error) -> Option<Cancelled> {
    Ours::find(error, |_| ())?.stop()
}

/// What was put around a stop, oldest first: contexts and errors of the user, and the notes of a group or leaf that it
/// came in.
///
/// Runs the user's `source` and `Display`.
pub(crate) fn around_stop(error: &anyhow::Error) -> Vec<String> {
    let mut around = Vec::new();
    let Some(ours) = Ours::find(error, |link| around.push(link)) else { return Vec::new() };
    let mut notes = match ours {
        Ours::Stop(_) | Ours::Join(_) | Ours::Lock(_) => Vec::new(),
        Ours::Group(group) => [group.primary().notes(), group.notes()].concat(),
        Ours::Leaf(leaf) => leaf.notes().to_vec(),
    };
    if around.is_empty() {
        return notes;
    }
    // What forwards `source` most often forwards the text as well, and has nothing to say itself.
    let mut last = match ours {
        Ours::Stop(stop) => shown(stop),
        Ours::Group(group) => shown(group),
        Ours::Leaf(leaf) => shown(leaf),
        Ours::Join(join) => shown(join),
        Ours::Lock(lock) => shown(lock),
    };
    for link in around.into_iter().rev() {
        let text = shown(link);
        if text != last {
            notes.push(text.clone());
            last = text;
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::{fmt, io, sync::Arc};

    use anyhow::Context as _;

    use super::*;
    use crate::error::{
        Failure, JobId, Log,
        given::{body, deadline, failed, group, info, job, join_failed, plain, stop, timeout},
    };

    #[derive(Debug, thiserror::Error)]
    enum Mine {
        #[error("reading")]
        Io(#[from] io::Error),
        #[error("sharing")]
        Shared(#[source] Arc<io::Error>),
    }

    #[test]
    fn a_stop_is_found_bare() {
        let found = stop_in(&stop("s").into()).unwrap();
        assert_eq!(plain(&found.to_string()), "scope `s` was stopped: deadline of 2s (x.rs:1)");
        assert!(stop_in(&anyhow::anyhow!("disk full")).is_none());
    }

    #[test]
    fn a_stop_is_found_in_a_context() {
        assert!(stop_in(&Err::<(), _>(stop("s")).context("a").context("b").unwrap_err()).is_some());
    }

    #[test]
    fn a_stop_is_found_in_an_io_error() {
        assert!(stop_in(&io::Error::from(stop("s")).into()).is_some());
        assert!(stop_in(&anyhow::Error::new(io::Error::from(stop("s"))).context("a")).is_some());
        assert!(stop_in(&io::Error::other(io::Error::from(stop("s"))).into()).is_some());
        assert!(stop_in(&io::Error::from(io::ErrorKind::NotFound).into()).is_none());
    }

    #[test]
    fn a_stop_is_found_in_an_io_error_in_an_enum_of_the_user() {
        assert!(stop_in(&Mine::from(io::Error::from(stop("s"))).into()).is_some());
        assert!(stop_in(&Mine::Shared(Arc::new(stop("s").into())).into()).is_some());
        assert!(stop_in(&Mine::from(io::Error::other("disk full")).into()).is_none());
    }

    #[test]
    fn a_stop_is_found_in_a_group_of_stops_only() {
        let stopped = || group("s", 0, [(body(1), Failure::Stopped(stop("outer")))]);
        assert!(stop_in(&stopped().into()).is_some());
        assert!(stop_in(&anyhow::Error::new(stopped()).context("a")).is_some());
        assert!(stop_in(&io::Error::from(stopped()).into()).is_some());
        let back = io::Error::from(stopped()).downcast::<ErrorGroup>().unwrap();
        assert!(back.as_stop().is_some());
        let failures = [(body(1), Failure::Error(stop("elsewhere").into())), (job(2, "a"), failed("x"))];
        let mixed = group("s", 1, failures);
        assert!(stop_in(&io::Error::from(mixed).into()).is_none());
        let failures = [(body(1), Failure::Error(stop("elsewhere").into())), (job(2, "a"), failed("x"))];
        assert!(stop_in(&group("s", 1, failures).into()).is_none());
    }

    #[test]
    fn a_stop_is_found_in_what_speaks_of_a_cancel() {
        let (id, name) = (JobId::new(1), Arc::from("a"));
        let cancelled = JoinError::Cancelled { id, name, reason: deadline("s"), started: false };
        assert!(stop_in(&cancelled.into()).is_some());
        assert!(stop_in(&anyhow::Error::new(JoinError::You(stop("s"))).context("a")).is_some());
        assert!(stop_in(&join_failed(1, "a")).is_none());
        assert!(stop_in(&Leaf::new(body(1), Failure::Stopped(stop("s")), true).into()).is_some());
        assert!(stop_in(&Leaf::new(body(1), Failure::Error(stop("s").into()), true).into()).is_none());
    }

    #[derive(Debug, thiserror::Error)]
    enum Seen {
        #[error(transparent)]
        Stop(#[from] Cancelled),
        #[error(transparent)]
        Io(#[from] io::Error),
        #[error(transparent)]
        Other(#[from] anyhow::Error),
        #[error(transparent)]
        Join(#[from] JoinError),
        #[error(transparent)]
        Group(#[from] ErrorGroup),
        #[error(transparent)]
        Deeper(Box<Seen>),
    }

    #[test]
    fn a_stop_is_found_in_what_forwards_its_source() {
        let stopped = group("s", 0, [(body(1), Failure::Stopped(stop("outer")))]);
        let you = || JoinError::You(stop("s"));
        let cancelled =
            JoinError::Cancelled { id: JobId::new(1), name: "a".into(), reason: deadline("s"), started: true };
        let seen: [Seen; 9] = [
            stop("s").into(),
            io::Error::from(stop("s")).into(),
            io::Error::other(io::Error::from(stop("s"))).into(),
            anyhow::Error::from(stop("s")).into(),
            anyhow::Error::from(you()).context("a").into(),
            you().into(),
            cancelled.into(),
            stopped.into(),
            Seen::Deeper(Box::new(io::Error::from(stop("s")).into())),
        ];
        for error in seen {
            let told = format!("{error:?}");
            assert!(stop_in(&error.into()).is_some(), "{told}");
        }
        let real: [Seen; 4] = [
            io::Error::other("disk full").into(),
            timeout_of_an_io().into(),
            anyhow::Error::from(timeout("s")).into(),
            group("s", 2, [(body(1), Failure::Error(stop("s").into())), (job(2, "a"), failed("x"))]).into(),
        ];
        for error in real {
            let told = format!("{error:?}");
            assert!(stop_in(&error.into()).is_none(), "{told}");
        }
    }

    fn timeout_of_an_io() -> io::Error {
        timeout("s").into()
    }

    #[test]
    fn only_the_search_sees_a_stop_as_its_own_source() {
        let error = stop("s");
        assert!(stop_in(&error.clone().into()).is_some());
        assert!(error.source().is_none());
        assert_eq!(anyhow::Error::new(Seen::from(error)).chain().count(), 1);
    }

    #[test]
    fn an_error_that_walks_down_a_chain_by_itself_comes_to_its_end() {
        #[derive(Debug, thiserror::Error)]
        #[error("mine")]
        struct Root(anyhow::Error);
        #[derive(Debug)]
        struct Walks(Root);
        impl fmt::Display for Walks {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("walks")
            }
        }
        impl Error for Walks {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                let links = self.0.0.chain().take(100).enumerate();
                links.last().and_then(|(steps, link)| (steps < 99).then_some(link))
            }
        }
        let error = Walks(Root(anyhow::Error::new(stop("s")).context("a")));
        assert!(stop_in(&error.into()).is_some());
    }

    #[test]
    fn what_was_put_around_a_stop_is_told_oldest_first_and_once() {
        let around = |error: anyhow::Error| around_stop(&error);
        assert_eq!(around(stop("s").into()), [""; 0]);
        assert_eq!(around(anyhow::anyhow!("disk full").context("a")), [""; 0]);
        assert_eq!(around(anyhow::Error::new(stop("s")).context("older").context("newer")), ["older", "newer"]);
        assert_eq!(around(io::Error::from(stop("s")).into()), [""; 0]);
        assert_eq!(around(Seen::from(io::Error::from(stop("s"))).into()), [""; 0]);
        let mine = Mine::from(io::Error::from(stop("s")));
        assert_eq!(around(anyhow::Error::new(mine).context("in turn")), ["reading", "in turn"]);
        assert_eq!(around(anyhow::Error::new(JoinError::You(stop("s"))).context("joining")), ["joining"]);
    }

    #[test]
    fn what_was_put_around_a_stop_inside_is_told_first() {
        let leaf = || Leaf::new(body(1), Failure::Stopped(stop("s")), true).with_notes(vec!["inside".to_owned()]);
        assert_eq!(around_stop(&anyhow::Error::new(leaf()).context("outside")), ["inside", "outside"]);
        let mut log = Log::new();
        log.put(leaf());
        let group = anyhow::Error::new(log.into_group(info("s", 1)));
        assert_eq!(around_stop(&group.context("outside")), ["inside", "outside"]);
    }

    #[test]
    fn a_timeout_is_no_stop() {
        assert!(stop_in(&timeout("s").into()).is_none());
        assert!(stop_in(&io::Error::from(timeout("s")).into()).is_none());
    }

    #[test]
    fn an_error_that_is_its_own_cause_is_looked_at_for_a_while_only() {
        #[derive(Debug, thiserror::Error)]
        #[error("again")]
        struct Again;
        #[derive(Debug)]
        struct Loop;
        impl fmt::Display for Loop {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("loop")
            }
        }
        impl Error for Loop {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }
        assert!(stop_in(&Again.into()).is_none());
        assert!(stop_in(&Loop.into()).is_none());
        let group = group("s", 1, [(job(1, "a"), Failure::Error(Loop.into()))]);
        assert_eq!(format!("{:#}", group.primary()), "job `a` failed: loop");
    }
}
