//! What a scope's threads share: its queue, its running jobs, its failures; how it is left, and with what result.
//!
//! [`Core`] is `'static` by its own type: a late worker, a ticket or a handle may reach it after the scope is gone and
//! finds an empty queue. What borrows sits in the queue's [`Tied`](crate::raw::Tied) entries, which hold the scope open.
//!
//! # Promises
//!
//! 1. Jobs start in the order of their spawning, but for a joined one (D11).
//! 2. An entry is claimed by taking it out under the queue's lock; no tombstones.
//! 3. A failure is recorded before the cancel that it causes (S13); every failure is kept (S14).
//! 4. The exit waits for every job, whatever happened; meanwhile its thread runs, or sweeps, queued jobs.
//! 5. The result follows D2 and D17, decided at the exit from the state of the nodes (S33).
//!
//! # Does not know
//!
//! OS threads, and how jobs wait.
//!
//! # Why the exit misses nothing
//!
//! The owner looks for: count zero, an entry it may take, a stop. Each change comes with a poke after it: the last
//! count lowered calls [`Home::all_home`]; a refused thread calls [`Source::rescue`]; a stop pokes the seat registered
//! in the node. An entry for which a thread can be had needs no poke: that thread takes it.

use crate::{
    cancel::{
        current::{self, Activity, Doing, Strand},
        node::{Hook, Node},
        reason::{Cancelled, Label, Reason, ReasonKind, TimedOut},
    },
    error::{
        ErrorGroup, Failure, JobId, Leaf, Log, Origin, Role, ScopeInfo, around_stop, drop_guarded, stop_in, thread_name,
    },
    park::{
        seat::{Seat, with_chair},
        standstill::{Awaited, Moving, Party, Wait},
        virtual_run::Summon,
    },
    pool::{self, PoolCore, Source, Turns},
    prim::Mutex,
    raw::{Home, Tally},
    scope::{
        job::{Job, Queued},
        roots::Listed,
    },
    wait,
};
use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    fmt,
    num::NonZeroU32,
    ptr,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

/// How many jobs may run inline on top of each other on one thread, before a thread of their own is asked for.
/// A level costs under 1 KiB of stack besides the job's own frames.
pub(crate) const INLINE_DEPTH: u32 = 128;

/// How many notes of stopped jobs a scope keeps: enough to see what was cut off, however many jobs there were.
const JOB_NOTES: usize = 5;

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Queued>,
    /// Out of the queue and not ended, by number: a job is in one of the two from its spawn to its end.
    claimed: BTreeMap<u64, Arc<Job>>,
    /// Those that a parked thread joins, by number.
    joined: BTreeMap<u64, Arc<Job>>,
    spawned: u64,
    log: Log,
    /// A job was stopped, or kept from starting, against the scope's will (D2).
    cut: bool,
    /// What the body, and the first stopped jobs, put around their stops.
    body_notes: Vec<String>,
    job_notes: Vec<String>,
}

impl Jobs {
    /// Where in the queue the job stands, if it does.
    fn find(&self, job: &Job) -> Option<usize> {
        self.queue.binary_search_by_key(&job.number(), |entry| entry.job.number()).ok()
    }

    fn claim(&mut self, at: usize) -> Option<Queued> {
        let entry = self.queue.remove(at)?;
        self.claimed.insert(entry.job.number(), Arc::clone(&entry.job));
        Some(entry)
    }
}

/// The shared part of a scope.
pub(crate) struct Core {
    pub(crate) id: u64,
    pub(crate) node: Arc<Node>,
    pub(crate) pool: Arc<PoolCore>,
    pub(crate) body: Arc<Strand>,
    /// The names from the root to this scope.
    pub(crate) path: Arc<str>,
    pub(crate) opened: Instant,
    pub(crate) fail_fast: bool,
    /// Whether the owner and joiners may run jobs on their own thread.
    pub(crate) inline: bool,
    /// How many jobs run inline below the body.
    pub(crate) inlined: u32,
    /// Of a scope that stands below no other, while it is open.
    listed_root: Mutex<Option<Listed>>,
    owner: Arc<Seat>,
    jobs: Mutex<Jobs>,
    listed: AtomicBool,
    /// No thread could be had the last time one was asked for: joiners help themselves.
    refused: AtomicBool,
    me: OnceLock<Weak<Tally<Core>>>,
}

