//! Random programs, against an oracle that knows which results a program of this shape may have.
//!
//! A program is a tree of scopes and jobs, each a list of steps. While it runs, it takes notes: which closure started, how
//! it ended, what a join said. From these [`World::judge`] decides at each exit whether the result is an allowed one.
//! `TASSEL_STRESS=n` runs n programs instead of a few hundred, `TASSEL_SEED=s` the one of that seed, as often.

use crate::{LIMIT, Rng, guarded_for, seeded_rng, stress_rounds};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, hint,
    panic::resume_unwind,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicIsize, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tassel::{
    CancelToken, Cancelled, Child, ErrorGroup, JobHandle, JoinError, Leaf, OnFailure, ReasonKind, Scope, ScopeOptions,
    checkpoint, now,
    pool::Pool,
    region::{TimedOut, cleanup, fail_after, move_on_after, shield},
    sleep,
    testing::virtual_time,
    yield_now,
};

/// The failure, or the panic, of the member with that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("boom {0}")]
struct Boom(usize);

#[derive(Debug)]
enum Step {
    Check,
    Yield,
    Spin(u64),
    Nap(u64),
    /// Spawns into the scope at hand; with a number, the job gets one of the handles held so far.
    Spawn(Box<Job>, Option<u64>),
    /// Joins one of the handles held; its error ends this member if the flag says so.
    Join(u64, bool),
    JoinFor(u64, u64),
    TryJoin(u64),
    /// By its handle, or by its token.
    CancelJob(u64, bool),
    Forget(u64),
    CancelScope,
    /// Ends cleanup after that time; at once if it is zero.
    CancelWithin(u64),
    CancelToken,
    CancelOuter,
    /// Moves the deadline of the scope at hand.
    Move(Option<u64>),
    /// Opens a scope; its error ends this member if the flag says so.
    Open(Box<Plan>, Option<u64>, bool),
    Region(u64, Kind, Vec<Step>),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    MoveOn,
    Fail,
    Shield,
    Cleanup,
}

impl Kind {
    fn run(self, limit: Duration, code: impl FnOnce() -> tassel::Result<()>) -> tassel::Result<()> {
        match self {
            Kind::MoveOn => move_on_after(limit, code).map(drop),
            Kind::Fail => fail_after(limit, code),
            Kind::Shield => shield(limit, code),
            Kind::Cleanup => cleanup(limit, code),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Value,
    Fail,
    Panic,
    /// Gives a value whatever happened before.
    Swallow,
    /// Fails with an error of its own where another passes one on.
    Replace,
}

/// What a job, or a body, does.
#[derive(Debug)]
struct Code {
    number: usize,
    steps: Vec<Step>,
    end: End,
}

#[derive(Debug)]
struct Job {
    code: Code,
    isolated: bool,
    own_thread: bool,
    timeout: Option<u64>,
}

#[derive(Debug)]
struct Plan {
    /// The number of the body too.
    code: Code,
    keep_going: bool,
    inline: bool,
    timeout: Option<u64>,
    grace: Option<u64>,
    under: bool,
    pool: Option<usize>,
}

/// Makes a program.
struct Author<'r> {
    rng: &'r mut Rng,
    members: usize,
    budget: usize,
    /// Jobs may insist on a thread; on a pool that has none, they are starved.
    may_insist: bool,
    insists: bool,
    pools: usize,
}

impl Author<'_> {
    fn span(&mut self) -> u64 {
        self.rng.below(40)
    }

    fn code(&mut self, depth: u32, job: bool) -> Code {
        let number = self.members;
        self.members += 1;
        let steps = self.steps(depth, job);
        let end = match self.rng.below(20) {
            0 | 1 => End::Fail,
            2 => End::Panic,
            3 => End::Swallow,
            4 => End::Replace,
            _ => End::Value,
        };
        Code { number, steps, end }
    }

    fn steps(&mut self, depth: u32, job: bool) -> Vec<Step> {
        let count = if job { self.rng.below(5) } else { 1 + self.rng.below(9) };
        (0..count).map(|_| self.step(depth, job)).collect()
    }

