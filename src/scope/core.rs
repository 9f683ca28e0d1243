//! What a scope's threads share: its queue, its running jobs, its failures.
//!
//! [`Core`] is `'static` by its own type: a late worker, a ticket or a handle may reach it after the scope is gone and
//! finds an empty queue. What borrows sits in the queue's [`Tied`](crate::raw::Tied) entries, which hold the scope open.
//!
//! # Promises
//!
//! 1. Jobs start in the order of their spawning, but for a joined one (D11).
//! 2. An entry is claimed by taking it out under the queue's lock; no tombstones.
//! 3. A failure is recorded before the cancel that it causes (S13); every failure is kept (S14).
//!
//! # Does not know
//!
//! How jobs are run (`run.rs`), who runs them (`threads.rs`), and with what result the scope is left (`exit.rs`).

use crate::{
    cancel::{
        current::{self, Ground, Strand},
        node::Node,
        reason::{Label, Reason, ReasonKind},
    },
    error::{Failure, JobId, Leaf, Log, Origin, Role, around_stop},
    park::{
        seat::{Seat, with_chair},
        standstill::{Moving, Party},
    },
    pool::PoolCore,
    prim::AtomicU64,
    raw::{Held, Home, Kept, Lent, Tally, Tied},
    scope::job::{Facts, Job, JobRef},
    value::Inherited,
};
use slab::Slab;
use std::{
    cell::Cell,
    collections::VecDeque,
    fmt, mem,
    num::NonZeroU32,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

/// How many jobs may run inline on top of each other on one thread, before a thread of their own is asked for.
/// A level costs under 1 KiB of stack besides the job's own frames.
pub(crate) const INLINE_DEPTH: u32 = 128;

/// How many notes of stopped jobs a scope keeps: enough to see what was cut off, however many jobs there were.
const JOB_NOTES: usize = 5;

/// An entry of a scope's queue: a job with its closure. It holds the scope open until it is dropped.
pub(crate) type Queued = Tied<Core, Facts, Failure>;

/// An entry that was taken out, for its runner. It holds the scope open until its runner gives it back, when the job has ended:
/// at once, or where that is cheaper, with the next claim.
#[derive(Debug)]
#[must_use = "the scope stays open until it is given back"]
pub(crate) struct Claimed {
    pub(super) lent: Lent<Facts, Failure>,
    key: Key,
    /// When it was claimed, or its turn came.
    pub(super) since: Instant,
}

/// The place of a job among those that are claimed.
#[derive(Clone, Copy, Debug)]
struct Key(usize);

/// Who runs a job, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Stint {
    /// Without one it is the owner's.
    seat: Option<Arc<Seat>>,
    pub(crate) since: Instant,
}

/// What stays of an entry that was taken out.
#[derive(Debug)]
pub(super) struct Run {
    entry: Kept<Core, Facts, Failure>,
    stint: Stint,
}

/// How many queued jobs a scope keeps room for, although fewer are queued: 24 KiB.
const ROOM: usize = 1024;

/// What a scope has under its lock.
#[derive(Default)]
pub(crate) struct Jobs {
    pub(super) queue: VecDeque<Queued>,
    /// The pool has the scope on its list, or is about to. Goes down only when nothing is queued.
    pub(super) listed: bool,
    /// A job is in one of the two from its spawn to its end.
    pub(super) claimed: Slab<Run>,
    /// Those that a parked thread joins.
    pub(super) joined: Slab<JobRef>,
    pub(super) log: Log,
    /// The stop of the scope stopped a job, or kept it from starting, against the scope's will (D2).
    pub(super) cut: bool,
    /// Likewise, but the first stop of a job alone, by its token.
    pub(super) cut_alone: Option<Reason>,
    /// What the body, and the first stopped jobs, put around their stops.
    pub(super) body_notes: Vec<String>,
    pub(super) job_notes: Vec<String>,
}

/// Room for the jobs of a scope, kept by a thread for the next one that it opens.
type Room = (VecDeque<Queued>, Slab<Run>);

thread_local! {
    static SPARE: Cell<Option<Room>> = const { Cell::new(None) };
}

