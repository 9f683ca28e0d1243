//! How failures read, but for the tree, which `tree` draws from these texts.
//!
//! | form | of a leaf | of a group |
//! |---|---|---|
//! | `{}` | who failed | how many failed, and who first |
//! | `source()` | the job's error | the primary leaf |
//! | `{:#}` | and all causes | and the causes of the primary leaf |
//! | `{:?}` | and place, time, notes | the tree, each leaf as `{:?}` |
//! | `{:#?}` | and the backtrace | and the backtraces |
//!
//! # Promises
//!
//! 1. `{}` never repeats what `source()` says, so a chain reads well link by link.
//! 2. Texts depend on nothing but the failures: not on threads, not on `RUST_BACKTRACE`, and under a virtual clock not
//!    on the machine.
//! 3. An error whose `Display` or `source` panics is shown as such.

use std::{collections::HashSet, error::Error, fmt, iter, panic::Location, sync::Arc, time::Duration};

use super::{
    group::{Child, ErrorGroup, SubGroup},
    join::JoinError,
    leaf::{Cause, Failure, Leaf, Origin, Role},
    panic::{CHAIN, payload_text, shown, source_of},
    stop::stop_in,
};
use crate::cancel::reason::{ReasonKind, TimedOut};

const ENDED: &str = "ended";
const STRAY: &str = "ended with a cancellation that was not its own";

impl Origin {
    /// Who failed, and how, in one clause: the text of the reason for which the siblings are stopped.
    ///
    /// Looks into the error, so call it without locks.
    pub(crate) fn tells(&self, failure: &Failure) -> String {
        let how = match failure {
            Failure::Error(error) if stop_in(error).is_some() => STRAY,
            Failure::Error(_) => "failed",
            Failure::Panic(_) => "panicked",
            Failure::Stopped(_) => "was stopped",
            Failure::TimedOut(_) => "timed out",
        };
        format!("{} {how}", Who(self))
    }
}

impl Failure {
    /// The error with all its causes, or the text of the panic, for a `JoinError`.
    ///
    /// Renders the error, so call it without locks.
    pub(crate) fn text(&self) -> Arc<str> {
        match self {
            Failure::Error(error) => chain(Some(&**error), &|_| None).into(),
            Failure::Stopped(stop) => stop.to_string().into(),
            // Who it was stands before it.
            Failure::TimedOut(error) => format!("timed out: {}", error.reason()).into(),
            Failure::Panic(payload) => match payload.downcast_ref::<ErrorGroup>() {
                Some(group) => format!("{group:#}").into(),
                None => payload_text(&**payload).into(),
            },
        }
    }
}

/// Whose failure it is, in the middle of a sentence.
struct Who<'o>(&'o Origin);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.role {
            Role::Job => write!(f, "job `{}`", self.0.name()),
            Role::Body => f.write_str("the body"),
            Role::Handler => f.write_str("the handler"),
        }
    }
}

impl Origin {
    /// The place after the name, unless that is the place, or that of the scope, itself.
    pub(super) fn shown_place(&self) -> String {
        bracketed(self.role == Role::Handler || self.name.is_some() && self.role == Role::Job, self.place)
    }
}

fn bracketed(shown: bool, place: &Location<'_>) -> String {
    if shown { format!(" ({}:{})", place.file(), place.line()) } else { String::new() }
}

/// A time without the digits that nobody reads: to the millisecond from one second on, to the microsecond below.
pub(super) fn time(time: Duration) -> String {
    let nanos = time.as_nanos();
    let step = if nanos >= 1_000_000_000 {
        1_000_000
    } else if nanos >= 1_000_000 {
        1_000
    } else {
        1
    };
    let rounded = (nanos + step / 2) / step * step;
    format!("{:?}", u64::try_from(rounded).map_or(time, Duration::from_nanos))
}

/// A number, in groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An error and its causes.
pub(super) fn links<'e>(error: Option<&'e (dyn Error + 'static)>) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    iter::successors(error, |link| source_of(*link)).take(CHAIN)
}

/// The texts of an error and its causes, each once: many an error's text ends with that of its cause.
pub(super) fn chain<'e>(
    error: Option<&'e (dyn Error + 'static)>,
    instead: &dyn Fn(&'e JoinError) -> Option<String>,
) -> String {
    let mut text = String::new();
    for link in links(error) {
        let says = shown(link);
        if text.ends_with(&says) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&link.downcast_ref::<JoinError>().and_then(instead).unwrap_or(says));
    }
    text
}