    fn step(&mut self, depth: u32, job: bool) -> Step {
        let pick = self.rng.next();
        let more = depth > 0 && self.budget > 0;
        match self.rng.below(if job { 70 } else { 100 }) {
            0..9 if pick % 3 == 0 => Step::Yield,
            9..13 => Step::Spin(self.rng.below(2000)),
            13..20 => Step::Nap(self.span()),
            20..32 => Step::Join(pick, self.rng.chance(70)),
            32..36 => Step::JoinFor(pick, self.span()),
            36..39 => Step::TryJoin(pick),
            39..42 => Step::CancelJob(pick, pick % 4 == 0),
            42 => Step::Forget(pick),
            44 if pick % 2 == 0 => Step::CancelScope,
            44 => Step::CancelWithin(if pick % 3 == 0 { 0 } else { self.span() }),
            43 => Step::Move((pick % 4 != 0).then(|| self.span())),
            45 => Step::CancelToken,
            46 => Step::CancelOuter,
            47..54 if more => {
                let plan = self.plan(depth - 1);
                let give = self.rng.chance(40).then_some(pick);
                Step::Open(Box::new(plan), give, self.rng.chance(80))
            }
            54..58 if depth > 0 => {
                let kind = match self.rng.below(4) {
                    0 => Kind::MoveOn,
                    1 => Kind::Fail,
                    2 => Kind::Shield,
                    _ => Kind::Cleanup,
                };
                Step::Region(self.span(), kind, self.steps(depth - 1, job))
            }
            58.. if more => {
                self.budget -= 1;
                let code = self.code(depth - 1, true);
                let own_thread = self.rng.chance(5) && self.may_insist;
                self.insists |= own_thread;
                let isolated = self.rng.chance(20);
                let timeout = if self.rng.chance(15) { Some(self.span()) } else { None };
                let give = self.rng.chance(30).then_some(pick);
                Step::Spawn(Box::new(Job { code, isolated, own_thread, timeout }), give)
            }
            _ => Step::Check,
        }
    }

    fn plan(&mut self, depth: u32) -> Plan {
        let inline = self.rng.chance(85) || !self.may_insist;
        self.insists |= !inline;
        Plan {
            keep_going: self.rng.chance(35),
            inline,
            timeout: if self.rng.chance(15) { Some(self.span()) } else { None },
            grace: if self.rng.chance(15) { Some(self.rng.below(20)) } else { None },
            under: self.rng.chance(15),
            pool: if self.rng.chance(25) {
                Some(usize::try_from(self.rng.below(self.pools as u64)).unwrap())
            } else {
                None
            },
            code: self.code(depth, false),
        }
    }
}

/// How a closure ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Value,
    /// With an error, or a panic, of its own.
    Boom,
    TimedOut,
    /// With a `Cancelled`, whoever's it was.
    Stop,
    /// Only because that job failed.
    Told(u64),
    /// With the failures of an inner scope.
    Group(Vec<Key>),
}

/// What a leaf is, for comparing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Boom(Boom),
    TimedOut(u64),
    Stop(u64),
    /// A stop that was not the job's own.
    Stray(u64),
    Told(u64, u64),
}

fn key(leaf: &Leaf) -> Key {
    let id = leaf.id().get();
    if let Some(boom) = leaf.downcast_ref::<Boom>().or_else(|| leaf.payload_ref::<Boom>()) {
        return Key::Boom(*boom);
    }
    if leaf.stop().is_some() {
        return Key::Stop(id);
    }
    if leaf.downcast_ref::<TimedOut>().is_some() {
        return Key::TimedOut(id);
    }
    match leaf.downcast_ref::<JoinError>() {
        Some(JoinError::Failed { id: of, .. } | JoinError::Panicked { id: of, .. }) => Key::Told(id, of.get()),
        _ => Key::Stray(id),
    }
}

fn keys(group: &ErrorGroup) -> Vec<Key> {
    let mut keys: Vec<_> = group.leaves().map(key).collect();
    keys.sort();
    keys
}

/// How an error counts; `None` if no step can end so.
fn kind_of(error: &tassel::Error) -> Option<Ended> {
    if error.is::<Boom>() {
        Some(Ended::Boom)
    } else if error.is::<TimedOut>() {
        Some(Ended::TimedOut)
    } else if error.is::<Cancelled>() {
        Some(Ended::Stop)
    } else if let Some(group) = error.downcast_ref::<ErrorGroup>() {
        let stop = group.leaves().all(|leaf| leaf.stop().is_some());
        Some(if stop { Ended::Stop } else { Ended::Group(keys(group)) })
    } else {
        match error.downcast_ref::<JoinError>()? {
            JoinError::Failed { id, .. } | JoinError::Panicked { id, .. } => Some(Ended::Told(id.get())),
            JoinError::Cancelled { .. } | JoinError::You(_) => Some(Ended::Stop),
            _ => None,
        }
    }
}

/// What is known of a job or a body.
#[derive(Debug, Default)]
struct Member {
    spawned: AtomicBool,
    started: AtomicU32,
    dropped: AtomicU32,
    /// How it ended, and whether its scope was stopping just before.
    ended: OnceLock<(Ended, bool)>,
    /// Its handle was cancelled.
    cancelled: AtomicBool,
    /// Its token was cancelled, by others.
    by_token: AtomicBool,
    /// A joiner was told that it never starts.
    told_unstarted: AtomicBool,
    /// A joiner was given its failure.
    taken: AtomicBool,
    id: OnceLock<u64>,
}

/// What is known of a scope.
#[derive(Debug, Default)]
struct Place {
    over: AtomicBool,
    /// Captures and values that are still there.
    alive: AtomicIsize,
    willed: AtomicBool,
    by_token: AtomicBool,
    /// It has a deadline, or had one.
    timed: AtomicBool,
    jobs: Mutex<Vec<usize>>,
    token: OnceLock<CancelToken>,
}

