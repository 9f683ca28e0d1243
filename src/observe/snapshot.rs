//! A picture of what is alive: scopes, jobs and regions, what each does, since when and where. [`of`], [`below`], [`all`].
//!
//! # Promises
//!
//! 1. Taking one stops nobody: it takes one lock of one place at a time. So it is true of each place at one moment, and of
//!    the whole only about that time.
//! 2. A job shows from its spawn to its end, once, below its scope, and after those spawned before it.
//! 3. Every parent stands before its children.
//! 4. Iterative, to take, to draw and to drop.
//!
//! # Does not know
//!
//! What jobs do; only what they wait in.

use crate::{
    cancel::{
        current::{Activity, Look, On, Strand, Thing},
        node::Node,
        reason::Reason,
        roots,
        token::CancelToken,
    },
    error::JobId,
    park::seat::Seat,
    raw::Tally,
    scope::{
        core::{Core, Stint},
        job::JobRef,
        open::Scope,
    },
    wait::abandon,
};
use std::{collections::HashMap, fmt, panic::Location, sync::Arc, time::Instant};

/// What a job, or a body, does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// It waits for a thread.
    Queued,
    /// It moves, or blocks where the library does not see it.
    Running,
    /// It waits in a call of the library, such as `sleep` or `join`.
    Waiting {
        /// The call.
        on: &'static str,
    },
}

impl State {
    fn of(activity: Activity) -> Self {
        match activity {
            Activity::Running => State::Running,
            waiting => State::Waiting { on: waiting.name() },
        }
    }

    /// Tells whether it moves at this moment, as far as the library sees.
    #[must_use]
    pub fn is_running(self) -> bool {
        self == State::Running
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Queued => f.write_str("queued"),
            State::Running => f.write_str("running"),
            State::Waiting { on } => write!(f, "waiting in {on}"),
        }
    }
}

/// What an [`Entry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A scope. Its state is that of its body, which after its end waits in `scope exit`.
    Scope,
    /// A job.
    Job,
    /// A region, such as `fail_after`. Its state is that of the job or body that is inside.
    Region,
    /// A [`shield`](crate::region::shield). Its state is as that of a region.
    Shield,
    /// A [`cleanup`](crate::region::cleanup). Its state is as that of a region.
    Cleanup,
    /// A call that was left behind by [`abandon`](fn@crate::abandon), and has not ended.
    Abandoned,
}

impl Kind {
    /// That of a node without jobs, by what its label says.
    fn of_region(what: &str) -> Option<Self> {
        [Kind::Region, Kind::Shield, Kind::Cleanup].into_iter().find(|kind| kind.name() == what)
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Scope => "scope",
            Kind::Job => "job",
            Kind::Region => "region",
            Kind::Shield => "shield",
            Kind::Cleanup => "cleanup",
            Kind::Abandoned => "abandoned call",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What several jobs share, such as a [`Semaphore`](crate::sync::Semaphore), as one that waits for it sees it; or the call of
/// [`abandon`](fn@crate::abandon) that it waits for, if that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resource {
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// Who has it: jobs by their names, bodies as ``the body of `crawl` ``. Only those in the same picture.
    pub held_by: Vec<String>,
    /// How much of it is in use, if it is counted.
    pub in_use: Option<usize>,
    /// How much of it there may be, if it is counted.
    pub limit: Option<usize>,
    /// How many wait for it.
    pub waiting: usize,
    /// Who has it, by number.
    holders: Vec<u64>,
}

impl Resource {
    fn of(thing: &dyn Thing) -> Self {
        let Look { name, holders, used, waiting } = thing.look();
        let (in_use, limit) = used.unzip();
        Resource { name: name.map(Into::into), held_by: Vec::new(), in_use, limit, waiting, holders }
    }
}

/// One scope, job or region of a [`Snapshot`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// The index of the entry that it belongs to: a job's is its scope, a scope's the job or region that opened it, or the
    /// scope whose body did. `None` at the top.
    pub parent: Option<usize>,
    /// How many entries stand above it.
    pub depth: usize,
    /// Its name, or its place (and, of a job, number).
    pub name: String,
    /// Of a job, the number that its handle shows as well; of a scope, that of its body.
    pub id: Option<JobId>,
    /// What it does.
    pub state: State,
    /// Since when it does that, by its clock; unknown of what is queued or in a region.
    pub since: Option<Instant>,
    /// Where it was spawned or opened.
    pub place: &'static Location<'static>,
    /// Where it waits: the place of the call.
    pub waits_at: Option<&'static Location<'static>>,
    /// The name of the job that it joins.
    pub waits_for: Option<String>,
    /// What it waits for, if that is something shared, or a call with a name.
    pub resource: Option<Resource>,
    /// The earliest deadline in force.
    pub deadline: Option<Instant>,
    /// Why it is to stop, if it is; of an abandoned call, why it was left behind.
    pub cancelled: Option<Reason>,
    /// The name of the thread that it runs on.
    pub thread: Option<Arc<str>>,
}