impl Jobs {
    fn with_room() -> Self {
        // In the destructor of a thread-local it may be gone.
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        let (queue, claimed) = spare.unwrap_or_default();
        Jobs { queue, claimed, ..Jobs::default() }
    }

    /// Takes out what the next scope can use, and what is left of jobs that have ended.
    pub(super) fn take_room(&mut self) -> Room {
        (mem::take(&mut self.queue), mem::take(&mut self.claimed))
    }

    /// Where in the queue the job stands, if it does.
    fn find(&self, job: &Job) -> Option<usize> {
        match self.queue.front() {
            Some(first) if first.shared().number() == job.number() => Some(0), // joined in the order of spawning
            _ => self.queue.binary_search_by_key(&job.number(), |entry| entry.shared().number()).ok(),
        }
    }

    /// The threads that run those of the jobs that are asked for.
    fn running(&self, owner: &Arc<Seat>, asked_for: impl Fn(&Job) -> bool) -> Vec<Arc<dyn Party>> {
        let running = self.claimed.iter().map(|(_, run)| (run.entry.shared(), &run.stint));
        let running = running.filter(|(job, _)| !job.has_ended() && asked_for(job));
        running.map(|(_, stint)| Arc::clone(stint.seat.as_ref().unwrap_or(owner)) as Arc<dyn Party>).collect()
    }

    /// Takes an entry out of the queue.
    #[inline]
    fn take(&mut self, at: usize) -> Option<Queued> {
        let entry = if at == 0 { self.queue.pop_front()? } else { self.queue.remove(at)? };
        // A long-lived scope gives back the room of a long queue. It is paid for by as many claims.
        if self.queue.capacity() > ROOM && self.queue.len() < self.queue.capacity() / 8 {
            self.queue.shrink_to(self.queue.capacity() / 4);
        }
        Some(entry)
    }
}

/// The shared part of a scope.
pub(crate) struct Core {
    pub(crate) id: u64,
    pub(crate) node: Arc<Node>,
    pub(crate) pool: Arc<PoolCore>,
    pub(crate) body: Arc<Strand>,
    /// What the body and all jobs stand on.
    pub(crate) ground: Arc<Ground>,
    pub(crate) opened: Instant,
    pub(crate) fail_fast: bool,
    /// Whether the owner and joiners may run jobs on their own thread.
    pub(crate) inline: bool,
    /// How many jobs run inline below the body.
    pub(crate) inlined: u32,
    /// What was bound where it was opened.
    pub(super) inherited: Inherited,
    pub(super) owner: Arc<Seat>,
    /// How many jobs have been numbered.
    spawned: AtomicU64,
    /// How long the queue is, for those who look without its lock. Written under it.
    pub(super) queued: AtomicUsize,
    /// Likewise, a number that the first job in the queue has, or a lower one.
    pub(super) front: AtomicU64,
    /// No thread could be had the last time one was asked for: joiners help themselves.
    pub(super) refused: AtomicBool,
    me: Weak<Tally<Core>>,
}

/// What [`Core::new`] needs besides.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) ground: Arc<Ground>,
    pub(crate) pool: Arc<PoolCore>,
    pub(crate) body: Arc<Strand>,
    pub(crate) fail_fast: bool,
    pub(crate) inline: bool,
    /// How many jobs run inline below the body.
    pub(crate) inlined: u32,
    /// How many failures of jobs are kept; none is no limit.
    pub(crate) keep: Option<NonZeroU32>,
}

/// Keeps room for the next scope of this thread, unless it is large.
pub(super) fn keep_room((queue, mut claimed): Room) {
    claimed.clear();
    if queue.is_empty() && queue.capacity() <= ROOM && claimed.capacity() <= ROOM {
        let before = SPARE.try_with(|spare| spare.replace(Some((queue, claimed))));
        drop(before);
    }
}

thread_local! {
    /// How many jobs this thread has spawned, and claimed.
    static DONE_HERE: Cell<u64> = const { Cell::new(0) };
}

/// The calling thread spawns or claims a job.
pub(super) fn count_here() {
    DONE_HERE.set(DONE_HERE.get().wrapping_add(1));
}

/// How often it has.
pub(super) fn done_here() -> u64 {
    DONE_HERE.get()
}