/// What [`Core::new`] needs besides.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) node: Arc<Node>,
    pub(crate) pool: Arc<PoolCore>,
    pub(crate) body: Arc<Strand>,
    /// The names from the root to this scope.
    pub(crate) path: Arc<str>,
    pub(crate) fail_fast: bool,
    pub(crate) inline: bool,
    /// How many jobs run inline below the body.
    pub(crate) inlined: u32,
    /// How many failures of jobs are kept; none is no limit.
    pub(crate) keep: Option<NonZeroU32>,
}

impl Core {
    pub(crate) fn new(setup: Setup) -> Arc<Tally<Core>> {
        let Setup { node, pool, body, path, fail_fast, inline, inlined, keep } = setup;
        let opened = node.clock().now();
        let core = Tally::new(Core {
            id: current::next_id(),
            node,
            pool,
            body,
            path,
            opened,
            fail_fast,
            inline,
            inlined,
            listed_root: Mutex::default(),
            owner: with_chair(|chair| Arc::clone(chair.seat())),
            jobs: Mutex::new(Jobs { log: Log::with_limit(keep), ..Jobs::default() }),
            listed: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            me: OnceLock::new(),
        });
        let _ = core.me.set(Arc::downgrade(&core));
        core
    }

    fn tally(&self) -> Option<Arc<Tally<Core>>> {
        self.me.get().and_then(Weak::upgrade)
    }

    pub(crate) fn label(&self) -> &Label {
        self.node.label()
    }

    /// Puts it among the scopes where a picture of everything begins, or takes it out.
    pub(crate) fn set_listed(&self, listed: Option<Listed>) {
        let before = std::mem::replace(&mut *self.listed_root.lock(), listed);
        drop(before);
    }

