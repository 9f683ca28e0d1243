//! Where the running code stands: the thread-local stack of frames, and [`Strand`], one line of code.
//!
//! A thread that runs a scope's body, a job, a region or bound code has a frame for it. The innermost frame tells which
//! node a checkpoint looks at and what time it is.
//!
//! # Promises
//!
//! 1. A frame is pushed and popped by one guard; unwinding pops it, too.
//! 2. A thread keeps nothing after its outermost frame is gone.
//! 3. In the destructor of a thread-local, when the stack is gone, code starts as outside any scope; scopes that it opens
//!    are like any other.
//!
//! # Does not know
//!
//! What a job or a scope is, beyond numbers and labels.

use crate::{
    cancel::{
        deadline::Deadline,
        node::{Node, Parents},
        reason::{Cancelled, Label, Reason},
    },
    park::{
        clock::Clock,
        seat::{Seat, with_chair},
    },
    prim::{Mutex, Stack, with_stack},
};
use std::{
    cell::RefCell,
    collections::HashSet,
    fmt,
    mem::{self, ManuallyDrop},
    panic::Location,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// What a strand is doing, as far as the library sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    Running,
    Sleep,
    Join,
    Exit,
    Barrier,
    Event,
}

impl Activity {
    /// The public call that waits.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Activity::Running => "running",
            Activity::Sleep => "sleep",
            Activity::Join => "join",
            Activity::Exit => "scope exit",
            Activity::Barrier => "barrier",
            Activity::Event => "event",
        }
    }
}

/// One line of code: a scope's body, a job, or bound code on a foreign thread.
pub(crate) struct Strand {
    /// Unique in the process; a job's is its `JobId`.
    pub(crate) id: u64,
    pub(crate) label: Label,
    /// Its place in the order of a virtual run.
    pub(crate) order: u64,
    /// The names from the root to here.
    path: Arc<str>,
    /// The strand that cannot end before this one: that which opened its scope, or called it.
    parent: Option<Arc<Strand>>,
    /// What it was spawned under.
    base: Arc<Node>,
    /// A job's own node, made on first need; a body's is its scope's.
    own: OnceLock<Arc<Node>>,
    deadline: Option<Deadline>,
    /// Where it runs: a job, from its claim on.
    seat: OnceLock<Arc<Seat>>,
    waits: Mutex<Option<Waiting>>,
}

/// Gives out ids for strands, unique in the process.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Strand {
    /// A job: its node is made when somebody needs it, at once if it has a deadline.
    pub(crate) fn job(
        label: Label,
        scope: &Arc<str>,
        order: u64,
        base: &Arc<Node>,
        deadline: Option<Deadline>,
        parent: Option<Arc<Strand>>,
    ) -> Arc<Self> {
        let strand = Strand { parent, ..Strand::new(label, Arc::clone(scope), order, base, deadline) };
        if deadline.is_some() {
            strand.node();
        }
        Arc::new(strand)
    }

    /// Code that stands directly at `node`, called by the code here.
    pub(crate) fn at(label: Label, path: Arc<str>, order: u64, node: &Arc<Node>) -> Arc<Self> {
        let parent = with(|frame| Some(Arc::clone(&frame?.strand)));
        let strand = Strand { parent, ..Strand::new(label, path, order, node, None) };
        drop(strand.own.set(Arc::clone(node)));
        with_chair(|chair| strand.set_seat(chair.seat()));
        Arc::new(strand)
    }

    fn new(label: Label, path: Arc<str>, order: u64, base: &Arc<Node>, deadline: Option<Deadline>) -> Self {
        Strand {
            id: next_id(),
            label,
            order,
            path,
            parent: None,
            base: Arc::clone(base),
            own: OnceLock::new(),
            deadline,
            seat: OnceLock::new(),
            waits: Mutex::default(),
        }
    }

    /// Returns the seat of the thread that runs it, if one does.
    pub(crate) fn seat(&self) -> Option<&Arc<Seat>> {
        self.seat.get()
    }

    /// A thread has claimed it.
    pub(crate) fn set_seat(&self, seat: &Arc<Seat>) {
        let _ = self.seat.set(Arc::clone(seat));
    }

    /// Returns the names from the root, joined by slashes. A job adds its own to its scope's.
    pub(crate) fn path(&self) -> Arc<str> {
        if self.label.number == 0 {
            return Arc::clone(&self.path);
        }
        format!("{}/{}", self.path, self.label.name()).into()
    }

    /// Returns the strand that cannot end before this one.
    pub(crate) fn parent(&self) -> Option<&Arc<Strand>> {
        self.parent.as_ref()
    }

    /// Returns the strand's own node, made now if need be.
    pub(crate) fn node(&self) -> &Arc<Node> {
        self.own.get_or_init(|| {
            let parents = Parents { parent: Some(&self.base), also: None };
            Node::new(&parents, self.label.clone(), self.base.clock().clone(), self.deadline)
        })
    }

    /// Returns the nearest node that exists.
    pub(crate) fn nearest(&self) -> &Arc<Node> {
        self.own.get().unwrap_or(&self.base)
    }

    /// Returns the strand's own node, if anybody has needed one.
    pub(crate) fn own(&self) -> Option<&Arc<Node>> {
        self.own.get()
    }

    pub(crate) fn activity(&self) -> Activity {
        self.waits.lock().as_ref().map_or(Activity::Running, |waiting| waiting.activity)
    }

    /// Returns what it waits for, unless it moves.
    pub(crate) fn waits(&self) -> Option<Waiting> {
        self.waits.lock().clone()
    }

    fn set_waits(&self, waits: Option<Waiting>) -> Option<Waiting> {
        mem::replace(&mut *self.waits.lock(), waits)
    }
}