struct World {
    members: Vec<Member>,
    /// By the number of the body.
    places: Vec<Place>,
    job_plans: Mutex<BTreeMap<usize, (bool, bool)>>,
    outer: CancelToken,
    pools: Vec<Pool>,
    /// One step of time.
    tick: Duration,
    may_starve: bool,
    began: Instant,
    trace: Option<Mutex<Vec<String>>>,
    faults: Mutex<Vec<String>>,
}

/// The value of a job, or what its closure captured.
struct Counted<'w> {
    world: &'w World,
    place: &'w Place,
    of: usize,
    capture: bool,
}

impl<'w> Counted<'w> {
    fn new(world: &'w World, place: &'w Place, of: usize, capture: bool) -> Self {
        place.alive.fetch_add(1, SeqCst);
        Counted { world, place, of, capture }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if self.capture {
            self.world.members[self.of].dropped.fetch_add(1, SeqCst);
        }
        if self.place.over.load(SeqCst) {
            self.world.fault(|| format!("{} dropped after its scope returned", self.of));
        }
        self.place.alive.fetch_sub(1, SeqCst);
    }
}

/// A handle that a member holds, and the job's number.
enum Held<'s, 'w> {
    Plain(usize, JobHandle<'s, Counted<'w>>),
    Isolated(usize, JobHandle<'s, Result<Counted<'w>, Leaf>>),
}

impl Held<'_, '_> {
    fn number(&self) -> usize {
        match self {
            Held::Plain(number, _) | Held::Isolated(number, _) => *number,
        }
    }
}

fn take<'s, 'w>(held: &mut Vec<Held<'s, 'w>>, pick: u64) -> Option<Held<'s, 'w>> {
    let count = u64::try_from(held.len()).unwrap();
    (count > 0).then(|| held.remove(usize::try_from(pick % count).unwrap()))
}

impl World {
    fn fault(&self, text: impl FnOnce() -> String) {
        self.faults.lock().unwrap().push(text());
    }

