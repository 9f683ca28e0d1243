//! Where a scope's jobs get their threads: workers, the owner at its exit, joiners; in virtual time by turns.
//!
//! # Promises
//!
//! 1. The exit waits for every job, whatever happened; meanwhile its thread runs, or sweeps, queued jobs.
//! 2. A queued job stands in a queue that the pool has on its list, until somebody claims it. A spawn calls nobody, but for a
//!    job that is to have a thread of its own.
//! 3. An owner at its exit is a worker of its scope. It calls another when it has helped for as long as that costs, and as
//!    much is left; it parks only when nothing is queued that it may run.
//!
//! # Does not know
//!
//! OS threads: the pool has them.
//!
//! # Why the exit misses nothing
//!
//! The owner looks for: count zero, an entry it may take, a stop. Each change comes with a poke after it: the last
//! count lowered calls [`Home::all_home`](crate::raw::Home::all_home); a refused thread calls [`Source::rescue`]; a stop
//! pokes the seat registered in the node. An entry for which a thread can be had needs no poke: that thread takes it, or rests
//! while others do, and is called again.

use crate::{
    cancel::{
        current::{Activity, Doing},
        node::{Hook, Node},
        reason::{Reason, ReasonKind},
    },
    error::Failure,
    park::{
        seat::with_chair,
        standstill::{Awaited, Party, Wait},
        turns::Summon,
        virtual_run::Run,
    },
    pool::{self, Source, Turns},
    raw::{Reader, Tally, Tether},
    scope::{
        core::{Claimed, Core, Jobs, Queued, count_here, done_here},
        job::{Facts, JobRef},
    },
    wait::{self, cycle},
};
use std::{
    any::Any,
    collections::HashSet,
    mem, ptr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

impl Tally<Core> {
    /// Spawns a job: ties it, queues it, and sees to it that somebody comes for it.
    #[inline]
    pub(crate) fn enqueue<'t, V: Send + 't>(
        tether: &'t Tether<'t, '_, Core>,
        job: Facts,
        closure: impl FnOnce() -> Result<V, Failure> + Send + 't,
    ) -> Reader<'t, Facts, V, Failure> {
        let this = tether.tally();
        let (order, own_thread, number) = (job.seed.order(), job.own_thread, job.seed.number);
        count_here();
        if own_thread && this.node.clock().run().is_none() {
            this.pool.force();
        }
        let (lists, value) = tether.tie(job, closure, |jobs, entry| this.put(jobs, entry));
        this.expect(order, own_thread, lists.then_some(number));
        value
    }

    /// Puts an entry into the queue. Tells whether the pool is to list it now.
    fn put(&self, jobs: &mut Jobs, entry: Queued) -> bool {
        let number = entry.shared().number();
        // Two spawners may come in another order than their numbers: the queue is kept sorted, so that a claim finds
        // its entry by bisection.
        match jobs.queue.back() {
            Some(last) if last.shared().number() > number => {
                let at = jobs.queue.partition_point(|entry| entry.shared().number() < number);
                if at == 0 {
                    self.front.store(number, Ordering::Relaxed);
                }
                jobs.queue.insert(at, entry);
            }
            last => {
                if last.is_none() {
                    self.front.store(number, Ordering::Relaxed);
                }
                jobs.queue.push_back(entry);
            }
        }
        self.queued.store(jobs.queue.len(), Ordering::Relaxed);
        !jobs.listed && self.node.clock().run().is_none() && !mem::replace(&mut jobs.listed, true)
    }

    /// A job was queued; with a number, its scope is to be listed because of it.
    fn expect(self: &Arc<Self>, order: u64, own_thread: bool, lists: Option<u64>) {
        // After it: who is told of a refusal from here on finds the entry. If one is told at this moment and not seen here, its
        // pokes, or its look at the queue, come before the entry was queued: then it is seen.
        self.forget_refusal();
        if let Some(run) = self.node.clock().run() {
            run.queue(order, Arc::clone(self) as Arc<dyn Summon>);
            return;
        }
        if let Some(number) = lists {
            self.pool.list(Arc::clone(self) as Arc<dyn Source>, number);
        }
        if own_thread {
            self.pool.call();
        }
    }

    /// Waits for every job; runs or sweeps queued ones meanwhile. May be called again if the count is still up.
    pub(crate) fn settle(self: &Arc<Self>) {
        if self.live() == 0 {
            return;
        }
        with_chair(|chair| {
            let mut doing = None;
            let mut registered = None;
            let mut help = Help::default();
            let may_inline = self.may_inline();
            // Given back with the next claim, or by the one in vain that comes before each park and the end.
            let mut ended = None;
            loop {
                // Before all looks: it may run callbacks, which may wait on this thread, and so take a poke.
                self.node.expire();
                if self.live() == 0 {
                    break;
                }
                let stopping = self.node.is_stopping();
                let entry =
                    if stopping || may_inline { self.claim_next(!stopping, chair.seat(), &mut ended) } else { None };
                if let Some(entry) = entry {
                    let since = entry.since;
                    doing.get_or_insert_with(|| Doing::since(since, Activity::Exit, self.label().place, None));
                    help.look(self, since);
                    ended = entry.run(self, true);
                    mutant!("park_after_helping" => wait::park(chair, &Wait::Open, self.node.next_due()));
                } else if self.live() == 0 {
                    break; // the last one was given back
                } else if let Some((wait, _)) = &registered {
                    let until = if stopping { None } else { self.node.next_due() };
                    // While it parks only: a lock that a job takes on this thread is let go by that job.
                    let exit = cycle::enter_exit(&self.ground, chair.seat());
                    wait::park(chair, wait, until);
                    mutant!("exit_entered_while_it_runs_jobs" => mem::forget(exit); continue);
                    drop(exit);
                } else {
                    // Before the look that precedes a park.
                    doing.get_or_insert_with(|| Doing::new(Activity::Exit, self.label().place, None));
                    let wait = Wait::For(Arc::clone(self) as Arc<dyn Awaited>);
                    registered = Some((wait, self.node.add_seat(chair.seat()).ok()));
                }
            }
            if let Some((_, Some(key))) = registered {
                self.node.remove_seat(key);
            }
        });
    }
}