/// A picture of what was alive at one moment: see [`of`], [`below`], [`all`].
///
/// The entries are plain data, each parent before its children. `Display` draws the tree, with at most 200 lines: what many
/// jobs do is counted.
///
/// # Examples
///
/// ```
/// use tassel::snapshot::{self, Kind};
/// tassel::scope(|s| {
///     s.job("a").spawn(|| Ok(tassel::sleep(std::time::Duration::from_millis(1))?));
///     let picture = snapshot::of(s);
///     assert!(picture.entries[0].kind == Kind::Scope && picture.entries[0].state.is_running());
///     assert!(picture.jobs().all(|job| job.name == "a"));
///     Ok(())
/// })?;
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// When it was taken, by the clock of the caller.
    pub taken: Instant,
    /// What was alive.
    pub entries: Vec<Entry>,
}

impl Snapshot {
    /// Returns the jobs of the first scope, in the order of their spawning.
    pub fn jobs(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.kind == Kind::Job && entry.parent == Some(0))
    }
}

/// Takes a picture of a scope and all that is below it.
///
/// From any thread, at any time; stops nobody. A job whose thread runs another one inline is *waiting*, the inline one
/// *running*.
#[must_use]
pub fn of(scope: &Scope<'_, '_>) -> Snapshot {
    take(vec![What::Scope(Arc::clone(scope.core()))])
}

/// Takes a picture of the scopes and regions below a token: those opened in code that it was entered or bound for, or, of
/// the token of a scope or job, all that stands there.
#[must_use]
pub fn below(token: &CancelToken) -> Snapshot {
    at(token.node())
}

/// What stands below a place in the tree.
pub(crate) fn at(node: &Arc<Node>) -> Snapshot {
    take(vec![What::At(Arc::clone(node), None)])
}

/// Takes a picture of all scopes of the process, and, after them, of the calls that were left behind.
///
/// Regions outside of any scope do not show.
#[must_use]
pub fn all() -> Snapshot {
    let mut all = take(roots::all().into_iter().map(|root| What::At(root, None)).collect());
    all.entries.extend(abandon::left_behind().into_iter().map(|call| Entry {
        kind: Kind::Abandoned,
        parent: None,
        depth: 0,
        name: call.label.name().to_string(),
        id: None,
        state: State::Running,
        since: Some(call.since),
        place: call.label.place,
        waits_at: None,
        waits_for: None,
        resource: None,
        deadline: None,
        cancelled: call.left,
        thread: Some(abandon::THREAD.into()),
    }));
    all
}

/// What is still to be looked at.
enum What {
    Scope(Arc<Tally<Core>>),
    Job(Arc<Tally<Core>>, JobRef, Option<Stint>),
    /// A place in the tree, and the line of code that stands there.
    At(Arc<Node>, Option<Arc<Strand>>),
}