/// What a tree says of a failure after the name: how and when.
pub(super) fn course(how: &str, when: &str, during: bool) -> String {
    let during = if during { ", while being cancelled" } else { "" };
    match how.strip_prefix(ENDED) {
        Some(with) => format!("{ENDED} after {when}{during}{with}"),
        None => format!("{how} after {when}{during}"),
    }
}

/// Puts `text` behind a colon, if there is any.
pub(super) fn because(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl Leaf {
    pub(super) fn how(&self) -> &'static str {
        match self.cause() {
            Cause::Error(error) if stop_in(error).is_some() => STRAY,
            Cause::Error(_) | Cause::Gone => "failed",
            Cause::Panic(_) => "panicked",
            Cause::Stopped(_) => "was stopped",
            Cause::TimedOut { .. } => "timed out",
        }
    }

    /// Its error with all causes, as it stands behind who failed and how.
    pub(super) fn causes<'e>(&'e self, instead: &dyn Fn(&'e JoinError) -> Option<String>) -> String {
        chain(self.source(), instead)
    }

    /// Its line of a tree.
    pub(super) fn line(&self, text: &str) -> String {
        let origin = self.origin();
        let course = course(self.how(), &time(origin.offset), self.during_cancellation());
        format!("{}{} {course}{}", Who(origin), origin.shown_place(), because(text))
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Who(self.origin()), self.how())?;
        if f.alternate() { f.write_str(&because(&self.causes(&|_| None))) } else { Ok(()) }
    }
}

impl SubGroup {
    /// Its line of a tree, which is also the first line of its group.
    pub(super) fn line(&self) -> String {
        let origin = self.origin();
        let course = course(Child::Group(self).how(), &time(origin.offset), self.during_cancellation());
        format!("{}{} {course}: {}", Who(origin), origin.shown_place(), self.group().root())
    }
}

impl Child<'_> {
    pub(super) fn how(self) -> &'static str {
        match self {
            Child::Leaf(leaf) => leaf.how(),
            Child::Group(sub) if sub.is_panic() => "panicked",
            Child::Group(_) if self.stop().is_some() => "was stopped",
            Child::Group(_) => "failed",
        }
    }
}

impl ErrorGroup {
    /// What became of the scope, with its place after the name if `placed`.
    fn outcome(&self, placed: bool) -> String {
        let info = self.info();
        let scope = format!("scope `{}`{}", self.name(), bracketed(placed && info.name.is_some(), info.place));
        if let Some(stop) = self.as_stop() {
            return format!("{scope} was stopped: {}", stop.reason());
        }
        if let Some(error) = self.own_timeout() {
            return format!("{scope} timed out: {}", error.reason());
        }
        let (jobs, others): (Vec<_>, Vec<_>) =
            self.iter().filter(|child| child.stop().is_none()).partition(|child| child.origin().role == Role::Job);
        // A job counts once, also if its captures left a second failure behind.
        let failed = jobs.into_iter().map(|job| job.origin().id).collect::<HashSet<_>>().len() as u64 + self.dropped();
        let all = info.jobs.max(failed);
        let jobs = format!("{} of {} job{}", grouped(failed), grouped(all), if all == 1 { "" } else { "s" });
        match (failed, others.first()) {
            (0, Some(first)) => format!("{scope}: {} {}", Who(first.origin()), first.how()),
            (_, Some(first)) => format!("{scope}: {jobs} and {} failed", Who(first.origin())),
            (_, None) => format!("{scope}: {jobs} failed"),
        }
    }

