//! Drawing a [`Snapshot`] as a tree.
//!
//! # Promises
//!
//! 1. At most [`LINES`] lines, whatever there is; what has no line is counted.
//! 2. Iterative: depth is the user's, not the stack's.
//!
//! # Does not know
//!
//! Where the entries come from.

use super::snapshot::{Entry, Kind, Resource, Snapshot};
use std::{fmt, panic::Location, time::Duration};

/// The longest drawing.
const LINES: usize = 200;

/// As many of a parent's children are drawn, if there are more than one more; the others are counted.
const CHILDREN: usize = 12;

/// As many of those who have what is waited for are named.
const HOLDERS: usize = 3;

/// Indentation stops here.
const LEVELS: usize = 32;

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return f.write_str("nothing is alive");
        }
        let lines = Drawing::new(self).lines();
        let cut = lines.len().saturating_sub(LINES);
        let shown = if cut > 0 { LINES - 1 } else { lines.len() };
        for (at, line) in lines[..shown].iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            f.write_str(line)?;
        }
        if cut > 0 { write!(f, "\n… and {} more lines", cut + 1) } else { Ok(()) }
    }
}

/// A snapshot, with the children of each entry.
struct Drawing<'s> {
    snapshot: &'s Snapshot,
    children: Vec<Vec<usize>>,
    roots: Vec<usize>,
}

impl<'s> Drawing<'s> {
    fn new(snapshot: &'s Snapshot) -> Self {
        let mut children = vec![Vec::new(); snapshot.entries.len()];
        let mut roots = Vec::new();
        for (at, entry) in snapshot.entries.iter().enumerate() {
            match entry.parent {
                Some(parent) => children[parent].push(at),
                None => roots.push(at),
            }
        }
        Drawing { snapshot, children, roots }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        // Each with the indentation of its line, and that of what is below it.
        let mut todo: Vec<(String, String, Drawn)> = Vec::new();
        push(&mut todo, &self.roots, None);
        while let Some((here, below, drawn)) = todo.pop() {
            match drawn {
                Drawn::Entry(at) => {
                    lines.push(format!("{here}{}", self.text(at)));
                    push(&mut todo, &self.children[at], Some(&below));
                }
                Drawn::Others(others) => lines.push(format!("{here}{}", self.count(&others))),
            }
        }
        lines
    }

    fn text(&self, at: usize) -> String {
        let (entry, taken) = (&self.snapshot.entries[at], self.snapshot.taken);
        let mut head = format!("{} `{}`", entry.kind, entry.name);
        let place = place(entry.place);
        if !entry.name.starts_with(&place) {
            head = format!("{head} ({place})");
        }
        let body = if entry.kind == Kind::Scope { "body " } else { "" };
        let mut does = format!("{head}: {body}{}", entry.state);
        // Before whom it waits for, who is somewhere else.
        if let Some(at) = entry.waits_at.filter(|at| *at != entry.place) {
            does = format!("{does} at {}", self::place(at));
        }
        if let Some(job) = &entry.waits_for {
            does = format!("{does} for job `{job}`");
        }
        if let Some(resource) = &entry.resource {
            does = format!("{does}{}", shared(resource));
        }
        let mut parts = vec![does];
        parts.extend(entry.since.map(|since| format!("for {}", span(taken.saturating_duration_since(since)))));
        // What goes for the parent, too, stands there.
        let parent = entry.parent.map(|parent| &self.snapshot.entries[parent]);
        let deadline = entry.deadline.filter(|_| parent.is_none_or(|parent| parent.deadline != entry.deadline));
        parts.extend(deadline.map(|deadline| match deadline.checked_duration_since(taken) {
            Some(left) => format!("{} left", span(left)),
            None => "past its deadline".to_owned(),
        }));
        parts.extend(entry.thread.as_ref().map(|thread| format!("on {thread}")));
        let stopped = if entry.kind == Kind::Abandoned { "left behind" } else { "cancelled" };
        let cancelled = |entry: &Entry| entry.cancelled.as_ref().map(|reason| format!("{stopped}: {reason}"));
        parts.extend(cancelled(entry).filter(|here| parent.and_then(cancelled).as_ref() != Some(here)));
        parts.join(", ")
    }

    /// Sums up entries that have no line.
    fn count(&self, entries: &[usize]) -> String {
        let mut states: Vec<(String, usize)> = Vec::new();
        for &at in entries {
            let state = self.snapshot.entries[at].state.to_string();
            match states.iter_mut().find(|(other, _)| *other == state) {
                Some((_, count)) => *count += 1,
                None => states.push((state, 1)),
            }
        }
        let states: Vec<_> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        format!("… and {} more: {}", entries.len(), states.join(", "))
    }
}

/// Puts entries on the stack, the first on top; those that are too many as one line.
fn push(todo: &mut Vec<(String, String, Drawn)>, entries: &[usize], indent: Option<&str>) {
    let shown = if entries.len() > CHILDREN + 1 { CHILDREN } else { entries.len() };
    let (shown, others) = entries.split_at(shown);
    let mut drawn: Vec<_> = shown.iter().copied().map(Drawn::Entry).collect();
    if !others.is_empty() {
        drawn.push(Drawn::Others(others.to_vec()));
    }
    let last = drawn.len().saturating_sub(1);
    for (at, drawn) in drawn.into_iter().enumerate().rev() {
        let (here, below) = match indent {
            None => (String::new(), String::new()),
            // One level is three characters.
            Some(indent) if indent.chars().count() >= 3 * LEVELS => (format!("{indent}└─ "), indent.to_owned()),
            Some(indent) if at == last => (format!("{indent}└─ "), format!("{indent}   ")),
            Some(indent) => (format!("{indent}├─ "), format!("{indent}│  ")),
        };
        todo.push((here, below, drawn));
    }
}

/// What is waited for, and who has it.
fn shared(resource: &Resource) -> String {
    let mut text = resource.name.as_ref().map(|name| format!(" for `{name}`")).unwrap_or_default();
    let who = |name: &String| if name.contains('`') { name.clone() } else { format!("job `{name}`") };
    let (shown, others) = resource.held_by.split_at(resource.held_by.len().min(HOLDERS));
    if !shown.is_empty() {
        text = format!("{text}, held by {}", shown.iter().map(who).collect::<Vec<_>>().join(", "));
    }
    if !others.is_empty() {
        text = format!("{text} and {} more", others.len());
    }
    if let (Some(in_use), Some(limit)) = (resource.in_use, resource.limit) {
        text = format!("{text}, {in_use} of {limit} in use");
    }
    if resource.waiting > 1 {
        text = format!("{text}, {} waiting", resource.waiting);
    }
    text
}

fn place(place: &Location<'_>) -> String {
    format!("{}:{}", place.file(), place.line())
}

/// To the microsecond: more is noise.
fn span(span: Duration) -> String {
    match u64::try_from(span.as_micros()).unwrap_or(u64::MAX) {
        0 => "0s".to_owned(),
        micros => format!("{:?}", Duration::from_micros(micros)),
    }
}

/// A line to be drawn.
enum Drawn {
    Entry(usize),
    Others(Vec<usize>),
}
