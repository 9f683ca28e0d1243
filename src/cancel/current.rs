//! Where the running code stands: the thread's stack of frames, and [`Strand`], one line of code.
//!
//! A thread that runs a scope's body, a job, a region or bound code has a frame for it. The innermost frame tells which
//! node a checkpoint looks at and what time it is.
//!
//! A job is a [`Seed`] at first, a part of its cell. Its strand is made on first need: when it waits, is joined by who
//! must wait, or opens anything. Most jobs end without.
//!
//! # Promises
//!
//! 1. A frame is there while its closure runs; unwinding takes it away, too.
//! 2. A thread keeps nothing after its outermost frame is gone.
//! 3. In the destructor of a thread-local it is as anywhere.
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
    prim::{Mutex, OnceLock, thread_local},
    raw::{Layer, Stack},
    value,
};
use once_cell::race::OnceBox;
use smol_str::SmolStr;
use std::{
    any::Any,
    cell::Cell,
    collections::HashSet,
    fmt, mem,
    panic::Location,
    sync::{
        Arc,
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
    Blocking,
    Semaphore,
    #[cfg_attr(any(tassel_loom, tassel_shuttle), allow(dead_code, reason = "models have channels of their own"))]
    Receive,
    #[cfg_attr(any(tassel_loom, tassel_shuttle), allow(dead_code, reason = "models have channels of their own"))]
    Send,
    Lock,
    ReadLock,
    WriteLock,
    Condition,
    Once,
    Abandon,
    AbandonLimit,
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
            Activity::Blocking => "blocking",
            Activity::Semaphore => "semaphore",
            Activity::Receive => "recv",
            Activity::Send => "send",
            Activity::Lock => "lock",
            Activity::ReadLock => "read lock",
            Activity::WriteLock => "write lock",
            Activity::Condition => "condition",
            Activity::Once => "once cell",
            Activity::Abandon => "abandon",
            Activity::AbandonLimit => "abandon limit",
        }
    }
}

/// Where strands begin: what the body and all jobs of a scope have in common.
#[derive(Debug)]
pub(crate) struct Ground {
    /// What they stand at, unless they have a node of their own.
    pub(crate) node: Arc<Node>,
    /// The names from the root to here, if they are not those of the parent and the node.
    path: Option<SmolStr>,
    /// The strand that cannot end before these: that which opened their scope, or called them.
    parent: Option<Arc<Strand>>,
}

impl Ground {
    /// Below the code here.
    pub(crate) fn new(node: Arc<Node>, path: Option<SmolStr>) -> Arc<Self> {
        let parent = with(|frame| Some(Arc::clone(frame?.line.strand())));
        Arc::new(Ground { node, path, parent })
    }

    /// Returns the names from the root to here, joined by slashes.
    pub(crate) fn path(&self) -> Arc<str> {
        let (mut names, mut ground) = (Vec::new(), self);
        loop {
            names.push(ground.path.clone().unwrap_or_else(|| ground.node.label().name()));
            let above = ground.parent.as_ref().filter(|_| ground.path.is_none());
            let Some(above) = above else { break };
            if above.is_job() {
                names.push(above.label.name());
            }
            ground = &above.ground;
        }
        names.retain(|name| !name.is_empty());
        names.reverse();
        names.join("/").into()
    }
}

/// One line of code: a scope's body, a job, or bound code on a foreign thread.
pub(crate) struct Strand {
    /// Unique in the process; a job's is its `JobId`.
    pub(crate) id: u64,
    pub(crate) label: Label,
    /// Its place in the order of a virtual run.
    pub(crate) order: u64,
    ground: Arc<Ground>,
    /// A job's own node, made on first need; other code has none.
    own: OnceLock<Arc<Node>>,
    deadline: Option<Deadline>,
    /// Of the thread that runs it, if it has ever waited.
    seat: OnceLock<Arc<Seat>>,
    waits: Mutex<Option<Waiting>>,
}

