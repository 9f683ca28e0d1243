//! Groups taken apart, noted and drawn, as they come out of real scopes.

use crate::{LIMIT, guarded, guarded_for, virtually};
use anyhow::{Context as _, bail};
use std::{
    cell::Cell,
    collections::HashSet,
    fmt, io,
    num::ParseIntError,
    panic::panic_any,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};
use tassel::{CancelToken, Child, ErrorGroup, Leaf, OnFailure, ScopeOptions, scope, sleep};

const HOUR: Duration = Duration::from_secs(3600);

fn keep_going(name: &str) -> ScopeOptions {
    ScopeOptions::new().name(name).on_failure(OnFailure::KeepGoing)
}

fn names(group: &ErrorGroup) -> Vec<String> {
    group.leaves().map(|leaf| leaf.name().into_owned()).collect()
}

/// A number that is none, a full disk and a panic; of each one in an inner scope.
fn crawl() -> ErrorGroup {
    fn fails(s: &'static str) -> impl FnOnce() -> tassel::Result<()> + Send {
        move || {
            s.parse::<u32>().with_context(|| format!("reading {s}"))?;
            Ok(())
        }
    }
    let disk = || -> tassel::Result<()> { Err(io::Error::other("disk full").into()) };
    keep_going("crawl")
        .open(|s| {
            s.job("number").spawn(fails("two"));
            s.job("inner").spawn(move || {
                let parse = keep_going("parse").open(|s| {
                    s.job("inner number").spawn(fails("three"));
                    s.job("inner disk").spawn(disk);
                    s.job("inner panic").spawn(|| -> tassel::Result<()> { panic!("no ink") });
                    Ok(())
                });
                parse.context("on page 3")
            });
            s.job("disk").spawn(disk);
            s.job("panic").spawn(|| -> tassel::Result<()> { panic_any(Cell::new(7)) });
            Ok(())
        })
        .unwrap_err()
}

fn is<E: fmt::Display + fmt::Debug + Send + Sync + 'static>(child: Child<'_>) -> bool {
    child.leaf().is_some_and(|leaf| leaf.downcast_ref::<E>().is_some())
}

// S20, S22, S25:
#[test]
fn a_group_is_split_by_kind_and_each_part_is_a_tree() {
    virtually(|| {
        let (numbers, rest) = crawl().split(is::<ParseIntError>);
        let (numbers, rest) = (numbers.unwrap(), rest.unwrap());
        assert_eq!(names(&numbers), ["number", "inner number"]);
        assert_eq!(names(&rest), ["disk", "panic", "inner disk", "inner panic"]);
        for part in [&numbers, &rest] {
            assert_eq!((part.name().as_ref(), part.place().file()), ("crawl", "tests/it/group.rs"));
            let inner = part.iter().find_map(Child::group).unwrap();
            assert_eq!((inner.name().as_ref(), inner.group().name().as_ref()), ("inner", "parse"));
            assert_eq!(inner.notes(), ["on page 3"]);
        }
        assert_eq!(numbers.to_string(), "scope `crawl`: 2 of 4 jobs failed; first: job `number` failed");
        let (io, panics) = rest.split(is::<io::Error>);
        assert_eq!(names(&io.unwrap()), ["disk", "inner disk"]);
        assert_eq!(names(&panics.unwrap()), ["panic", "inner panic"]);
    });
}

// S20, S22:
#[test]
fn an_inner_scope_that_matches_is_taken_out_whole() {
    virtually(|| {
        let parse = |child: Child<'_>| child.group().is_some_and(|sub| sub.group().name() == "parse");
        let (inner, rest) = crawl().split(parse);
        assert_eq!(names(&inner.unwrap()), ["inner number", "inner disk", "inner panic"]);
        assert_eq!(names(&rest.unwrap()), ["number", "disk", "panic"]);
    });
}

// S20, D4:
#[test]
fn errors_and_payloads_come_out_of_a_part_by_value() {
    virtually(|| {
        let (numbers, rest) = crawl().split(is::<ParseIntError>);
        let errors = numbers.unwrap().into_leaves().map(Leaf::into_error);
        let texts: Vec<_> = errors.map(|error| error.downcast::<ParseIntError>().unwrap().to_string()).collect();
        assert_eq!(texts, ["invalid digit found in string"; 2]);
        // `Cell` is not `Sync`: by value and by `&mut` only.
        let panics = rest.unwrap().subgroup(|child| child.leaf().is_some_and(Leaf::is_panic)).unwrap();
        let mut leaf = panics.into_leaves().next().unwrap();
        leaf.payload_mut().unwrap().downcast_mut::<Cell<i32>>().unwrap().set(8);
        assert_eq!(leaf.into_payload().unwrap().downcast::<Cell<i32>>().unwrap().get(), 8);
    });
}