/// When an owner that helps calls for help itself: once, and if that is worth what it costs.
#[derive(Default)]
struct Help {
    since: Option<Instant>,
    ran: u32,
    called: bool,
}

/// What it costs its caller to wake a thread.
const WAKE: Duration = Duration::from_micros(5);

/// Jobs that take less are done sooner by one thread than by two, who would fight for the queue's lock.
const SHORT: Duration = Duration::from_micros(1);

/// After so many jobs the owner looks only once in so many, whether to call.
const SOME: u32 = 8;

/// How much must be left: less is done before the thread has come.
const WORTH: Duration = Duration::from_micros(25);

impl Help {
    /// The owner has claimed a job at that instant, and is about to run it.
    fn look(&mut self, core: &Core, now: Instant) {
        let (ran, since) = (self.ran, *self.since.get_or_insert(now));
        self.ran = ran.saturating_add(1);
        if ran > SOME && ran % SOME != 0 {
            return; // so many are short, or this would have been decided
        }
        let took = now.saturating_duration_since(since);
        if self.called || took < WAKE.max(SHORT.saturating_mul(ran)) || core.node.clock().run().is_some() {
            return;
        }
        let queued = u32::try_from(core.queued.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        if took.saturating_mul(queued) / ran.max(1) >= WORTH {
            self.called = true;
            core.pool.call();
        }
    }
}

/// Whether a worker is in the way of others at the queue: after each so many jobs it looks how it fares.
#[derive(Default)]
struct Crowd {
    ran: u32,
    /// When that was last, and what others had done then.
    last: Option<(Instant, u64)>,
}

/// After so many jobs.
const ROUND: u32 = 32;

/// With more jobs queued, whoever spawns is not left alone: they take as much memory as that is worth.
const BACKLOG: usize = 1_000_000;

impl Crowd {
    /// The worker has claimed a job at that instant. If it is in the way, tells since when.
    fn look(&mut self, core: &Tally<Core>, now: Instant) -> Option<Instant> {
        self.ran = self.ran.wrapping_add(1);
        if self.ran % ROUND != 1 {
            return None;
        }
        // Hints: if one is late, so is this. What was spawned and is not queued was claimed.
        let (spawned, queued) = (core.spawned(), core.queued.load(Ordering::Relaxed));
        let all = (2 * spawned).wrapping_sub(queued as u64);
        let others = all.wrapping_sub(done_here());
        let (since, before) = self.last.replace((now, others))?;
        let crowded = (u64::from(ROUND)..u64::MAX / 2).contains(&others.wrapping_sub(before))
            && now.saturating_duration_since(since) < SHORT.saturating_mul(ROUND)
            && queued < BACKLOG
            && !core.node.is_stopping();
        crowded.then_some(since)
    }
}

impl Hook for Tally<Core> {
    /// The backlog is swept by the owner if it stands at its exit (its seat is poked), else by a worker.
    fn stopping(&self) {
        let queued = !self.lock().queue.is_empty();
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
        Tally::enders(self, None)
    }
}

impl Source for Tally<Core> {
    fn run(&self, go_on: &mut dyn FnMut() -> bool) -> Option<Instant> {
        with_chair(|chair| {
            let (mut ended, mut crowd) = (None, Crowd::default());
            loop {
                self.forget_refusal();
                let entry = match self.node.clock().run() {
                    None => self.claim_next(false, chair.seat(), &mut ended),
                    Some(run) => self.claim_in_turn(run),
                };
                let entry = entry?;
                let crowded = crowd.look(self, entry.since);
                ended = if entry.lent.shared().own_thread { self.run_apart(entry) } else { self.run_as_worker(entry) };
                // Unless the last one was long.
                let short =
                    |since: &Instant| self.node.clock().now().saturating_duration_since(*since) < SHORT * 2 * ROUND;
                let crowded = crowded.filter(short);
                if !go_on() || crowded.is_some() || self.turns().is_some() {
                    if let Some(over) = ended {
                        self.leave(over);
                    }
                    return crowded;
                }
            }
        })
    }

    fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    fn line(&self) -> Option<(u64, u64)> {
        (self.queued() > 0).then(|| (self.front.load(Ordering::Relaxed), self.spawned()))
    }

    fn wanted(&self) -> usize {
        match self.node.clock().run() {
            None => self.queued(),
            Some(run) => usize::from(run.turn_of(self.address()).is_some()),
        }
    }

    fn set_listed(&self) -> bool {
        let mut jobs = self.lock();
        let lists = !jobs.listed && !jobs.queue.is_empty();
        jobs.listed |= lists;
        lists
    }

    fn set_unlisted(&self, anyway: bool) -> bool {
        let mut jobs = self.lock();
        let done = anyway || jobs.queue.is_empty();
        jobs.listed &= !done;
        done
    }

    fn is_listed(&self) -> bool {
        self.lock().listed
    }

    fn rescue(&self) {
        // Before the pokes: who is poked finds it. Who looks later finds it as well, so nobody is poked again before a job
        // is queued, or a worker comes: else two owners, each parking after a look in vain, would wake each other for ever.
        if self.refused.swap(true, Ordering::AcqRel) {
            return;
        }
        // Also an owner that calls this itself, about to park: since its look, another thread may have queued a job.
        self.owner.poke();
        let joined: Vec<_> = self.lock().joined.iter().map(|(_, job)| job.clone()).collect();
        for job in joined {
            job.poke_joiners();
        }
    }

    fn owner(&self) -> Arc<dyn Party> {
        Arc::clone(&self.owner) as Arc<dyn Party>
    }

    fn around(&self) -> Vec<Arc<dyn Party>> {
        let mut around = Vec::new();
        let mut seen = HashSet::new();
        let mut todo: Vec<Arc<Node>> = self.node.ups().cloned().collect();
        while let Some(node) = todo.pop() {
            if !seen.insert(Arc::as_ptr(&node)) {
                continue;
            }
            if let Some(core) = node.host().and_then(|host| host.downcast::<Tally<Core>>().ok()) {
                around.extend(core.threads());
            }
            todo.extend(node.ups().cloned());
        }
        around
    }

    fn turns(&self) -> Option<&dyn Turns> {
        self.node.clock().run().is_some().then_some(self as &dyn Turns)
    }