/// Gives out ids for strands, unique in the process. Each thread takes a handful at a time.
pub(crate) fn next_id() -> u64 {
    const HANDFUL: u64 = 64;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static MINE: Cell<u64> = const { Cell::new(0) };
    }
    // Counts up from the handful's first; the first of all, 0, is nobody's.
    MINE.with(|mine| {
        let mut id = mine.get();
        if id % HANDFUL == 0 {
            id = NEXT.fetch_add(HANDFUL, Ordering::Relaxed);
        }
        mine.set(id + 1);
        id + 1
    })
}

impl Strand {
    /// Code that stands directly at `node`, called by the code here.
    pub(crate) fn at(label: Label, path: SmolStr, order: u64, node: &Arc<Node>) -> Arc<Self> {
        Strand::on(&Ground::new(Arc::clone(node), Some(path)), label, order)
    }

    /// Code that stands directly at a ground.
    pub(crate) fn on(ground: &Arc<Ground>, label: Label, order: u64) -> Arc<Self> {
        Arc::new(Strand::new(next_id(), label, order, ground, None))
    }

    fn new(id: u64, label: Label, order: u64, ground: &Arc<Ground>, deadline: Option<Deadline>) -> Self {
        let (ground, own, seat) = (Arc::clone(ground), OnceLock::new(), OnceLock::new());
        Strand { id, label, order, ground, own, deadline, seat, waits: Mutex::default() }
    }

    /// Its thread is about to wait.
    pub(crate) fn set_seat(&self, seat: &Arc<Seat>) {
        if self.seat.get().is_none() {
            let _ = self.seat.set(Arc::clone(seat));
        }
    }

    fn is_job(&self) -> bool {
        self.label.what == "job"
    }

    /// Returns the names from the root, joined by slashes. A job adds its own to its scope's.
    pub(crate) fn path(&self) -> Arc<str> {
        self.label.path_below(&self.ground.path())
    }

    /// Returns where the jobs of its scope begin, if it is a job.
    pub(crate) fn job_of(&self) -> Option<&Arc<Ground>> {
        self.is_job().then_some(&self.ground)
    }

    /// Returns the strand that cannot end before this one.
    pub(crate) fn parent(&self) -> Option<&Arc<Strand>> {
        self.ground.parent.as_ref()
    }

    /// Returns the strand's own node, made now if need be.
    pub(crate) fn node(&self) -> &Arc<Node> {
        if !self.is_job() {
            return &self.ground.node;
        }
        let mut is_new = false;
        let own = self.own.get_or_init(|| {
            is_new = true;
            let base = &self.ground.node;
            let parents = Parents { parent: Some(base), also: None };
            Node::new(&parents, self.label.clone(), base.clock().clone(), self.deadline)
        });
        if is_new {
            self.move_to_own();
        }
        own
    }

    /// The code may wait at the node that was the nearest until now: it is to go on at its own.
    fn move_to_own(&self) {
        // Who waits registers its seat under this lock, and looks for its nearest node after that. So either its thread, and
        // its seat, are seen here, or it finds the node.
        self.ground.node.pass_lock();
        let Some(seat) = self.seat.get() else { return };
        if with_chair(|chair| chair.seat().id != seat.id) && !mutant!("waiter_stays_behind") {
            seat.poke();
        }
    }

    /// Returns the nearest node that exists.
    #[inline]
    pub(crate) fn nearest(&self) -> &Arc<Node> {
        self.own.get().unwrap_or(&self.ground.node)
    }

    /// Returns a job's own node, if anybody has needed one.
    #[inline]
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

/// A job's line of code before anybody needs more of it. Small: there may be a million.
#[derive(Debug)]
pub(crate) struct Seed {
    /// Unique in the process.
    pub(crate) id: u64,
    pub(crate) name: Option<SmolStr>,
    pub(crate) place: &'static Location<'static>,
    /// In its scope, from 1.
    pub(crate) number: u64,
    strand: OnceBox<Arc<Strand>>,
}

impl Seed {
    pub(crate) fn new(name: Option<SmolStr>, place: &'static Location<'static>, number: u64) -> Self {
        Seed { id: next_id(), name, place, number, strand: OnceBox::new() }
    }