impl fmt::Debug for Strand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Strand({} {}, {:?})", self.id, self.label, self.activity())
    }
}

/// An entry of the thread's stack.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) strand: Arc<Strand>,
    /// A region's node; else the strand's counts.
    pub(crate) region: Option<Arc<Node>>,
    /// The scope whose body or job this is; 0 in a region or in bound code.
    pub(crate) scope: u64,
    /// How many jobs run inline below this frame.
    pub(crate) inlined: u32,
}

impl Frame {
    pub(crate) fn nearest(&self) -> &Arc<Node> {
        self.region.as_ref().unwrap_or_else(|| self.strand.nearest())
    }

    pub(crate) fn clock(&self) -> Clock {
        self.nearest().clock().clone()
    }

    fn node(&self) -> &Arc<Node> {
        self.region.as_ref().unwrap_or_else(|| self.strand.node())
    }
}

thread_local! {
    static FRAMES: Stack<Frame> = const { RefCell::new(Vec::new()) };
    static SPARE: ManuallyDrop<Stack<Frame>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// The thread's stack; in the destructor of a thread-local, when it is gone, another one, empty at first.
fn frames<R>(f: impl FnOnce(&Stack<Frame>) -> R) -> Option<R> {
    with_stack(&FRAMES, &SPARE, f)
}

/// Looks at the innermost frame.
pub(crate) fn with<R>(look: impl FnOnce(Option<&Frame>) -> R) -> R {
    let mut look = Some(look);
    let seen = frames(|frames| look.take().map(|look| look(frames.borrow().last())));
    match (seen, look) {
        (Some(Some(result)), _) => result,
        (_, Some(look)) => look(None),
        (_, None) => unreachable!("the closure is taken only to be called"),
    }
}

/// Returns all who cannot go on before the code here does, that itself first: the strands on this thread's stack, and
/// all their ancestors.
pub(crate) fn chain() -> Vec<Arc<Strand>> {
    let strands =
        frames(|frames| frames.borrow().iter().rev().map(|frame| Arc::clone(&frame.strand)).collect::<Vec<_>>());
    let mut seen = HashSet::new();
    let mut chain = Vec::new();
    for strand in strands.unwrap_or_default() {
        let mut next = Some(strand);
        while let Some(strand) = next.filter(|strand| seen.insert(strand.id)) {
            next = strand.parent().cloned();
            chain.push(strand);
        }
    }
    chain
}

/// Returns the innermost frame.
pub(crate) fn frame() -> Option<Frame> {
    with(|frame| Some(frame?.clone()))
}

/// Returns the node that the running code stands at, making the job's own if need be.
pub(crate) fn node() -> Option<Arc<Node>> {
    with(|frame| frame.map(|frame| Arc::clone(frame.node())))
}

/// Tells whether the code here is that of the job whose own node this is, inner scopes included, whichever thread runs it.
///
/// By the ancestors and not by the stack of frames: a job that runs inline on top of another is not part of it.
pub(crate) fn is_in_job_of(node: &Arc<Node>) -> bool {
    let mut strand = with(|frame| Some(Arc::clone(&frame?.strand)));
    while let Some(here) = strand {
        if here.label.what == "job" && here.own().is_some_and(|own| Arc::ptr_eq(own, node)) {
            return true;
        }
        strand = here.parent().cloned();
    }
    false
}

/// Returns the clock in force here.
pub(crate) fn clock() -> Clock {
    with(|frame| frame.map_or(Clock::Real, |frame| frame.nearest().clock().clone()))
}

/// Returns why the code here is to stop, if it is.
pub(crate) fn stop() -> Option<Reason> {
    // Where the clock must be asked, the stack is let go first: callbacks may run, and they stand outside of it.
    let node = with(|frame| {
        let node = frame?.nearest();
        if node.seen() == Some(false) { None } else { Some(Arc::clone(node)) }
    })?;
    if node.is_cancelled() { node.reason() } else { None }
}

/// The check of every checkpoint.
pub(crate) fn check() -> Result<(), Cancelled> {
    match stop() {
        None => Ok(()),
        Some(reason) => Err(Cancelled::new(reason)),
    }
}

/// Pops its frame when dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        let frame = frames(|frames| frames.borrow_mut().pop());
        drop(frame);
    }
}

/// Pushes a frame for as long as the result lives.
pub(crate) fn enter(frame: Frame) -> Entered {
    let _ = frames(|frames| frames.borrow_mut().push(frame));
    Entered(())
}

/// Runs `f` as outside any scope.
pub(crate) fn detached<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(Vec<Frame>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = frames(|frames| frames.swap(&RefCell::new(mem::take(&mut self.0))));
        }
    }
    let _restore = Restore(frames(RefCell::take).unwrap_or_default());
    f()
}

/// What a strand waits for, as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) activity: Activity,
    pub(crate) since: Instant,
    /// Of the call that waits.
    pub(crate) place: &'static Location<'static>,
    /// The job that it joins.
    pub(crate) on: Option<Arc<Strand>>,
}

/// Shows what the current strand waits for, as long as the result lives.
#[derive(Debug)]
pub(crate) struct Doing(Option<(Arc<Strand>, Option<Waiting>)>);

impl Doing {
    pub(crate) fn new(activity: Activity, place: &'static Location<'static>, on: Option<&Arc<Strand>>) -> Self {
        Doing(with(|frame| {
            let frame = frame?;
            let waiting = Waiting { activity, since: frame.clock().now(), place, on: on.cloned() };
            let before = frame.strand.set_waits(Some(waiting));
            Some((Arc::clone(&frame.strand), before))
        }))
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        if let Some((strand, before)) = self.0.take() {
            let gone = strand.set_waits(before);
            drop(gone);
        }
    }
}
