//! Failures: one [`Leaf`] each, all of a scope in one [`ErrorGroup`], and how they read.
//!
//! A job fails by an error or a panic. Its scope records that as a [`Leaf`] in a `Log`, at its exit the log becomes
//! an [`ErrorGroup`], and a group that reaches an outer scope becomes one child of the outer group.
//!
//! | file | owns |
//! |---|---|
//! | `panic` | payloads, and guards around code of others that may panic |
//! | `leaf` | one failure and where it came from |
//! | `join` | what a joiner is told |
//! | `lock` | why a lock was not taken |
//! | `group` | the tree |
//! | `stop` | what counts as a stop, and what was around it |
//! | `repeat` | failures that only tell of another |
//! | `log` | what a scope records |
//! | `look` | looking at a group, and adding notes |
//! | `split` | taking a group apart in two |
//! | `leaves` | taking it apart into its leaves |
//! | `handle` | handling failures by kind |
//! | `render` | every text but the tree |
//! | `tree` | the text that is a tree |
//! | `json` | the form for other programs, with feature `serde` |
//!
//! Each file imports from those above it only.
//!
//! # Does not know
//!
//! Scopes, nodes, pools, clocks. It is told places and times, and it holds plain data: the scope locks the log, and
//! calls what runs the user's code (`Log::into_group`, `Failure::text`, `Origin::tells`, `stop_in`,
//! `around_stop`) without its lock.

mod group;
mod handle;
mod join;
#[cfg(feature = "serde")]
mod json;
mod leaf;
mod leaves;
mod lock;
mod log;
mod look;
mod panic;
mod render;
mod repeat;
mod split;
mod stop;
mod tree;

pub(crate) use self::{
    group::ScopeInfo,
    leaf::{Failure, Origin, Role, thread_name},
    log::Log,
    panic::drop_guarded,
    stop::{around_stop, stop_in},
};
pub use self::{
    group::{Child, ErrorGroup, SubGroup},
    join::JoinError,
    leaf::{JobId, Leaf},
    lock::LockError,
    look::OrStopped,
};

#[cfg(test)]
mod given {
    //! Failures to test with. Places read `x.rs:1` once [`plain`] has replaced the real ones.

    use std::{
        panic::Location,
        thread,
        time::{Duration, Instant},
    };

    use super::{Child, ErrorGroup, Failure, JobId, JoinError, Leaf, Log, Origin, Role, ScopeInfo, SubGroup};
    use crate::cancel::reason::{Cancelled, Label, Reason, ReasonKind, TimedOut};

    pub(super) fn place() -> &'static Location<'static> {
        Location::caller()
    }

    pub(super) fn plain(text: &str) -> String {
        text.replace(&format!("{}:{}", place().file(), place().line()), "x.rs:1")
    }

    /// A job that fails as many seconds after the scope's opening as its id says.
    pub(super) fn job(id: u64, name: &str) -> Origin {
        Origin { name: Some(name.into()), ..unnamed(id) }
    }

    pub(super) fn unnamed(id: u64) -> Origin {
        Origin {
            id: JobId::new(id),
            name: None,
            role: Role::Job,
            place: place(),
            number: id,
            path: "crawl/job".into(),
            offset: Duration::from_secs(id),
            took: Duration::from_secs(1),
            thread: "main".into(),
        }
    }

    pub(super) fn body(id: u64) -> Origin {
        Origin { role: Role::Body, ..unnamed(id) }
    }

    pub(super) fn failed(text: &'static str) -> Failure {
        Failure::Error(anyhow::Error::msg(text))
    }

    pub(super) fn causes() -> Failure {
        Failure::Error(anyhow::anyhow!("disk full").context("cannot save"))
    }

    pub(super) fn tree(group: &ErrorGroup) -> String {
        plain(&format!("{group:?}"))
    }

    pub(super) fn panicked(text: &'static str) -> Failure {
        Failure::Panic(Box::new(text))
    }

    pub(super) fn returned(group: ErrorGroup) -> Failure {
        Failure::Error(group.into())
    }

    pub(super) fn info(name: &str, jobs: u64) -> ScopeInfo {
        ScopeInfo { name: Some(name.into()), place: place(), jobs, reason: None, stopped: false }
    }

    pub(super) fn group(name: &str, jobs: u64, failures: impl IntoIterator<Item = (Origin, Failure)>) -> ErrorGroup {
        let mut log = Log::new();
        for (origin, failure) in failures {
            let late = !log.is_empty();
            log.push(origin, failure, late);
        }
        log.into_group(info(name, jobs))
    }

    pub(super) fn deadline(scope: &str) -> Reason {
        let name = scope.into();
        Reason::new(ReasonKind::Deadline, Label::new("scope", Some(name), place()), Instant::now())
            .limit_is(Some(Duration::from_secs(2)))
            .place_is(place())
    }

    pub(super) fn stop(scope: &str) -> Cancelled {
        Cancelled::new(deadline(scope))
    }

    pub(super) fn timeout(scope: &str) -> TimedOut {
        TimedOut::new(deadline(scope))
    }

    pub(super) fn join_failed(id: u64, name: &str) -> anyhow::Error {
        JoinError::Failed { id: JobId::new(id), name: name.into(), text: "disk full".into() }.into()
    }

    pub(super) fn told(id: u64, name: &str) -> Failure {
        Failure::Error(join_failed(id, name))
    }

    pub(super) fn names(group: &ErrorGroup) -> Vec<String> {
        group.leaves().map(|leaf| leaf.name().into_owned()).collect()
    }

    pub(super) fn child(group: &ErrorGroup, at: usize) -> &SubGroup {
        match group.iter().nth(at) {
            Some(Child::Group(sub)) => sub,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn on_a_small_stack(f: impl FnOnce() + Send) {
        thread::scope(|s| {
            thread::Builder::new().stack_size(2 << 20).spawn_scoped(s, f).unwrap().join().unwrap();
        });
    }

    /// Two errors and two panics, of which one each is in an inner group, with notes on both groups.
    pub(super) fn mixed() -> ErrorGroup {
        let mut inner = group("parse", 3, [(job(1, "B.1"), causes()), (job(2, "B.2"), panicked("boom"))]);
        inner.add_note("inside");
        let error = anyhow::Error::new(inner).context("around");
        let all = [(job(3, "a"), failed("x")), (job(4, "B"), Failure::Error(error)), (job(5, "c"), panicked("y"))];
        let mut outer = group("crawl", 8, all);
        outer.add_note("noted");
        outer
    }

    pub(super) fn is_panic(child: Child<'_>) -> bool {
        child.leaf().is_some_and(Leaf::is_panic)
    }

    const DEEP: u64 = 100_000;

    pub(super) fn nested(mut inner: ErrorGroup) -> ErrorGroup {
        for level in 0..DEEP {
            inner = group("s", 1, [(job(1_000_000 + level, "j"), returned(inner))]);
        }
        inner
    }
}
