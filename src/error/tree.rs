//! The tree of failures, as text: `{:?}` and `{:#?}`.
//!
//! # Promises
//!
//! 1. A tree has at most [`LINES`] lines (backtraces apart) and [`LEVELS`] levels of indent, however large or deep it is,
//!    and its last line tells how many leaves are not shown. Equal texts are one line.
//! 2. Nothing here recurses.
//!
//! # Does not know
//!
//! How a single failure reads.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    fmt, iter, vec,
};

use super::{
    group::{Child, ErrorGroup, SubGroup},
    join::JoinError,
    leaf::{JobId, Leaf, Role},
    panic::shown,
    render::{because, course, grouped, time},
};

/// How many lines a tree has at most: few screenfuls, which a log or terminal keeps.
const LINES: usize = 200;

/// At how many levels a tree stops to indent: 96 columns.
const LEVELS: usize = 32;

/// How many jobs are named by a line that stands for many.
const NAMES: usize = 3;

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tree = Tree::new(None, f.alternate());
        tree.leaves("", "", &[self], &tree.causes(self));
        tree.print(f, 1)
    }
}

impl fmt::Debug for SubGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tree = Tree::new(Some(self.group()), f.alternate());
        tree.add("", "", &self.line(), 0);
        tree.notes("", self.notes());
        tree.grow(self.group());
        tree.print(f, self.group().len())
    }
}

impl fmt::Debug for ErrorGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tree = Tree::new(Some(self), f.alternate());
        tree.add("", "", &self.root(), 0);
        tree.notes("", self.notes());
        tree.grow(self);
        tree.print(f, self.len())
    }
}

/// A tree being drawn.
struct Tree<'g> {
    lines: Vec<Line>,
    top: Option<&'g ErrorGroup>,
    /// Whose failures the tree shows, collected when somebody's error holds a `JoinError`.
    ids: OnceCell<HashSet<JobId>>,
    backtraces: bool,
}

struct Line {
    text: String,
    /// Leaves that this line shows.
    leaves: usize,
    /// Further lines, which no limit counts.
    backtrace: String,
}

/// What a group shows as one line: leaves of the same text, or an inner group.
enum Row<'g> {
    Leaves(Vec<&'g Leaf>, String),
    Group(&'g SubGroup),
    /// Failures that were not kept.
    Dropped(u64),
}

/// The rows of one group that are still to be drawn.
struct Level<'g> {
    rows: vec::IntoIter<Row<'g>>,
    indent: String,
}

impl<'g> Tree<'g> {
    fn new(top: Option<&'g ErrorGroup>, backtraces: bool) -> Self {
        Tree { lines: Vec::new(), top, ids: OnceCell::new(), backtraces }
    }

    /// One line more than will be printed is kept, as a sign that there is more.
    fn is_full(&self) -> bool {
        self.lines.len() > LINES
    }

    /// Adds a text, which may have several lines: `first` stands before the first of them, `then` before the others.
    fn add(&mut self, first: &str, then: &str, text: &str, leaves: usize) {
        for (at, line) in text.lines().enumerate() {
            if self.is_full() {
                return;
            }
            let (text, leaves) =
                if at == 0 { (format!("{first}{line}"), leaves) } else { (format!("{then}  {line}"), 0) };
            self.lines.push(Line { text, leaves, backtrace: String::new() });
        }
    }

    fn notes(&mut self, indent: &str, notes: &[String]) {
        for note in notes {
            self.add(&format!("{indent}note: "), indent, note, 0);
        }
    }

    fn leaves(&mut self, first: &str, then: &str, leaves: &[&Leaf], text: &str) {
        let Some(leaf) = leaves.first() else { return };
        self.add(first, then, &if leaves.len() == 1 { leaf.line(text) } else { folded(leaves, text) }, leaves.len());
        self.notes(then, leaf.notes());
        if let (true, Some(trace), Some(line)) = (self.backtraces, leaf.backtrace(), self.lines.last_mut()) {
            for frame in iter::once("stack backtrace:").chain(shown(trace).lines()) {
                line.backtrace.push('\n');
                line.backtrace.push_str(then);
                line.backtrace.push_str(frame);
            }
        }
    }