impl Core {
    pub(crate) fn new(setup: Setup) -> Arc<Tally<Core>> {
        let Setup { ground, pool, body, fail_fast, inline, inlined, keep } = setup;
        let node = Arc::clone(&ground.node);
        let opened = node.clock().now();
        let jobs = Jobs { log: Log::with_limit(keep), ..Jobs::with_room() };
        Tally::new_cyclic(jobs, |me| Core {
            id: current::next_id(),
            node,
            pool,
            body,
            ground,
            opened,
            fail_fast,
            inline,
            inlined,
            inherited: Inherited::new(),
            owner: with_chair(|chair| Arc::clone(chair.seat())),
            spawned: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
            front: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            me: Weak::clone(me),
        })
    }
}

impl Tally<Core> {
    pub(super) fn tally(&self) -> Option<Arc<Tally<Core>>> {
        self.me.upgrade()
    }

    pub(crate) fn label(&self) -> &Label {
        self.node.label()
    }

    /// The seat of the thread that opened it.
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.owner
    }

    /// Gives out the number of the next job, from 1.
    pub(crate) fn next_number(&self) -> u64 {
        // Publishes nothing. Who asks at once may queue in another order: see `enqueue`.
        self.spawned.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many jobs were spawned.
    pub(super) fn spawned(&self) -> u64 {
        self.spawned.load(Ordering::Relaxed)
    }

    /// Asks for a thread for what is queued.
    pub(crate) fn ask(&self) {
        if self.node.clock().run().is_some() {
            return; // each queued job of a virtual run summons a thread when its turn comes
        }
        if let Some(me) = self.tally() {
            self.pool.ask(me);
        }
    }

    /// Takes the first queued entry that may run here: on a thread that goes on with the scope's code not an
    /// `own_thread` job. The thread has that seat, and gives back the job that it has run before.
    pub(super) fn claim_next(&self, inline: bool, seat: &Arc<Seat>, ended: &mut Option<Claimed>) -> Option<Claimed> {
        self.claim_by(seat, ended, |jobs| {
            let may_run = |entry: &Queued| !(inline && entry.shared().own_thread);
            match jobs.queue.front() {
                Some(first) if may_run(first) => Some(0),
                _ => jobs.queue.iter().position(may_run),
            }
        })
    }

    /// The nearest node that exists where `job` stands, if it is in no region.
    pub(crate) fn nearest<'a>(&'a self, job: &'a Job) -> &'a Arc<Node> {
        job.own().unwrap_or(&self.node)
    }

    /// Takes out the entry of `job`, if it is queued still.
    pub(crate) fn claim_job(&self, job: &Job) -> Option<Claimed> {
        self.claim_at(|jobs| jobs.find(job))
    }

    pub(super) fn claim_at(&self, find: impl FnOnce(&Jobs) -> Option<usize>) -> Option<Claimed> {
        with_chair(|chair| self.claim_by(chair.seat(), &mut None, find))
    }

    fn claim_by(
        &self,
        seat: &Arc<Seat>,
        ended: &mut Option<Claimed>,
        find: impl FnOnce(&Jobs) -> Option<usize>,
    ) -> Option<Claimed> {
        // Outside the lock, and only if a job is likely to be there.
        let now = (self.queued.load(Ordering::Relaxed) > 0).then(|| self.node.clock().now());
        let mut jobs = self.lock();
        let at = find(&jobs);
        let Some(entry) = at.and_then(|at| jobs.take(at)) else {
            let gone = ended.take().and_then(|ended| jobs.take_back(ended));
            drop(jobs);
            drop(gone);
            return None;
        };
        count_here();
        let now = now.unwrap_or_else(|| self.node.clock().now());
        let own_thread = entry.shared().own_thread;
        if at == Some(0) {
            self.front.store(entry.shared().number() + 1, Ordering::Relaxed);
        }
        self.queued.store(jobs.queue.len(), Ordering::Relaxed);
        let (lent, kept) = entry.lend();
        let (key, gone) = if let Some(ended) = ended.take() {
            // The same runner goes on in the same place.
            (ended.key, jobs.replace(ended, kept, now))
        } else {
            let seat = (!Arc::ptr_eq(seat, &self.owner)).then(|| Arc::clone(seat));
            let run = Run { entry: kept, stint: Stint { seat, since: now } };
            (Key(jobs.claimed.insert(run)), None)
        };
        drop(jobs);
        drop(gone);
        if own_thread && self.node.clock().run().is_none() {
            self.pool.unforce();
        }
        Some(Claimed { lent, key, since: now })
    }

    /// Claims a job that was just tied, for a model without a pool.
    #[cfg(all(test, any(tassel_loom, tassel_shuttle)))]
    pub(crate) fn claim_new(&self, entry: Queued) -> Option<Claimed> {
        self.lock().queue.push_back(entry);
        with_chair(|chair| self.claim_next(false, chair.seat(), &mut None))
    }

    /// `job` is waited for by a thread that is about to park: if no thread can be had for it, that one is.
    pub(crate) fn add_joined(&self, job: &JobRef) -> usize {
        self.lock().joined.insert(job.clone())
    }

    pub(crate) fn remove_joined(&self, key: usize) {
        let gone = self.lock().joined.try_remove(key);
        drop(gone);
    }

    /// Whether a join or the exit may run jobs on this thread, as far as the scope and the stack are concerned.
    pub(crate) fn may_inline(&self) -> bool {
        let depth = current::with(|frame| frame.map_or(0, |frame| frame.inlined));
        self.inline && depth < INLINE_DEPTH && !thread::panicking()
    }

    /// A thread may be had again: a refusal from here on is told anew.
    pub(super) fn forget_refusal(&self) {
        // Written only where there is one, as each spawn and each job of a worker comes by. Pairs with the swap in `rescue`.
        if self.refused.load(Ordering::Acquire) {
            self.refused.store(false, Ordering::Release);
        }
    }

    /// Whether the last call for a thread was refused.
    pub(crate) fn is_refused(&self) -> bool {
        // Publishes nothing; whoever sets it pokes afterwards.
        self.refused.load(Ordering::Acquire)
    }

    /// Gives back a job that has ended, run or not. The scope may be over after this.
    pub(crate) fn leave(&self, ended: Claimed) {
        let gone = self.lock().take_back(ended);
        drop(gone);
    }

    /// The seat of the thread that runs it.
    pub(crate) fn seat_of<'a>(&'a self, stint: &'a Stint) -> &'a Arc<Seat> {
        stint.seat.as_ref().unwrap_or(&self.owner)
    }

    /// Its turn has come only now.
    pub(super) fn set_since(&self, claimed: &Claimed) {
        if let Some(run) = self.lock().claimed.get_mut(claimed.key.0) {
            run.stint.since = claimed.since;
        }
    }

    /// Lists the jobs that are alive, in the order of spawning, with what is known of those that were claimed.
    pub(crate) fn alive(&self) -> Vec<(JobRef, Option<Stint>)> {
        let jobs = self.lock();
        let queued = jobs.queue.iter().map(|entry| (entry.shared().clone(), None));
        let claimed = jobs.claimed.iter().map(|(_, run)| run).filter(|run| !run.entry.shared().has_ended());
        let claimed = claimed.map(|run| (run.entry.shared().clone(), Some(run.stint.clone())));
        let mut alive: Vec<_> = claimed.chain(queued).collect();
        drop(jobs);
        alive.sort_by_key(|(job, _)| job.number());
        alive
    }

    /// The threads that run its code: the owner's, and its jobs'.
    pub(super) fn threads(&self) -> Vec<Arc<dyn Party>> {
        let mut threads = self.lock().running(&self.owner, |_| true);
        threads.push(Arc::clone(&self.owner) as Arc<dyn Party>);
        threads
    }

    /// Who may bring the end of `job`, or without one, of all jobs: the threads that run them; for a queued one the pool,
    /// the owner, and whoever may join it, or its own timeout.
    pub(crate) fn enders(&self, job: Option<&Job>) -> Vec<Arc<dyn Party>> {
        if job.is_some_and(|job| job.outcome().is_some()) {
            return vec![Arc::new(Moving)];
        }
        let jobs = self.lock();
        let queued = match job {
            Some(job) => jobs.find(job).is_some(),
            None => !jobs.queue.is_empty(),
        };
        let ends = match job {
            Some(job) => job.ends_by_itself(),
            None => jobs.queue.iter().any(|entry| entry.shared().ends_by_itself()),
        };
        if ends {
            return vec![Arc::new(Moving)];
        }
        let mut enders =
            jobs.running(&self.owner, |other| queued || job.is_none_or(|job| job.number() == other.number()));
        drop(jobs);
        if queued {
            enders.extend([Arc::clone(&self.pool) as Arc<dyn Party>, Arc::clone(&self.owner) as Arc<dyn Party>]);
        }
        if enders.is_empty() {
            enders.push(Arc::new(Moving)); // it has ended this moment
        }
        enders
    }

    /// Records a failure; that of an isolated job whatever the limit, as it belongs to the handle (D5).
    pub(crate) fn record(&self, origin: Origin, failure: Failure, notes: Vec<String>, isolated: bool) {
        let during = self.node.is_stopping();
        let bounded = !isolated && origin.role == Role::Job;
        let leaf = Leaf::new(origin, failure, during).with_notes(notes);
        let mut jobs = self.lock();
        let over = if bounded {
            jobs.log.put_bounded(leaf)
        } else {
            jobs.log.put(leaf);
            None
        };
        drop(jobs);
        drop(over);
    }

    /// Gives an isolated job's failure to its joiner.
    pub(crate) fn take_leaf(&self, id: JobId) -> Option<Leaf> {
        self.lock().log.take(id)
    }

    /// A job was stopped, or kept from starting (D2): by the stop of the scope, or for a reason of its own that is not the
    /// scope's will.
    pub(crate) fn note_cut(&self, alone: Option<Reason>) {
        if let Some(alone) = alone {
            self.lock().cut_alone.get_or_insert(alone);
            return;
        }
        let by_will = self.node.outside().is_none() && self.node.own().is_some_and(|own| own.by_will);
        if !by_will {
            self.lock().cut = true;
        }
    }

    /// Keeps what a job put around its stop, if nobody fails: as notes of the scope's own leaf, the first few of all jobs.
    pub(crate) fn note_stop(&self, job: &Label, error: &anyhow::Error) {
        if self.lock().job_notes.len() >= JOB_NOTES {
            return;
        }
        let notes: Vec<_> = around_stop(error).into_iter().map(|note| format!("{job}: {note}")).collect();
        let mut jobs = self.lock();
        let room = JOB_NOTES.saturating_sub(jobs.job_notes.len());
        jobs.job_notes.extend(notes.into_iter().take(room));
    }

    /// Cancels the scope because of a failure, which is recorded already.
    pub(crate) fn fail_siblings(&self, who: &Label, text: String) {
        let reason = Reason::new(ReasonKind::Failure, who.clone(), self.node.clock().now()).text_is(text);
        self.node.cancel(&reason, false);
    }

    /// A callback of the scope panicked: a failure like any other.
    pub(crate) fn callback_panicked(&self, payload: Box<dyn std::any::Any + Send>) {
        self.record(self.body_origin(), Failure::Panic(payload), Vec::new(), false);
    }
}

impl Held<'_, Core> {
    /// Takes a job back that has ended. What is returned is to be dropped without the lock.
    fn take_back(&mut self, ended: Claimed) -> Option<JobRef> {
        let run = self.claimed.try_remove(ended.key.0)?;
        Some(self.give_back(run.entry, ended.lent))
    }

    /// Takes a job back that has ended, and gives its place to the next one. What is returned is to be dropped without the lock.
    #[inline]
    fn replace(&mut self, ended: Claimed, next: Kept<Core, Facts, Failure>, now: Instant) -> Option<JobRef> {
        let run = self.claimed.get_mut(ended.key.0)?;
        run.stint.since = now;
        let entry = mem::replace(&mut run.entry, next);
        Some(self.give_back(entry, ended.lent))
    }
}

impl Home for Core {
    type Held = Jobs;

    fn all_home(&self) {
        self.owner.poke();
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("node", &self.node).finish_non_exhaustive()
    }
}