// S21:
#[test]
fn kinds_are_handled_one_after_the_other_until_nothing_remains() {
    virtually(|| {
        let mut handled = Vec::new();
        let rest = crawl()
            .handle::<ParseIntError>(|sub| {
                handled.extend(names(&sub));
                Ok(())
            })
            .unwrap()
            .handle::<io::Error>(|_| bail!("cannot free space"))
            .unwrap();
        assert_eq!(handled, ["number", "inner number"]);
        assert_eq!(names(&rest), ["panic", "inner panic", "handler"]);
        assert_eq!(rest.leaves().last().unwrap().place().file(), "tests/it/group.rs");
        let numbers = crawl().subgroup(is::<ParseIntError>).unwrap();
        assert!(numbers.handle::<ParseIntError>(|_| Ok(())).is_none());
    });
}

// S21, S22:
#[test]
fn what_a_job_did_not_handle_is_one_child_of_the_outer_group() {
    virtually(|| {
        let outer = keep_going("outer")
            .open(|s| {
                s.job("crawls").spawn(|| match crawl().handle::<io::Error>(|_| Ok(())) {
                    None => Ok(()),
                    Some(rest) => Err(rest.into()),
                });
                s.job("handles all").spawn(|| {
                    let numbers = crawl().subgroup(is::<ParseIntError>);
                    match numbers.and_then(|group| group.handle::<ParseIntError>(|_| Ok(()))) {
                        None => Ok(()),
                        Some(rest) => Err(rest.into()),
                    }
                });
                Ok(())
            })
            .unwrap_err();
        assert_eq!(outer.iter().len(), 1);
        let sub = outer.iter().find_map(Child::group).unwrap();
        assert_eq!((sub.name().as_ref(), sub.group().name().as_ref(), sub.group().len()), ("crawls", "crawl", 4));
    });
}

// S21, S33, D16:
#[test]
fn a_handler_that_is_stopped_passes_the_stop_on_unless_something_failed() {
    virtually(|| {
        let stopped = |handled: fn(Child<'_>) -> bool| {
            let token = CancelToken::new();
            let result = ScopeOptions::new().name("outer").under(&token).open(|s| {
                s.job("cancels").spawn(|| {
                    sleep(HOUR)?;
                    token.cancel_with("closing time");
                    Ok(())
                });
                let group = crawl().subgroup(handled).unwrap();
                let rest = group.handle::<ParseIntError>(|_| sleep(10 * HOUR).context("waiting to retry"));
                Err::<(), _>(rest.unwrap().into())
            });
            result.unwrap_err()
        };
        let numbers_only = stopped(is::<ParseIntError>);
        assert_eq!((numbers_only.len(), numbers_only.iter().len()), (1, 1), "{numbers_only:?}");
        assert_eq!(numbers_only.primary().stop().unwrap().reason().text(), Some("closing time"));
        assert_eq!(numbers_only.primary().notes(), ["waiting to retry"]);
        let with_more = stopped(|child| is::<ParseIntError>(child) || is::<io::Error>(child));
        assert_eq!(names(&with_more), ["disk", "inner disk", "handler"]);
    });
}

// S25, S22:
#[test]
fn notes_travel_with_a_group_through_outer_scopes() {
    virtually(|| {
        let outer = scope(|s| {
            s.job("retries").spawn(|| {
                let mut group = crawl();
                group.add_note("second attempt");
                group
                    .note_leaves(|leaf| leaf.downcast_ref::<io::Error>().map(|error| format!("kind {}", error.kind())));
                Err::<(), _>(group).context("crawling")
            });
            Ok(())
        });
        let outer = outer.unwrap_err();
        let sub = outer.iter().find_map(Child::group).unwrap();
        assert_eq!(sub.notes(), ["second attempt", "crawling"]);
        let kinds: Vec<_> =
            outer.leaves().filter(|leaf| leaf.notes() == ["kind other error"]).map(Leaf::name).collect();
        assert_eq!(kinds, ["disk", "inner disk"]);
        let tree = format!("{outer:?}");
        assert!(tree.contains("\n   note: second attempt\n   note: crawling\n"), "{tree}");
        assert_eq!(tree.matches("note: kind other error").count(), 2, "{tree}");
        let notes: Vec<_> = outer.into_leaves().next().unwrap().notes().to_vec();
        assert_eq!(notes, ["second attempt", "crawling"]);
    });
}