    /// The time limit of the scope itself, if nothing else failed.
    fn own_timeout(&self) -> Option<&TimedOut> {
        match (self.iter().len(), self.iter().next()?) {
            (1, Child::Leaf(leaf)) if leaf.origin().role == Role::Body => match leaf.cause() {
                Cause::TimedOut { error, .. } => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether [`outcome`](Self::outcome) gives the reason already.
    fn is_told(&self) -> bool {
        self.as_stop().is_some() || self.own_timeout().is_some()
    }

    /// The first line of a tree. A cancel that no failure here has caused is told there.
    pub(super) fn root(&self) -> String {
        let outcome = self.outcome(true);
        match self.reason() {
            Some(reason) if reason.kind() != ReasonKind::Failure && !self.is_told() => {
                format!("{outcome}; it was stopped: {reason}")
            }
            _ => outcome,
        }
    }
}

impl fmt::Display for ErrorGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.outcome(false))?;
        let Some(first) = self.iter().next() else { return Ok(()) };
        if self.is_told() {
            return Ok(());
        }
        if self.iter().any(|child| child.origin().role == Role::Job) {
            write!(f, "; first: {} {}", Who(first.origin()), first.how())?;
        }
        if !f.alternate() {
            return Ok(());
        }
        let causes = match first {
            Child::Leaf(leaf) => leaf.causes(&|_| None),
            // Which job of the inner scope was first has not been said.
            Child::Group(sub) => format!("{:#}", sub.group().primary()),
        };
        f.write_str(&because(&causes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{
        Log, ScopeInfo,
        given::{
            body, causes, deadline, failed, group, info, job, panicked, plain, returned, stop, timeout, tree, unnamed,
        },
    };

    #[test]
    fn one_line_says_how_many_failed_and_who_first() {
        let three = [(job(2, "b"), causes()), (job(1, "a"), panicked("boom")), (job(3, "c"), failed("x"))];
        let some = group("crawl", 8, three);
        assert_eq!(some.to_string(), "scope `crawl`: 3 of 8 jobs failed; first: job `b` failed");
        assert_eq!(
            format!("{some:#}"),
            "scope `crawl`: 3 of 8 jobs failed; first: job `b` failed: cannot save: disk full"
        );
        let one = group("crawl", 1, [(job(1, "a"), panicked("boom"))]);
        assert_eq!(one.to_string(), "scope `crawl`: 1 of 1 job failed; first: job `a` panicked");
        let many = group("crawl", 12_345, (0..1000).map(|id| (job(id, "a"), failed("x"))));
        assert_eq!(many.to_string(), "scope `crawl`: 1,000 of 12,345 jobs failed; first: job `a` failed");
    }

    #[test]
    fn the_body_is_counted_apart() {
        let body_only = group("crawl", 8, [(body(1), causes())]);
        assert_eq!(body_only.to_string(), "scope `crawl`: the body failed");
        assert_eq!(format!("{body_only:#}"), "scope `crawl`: the body failed: cannot save: disk full");
        let thrown = group("crawl", 8, [(body(1), panicked("boom"))]);
        assert_eq!(format!("{thrown:#}"), "scope `crawl`: the body panicked: boom");
        let both = [(job(2, "b"), causes()), (body(3), failed("x")), (job(4, "c"), failed("y"))];
        let both = group("crawl", 8, both);
        assert_eq!(both.to_string(), "scope `crawl`: 2 of 8 jobs and the body failed; first: job `b` failed");
    }

    #[test]
    fn a_job_that_failed_twice_counts_once() {
        let twice = group("crawl", 8, [(job(1, "a"), failed("x")), (job(1, "a"), panicked("in a drop"))]);
        assert_eq!(twice.to_string(), "scope `crawl`: 1 of 8 jobs failed; first: job `a` failed");
    }

    #[test]
    fn a_scope_without_a_name_is_called_after_its_place() {
        let mut log = Log::new();
        log.push(unnamed(3), failed("x"), false);
        let group = log.into_group(ScopeInfo { name: None, ..info("", 3) });
        assert_eq!(plain(&group.to_string()), "scope `x.rs:1`: 1 of 3 jobs failed; first: job `x.rs:1#3` failed");
        assert_eq!(tree(&group), "scope `x.rs:1`: 1 of 3 jobs failed\n└─ job `x.rs:1#3` failed after 3s: x");
    }

    #[test]
    fn a_stopped_scope_says_why() {
        let stopped = group("parse", 2, [(body(1), Failure::Stopped(stop("crawl")))]);
        for text in [stopped.to_string(), format!("{stopped:#}")] {
            assert_eq!(plain(&text), "scope `parse` was stopped: deadline of 2s (x.rs:1)");
        }
        assert_eq!(
            tree(&stopped),
            "scope `parse` (x.rs:1) was stopped: deadline of 2s (x.rs:1)\n\
             └─ the body was stopped after 1s: scope `crawl` was stopped: deadline of 2s (x.rs:1)"
        );
        assert_eq!(stopped.primary().to_string(), "the body was stopped");
    }

    #[test]
    fn a_scope_whose_time_was_over_says_so() {
        let late = group("parse", 2, [(body(1), Failure::TimedOut(timeout("parse")))]);
        for text in [late.to_string(), format!("{late:#}")] {
            assert_eq!(plain(&text), "scope `parse` timed out: deadline of 2s (x.rs:1)");
        }
        assert_eq!(late.primary().to_string(), "the body timed out");
        let job = group("parse", 2, [(job(1, "a"), Failure::TimedOut(timeout("a")))]);
        assert_eq!(job.to_string(), "scope `parse`: 1 of 2 jobs failed; first: job `a` timed out");
    }

    #[test]
    fn a_cancel_that_no_failure_caused_is_told_with_the_tree() {
        let mut log = Log::new();
        log.push(job(1, "a"), failed("x"), true);
        let group = log.into_group(ScopeInfo { reason: Some(deadline("crawl")), ..info("crawl", 2) });
        let first = tree(&group).lines().next().map(str::to_owned);
        assert_eq!(
            first.as_deref(),
            Some("scope `crawl` (x.rs:1): 1 of 2 jobs failed; it was stopped: deadline of 2s (x.rs:1)")
        );
    }

    #[test]
    fn a_stop_of_somebody_else_is_said_to_be_one() {
        let stray = group("crawl", 1, [(job(1, "a"), Failure::Error(stop("parse").into()))]);
        assert_eq!(stray.primary().to_string(), "job `a` ended with a cancellation that was not its own");
        assert_eq!(
            plain(&format!("{:#}", stray.primary())),
            "job `a` ended with a cancellation that was not its own: scope `parse` was stopped: deadline of 2s (x.rs:1)"
        );
        assert_eq!(
            plain(&format!("{:?}", stray.primary())),
            "job `a` (x.rs:1) ended after 1s with a cancellation that was not its own: \
             scope `parse` was stopped: deadline of 2s (x.rs:1)"
        );
    }

    #[test]
    fn the_main_of_anyhow_shows_who_and_why() {
        let inner = group("parse", 1, [(job(1, "B.1"), causes())]);
        let error = anyhow::Error::new(group("crawl", 2, [(job(2, "B"), returned(inner))]));
        let links: Vec<_> = error.chain().map(ToString::to_string).collect();
        assert_eq!(
            links,
            [
                "scope `crawl`: 1 of 2 jobs failed; first: job `B` failed",
                "job `B.1` failed",
                "cannot save",
                "disk full"
            ]
        );
    }

    #[test]
    fn a_reason_and_a_join_error_have_their_texts_from_the_failure() {
        assert_eq!(job(1, "a").tells(&causes()), "job `a` failed");
        assert_eq!(body(1).tells(&panicked("x")), "the body panicked");
        let stray = Failure::Error(stop("s").into());
        assert_eq!(job(1, "a").tells(&stray), "job `a` ended with a cancellation that was not its own");
        assert_eq!(&*causes().text(), "cannot save: disk full");
        assert_eq!(&*panicked("boom").text(), "boom");
        let group = || group("parse", 1, [(job(1, "B.1"), causes())]);
        let text = "scope `parse`: 1 of 1 job failed; first: job `B.1` failed: cannot save: disk full";
        assert_eq!(&*returned(group()).text(), text);
        assert_eq!(&*Failure::Panic(Box::new(group())).text(), text);
    }

    #[test]
    fn a_cause_that_the_text_before_has_told_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("loading: {0}")]
        struct Mine(#[from] fmt::Error);
        let group = group("crawl", 1, [(job(1, "a"), Failure::Error(Mine(fmt::Error).into()))]);
        let text = format!("{:#}", group.primary());
        assert_eq!(text, format!("job `a` failed: loading: {}", fmt::Error));
    }

    #[test]
    fn times_and_numbers_are_short() {
        let times = [0, 999, 1_234_567, 12_345_678, 1_500_000_000, 61_000_400_000, 999_999_999];
        let texts: Vec<_> = times.map(|nanos| time(Duration::from_nanos(nanos))).into();
        assert_eq!(texts, ["0ns", "999ns", "1.235ms", "12.346ms", "1.5s", "61s", "1s"]);
        assert_eq!([7, 999, 1000, 9_812, 1_234_567].map(grouped), ["7", "999", "1,000", "9,812", "1,234,567"]);
        assert!(!time(Duration::MAX).is_empty());
    }
}