    fn check(&self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.fault(text);
        }
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let line = format!("{:?} {}", now() - self.began, text());
            trace.lock().unwrap().push(line);
        }
    }

    fn ticks(&self, count: u64) -> Duration {
        self.tick * u32::try_from(count).unwrap()
    }

    fn job(&self, number: usize) -> (bool, bool) {
        self.job_plans.lock().unwrap()[&number]
    }

    fn open<'e, 'w: 'e>(&'w self, plan: &'w Plan, given: Option<Held<'e, 'w>>) -> Result<(), ErrorGroup> {
        let (member, place) = (&self.members[plan.code.number], &self.places[plan.code.number]);
        let around = CancelToken::current();
        let mut options = ScopeOptions::new().name(format!("s{}", plan.code.number)).inline(plan.inline);
        if plan.keep_going {
            options = options.on_failure(OnFailure::KeepGoing);
        }
        if let Some(timeout) = plan.timeout {
            place.timed.store(true, SeqCst);
            options = options.timeout(self.ticks(timeout));
        }
        if let Some(grace) = plan.grace {
            options = options.grace(self.ticks(grace));
        }
        if plan.under {
            options = options.under(&self.outer);
        }
        if let Some(pool) = plan.pool {
            options = options.pool(&self.pools[pool]);
        }
        member.spawned.store(true, SeqCst);
        let result = options.open(|s: &Scope<'_, 'e>| {
            let _ = place.token.set(s.token());
            self.run(s, place, &plan.code, given.into_iter().collect())
        });
        let alive = place.alive.load(SeqCst);
        // The value of the body itself is still there.
        let own = isize::from(result.is_ok());
        self.check(alive == own, || format!("scope {} returned with {alive} alive", plan.code.number));
        let result = result.map(drop);
        place.over.store(true, SeqCst);
        self.say(|| format!("scope {} returns {:?}", plan.code.number, result.as_ref().map_err(Self::names)));
        let outside = around.is_cancelled() || (plan.under && self.outer.is_cancelled());
        self.judge(plan, place, &result, outside);
        result
    }

    /// For a trace, without what differs from run to run.
    fn names(group: &ErrorGroup) -> Vec<String> {
        let line = |leaf: &Leaf| {
            let text = leaf.error().map(ToString::to_string);
            let what = (leaf.is_panic(), leaf.stop().is_some(), leaf.during_cancellation());
            let text = text.unwrap_or_default();
            let text = if text.contains(':') { "…".to_owned() } else { text };
            format!("{} {:?} {:?} {text} {what:?}", leaf.path(), leaf.offset(), leaf.took())
        };
        group.leaves().map(line).collect()
    }

    /// Runs a body or a job to its end.
    fn run<'s, 'w: 's>(
        &'w self,
        s: &'s Scope<'s, '_>,
        place: &'w Place,
        code: &'w Code,
        mut held: Vec<Held<'s, 'w>>,
    ) -> tassel::Result<Counted<'w>> {
        let member = &self.members[code.number];
        self.check(member.started.fetch_add(1, SeqCst) == 0, || format!("{} started twice", code.number));
        self.say(|| format!("{} starts", code.number));
        let done = self.steps(s, place, code.number, &code.steps, &mut held);
        drop(held);
        let done = match (done, code.end) {
            (Ok(()), End::Value | End::Replace) | (_, End::Swallow) => Ok(()),
            (Ok(()), End::Fail) | (Err(_), End::Replace) => Err(Boom(code.number).into()),
            (Ok(()), End::Panic) => {
                self.end(s, place, code.number, Ended::Boom);
                resume_unwind(Box::new(Boom(code.number)));
            }
            (Err(error), _) => Err(error),
        };
        let ended = match &done {
            Ok(()) => Some(Ended::Value),
            Err(error) => kind_of(error),
        };
        self.check(ended.is_some(), || format!("{} met a strange error: {done:?}", code.number));
        self.end(s, place, code.number, ended.unwrap_or(Ended::Boom));
        done.map(|()| Counted::new(self, place, code.number, false))
    }

    fn end(&self, s: &Scope<'_, '_>, place: &Place, number: usize, ended: Ended) {
        self.say(|| match &ended {
            Ended::Told(_) => format!("{number} ends told"),
            Ended::Group(keys) => format!("{number} ends with a group of {}", keys.len()),
            ended => format!("{number} ends {ended:?}"),
        });
        self.check(!place.over.load(SeqCst), || format!("{number} runs after its scope returned"));
        let _ = self.members[number].ended.set((ended, s.is_cancelled()));
    }

    fn cancel_job(&self, me: usize, handle: &Held<'_, '_>, by_token: bool) {
        let of = handle.number();
        self.say(|| format!("{me} cancels {of}{}", if by_token { " by its token" } else { "" }));
        let member = &self.members[of];
        if by_token { &member.by_token } else { &member.cancelled }.store(true, SeqCst);
        match handle {
            Held::Plain(_, handle) if by_token => handle.token().cancel(),
            Held::Isolated(_, handle) if by_token => handle.token().cancel(),
            Held::Plain(_, handle) => handle.cancel(),
            Held::Isolated(_, handle) => handle.cancel(),
        }
    }

    fn steps<'s, 'w: 's>(
        &'w self,
        s: &'s Scope<'s, '_>,
        place: &'w Place,
        me: usize,
        steps: &'w [Step],
        held: &mut Vec<Held<'s, 'w>>,
    ) -> tassel::Result<()> {
        for step in steps {
            self.check(!place.over.load(SeqCst), || format!("{me} runs after its scope returned"));
            match step {
                Step::Check => self.stop(me, checkpoint())?,
                Step::Yield => self.stop(me, yield_now())?,
                Step::Spin(count) => (0..*count).for_each(|_| hint::spin_loop()),
                Step::Nap(ticks) => self.stop(me, sleep(self.ticks(*ticks)))?,
                Step::Spawn(job, pick) => {
                    let given = pick.and_then(|pick| take(held, pick));
                    held.push(self.spawn(s, place, job, given));
                }
                Step::Join(pick, pass) => {
                    if let Some(handle) = take(held, *pick) {
                        let of = handle.number();
                        let joined = match handle {
                            Held::Plain(_, handle) => self.told(me, of, handle.join()),
                            Held::Isolated(_, handle) => self.told_isolated(me, of, handle.join()),
                        };
                        if *pass {
                            joined?;
                        }
                    }
                }
                Step::JoinFor(pick, ticks) => {
                    if let Some(handle) = take(held, *pick) {
                        let (of, limit) = (handle.number(), self.ticks(*ticks));
                        match handle {
                            Held::Plain(_, handle) => match handle.join_timeout(limit) {
                                Ok(joined) => drop(self.told(me, of, joined)),
                                Err(handle) => held.push(Held::Plain(of, handle)),
                            },
                            Held::Isolated(_, handle) => match handle.join_timeout(limit) {
                                Ok(joined) => drop(self.told_isolated(me, of, joined)),
                                Err(handle) => held.push(Held::Isolated(of, handle)),
                            },
                        }
                    }
                }
                Step::TryJoin(pick) => {
                    if let Some(handle) = take(held, *pick) {
                        let of = handle.number();
                        match handle {
                            Held::Plain(_, handle) => match handle.try_join() {
                                Ok(joined) => drop(self.told(me, of, joined)),
                                Err(handle) => held.push(Held::Plain(of, handle)),
                            },
                            Held::Isolated(_, handle) => match handle.try_join() {
                                Ok(joined) => drop(self.told_isolated(me, of, joined)),
                                Err(handle) => held.push(Held::Isolated(of, handle)),
                            },
                        }
                    }
                }
                Step::CancelJob(pick, by_token) => {
                    if let Some(handle) = take(held, *pick) {
                        self.cancel_job(me, &handle, *by_token);
                        held.push(handle);
                    }
                }
                Step::Forget(pick) => drop(take(held, *pick)),
                Step::CancelScope => {
                    self.say(|| format!("{me} cancels its scope"));
                    place.willed.store(true, SeqCst);
                    s.cancel();
                }
                Step::CancelWithin(grace) => {
                    self.say(|| format!("{me} cancels its scope with a grace"));
                    place.willed.store(true, SeqCst);
                    if *grace == 0 { s.cancel_now() } else { s.cancel_with_grace(self.ticks(*grace)) }
                }
                Step::Move(ticks) => {
                    place.timed.store(true, SeqCst);
                    s.set_deadline(ticks.map(|ticks| now() + self.ticks(ticks)));
                }
                Step::CancelToken => {
                    place.by_token.store(true, SeqCst);
                    s.token().cancel();
                }
                Step::CancelOuter => self.outer.cancel(),
                Step::Open(plan, pick, pass) => {
                    let given = pick.and_then(|pick| take(held, pick));
                    let result = self.open(plan, given);
                    if *pass {
                        result?;
                    }
                }
                Step::Region(limit, kind, steps) => {
                    kind.run(self.ticks(*limit), || self.steps(s, place, me, steps, held))?;
                }
            }
        }
        Ok(())
    }

    /// Who is told to stop finds itself cancelled, also at the next look.
    fn stop(&self, me: usize, said: Result<(), Cancelled>) -> Result<(), Cancelled> {
        if said.is_err() {
            self.check(tassel::is_cancelled() && checkpoint().is_err(), || format!("{me}: a stop went away"));
        }
        said
    }

    fn spawn<'s, 'w: 's>(
        &'w self,
        s: &'s Scope<'s, '_>,
        place: &'w Place,
        job: &'w Job,
        given: Option<Held<'s, 'w>>,
    ) -> Held<'s, 'w> {
        let number = job.code.number;
        let member = &self.members[number];
        self.say(|| format!("{number} is spawned"));
        member.spawned.store(true, SeqCst);
        place.jobs.lock().unwrap().push(number);
        self.job_plans.lock().unwrap().insert(number, (job.isolated, job.timeout.is_some()));
        let capture = Counted::new(self, place, number, true);
        let code = move || {
            let _capture = &capture;
            self.run(s, place, &job.code, given.into_iter().collect())
        };
        let mut builder = s.job(format!("j{number}"));
        if let Some(timeout) = job.timeout {
            builder = builder.timeout(self.ticks(timeout));
        }
        if job.own_thread {
            builder = builder.own_thread();
        }
        if job.isolated {
            let handle = builder.isolated().spawn(code);
            let _ = member.id.set(handle.id().get());
            Held::Isolated(number, handle)
        } else {
            let handle = builder.spawn(code);
            let _ = member.id.set(handle.id().get());
            Held::Plain(number, handle)
        }
    }

    /// Holds what a joiner was told against what is known of the job.
    fn told(&self, me: usize, of: usize, joined: Result<Counted<'_>, JoinError>) -> tassel::Result<()> {
        let member = &self.members[of];
        let ended = member.ended.get().map(|(ended, _)| ended);
        let right = match &joined {
            Ok(value) => ended == Some(&Ended::Value) && value.of == of,
            Err(JoinError::Failed { id, .. } | JoinError::Panicked { id, .. }) => {
                // The spawner may not have written the id down yet.
                member.id.get().is_none_or(|known| *known == id.get())
                    && (ended.is_some_and(|ended| *ended != Ended::Value) || (ended.is_none() && self.job(of).1))
            }
            Err(JoinError::Cancelled { started: false, .. }) => {
                member.told_unstarted.store(true, SeqCst);
                ended.is_none()
            }
            Err(JoinError::Cancelled { .. }) => ended == Some(&Ended::Stop),
            Err(JoinError::You(_)) => tassel::is_cancelled(),
            Err(_) => false,
        };
        self.check(right, || {
            format!("{me} joins {of}, which ended {ended:?}, and is told {:?}", joined.as_ref().map(drop))
        });
        self.say(|| match &joined {
            Ok(_) => format!("{me} joined {of}"),
            Err(JoinError::You(_)) => format!("{me} is stopped joining {of}"),
            Err(JoinError::Cancelled { started, .. }) => format!("{me} joined {of}: cancelled {started}"),
            Err(_) => format!("{me} joined {of}: failed"),
        });
        joined.map(drop).map_err(Into::into)
    }

    fn told_isolated(
        &self,
        me: usize,
        of: usize,
        joined: Result<Result<Counted<'_>, Leaf>, JoinError>,
    ) -> tassel::Result<()> {
        match joined {
            Ok(Ok(value)) => self.told(me, of, Ok(value)),
            Ok(Err(leaf)) => {
                let member = &self.members[of];
                self.check(!member.taken.swap(true, SeqCst), || format!("the failure of {of} was given twice"));
                let ended = member.ended.get().map(|(ended, _)| ended);
                let right = member.id.get().is_none_or(|known| *known == leaf.id().get());
                self.check(right, || format!("{me} joins {of}, which ended {ended:?}, and is given {leaf:?}"));
                self.say(|| format!("{me} joined {of}: is given its failure"));
                Err(Boom(me).into())
            }
            Err(error) => {
                let right = !matches!(error, JoinError::Failed { .. } | JoinError::Panicked { .. });
                self.check(right, || format!("{me} joins the isolated {of} and is told {error:?}"));
                self.told(me, of, Err(error))
            }
        }
    }
}