    /// Has its strand made at once, for a place in the order of a virtual run; and its node, for a deadline.
    pub(crate) fn grown(self, order: u64, deadline: Option<Deadline>, ground: &Arc<Ground>) -> Self {
        let strand = Arc::new(Strand::new(self.id, self.label(), order, ground, deadline));
        if deadline.is_some() {
            strand.node();
        }
        let _ = self.strand.set(Box::new(strand));
        self
    }

    pub(crate) fn label(&self) -> Label {
        Label { what: "job", name: self.name.clone(), place: self.place, number: self.number }
    }

    /// Its place in the order of a virtual run.
    pub(crate) fn order(&self) -> u64 {
        self.made().map_or(0, |strand| strand.order)
    }

    /// Returns its strand, made now if need be. The ground is always the same.
    pub(crate) fn strand(&self, ground: &Arc<Ground>) -> &Arc<Strand> {
        self.strand.get_or_init(|| Box::new(Arc::new(Strand::new(self.id, self.label(), 0, ground, None))))
    }

    /// Returns its strand, if anybody has needed it.
    #[inline]
    pub(crate) fn made(&self) -> Option<&Arc<Strand>> {
        self.strand.get()
    }

    /// Returns its own node, if anybody has needed one.
    #[inline]
    pub(crate) fn own(&self) -> Option<&Arc<Node>> {
        self.made().and_then(|strand| strand.own())
    }
}

/// A strand, or a job that has none yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line<'a> {
    Made(&'a Arc<Strand>),
    Seed(&'a Seed, &'a Arc<Ground>),
}

impl<'a> Line<'a> {
    /// Returns the strand, made now if need be.
    pub(crate) fn strand(self) -> &'a Arc<Strand> {
        match self {
            Line::Made(strand) => strand,
            Line::Seed(seed, ground) => seed.strand(ground),
        }
    }

    /// Returns the strand, if there is one.
    pub(crate) fn made(self) -> Option<&'a Arc<Strand>> {
        match self {
            Line::Made(strand) => Some(strand),
            Line::Seed(seed, _) => seed.made(),
        }
    }

    /// Unique in the process; a job's is its `JobId`.
    #[inline]
    pub(crate) fn id(self) -> u64 {
        match self {
            Line::Made(strand) => strand.id,
            Line::Seed(seed, _) => seed.id,
        }
    }

    pub(crate) fn order(self) -> u64 {
        match self {
            Line::Made(strand) => strand.order,
            Line::Seed(seed, _) => seed.order(),
        }
    }

    /// Returns the names from the root to it.
    pub(crate) fn path(self) -> Arc<str> {
        match self {
            Line::Made(strand) => strand.path(),
            Line::Seed(seed, ground) => seed.label().path_below(&ground.path()),
        }
    }

    /// Returns the nearest node that exists.
    #[inline]
    pub(crate) fn nearest(self) -> &'a Arc<Node> {
        match self {
            Line::Made(strand) => strand.nearest(),
            Line::Seed(seed, ground) => seed.own().unwrap_or(&ground.node),
        }
    }
}

/// An entry of the thread's stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) line: Line<'a>,
    /// A region's node, or what the line stands at while it has no node of its own.
    pub(crate) base: &'a Arc<Node>,
    pub(crate) is_region: bool,
    /// The scope whose body or job this is; 0 in a region or in bound code.
    pub(crate) scope: u64,
    /// How many jobs run inline below this frame.
    pub(crate) inlined: u32,
    /// What code here, and below, uses besides: for floors above.
    pub(crate) uses: Option<&'a (dyn Any + Send + Sync)>,
}

impl<'a> Frame<'a> {
    /// Code that is of no scope.
    pub(crate) fn of(strand: &'a Arc<Strand>) -> Self {
        Frame { line: Line::Made(strand), base: strand.nearest(), is_region: false, scope: 0, inlined: 0, uses: None }
    }

    #[inline]
    pub(crate) fn nearest(&self) -> &'a Arc<Node> {
        match self.line {
            Line::Seed(seed, _) if !self.is_region => seed.own().unwrap_or(self.base),
            _ => self.base,
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.base.clock().clone()
    }