    /// Adds all that is below a group.
    fn grow(&mut self, group: &'g ErrorGroup) {
        let mut levels = vec![Level { rows: self.rows(group), indent: String::new() }];
        while let Some(level) = levels.last_mut() {
            if self.is_full() {
                return;
            }
            let Some(row) = level.rows.next() else {
                levels.pop();
                continue;
            };
            let indent = level.indent.clone();
            let (branch, trunk) = if level.rows.len() > 0 { ("├─ ", "│  ") } else { ("└─ ", "   ") };
            let (first, then) = (format!("{indent}{branch}"), format!("{indent}{trunk}"));
            match row {
                Row::Dropped(n) => {
                    self.add(&first, &then, &format!("{} more failed, and were not kept", grouped(n)), 0);
                }
                Row::Leaves(leaves, text) => self.leaves(&first, &then, &leaves, &text),
                Row::Group(sub) => {
                    self.add(&first, &then, &sub.line(), 0);
                    self.notes(&then, sub.notes());
                    let indent = if levels.len() < LEVELS { then } else { indent };
                    levels.push(Level { rows: self.rows(sub.group()), indent });
                }
            }
        }
    }

    /// The rows of a group, as many as there may be lines.
    fn rows(&self, group: &'g ErrorGroup) -> vec::IntoIter<Row<'g>> {
        let mut rows = Vec::new();
        let mut known = HashMap::new();
        for child in group.iter() {
            let row = match child {
                Child::Group(sub) => Row::Group(sub),
                Child::Leaf(leaf) => {
                    let text = self.causes(leaf);
                    let like = (leaf.how(), text.clone(), leaf.notes());
                    if leaf.origin().role == Role::Job {
                        let at = *known.entry(like).or_insert(rows.len());
                        if let Some(Row::Leaves(leaves, _)) = rows.get_mut(at) {
                            leaves.push(leaf);
                            continue;
                        }
                    }
                    Row::Leaves(vec![leaf], text)
                }
            };
            if rows.len() <= LINES {
                rows.push(row);
            }
        }
        if group.dropped() > 0 {
            rows.push(Row::Dropped(group.dropped()));
        }
        rows.into_iter()
    }

    fn causes(&self, leaf: &Leaf) -> String {
        leaf.causes(&|join| {
            let (id, name, how) = match join {
                JoinError::Failed { id, name, .. } => (id, name, "failed"),
                JoinError::Panicked { id, name, .. } => (id, name, "panicked"),
                _ => return None,
            };
            let ids = self.ids.get_or_init(|| self.top.map(ErrorGroup::ids).unwrap_or_default());
            ids.contains(id).then(|| format!("because job `{name}` {how}"))
        })
    }

    fn print(&self, f: &mut fmt::Formatter<'_>, leaves: usize) -> fmt::Result {
        let cut = self.is_full();
        let shown = if cut { &self.lines[..LINES - 1] } else { &self.lines };
        for (at, line) in shown.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{}{}", line.text, line.backtrace)?;
        }
        match leaves.saturating_sub(shown.iter().map(|line| line.leaves).sum()) {
            _ if !cut => Ok(()),
            0 => f.write_str("\n…"),
            more => write!(f, "\n… and {} more", grouped(more as u64)),
        }
    }
}