/// What a member may have put into the group of its scope.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// Nothing, or one of these.
    Perhaps(Vec<Key>),
    /// One of these.
    OneOf(Vec<Key>),
    Group(Vec<Key>),
}

impl World {
    /// Decides at the exit of a scope whether its result is one that it may have.
    fn judge(&self, plan: &Plan, place: &Place, result: &Result<(), ErrorGroup>, outside: bool) {
        let me = plan.code.number;
        let jobs = place.jobs.lock().unwrap().clone();
        let token = place.token.get().expect("the body ran");
        let kind = token.reason().map(|reason| reason.kind()).filter(|kind| *kind != ReasonKind::Closed);
        let stopped = kind.is_some();
        let fault = |text: String| {
            let jobs: Vec<_> = jobs.iter().map(|&n| (n, self.job(n), self.members[n].ended.get())).collect();
            let body = self.members[me].ended.get();
            let result = result.as_ref().map_err(keys);
            self.fault(|| {
                format!(
                    "scope {me}: {text}\n  {kind:?} outside {outside} body {body:?} jobs {jobs:?}\n  result {result:?}"
                )
            });
        };

        self.judge_lives(&jobs, stopped, &fault);
        let ids: BTreeMap<u64, usize> = jobs.iter().map(|&n| (*self.members[n].id.get().unwrap(), n)).collect();
        let mut found: BTreeMap<usize, (Vec<Key>, bool)> = BTreeMap::new();
        for child in result.as_ref().err().into_iter().flat_map(ErrorGroup::iter) {
            let (id, keys, group) = match child {
                Child::Leaf(leaf) => (leaf.id().get(), vec![key(leaf)], false),
                Child::Group(sub) => (sub.id().get(), keys(sub.group()), true),
            };
            let of = ids.get(&id).copied().unwrap_or(me);
            if found.insert(of, (keys, group)).is_some() {
                fault(format!("{of} is in the group twice"));
            }
        }

        // The scope's own stop: one leaf, alone.
        let alone = result.as_ref().is_err_and(|group| group.len() == 1);
        let own_stop = match found.get(&me) {
            Some((keys, false)) if alone => match keys.as_slice() {
                [Key::Stop(_)] => true,
                [Key::TimedOut(_)] => self.members[me].ended.get().is_none_or(|(ended, _)| *ended != Ended::TimedOut),
                _ => false,
            },
            _ => false,
        };
        let has_stop = result.as_ref().is_err_and(|group| group.leaves().any(|leaf| leaf.stop().is_some()));
        if has_stop && !own_stop {
            fault("a stop beside failures".into());
        }

        let mut failed = false;
        let (mut cut, mut cut_by_token) = (false, false);
        for n in jobs.iter().copied().chain([me]) {
            let due = self.due(me, n, stopped, &ids);
            let has = found.get(&n).filter(|_| !(n == me && own_stop));
            let right = fits(&due, has, &ids);
            if !right {
                fault(format!("of {n}, {due:?} is due, but there is {has:?}"));
            }
            failed |= has.is_some();
            let member = &self.members[n];
            let is_cut = member.ended.get().is_none_or(|(ended, _)| *ended == Ended::Stop);
            let failed = has.is_some() || member.taken.load(SeqCst);
            cut |= n != me && is_cut && !failed && !member.cancelled.load(SeqCst);
            cut_by_token |= n != me && is_cut && !failed && member.by_token.load(SeqCst);
        }
        let body = self.members[me].ended.get().map(|(ended, _)| ended.clone());
        self.judge_cause(plan, place, kind, outside, &jobs, &fault);
        let (willed, by_token) = (place.willed.load(SeqCst), place.by_token.load(SeqCst));
        match result {
            Ok(()) => {
                if body != Some(Ended::Value) {
                    fault("a value, but the body gave none".into());
                }
                if cut && !outside && !(kind == Some(ReasonKind::Explicit) && willed) {
                    fault("a value, but jobs were stopped against the scope's will".into());
                }
            }
            Err(_) if own_stop && !outside => {
                let right = match kind {
                    Some(ReasonKind::Explicit) => by_token || (willed && body == Some(Ended::Stop)),
                    Some(ReasonKind::Deadline) => {
                        place.timed.load(SeqCst) && matches!(found[&me].0[0], Key::TimedOut(_))
                    }
                    Some(ReasonKind::Starved) => self.may_starve,
                    _ => false,
                };
                let anyone = body == Some(Ended::Stop)
                    || jobs.iter().any(|&n| self.members[n].ended.get().is_none_or(|(ended, _)| *ended == Ended::Stop));
                // If it came before whatever else stopped the job.
                let right =
                    right || (cut_by_token && body == Some(Ended::Value) && matches!(found[&me].0[0], Key::Stop(_)));
                if !right || !anyone {
                    fault("a stop without a cause".into());
                }
            }
            Err(_) if own_stop => {}
            Err(_) => {
                if !failed {
                    fault("a group of nobody's failures".into());
                }
            }
        }
    }