    /// The seat of the thread that opened it.
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.owner
    }

    /// Gives out the number of the next job, from 1.
    pub(crate) fn next_number(&self) -> u64 {
        let mut jobs = self.jobs.lock();
        jobs.spawned += 1;
        jobs.spawned
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
    /// `own_thread` job.
    fn claim(&self, inline: bool) -> Option<Queued> {
        self.claim_at(|jobs| {
            let may_run = |entry: &Queued| !(inline && entry.job.own_thread);
            jobs.queue.iter().position(may_run)
        })
    }

    /// Takes out the entry of `job`, if it is queued still.
    pub(crate) fn claim_job(&self, job: &Job) -> Option<Queued> {
        self.claim_at(|jobs| jobs.find(job))
    }

    fn claim_at(&self, find: impl FnOnce(&Jobs) -> Option<usize>) -> Option<Queued> {
        let mut jobs = self.jobs.lock();
        let at = find(&jobs)?;
        let entry = jobs.claim(at)?;
        drop(jobs);
        if entry.job.own_thread && self.node.clock().run().is_none() {
            self.pool.unforce();
        }
        Some(entry)
    }

    /// `job` is waited for by a thread that is about to park: if no thread can be had for it, that one is.
    pub(crate) fn add_joined(&self, job: &Arc<Job>) {
        let before = self.jobs.lock().joined.insert(job.number(), Arc::clone(job));
        drop(before);
    }

    pub(crate) fn remove_joined(&self, job: &Job) {
        let gone = self.jobs.lock().joined.remove(&job.number());
        drop(gone);
    }

    /// Whether a join or the exit may run jobs on this thread, as far as the scope and the stack are concerned.
    pub(crate) fn may_inline(&self) -> bool {
        let depth = current::with(|frame| frame.map_or(0, |frame| frame.inlined));
        self.inline && depth < INLINE_DEPTH && !thread::panicking()
    }

    /// Whether the last call for a thread was refused.
    pub(crate) fn is_refused(&self) -> bool {
        // Publishes nothing; whoever sets it pokes afterwards.
        self.refused.load(Ordering::Acquire)
    }

    /// The job has ended, run or not.
    pub(crate) fn leave(&self, job: &Job) {
        let gone = self.jobs.lock().claimed.remove(&job.number());
        drop(gone);
    }

    /// Lists the jobs that are alive, in the order of spawning.
    pub(crate) fn alive(&self) -> Vec<Arc<Job>> {
        let jobs = self.jobs.lock();
        let queued = jobs.queue.iter().map(|entry| &entry.job);
        let mut alive: Vec<_> = jobs.claimed.values().chain(queued).cloned().collect();
        drop(jobs);
        alive.sort_by_key(|job| job.number());
        alive
    }

    /// Who may bring the end of `job`, or without one, of all jobs: the threads that run them; for a queued one the pool,
    /// the owner, and whoever may join it, or its own timeout.
    pub(crate) fn enders(&self, job: Option<&Job>) -> Vec<Arc<dyn Party>> {
        if job.is_some_and(|job| job.outcome().is_some()) {
            return vec![Arc::new(Moving)];
        }
        let now = self.node.clock().now();
        let jobs = self.jobs.lock();
        let queued = match job {
            Some(job) => jobs.find(job).is_some(),
            None => !jobs.queue.is_empty(),
        };
        let ends = match job {
            Some(job) => job.ends_by_itself(now),
            None => jobs.queue.iter().any(|entry| entry.job.ends_by_itself(now)),
        };
        if ends {
            return vec![Arc::new(Moving)];
        }
        let awaited = |other: &&Arc<Job>| queued || job.is_none_or(|job| job.number() == other.number());
        let running = jobs.claimed.values().filter(awaited);
        let mut enders: Vec<Arc<dyn Party>> = running
            .map(|job| -> Arc<dyn Party> {
                match job.seat() {
                    Some(seat) => Arc::clone(seat) as Arc<dyn Party>,
                    None => Arc::new(Moving), // claimed this moment
                }
            })
            .collect();
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
        let mut jobs = self.jobs.lock();
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
        self.jobs.lock().log.take(id)
    }

    /// A job was stopped, or kept from starting, while the scope was stopping: by its own will?
    pub(crate) fn note_cut(&self) {
        let by_will = self.node.outside().is_none() && self.node.own().is_some_and(|own| own.by_will);
        if !by_will {
            self.jobs.lock().cut = true;
        }
    }

    /// Keeps what a job put around its stop, if nobody fails: as notes of the scope's own leaf, the first few of all jobs.
    pub(crate) fn note_stop(&self, job: &Label, error: &anyhow::Error) {
        if self.jobs.lock().job_notes.len() >= JOB_NOTES {
            return;
        }
        let notes: Vec<_> = around_stop(error).into_iter().map(|note| format!("{job}: {note}")).collect();
        let mut jobs = self.jobs.lock();
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

    /// Ends a job that was not even queued: the scope is cancelled.
    pub(crate) fn refuse(&self, job: &Job) {
        self.note_cut();
        job.give_up(self);
    }

    fn body_origin(&self) -> Origin {
        let took = self.node.clock().now().saturating_duration_since(self.opened);
        Origin {
            id: JobId::new(self.body.id),
            name: None,
            role: Role::Body,
            place: self.label().place,
            number: 0,
            path: self.body.path(),
            offset: took,
            took,
            thread: thread_name(),
        }
    }

    /// Takes note of how the body ended; a failure of it is one like any other (S2).
    pub(crate) fn body_ended<T>(&self, result: thread::Result<anyhow::Result<T>>) -> Body<T> {
        self.node.expire();
        let failure = match result {
            Ok(Ok(value)) => return Body::Value(value),
            Ok(Err(error)) => match stop_in(&error) {
                Some(_) if self.node.is_stopping() => {
                    let notes = around_stop(&error);
                    drop_guarded(error);
                    self.jobs.lock().body_notes = notes;
                    return Body::Stopped;
                }
                _ => Failure::Error(error),
            },
            Err(payload) => Failure::Panic(payload),
        };
        let origin = self.body_origin();
        let tells = origin.tells(&failure);
        self.record(origin, failure, Vec::new(), false);
        // Also when failures cancel nobody: the body is the manager (S65).
        self.fail_siblings(&self.body.label, tells);
        Body::Failed
    }

    /// Gives the scope's result and closes its node. The count is zero.
    pub(crate) fn result<T>(&self, body: Body<T>) -> Result<T, ErrorGroup> {
        self.node.expire();
        let (outside, own) = (self.node.outside(), self.node.own());
        let reason = self.node.reason();
        self.node.close();
        let mut jobs = self.jobs.lock();
        debug_assert!(jobs.queue.is_empty(), "an entry holds the count up");
        let mut log = std::mem::take(&mut jobs.log);
        let (cut, spawned) = (jobs.cut, jobs.spawned);
        let mut notes = std::mem::take(&mut jobs.body_notes);
        notes.append(&mut jobs.job_notes);
        drop(jobs);
        let mut info = ScopeInfo {
            name: self.label().name.clone(),
            place: self.label().place,
            jobs: spawned,
            reason,
            stopped: false,
        };
        if !log.is_empty() {
            if let Body::Value(value) = body {
                drop_guarded(value);
            }
            return Err(log.into_group(info));
        }
        let body = match body {
            Body::Value(value) if !cut => return Ok(value),
            body => body,
        };
        // Something was stopped, and nothing failed: D17's table.
        let failure = match (outside, own) {
            (Some(outside), _) => Failure::Stopped(Cancelled::new(outside)),
            (None, Some(own)) if own.reason.kind() == ReasonKind::Deadline => {
                Failure::TimedOut(TimedOut::new(own.reason))
            }
            (None, Some(own)) => {
                info.stopped = matches!(own.reason.kind(), ReasonKind::Explicit | ReasonKind::Signal);
                Failure::Stopped(Cancelled::new(own.reason))
            }
            (None, None) => match body {
                Body::Value(value) => return Ok(value),
                // Not reached: a stop is judged one only while the node is stopping, which is for good.
                _ => Failure::Error(anyhow::anyhow!("the scope ended without a value and without a cause")),
            },
        };
        if let Body::Value(value) = body {
            drop_guarded(value);
        }
        log.put(Leaf::new(self.body_origin(), failure, false).with_notes(notes));
        Err(log.into_group(info))
    }
}

impl Tally<Core> {
    /// Queues a job and sees to it that somebody comes for it.
    pub(crate) fn enqueue(&self, entry: Queued) {
        let order = entry.job.strand.order;
        let own_thread = entry.job.own_thread;
        // Two spawners may come in another order than their numbers: the queue is kept sorted, so that a claim finds
        // its entry by bisection.
        let number = entry.job.number();
        let run = self.node.clock().run();
        if own_thread && run.is_none() {
            self.pool.force();
        }
        let mut jobs = self.jobs.lock();
        let at = match jobs.queue.back() {
            Some(last) if last.job.number() > number => jobs.queue.partition_point(|e| e.job.number() < number),
            _ => jobs.queue.len(),
        };
        jobs.queue.insert(at, entry);
        drop(jobs);
        // After it: a refusal from here on is told anew, and who is told finds the entry.
        self.refused.store(false, Ordering::Release);
        let Some(me) = self.tally() else { return };
        match run {
            Some(run) => run.queue(order, me),
            None => self.pool.ask(me),
        }
    }

    /// Waits for every job; runs or sweeps queued ones meanwhile. May be called again if the count is still up.
    pub(crate) fn settle(&self) {
        if self.live() == 0 {
            return;
        }
        let _doing = Doing::new(Activity::Exit, self.label().place, None);
        let wait = self.tally().map_or(Wait::Open, |me| Wait::For(me));
        with_chair(|chair| {
            let key = self.node.add_seat(chair.seat()).ok();
            while self.live() > 0 {
                self.node.expire();
                let stopping = self.node.is_stopping();
                let entry = if stopping {
                    self.claim(false)
                } else if self.may_inline() {
                    self.claim(true)
                } else {
                    None
                };
                if let Some(entry) = entry {
                    entry.run(true);
                } else {
                    let until = if stopping { None } else { self.node.next_due() };
                    wait::park(chair, &wait, until);
                }
            }
            if let Some(key) = key {
                self.node.remove_seat(key);
            }
        });
    }
}

/// How a body ended.
#[derive(Debug)]
pub(crate) enum Body<T> {
    Value(T),
    /// With a stop that is to be judged at the exit.
    Stopped,
    /// The failure is in the log.
    Failed,
}

impl Home for Core {
    fn all_home(&self) {
        self.owner.poke();
    }
}

impl Hook for Tally<Core> {
    /// The backlog is swept by the owner if it stands at its exit (its seat is poked), else by a worker.
    fn stopping(&self) {
        let queued = !self.jobs.lock().queue.is_empty();
        if queued {
            self.ask();
        }
    }

    fn host(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Awaited for Tally<Core> {
    fn enders(&self) -> Vec<Arc<dyn Party>> {
        Core::enders(self, None)
    }
}

impl Source for Tally<Core> {
    fn run_one(&self) -> bool {
        self.refused.store(false, Ordering::Release);
        let entry = match self.node.clock().run() {
            None => self.claim(false),
            Some(run) => run.turn_of(self.address()).and_then(|order| {
                self.claim_at(|jobs| jobs.queue.iter().position(|entry| entry.job.strand.order == order))
            }),
        };
        let Some(entry) = entry else { return false };
        if self.turns().is_some() {
            pool::set_arrived();
            entry.run(false);
        } else if entry.job.own_thread {
            pool::apart(|| entry.run(false));
        } else {
            entry.run(false);
        }
        true
    }

    fn queued(&self) -> usize {
        self.jobs.lock().queue.len()
    }

    fn wanted(&self) -> usize {
        match self.node.clock().run() {
            None => self.queued(),
            Some(run) => usize::from(run.turn_of(self.address()).is_some()),
        }
    }

    fn listed(&self) -> &AtomicBool {
        &self.listed
    }

    fn rescue(&self) {
        // Before the pokes: who is poked finds it. Who looks later finds it as well, so nobody is poked again before a job
        // is queued, or a worker comes: else two owners, each parking after a look in vain, would wake each other for ever.
        if self.refused.swap(true, Ordering::AcqRel) {
            return;
        }
        // Also an owner that calls this itself, about to park: since its look, another thread may have queued a job.
        self.owner.poke();
        let joined: Vec<_> = self.jobs.lock().joined.values().cloned().collect();
        for job in joined {
            job.poke_joiners();
        }
    }

    fn owner(&self) -> Arc<dyn Party> {
        Arc::clone(&self.owner) as Arc<dyn Party>
    }

    fn turns(&self) -> Option<&dyn Turns> {
        self.node.clock().run().is_some().then_some(self as &dyn Turns)
    }

    fn picture(&self) -> (Vec<String>, Vec<String>) {
        let alive = self.alive();
        let (started, queued): (Vec<_>, Vec<_>) = alive.iter().partition(|job| job.has_started());
        let queued = queued.iter().map(|job| format!("`{}`", job.strand.label.name()));
        let waits = started.iter().map(|job| (&job.strand.label, job.strand.activity()));
        let body = (&self.body.label, self.body.activity());
        let waits = std::iter::once(body).chain(waits).map(|(label, activity)| match label.what {
            "body" => format!("the body waits in {}", activity.name()),
            _ => format!("{label} waits in {}", activity.name()),
        });
        (queued.collect(), waits.collect())
    }

    fn starve(&self, text: &str) {
        let reason = Reason::new(ReasonKind::Starved, self.label().clone(), self.node.clock().now()).text_is(text);
        self.node.cancel(&reason, false);
    }
}

impl Summon for Tally<Core> {
    fn summon(self: Arc<Self>) {
        let pool = Arc::clone(&self.pool);
        pool.ask(self);
    }

    fn strand(self: Arc<Self>) {
        self.pool.starve(|source| source.turns().is_some());
    }
}

impl Turns for Tally<Core> {
    fn give_up(&self) -> Option<Box<dyn FnOnce() + '_>> {
        let go_on = self.node.clock().run()?.refuse(self.address())?;
        Some(Box::new(go_on))
    }

    fn retry(&self) {
        if let Some(run) = self.node.clock().run() {
            run.retry();
        }
    }
}

impl Tally<Core> {
    /// How a virtual run names it.
    fn address(&self) -> *const () {
        ptr::from_ref(self).cast()
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("node", &self.node).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tassel_loom)))]
mod tests {
    use super::*;
    use crate::{cancel::node::Parents, park::clock::Clock};
    use std::panic::Location;

    #[test]
    fn an_owner_that_calls_for_its_own_rescue_looks_once_more_and_once_only() {
        let label = Label::new("scope", None, Location::caller());
        let node = Node::new(&Parents::default(), label.clone(), Clock::Real, None);
        let (path, pool): (Arc<str>, _) = ("".into(), crate::pool::UsePool::current());
        let body = Strand::at(label, Arc::clone(&path), 0, &node);
        let setup = Setup { node, pool, body, path, fail_fast: true, inline: true, inlined: 0, keep: None };
        let core = Core::new(setup);
        let rescued = || {
            Source::rescue(&*core);
            with_chair(|chair| {
                let poked = chair.seat().is_poked();
                if poked {
                    chair.park(&Clock::Real, None, 0); // returns at once, and takes the poke
                }
                poked
            })
        };
        assert!(rescued(), "another thread may have queued a job since its look");
        assert!(!rescued(), "it would not get to sleep");
    }
}