    fn node(&self) -> &'a Arc<Node> {
        if self.is_region { self.base } else { self.line.strand().node() }
    }
}

/// Where code waits, for others: what stops it.
pub(crate) struct Post {
    strand: Arc<Strand>,
    region: Option<Arc<Node>>,
}

impl Post {
    /// Of the code here. `None` outside any scope: nothing stops it.
    pub(crate) fn here() -> Option<Self> {
        with(|frame| {
            let frame = frame?;
            let region = frame.is_region.then(|| Arc::clone(frame.base));
            Some(Post { strand: Arc::clone(frame.line.strand()), region })
        })
    }

    /// Whether a wait there ends by itself: it is to stop, or has a deadline.
    pub(crate) fn ends_waits(&self) -> bool {
        // The nearest node as it is now: a job may have been given one of its own since.
        let node = self.region.as_ref().unwrap_or_else(|| self.strand.nearest());
        node.is_stopping() || node.deadline().is_some()
    }
}

struct Frames;

impl Layer for Frames {
    /// Without a frame the code stands outside of those below.
    type Of<'a> = Option<Frame<'a>>;
}

#[cfg(not(tassel_loom))]
thread_local! {
    static FRAMES: Stack<Frames> = const { Stack::new() };
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

#[cfg(tassel_loom)]
loom::thread_local! {
    static FRAMES: Stack<Frames> = Stack::new();
    static THREAD: Cell<u64> = Cell::new(0);
}

/// Looks at the innermost frame.
#[inline]
pub(crate) fn with<R>(look: impl FnOnce(Option<&Frame<'_>>) -> R) -> R {
    FRAMES.with(|frames| frames.top(|frame| look(frame.and_then(Option::as_ref))))
}

/// Runs `f` in a frame.
#[expect(clippy::inline_always, reason = "nested scopes should cost little stack, in debug builds as well")]
#[inline(always)]
pub(crate) fn enter<R>(frame: Frame<'_>, f: impl FnOnce() -> R) -> R {
    Stack::push(&FRAMES, Some(frame), f)
}

/// Runs `f` as outside any scope, and without values.
pub(crate) fn detached<R>(f: impl FnOnce() -> R) -> R {
    value::instead(None, || Stack::push(&FRAMES, None, f))
}

/// Looks at what the code here uses, the innermost first, until a look finds something. Code outside any scope uses what
/// those use who have called it.
pub(crate) fn find_use<R>(mut look: impl FnMut(&(dyn Any + Send + Sync)) -> Option<R>) -> Option<R> {
    FRAMES.with(|frames| frames.find(|frame| look(frame.as_ref()?.uses?)))
}

/// Returns all who cannot go on before the code here does, that itself first: the strands on this thread's stack, and
/// all their ancestors.
pub(crate) fn chain() -> Vec<Arc<Strand>> {
    let mut strands = Vec::new();
    let outside = |frame: &Option<Frame<'_>>| match frame {
        Some(frame) => {
            strands.push(Arc::clone(frame.line.strand()));
            None
        }
        None => Some(()),
    };
    let _ = FRAMES.with(|frames| frames.find(outside));
    let mut seen = HashSet::new();
    let mut chain = Vec::new();
    for strand in strands {
        let mut next = Some(strand);
        while let Some(strand) = next.filter(|strand| seen.insert(strand.id)) {
            next = strand.parent().cloned();
            chain.push(strand);
        }
    }
    chain
}

/// Returns the node that the running code stands at, making the job's own if need be.
pub(crate) fn node() -> Option<Arc<Node>> {
    with(|frame| frame.map(|frame| Arc::clone(frame.node())))
}

/// Tells whether the code here is that of the job whose own node this is, inner scopes included, whichever thread runs it.
///
/// By the ancestors and not by the stack of frames: a job that runs inline on top of another is not part of it.
pub(crate) fn is_in_job_of(node: &Arc<Node>) -> bool {
    let mut strand = with(|frame| Some(Arc::clone(frame?.line.strand())));
    while let Some(here) = strand {
        if here.own().is_some_and(|own| Arc::ptr_eq(own, node)) {
            return true;
        }
        strand = here.parent().cloned();
    }
    false
}

/// Returns the nearest node that exists, unless it is `known`.
pub(crate) fn nearest_but(known: Option<&Arc<Node>>) -> Option<Arc<Node>> {
    with(|frame| {
        let nearest = frame?.nearest();
        let is_known = known.is_some_and(|known| Arc::ptr_eq(known, nearest));
        (!is_known).then(|| Arc::clone(nearest))
    })
}

/// Returns the number of this thread, unique in the process and never 0.
#[inline]
pub(crate) fn thread() -> u64 {
    THREAD.with(|number| match number.get() {
        0 => number_thread(number),
        known => known,
    })
}

#[cold]
fn number_thread(number: &Cell<u64>) -> u64 {
    static THREADS: AtomicU64 = AtomicU64::new(1);
    number.set(THREADS.fetch_add(1, Ordering::Relaxed));
    number.get()
}

/// Returns the number of the line of code here; 0 outside any scope.
#[inline]
pub(crate) fn line() -> u64 {
    with(|frame| frame.map_or(0, |frame| frame.line.id()))
}

/// Returns the clock in force here.
pub(crate) fn clock() -> Clock {
    with(|frame| frame.map_or(Clock::Real, |frame| frame.nearest().clock().clone()))
}

/// Whether a look at the innermost node is enough to go on.
#[inline]
fn goes_on() -> bool {
    with(|frame| frame.is_none_or(|frame| frame.nearest().seen() == Some(false)))
}

/// Returns why the code here is to stop, if it is.
#[inline]
pub(crate) fn stop() -> Option<Reason> {
    if goes_on() { None } else { look() }
}

/// As [`stop`], with the clock.
#[cold]
fn look() -> Option<Reason> {
    // The stack is let go first: callbacks may run, and they stand outside of it.
    let node = with(|frame| Some(Arc::clone(frame?.nearest())))?;
    if node.is_cancelled() { node.reason() } else { None }
}

/// The check of every checkpoint.
#[inline]
pub(crate) fn check() -> Result<(), Cancelled> {
    match stop() {
        None => Ok(()),
        Some(reason) => Err(Cancelled::new(reason)),
    }
}

/// What a strand waits for, as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) activity: Activity,
    pub(crate) since: Instant,
    /// Of the call that waits.
    pub(crate) place: &'static Location<'static>,
    pub(crate) on: Option<On>,
}