    /// Everybody was here once, and is gone.
    fn judge_lives(&self, jobs: &[usize], stopped: bool, fault: &impl Fn(String)) {
        for &n in jobs {
            let member = &self.members[n];
            let (started, dropped) = (member.started.load(SeqCst), member.dropped.load(SeqCst));
            if dropped != 1 || started > 1 || (started == 1) != member.ended.get().is_some() {
                fault(format!("job {n} started {started} times, its captures were dropped {dropped} times"));
            }
            let cancelled = member.cancelled.load(SeqCst) || member.by_token.load(SeqCst);
            if started == 0 && !stopped && !cancelled && !self.job(n).1 {
                fault(format!("job {n} never started, and nobody stopped it"));
            }
            if started == 1 && member.told_unstarted.load(SeqCst) {
                fault(format!("job {n} started, but its joiner was told that it never does"));
            }
        }
    }

    /// Why a scope was cancelled, or why not.
    fn judge_cause(
        &self,
        plan: &Plan,
        place: &Place,
        kind: Option<ReasonKind>,
        outside: bool,
        jobs: &[usize],
        fault: &impl Fn(String),
    ) {
        let fails = |n: usize| {
            let ended = self.members[n].ended.get();
            ended.is_some_and(|(ended, _)| !matches!(ended, Ended::Value | Ended::Stop))
        };
        // Strays and timeouts of jobs are failures too, but whether they were is for `due` to say.
        let may_fail = |n: usize| !matches!(self.members[n].ended.get(), Some((Ended::Value, _)));
        let body = plan.code.number;
        let ordinary = |n: &&usize| !plan.keep_going && !self.job(**n).0;
        let must = fails(body) || jobs.iter().filter(ordinary).any(|&n| fails(n));
        let may = may_fail(body) || jobs.iter().filter(ordinary).any(|&n| may_fail(n));
        if must && kind.is_none() {
            fault("a failure stopped nobody".into());
        }
        let right = match kind {
            None => true,
            Some(_) if outside => true,
            Some(ReasonKind::Explicit) => place.willed.load(SeqCst) || place.by_token.load(SeqCst),
            Some(ReasonKind::Deadline) => place.timed.load(SeqCst),
            Some(ReasonKind::Failure) => may,
            Some(ReasonKind::Starved) => self.may_starve,
            Some(_) => false,
        };
        if !right {
            fault("the scope was cancelled, and nobody did it".into());
        }
    }