    fn picture(&self) -> (Vec<String>, Vec<String>) {
        let alive = self.alive();
        let (started, queued): (Vec<_>, Vec<_>) = alive.iter().map(|(job, _)| job).partition(|job| job.has_started());
        let queued = queued.iter().map(|job| format!("`{}`", job.label().name()));
        let activity = |job: &JobRef| job.seed.made().map_or(Activity::Running, |strand| strand.activity());
        let waits = started.iter().map(|job| (job.label(), activity(job)));
        let body = (self.body.label.clone(), self.body.activity());
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

impl Tally<Core> {
    fn run_as_worker(&self, entry: Claimed) -> Option<Claimed> {
        if self.turns().is_some() {
            pool::set_arrived();
        }
        entry.run(self, false)
    }

    /// Runs a job that has a place of its own.
    #[inline(never)]
    fn run_apart(&self, entry: Claimed) -> Option<Claimed> {
        match self.turns() {
            None => pool::apart(|| entry.run(self, false)),
            Some(_) => self.run_as_worker(entry),
        }
    }

    /// Takes the job whose turn in a virtual run it is.
    #[inline(never)]
    fn claim_in_turn(&self, run: &Run) -> Option<Claimed> {
        mutant!("virtual_worker_takes_any" => return self.claim_at(|jobs| jobs.queue.len().checked_sub(1)));
        let order = run.turn_of(self.address())?;
        self.claim_at(|jobs| jobs.queue.iter().position(|entry| entry.shared().seed.order() == order))
    }
}

impl Summon for Tally<Core> {
    fn summon(self: Arc<Self>) {
        let pool = Arc::clone(&self.pool);
        pool.ask(self);
    }

    fn strand(self: Arc<Self>) -> Option<Vec<u64>> {
        self.pool.starve(|source| source.turns().is_some());
        self.pool.all_taken()
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

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::{
        cancel::{
            current::{Ground, Strand},
            deadline::Deadline,
            node::{Node, Parents, Sight, Terms},
            reason::{Label, TimedOut},
        },
        park::clock::Clock,
        pool::Pool,
        scope::{core::Setup, options::ScopeOptions},
        wait::given::{SHORT, node, soon, stand, until},
    };
    use std::{
        panic::Location,
        sync::{OnceLock, mpsc},
        time::Duration,
    };

    /// A scope of this thread that nobody has opened.
    fn core() -> Arc<Tally<Core>> {
        let label = Label::new("scope", None, Location::caller());
        let node = Node::new(&Parents::default(), label.clone(), Clock::Real, None);
        let ground = Ground::new(node, None);
        let (pool, body) = (crate::pool::in_use(), Strand::on(&ground, label, 0));
        Core::new(Setup { ground, pool, body, fail_fast: true, inline: true, inlined: 0, keep: None })
    }

    #[test]
    fn a_worker_is_in_the_way_where_jobs_are_short_and_others_do_as_much() {
        let spawn = |core: &Tally<Core>, jobs: u32| {
            for _ in 0..jobs {
                core.next_number();
            }
        };
        // In a round, so many are spawned and claimed by others, and spawned by its own jobs.
        let fares = |backlog: u32, [spawned, claimed, mine]: [u32; 3], each: Duration| {
            let (core, mut crowd, began) = (core(), Crowd::default(), Instant::now());
            let queued = |jobs: u32| core.queued.store(jobs as usize, Ordering::Relaxed);
            spawn(&core, backlog);
            queued(backlog);
            assert!((0..ROUND).all(|_| crowd.look(&core, began).is_none()), "before it can tell");
            spawn(&core, spawned + mine);
            (0..mine + ROUND).for_each(|_| count_here());
            queued(backlog + spawned + mine - claimed - ROUND);
            (core, crowd, began + each * ROUND)
        };
        let is_crowded = |backlog: u32, done: [u32; 3], each: Duration| {
            let (core, mut crowd, now) = fares(backlog, done, each);
            crowd.look(&core, now).is_some()
        };
        let (short, long, some) = (super::SHORT / 2, 2 * super::SHORT, 100);
        assert!(is_crowded(some, [ROUND, 0, 0], short) && is_crowded(some, [0, ROUND, 0], short));
        assert!(is_crowded(some, [ROUND, ROUND, ROUND], short));
        assert!(!is_crowded(some, [ROUND, ROUND, 0], long), "the jobs are worth a thread");
        assert!(!is_crowded(some, [ROUND / 2, ROUND / 4, 0], short), "it does most of the work");
        assert!(!is_crowded(some, [0, 0, 2 * ROUND], short), "it does all of it");
        assert!(!is_crowded(u32::try_from(BACKLOG).unwrap() + ROUND, [ROUND, ROUND, 0], short), "too much is queued");
        let (core, mut crowd, now) = fares(some, [ROUND; 3], short);
        core.node.cancel(&Reason::new(ReasonKind::Explicit, core.label().clone(), core.node.clock().now()), false);
        assert!(crowd.look(&core, now).is_none(), "the rest is to be swept");
    }

    #[test]
    fn an_owner_that_calls_for_its_own_rescue_looks_once_more_and_once_only() {
        let core = core();
        let rescued = || {
            Source::rescue(&*core);
            with_chair(|chair| {
                let poked = chair.seat().is_poked();
                if poked {
                    chair.park(None); // returns at once, and takes the poke
                }
                poked
            })
        };
        assert!(rescued(), "another thread may have queued a job since its look");
        assert!(!rescued(), "it would not get to sleep");
    }

    #[test]
    fn a_queued_job_whose_time_is_over_ends_by_itself_however_late_who_watches_it_is() {
        soon(|| {
            let pool = Pool::builder().max_threads(1).build().unwrap_or_else(|error| unreachable!("{error}"));
            // This thread sees that the time is over, as a rule, before the alarm's thread has woken.
            for _ in 0..20 {
                let ended = ScopeOptions::new().pool(&pool).inline(false).open(|s| {
                    let taken = s.job("takes the thread").spawn(|| Ok(crate::sleep(Duration::MAX)?));
                    drop(s.job("late").isolated().timeout(SHORT).spawn(|| Ok(())));
                    let (late, _) = s.core().alive().pop().ok_or_else(|| anyhow::anyhow!("it has ended"))?;
                    let over = Instant::now() + SHORT;
                    until(|| Instant::now() >= over);
                    assert!(late.ends_by_itself() || late.outcome().is_some());
                    taken.cancel();
                    Ok(())
                });
                assert!(ended.is_err_and(|group| group.find::<TimedOut>().is_some()), "nobody has joined it");
            }
        });
    }

    /// In `cleanup` a deadline above stops nobody, but the owner at its exit marks it, and runs what goes with that.
    #[test]
    fn an_exit_looks_again_after_a_callback_that_has_waited_in_its_seat() {
        soon(|| {
            let (outer, (tell, told)) = (node(None), mpsc::channel());
            let (parents, label) = (Parents { parent: Some(&outer), also: None }, outer.label().clone());
            // Of another clock, so that nobody watches the limit for it, and marks it before.
            let run = with_chair(|chair| Run::start(chair.seat()));
            let below = Node::new(&parents, label.clone(), Clock::Virtual(run), None);
            let core = Arc::new(OnceLock::<Arc<Tally<Core>>>::new());
            let theirs = Arc::clone(&core);
            let _registration = below.on_cancel(Box::new(move || {
                with_chair(|chair| {
                    chair.park(Some(Instant::now())); // takes a poke that is left over
                    tell.send(()).unwrap();
                    until(|| theirs.get().is_some_and(|core| core.live() == 0) && chair.seat().is_poked());
                    chair.park(None); // takes the last job's
                });
            }));
            let terms = Terms { sight: Sight::End, ..Terms::default() };
            let ended = stand(&Node::with(&parents, label, Clock::Real, terms), || {
                ScopeOptions::new().inline(false).open(|s| {
                    assert!(core.set(Arc::clone(s.core())).is_ok());
                    let (starts, started) = mpsc::channel();
                    let (outer, core) = (&outer, s.core());
                    s.spawn(move || {
                        starts.send(())?;
                        until(|| core.owner.parked().is_some());
                        outer.set_deadline(Deadline::after(&Clock::Real, SHORT, Location::caller()));
                        Ok(told.recv()?)
                    });
                    Ok(started.recv()?)
                })
            });
            assert!(ended.is_ok() && outer.is_stopping());
        });
    }
}