fn take(first: Vec<What>) -> Snapshot {
    let mut snapshot = Snapshot { taken: crate::wait::time::now(), entries: Vec::new() };
    let mut todo: Vec<(Option<usize>, What)> = first.into_iter().rev().map(|what| (None, what)).collect();
    while let Some((parent, what)) = todo.pop() {
        let depth = parent.map_or(0, |parent| snapshot.entries[parent].depth + 1);
        let mut below: Vec<What> = Vec::new();
        let entry = match what {
            What::Scope(core) => {
                below.extend(children(&core.node, Some(&core.body)));
                let jobs = core.alive().into_iter();
                below.extend(jobs.map(|(job, run)| What::Job(Arc::clone(&core), job, run)));
                let body = &core.body;
                let entry = Entry { parent, depth, ..entry(Kind::Scope, &core.node, Some(body)) };
                let since = entry.since.or(Some(core.opened));
                Some(Entry { id: Some(JobId::new(body.id)), since, thread: name_of(core.seat()), ..entry })
            }
            What::Job(core, job, run) => {
                let strand = job.seed.made();
                if let Some(own) = job.own() {
                    below.extend(children(own, strand));
                }
                let entry = Entry { parent, depth, ..entry(Kind::Job, core.nearest(&job), strand) };
                let entry = match &run {
                    Some(run) if job.has_started() => Entry { since: entry.since.or(Some(run.since)), ..entry },
                    _ => Entry { state: State::Queued, ..entry },
                };
                let thread = run.and_then(|run| name_of(core.seat_of(&run)));
                let name = job.label().name().to_string();
                Some(Entry { id: Some(job.id()), name, place: job.seed.place, thread, ..entry })
            }
            What::At(node, strand) => {
                if let Some(core) = node.host().and_then(|host| host.downcast::<Tally<Core>>().ok()) {
                    todo.push((parent, What::Scope(core)));
                    continue;
                }
                below.extend(children(&node, strand.as_ref()));
                let kind = strand.as_ref().and_then(|_| Kind::of_region(node.label().what));
                kind.map(|kind| Entry { parent, depth, since: None, ..entry(kind, &node, strand.as_ref()) })
            }
        };
        let above = match entry {
            Some(entry) => {
                snapshot.entries.push(entry);
                Some(snapshot.entries.len() - 1)
            }
            None => parent, // a token, or the root of a virtual run
        };
        todo.extend(below.into_iter().rev().map(|what| (above, what)));
    }
    name_holders(&mut snapshot.entries);
    snapshot
}

/// Says who has what others wait for.
fn name_holders(entries: &mut [Entry]) {
    if entries.iter().all(|entry| entry.resource.is_none()) {
        return;
    }
    let named = entries.iter().filter_map(|entry| match (entry.id, entry.kind) {
        (Some(id), Kind::Scope) => Some((id.get(), format!("the body of `{}`", entry.name))),
        (Some(id), _) => Some((id.get(), entry.name.clone())),
        (None, _) => None,
    });
    let by_id: HashMap<u64, String> = named.collect();
    for resource in entries.iter_mut().filter_map(|entry| entry.resource.as_mut()) {
        let held_by = resource.holders.iter().filter_map(|holder| by_id.get(holder));
        resource.held_by = held_by.cloned().collect();
    }
}

/// What hangs below `node` in the tree, but for jobs, which their scope lists.
fn children(node: &Arc<Node>, strand: Option<&Arc<Strand>>) -> impl Iterator<Item = What> {
    let places = node.children().into_iter().filter(|child| child.label().what != "job");
    places.map(move |child| What::At(child, strand.cloned())).collect::<Vec<_>>().into_iter()
}

fn entry(kind: Kind, node: &Arc<Node>, strand: Option<&Arc<Strand>>) -> Entry {
    let waits = strand.and_then(|strand| strand.waits());
    let (waits_for, resource) = match waits.as_ref().and_then(|waits| waits.on.as_ref()) {
        Some(On::Job(label)) => (Some(label.name().to_string()), None),
        Some(On::Thing(thing)) => (None, Some(Resource::of(&**thing))),
        None => (None, None),
    };
    Entry {
        kind,
        parent: None,
        depth: 0,
        name: node.label().name().to_string(),
        id: None,
        state: State::of(waits.as_ref().map_or(Activity::Running, |waits| waits.activity)),
        since: waits.as_ref().map(|waits| waits.since),
        place: node.label().place,
        waits_at: waits.as_ref().map(|waits| waits.place),
        waits_for,
        resource,
        deadline: node.deadline(),
        cancelled: node.reason(),
        thread: None,
    }
}

fn name_of(seat: &Arc<Seat>) -> Option<Arc<str>> {
    seat.thread.clone()
}