/// Whom or what a wait is for.
#[derive(Clone)]
pub(crate) enum On {
    /// The job that is joined.
    Job(Label),
    Thing(Arc<dyn Thing>),
}

impl fmt::Debug for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            On::Job(label) => write!(f, "{label}"),
            On::Thing(thing) => write!(f, "{:?}", thing.look()),
        }
    }
}

/// What several lines of code share, and wait for.
pub(crate) trait Thing: Send + Sync {
    /// What it is like now.
    fn look(&self) -> Look;
}

/// A [`Thing`] at one moment.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) name: Option<SmolStr>,
    /// The numbers of the lines that have it, as far as they are known.
    pub(crate) holders: Vec<u64>,
    /// How much of it is in use, and how much there may be, if it is counted.
    pub(crate) used: Option<(usize, usize)>,
    /// How many wait for it.
    pub(crate) waiting: usize,
}

/// Shows what the current strand waits for, as long as the result lives.
#[derive(Debug)]
pub(crate) struct Doing(Option<(Arc<Strand>, Option<Waiting>)>);

impl Doing {
    pub(crate) fn new(activity: Activity, place: &'static Location<'static>, on: Option<On>) -> Self {
        Doing::since(clock().now(), activity, place, on)
    }

    /// As [`new`](Doing::new), by a caller that has just asked for the time.
    pub(crate) fn since(since: Instant, activity: Activity, place: &'static Location<'static>, on: Option<On>) -> Self {
        Doing(with(|frame| {
            let strand = frame?.line.strand();
            let before = strand.set_waits(Some(Waiting { activity, since, place, on }));
            Some((Arc::clone(strand), before))
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