/// The line of several leaves of the same text.
fn folded(leaves: &[&Leaf], text: &str) -> String {
    let first = leaves[0];
    let mut names: Vec<_> = leaves.iter().take(NAMES).map(|leaf| format!("`{}`", leaf.name())).collect();
    if leaves.len() > NAMES {
        names.push("…".to_owned());
    }
    let mut place = first.origin().shown_place();
    if !place.is_empty() && leaves.iter().any(|leaf| leaf.place() != first.place()) {
        place.insert_str(place.len() - 1, ", …");
    }
    let from = time(leaves.iter().map(|leaf| leaf.offset()).min().unwrap_or_default());
    let to = time(leaves.iter().map(|leaf| leaf.offset()).max().unwrap_or_default());
    let when = if from == to { from } else { format!("{from} to {to}") };
    let course = course(first.how(), &when, leaves.iter().all(|leaf| leaf.during_cancellation()));
    format!("{} jobs {}{place} {course}{}", grouped(leaves.len() as u64), names.join(", "), because(text))
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;

    use super::*;
    use crate::error::{
        Failure,
        given::{body, causes, failed, group, job, panicked, plain, returned, tree},
    };

    #[test]
    fn the_tree_shows_every_failure_with_place_and_time() {
        let inner = group("parse", 1, [(job(3, "B.1"), panicked("index out of bounds"))]);
        let noted = anyhow::Error::new(inner).context("while parsing");
        let all = group(
            "crawl",
            8,
            [
                (job(1, "a"), causes()),
                (job(4, "B"), Failure::Error(noted)),
                (job(5, "two lines"), failed("first\nsecond")),
                (body(6), failed("x")),
            ],
        );
        let golden = "\
scope `crawl` (x.rs:1): 3 of 8 jobs and the body failed
├─ job `a` (x.rs:1) failed after 1s: cannot save: disk full
├─ job `B` (x.rs:1) failed after 4s, while being cancelled: scope `parse` (x.rs:1): 1 of 1 job failed
│  note: while parsing
│  └─ job `B.1` (x.rs:1) panicked after 3s: index out of bounds
├─ job `two lines` (x.rs:1) failed after 5s, while being cancelled: first
│    second
└─ the body failed after 6s, while being cancelled: x";
        assert_eq!(tree(&all), golden);
    }

    #[test]
    fn an_inner_group_and_a_leaf_are_drawn_alone_too() {
        let inner = group("parse", 1, [(job(3, "B.1"), failed("x"))]);
        let outer = group("crawl", 1, [(job(4, "B"), returned(inner))]);
        let Some(Child::Group(sub)) = outer.iter().next() else { panic!("{outer:?}") };
        let golden = "\
job `B` (x.rs:1) failed after 4s: scope `parse` (x.rs:1): 1 of 1 job failed
└─ job `B.1` (x.rs:1) failed after 3s: x";
        assert_eq!(plain(&format!("{sub:?}")), golden);
        assert_eq!(plain(&format!("{:?}", outer.primary())), "job `B.1` (x.rs:1) failed after 3s: x");
    }

    #[test]
    fn equal_texts_are_one_line_with_a_count_and_three_names() {
        let names = ["a", "b", "c", "d", "e"];
        let jobs = names.into_iter().zip(1..).map(|(name, id)| (job(id, name), failed("refused")));
        let all = group("crawl", 9, jobs.chain([(job(7, "f"), failed("other")), (body(8), failed("refused"))]));
        let golden = "\
scope `crawl` (x.rs:1): 6 of 9 jobs and the body failed
├─ 5 jobs `a`, `b`, `c`, … (x.rs:1) failed after 1s to 5s: refused
├─ job `f` (x.rs:1) failed after 7s, while being cancelled: other
└─ the body failed after 8s, while being cancelled: refused";
        assert_eq!(tree(&all), golden);
    }

    #[test]
    fn a_tree_has_two_hundred_lines_and_says_what_is_missing() {
        let jobs =
            |n: u64| group("crawl", n, (0..n).map(|id| (job(id, "a"), Failure::Error(anyhow::anyhow!("error {id}")))));
        let all = tree(&jobs(199));
        assert_eq!(all.lines().count(), 200);
        assert!(all.ends_with(": error 198"));
        let cut = tree(&jobs(10_010));
        assert_eq!(cut.lines().count(), 200);
        assert!(cut.ends_with(": error 197\n… and 9,812 more"));
    }

    #[test]
    fn a_text_longer_than_the_tree_is_cut() {
        let long = Failure::Error(anyhow::anyhow!("line\n".repeat(1000)));
        let text = tree(&group("crawl", 1, [(job(1, "a"), long)]));
        assert_eq!(text.lines().count(), 200);
        assert!(text.ends_with("    line\n…"));
    }

    #[test]
    fn the_indent_stops_at_thirty_two_levels() {
        let mut deep = group("s", 1, [(job(1, "a"), failed("x"))]);
        for id in 2..100 {
            deep = group("s", 1, [(job(id, "j"), returned(deep))]);
        }
        let text = tree(&deep);
        let indent = |line: &str| line.chars().take_while(|c| !c.is_alphabetic()).count();
        assert_eq!(text.lines().count(), 100);
        assert_eq!(text.lines().map(indent).max(), Some(32 * 3));
        assert_eq!(text.lines().map(indent).filter(|indent| *indent == 32 * 3).count(), 100 - 32);
    }

    #[test]
    fn backtraces_are_shown_only_when_asked_for() {
        let group = group("crawl", 1, [(job(1, "a"), causes())]);
        assert!(!format!("{group:?}").contains("stack backtrace"));
        assert_eq!(format!("{group:#?}").contains("stack backtrace"), group.primary().backtrace().is_some());
    }

    #[test]
    fn an_error_that_panics_as_it_is_shown_does_not_spoil_the_tree() {
        #[derive(Debug)]
        struct Bad;
        impl fmt::Display for Bad {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                resume_unwind(Box::new("bad"))
            }
        }
        impl std::error::Error for Bad {}
        let group = group("crawl", 1, [(job(1, "a"), Failure::Error(Bad.into()))]);
        assert!(tree(&group).ends_with("job `a` (x.rs:1) failed after 1s: <the error's Display panicked>"));
    }
}