    fn due(&self, scope: usize, n: usize, stopped: bool, ids: &BTreeMap<u64, usize>) -> Due {
        let member = &self.members[n];
        let (isolated, timed) = if n == scope { (false, false) } else { self.job(n) };
        if member.taken.load(SeqCst) {
            return Due::Nothing;
        }
        debug_assert!(isolated || n == scope || !member.taken.load(SeqCst));
        let handled = member.cancelled.load(SeqCst) || member.by_token.load(SeqCst);
        let timed_out = if timed { vec![Key::TimedOut(0)] } else { Vec::new() };
        match member.ended.get() {
            None if timed && !stopped && !handled => Due::OneOf(timed_out),
            None => Due::Perhaps(timed_out),
            Some((Ended::Value, _) | (Ended::Stop, true)) => Due::Nothing,
            Some((Ended::Boom, _)) => Due::OneOf(vec![Key::Boom(Boom(n))]),
            Some((Ended::TimedOut, _)) => Due::OneOf(vec![Key::TimedOut(0)]),
            Some((Ended::Told(of), _)) if ids.contains_key(of) => Due::Nothing,
            Some((Ended::Told(of), _)) => Due::OneOf(vec![Key::Told(0, *of)]),
            Some((Ended::Group(keys), _)) => Due::Group(keys.clone()),
            Some((Ended::Stop, false)) => {
                let any = [vec![Key::Stray(0)], timed_out].concat();
                if stopped || handled { Due::Perhaps(any) } else { Due::OneOf(any) }
            }
        }
    }
}

/// Whether what a member put into the group is what was due. A failure that only tells of another is left out of it.
fn fits(due: &Due, has: Option<&(Vec<Key>, bool)>, ids: &BTreeMap<u64, usize>) -> bool {
    match (due, has) {
        (Due::Nothing | Due::Perhaps(_), None) => true,
        (Due::Nothing | Due::OneOf(_), _) if has.is_none() != (*due == Due::Nothing) => false,
        (Due::Perhaps(any) | Due::OneOf(any), Some((keys, false))) => {
            keys.len() == 1 && any.iter().any(|key| same(key, &keys[0]))
        }
        (Due::Group(keys), has) => {
            let may_go = |key: &Key| matches!(key, Key::Told(_, of) if ids.contains_key(of));
            let must: Vec<_> = keys.iter().filter(|key| !may_go(key)).cloned().collect();
            match has {
                None => must.is_empty(),
                Some((keys, true)) => *keys == must,
                Some(_) => false,
            }
        }
        _ => false,
    }
}