// S14, S23, D23:
#[test]
fn ten_thousand_failing_jobs_are_two_hundred_lines_and_lose_nothing() {
    guarded(|| {
        #[derive(Debug, thiserror::Error)]
        #[error("page {0} is missing")]
        struct Missing(u32);
        let group = keep_going("crawl")
            .open(|s| {
                for page in 0..10_000 {
                    s.spawn(move || -> tassel::Result<()> {
                        if page % 2 == 0 { Err(Missing(page).into()) } else { bail!("refused") }
                    });
                }
                Ok(())
            })
            .unwrap_err();
        for tree in [format!("{group:?}"), format!("{group:#?}")] {
            assert!(tree.lines().filter(|line| line.starts_with(['s', '├', '└', '…'])).count() <= 200);
            // The odd half is one line.
            assert_eq!(tree.matches("5,000 jobs ").count(), 1, "{tree}");
            assert!(tree.ends_with("… and 4,803 more"), "{tree}");
        }
        assert_eq!(format!("{group:?}").lines().count(), 200);
        for line in [group.to_string(), format!("{group:#}")] {
            assert!(line.starts_with("scope `crawl`: 10,000 of 10,000 jobs failed; first: ") && !line.contains('\n'));
        }
        assert_eq!(group.len(), 10_000);
        assert_eq!(group.leaves().map(Leaf::id).collect::<HashSet<_>>().len(), 10_000);
        let (missing, refused) = group.split(is::<Missing>);
        let mut pages: Vec<_> =
            missing.unwrap().into_leaves().map(|leaf| leaf.into_error().downcast::<Missing>().unwrap().0).collect();
        pages.sort_unstable();
        assert_eq!(pages, (0..10_000).step_by(2).collect::<Vec<_>>());
        assert_eq!(refused.unwrap().len(), 5_000);
    });
}

/// Counts in its drop.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Counted;

static GONE: AtomicU32 = AtomicU32::new(0);

impl Drop for Counted {
    fn drop(&mut self) {
        GONE.fetch_add(1, Ordering::SeqCst);
    }
}

// D12, S14:
#[test]
fn a_bounded_scope_keeps_the_first_failures_and_counts_the_others() {
    virtually(|| {
        let result: Result<(), ErrorGroup> = keep_going("crawl").keep_failures(3).open(|s| {
            let cache = s.job("cache").isolated().spawn(|| -> tassel::Result<()> { bail!("no cache") });
            for _ in 0..1000 {
                s.job("page").spawn(|| Err::<(), _>(Counted.into()));
            }
            sleep(HOUR)?;
            assert_eq!(GONE.load(Ordering::SeqCst), 997, "dropped while the scope goes on");
            assert_eq!(cache.join()?.unwrap_err().to_string(), "job `cache` failed");
            s.job("late").isolated().spawn(|| -> tassel::Result<()> { bail!("nobody asks") });
            sleep(HOUR)?;
            bail!("no more pages")
        });
        let group = result.unwrap_err();
        assert_eq!((names(&group).join(" "), group.dropped()), ("page page page late body".to_owned(), 997));
        assert_eq!(
            group.to_string(),
            "scope `crawl`: 1,001 of 1,002 jobs and the body failed; first: job `page` failed"
        );
        let tree = format!("{group:?}");
        assert!(tree.ends_with("\n└─ 997 more failed, and were not kept"), "{tree}");
        let (pages, rest) = group.split(is::<Counted>);
        assert_eq!((pages.unwrap().dropped(), rest.unwrap().dropped()), (997, 997));
        assert_eq!(GONE.load(Ordering::SeqCst), 1000);
    });
}

// S23:
#[test]
fn a_hundred_thousand_nested_groups_fit_a_small_stack() {
    fn deep() -> ErrorGroup {
        let mut group = keep_going("s")
            .open(|s| {
                // The first to fail is the primary one.
                let errs = s.job("errs").spawn(|| -> tassel::Result<()> { bail!("disk full") });
                assert!(errs.join().is_err());
                s.job("panics").spawn(|| -> tassel::Result<()> { panic_any(7) });
                Ok(())
            })
            .unwrap_err();
        for _ in 0..100_000 {
            group = scope(|_| Err::<(), _>(group.into())).unwrap_err();
        }
        group
    }
    // Seconds of work in a debug build, more beside others.
    guarded_for(4 * LIMIT, || {
        let small = || {
            let group = deep();
            assert_eq!((group.len(), group.leaves().count(), group.iter().len()), (2, 2, 1));
            let texts = [format!("{group}"), format!("{group:#}"), format!("{group:?}"), format!("{group:#?}")];
            assert!(texts[1].ends_with("job `errs` failed: disk full"), "{}", texts[1]);
            assert_eq!(texts[2].lines().count(), 200);
            let (panics, errors) = group.split(|child| child.leaf().is_some_and(Leaf::is_panic));
            drop(panics.unwrap());
            let flat = errors.unwrap().flatten();
            assert_eq!((names(&flat), flat.iter().len()), (vec!["errs".to_owned()], 1));
            assert_eq!(flat.into_single().unwrap().into_error().to_string(), "disk full");
        };
        let thread = thread::Builder::new().stack_size(2 << 20).spawn(small).unwrap();
        assert!(thread.join().is_ok());
    });
}