/// Whether two keys are the same but for the ids of members, which the caller has matched.
fn same(one: &Key, other: &Key) -> bool {
    match (one, other) {
        (Key::Boom(one), Key::Boom(other)) => one == other,
        (Key::Told(_, one), Key::Told(_, other)) => one == other,
        (Key::TimedOut(_), Key::TimedOut(_)) | (Key::Stray(_), Key::Stray(_)) | (Key::Stop(_), Key::Stop(_)) => true,
        _ => false,
    }
}

/// Runs the program of a seed; returns its trace, in virtual time.
pub(crate) fn round(seed: u64, virtually: bool) -> Vec<String> {
    let mut rng = seeded_rng(seed);
    let limited = rng.chance(30);
    // Jobs that insist on a thread of their own, where there may be none, are starved (D18).
    let may_insist = !limited || rng.chance(50);
    let pools: Vec<_> = (0..2)
        .map(|_| {
            let builder = Pool::builder().parallelism(usize::try_from(1 + rng.below(3)).unwrap());
            let number = 1 + rng.below(3);
            let builder = match rng.below(3) {
                0 if limited => builder.max_threads(usize::try_from(number).unwrap()),
                1 if limited => builder.refuse_threads(move |n| n % number == 0),
                _ => builder,
            };
            builder.build().unwrap()
        })
        .collect();
    let depth = 1 + u32::try_from(rng.below(4)).unwrap();
    let budget = usize::try_from(1 + rng.below(30)).unwrap();
    let mut author = Author { rng: &mut rng, members: 0, budget, may_insist, insists: false, pools: pools.len() };
    let mut plan = author.plan(depth);
    let (members, insists) = (author.members, author.insists);
    plan.pool = if limited || rng.chance(80) { Some(0) } else { None };
    let stranger = rng.chance(20).then(|| rng.below(300));

    let run = || {
        let world = World {
            members: (0..members).map(|_| Member::default()).collect(),
            places: (0..members).map(|_| Place::default()).collect(),
            job_plans: Mutex::default(),
            outer: CancelToken::new(),
            pools: pools.clone(),
            tick: if virtually { Duration::from_secs(1) } else { Duration::from_micros(25) },
            may_starve: limited && insists,
            began: now(),
            trace: virtually.then(Mutex::default),
            faults: Mutex::default(),
        };
        thread::scope(|threads| {
            if let (Some(turns), false) = (stranger, virtually) {
                let outer = &world.outer;
                threads.spawn(move || {
                    (0..turns).for_each(|_| thread::yield_now());
                    outer.cancel();
                });
            }
            let _ = world.open(&plan, None);
        });
        let faults = world.faults.into_inner().unwrap();
        assert!(faults.is_empty(), "seed {seed}:\n{}\n{plan:#?}", faults.join("\n"));
        world.trace.map(|trace| trace.into_inner().unwrap()).unwrap_or_default()
    };
    let trace = if virtually { virtual_time(run) } else { run() };
    for pool in &pools {
        pool.shutdown().unwrap();
        let stats = pool.stats();
        assert!(stats.workers == 0 && stats.queued == 0, "seed {seed}: {stats:?}");
    }
    trace
}

/// Runs `test` for many seeds, each on a thread named after it, so that a hang tells its seed as well.
fn many(short: u64, test: impl Fn(u64) + Sync) {
    let given = env::var("TASSEL_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    for n in 0..stress_rounds(short) {
        let seed = given.unwrap_or(first.wrapping_mul(1000).wrapping_add(n));
        let test = &test;
        let ended = thread::scope(|threads| {
            let builder = thread::Builder::new().name(format!("seed {seed}"));
            builder.spawn_scoped(threads, move || guarded_for(LIMIT, || test(seed))).unwrap().join()
        });
        if let Err(panic) = ended {
            resume_unwind(panic);
        }
    }
}

// S1, S9, S14, S34, S35, S41, D2, D8, D16:
#[test]
fn random_programs_have_allowed_results() {
    guarded_for(Duration::MAX, || many(600, |seed| drop(round(seed, false))));
}

// D2, D16:
#[test]
fn random_programs_go_the_same_way_twice_in_virtual_time() {
    let twice = |seed| {
        let (first, second) = (round(seed, true), round(seed, true));
        let differs = first.iter().zip(&second).position(|(one, other)| one != other);
        assert!(first == second, "seed {seed}: differs at {differs:?}\n{}\n\n{}", first.join("\n"), second.join("\n"));
    };
    guarded_for(Duration::MAX, || many(200, twice));
}

#[test]
fn the_programs_are_not_all_alike() {
    guarded_for(LIMIT, || {
        let shapes: BTreeSet<String> = (0..50).map(|seed| round(seed, true).join("\n")).collect();
        assert!(shapes.len() > 40, "{}", shapes.len());
    });
}
