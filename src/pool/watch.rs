//! What the pool does while anything is listed: it looks, again and again, and calls workers for what has waited.
//!
//! A *look* is made by the alarm. It comes soon after something was listed; while jobs are queued and there is nothing to do
//! for them, the looks come less and less often. When nothing is listed any more they go on for a few milliseconds, so
//! scopes that follow each other closely find the watch armed, and cause no system call; and where these do their jobs
//! themselves, look after look, they become a little rarer. Then they end.
//!
//! | at a look | then |
//! |---|---|
//! | a job has stood in a queue since the last look, and there is a place | a worker is called, unless jobs come so fast that who spawns them is left alone, for a millisecond, as is one in whose way a worker was |
//! | it has, and there is no place | the kernel is asked which workers sleep |
//! | one sleeps at two looks running | it is blocked, *unseen*: its place is given to another, until it is seen awake |
//! | workers are found blocked, look after look | more are called at a time: 1, 2, 4 .. 32 |
//! | no job has finished for long | a place more, whoever computes; the next time, three times as long (*slow look*) |
//!
//! A worker that computes keeps its place, so a flood of jobs that compute does not grow the pool. That it got no CPU
//! time says nothing: on a machine that others use, whoever wants to run often gets none.
//!
//! # Promises
//!
//! 1. A job starts soon though its spawner computes, and nobody waits.
//! 2. A refused start is tried again, at slow looks.
//! 3. Blocking that nobody announces is compensated for, where the kernel shows it; elsewhere it is outlasted: without a
//!    finished job for a while, workers are added regardless.
//! 4. Jobs that can never start are found and their scopes told ([`Source::starve`]), at slow looks. Who blocks unseen
//!    moves, as far as that is concerned.
//! 5. A source whose queue is empty is not kept for long, even if no worker ever comes.
//! 6. Where nothing is listed, nobody looks.
//!
//! # Does not know
//!
//! What jobs wait for: that is followed by `park/standstill.rs`.

use crate::{
    park::{
        alarm::{self, Due},
        kernel::is_asleep,
        standstill::{Party, is_standstill},
    },
    pool::{
        core::PoolCore,
        source::Source,
        state::{Config, Post, State, Then},
    },
    prim,
};
use std::{
    mem,
    path::Path,
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

/// How soon a look follows on something that was listed, or done. A timer comes about 65 us late.
const SHORT: Duration = Duration::from_micros(50);

/// How soon it follows on a look that found a new job in a queue, or workers asleep: are they still?
const CONFIRM: Duration = Duration::from_micros(5);

/// How soon looks follow each other while scopes are listed one after the other, and each look finds their queues empty.
const STEADY: Duration = Duration::from_micros(250);

/// After so many such looks. A look takes some 10 us of CPU, most of it the kernel's.
const STEADY_AFTER: u32 = 32;

/// For how long those are left alone who spawn, or spawn and claim, so fast that a worker would fight with them for the
/// queue's lock. Then the jobs themselves may be long.
pub(super) const LEFT_ALONE: Duration = Duration::from_millis(1);

/// How seldom looks come, at most, while anything is listed.
const LONG: Duration = Duration::from_millis(5);

/// How long after anything was listed the looks end.
const LINGER: Duration = Duration::from_millis(3);

/// How soon the first slow look comes: for starvation, and for refused starts.
const FIRST_SLOW: Duration = Duration::from_millis(5);

/// Without a finished job for this long, workers are added regardless. Each time it happens, twice as long or more.
const PATIENCE: Duration = Duration::from_millis(100);

/// For so many looks after a worker was found blocked, others are expected to block.
const STILL_BLOCKING: u32 = 32;

/// How many workers are called at one look, at most.
const MOST: usize = 32;

/// How many sources, and how many workers, are looked at, at most: the others' turn comes at the next looks.
const AT_ONCE: usize = 64;

/// How many of the workers known as blocked are looked at with them. A look at a worker takes 10 us.
const BLOCKED_AT_ONCE: usize = 8;

/// What the watch knows from look to look.
pub(super) struct Sight {
    interval: Duration,
    /// How many looks running have found nothing queued.
    empty: u32,
    /// When anything was seen listed last.
    listed_at: Option<Instant>,
    /// How many sources had been listed at the last look.
    listings: u64,
    /// How many workers to call next, if those that were called last are blocked.
    step: usize,
    /// How many looks ago a worker was found blocked.
    since_blocked: u32,
    /// Where in turn the busy are looked at.
    next: usize,
    /// The kernel tells who sleeps.
    kernel_tells: bool,
    slow_at: Option<Instant>,
    slow: Duration,
    finished: u64,
    quiet_since: Option<Instant>,
    patience: Duration,
    add: usize,
}

impl Default for Sight {
    fn default() -> Self {
        Sight {
            interval: SHORT,
            empty: 0,
            listed_at: None,
            listings: 0,
            step: 1,
            since_blocked: STILL_BLOCKING,
            next: 0,
            kernel_tells: false,
            slow_at: None,
            slow: FIRST_SLOW,
            finished: 0,
            quiet_since: None,
            patience: PATIENCE,
            add: 1,
        }
    }
}

/// What stands in the queues.
#[derive(Default)]
struct Queues {
    /// How many workers to call at most for jobs that stood there at the last look: one, if others were left alone at all of them.
    most: usize,
    /// A job that did not.
    new: bool,
    /// A job that stood there at the last look, and is left to others.
    left: bool,
}

/// What the kernel has said of the busy workers.
#[derive(Default)]
struct Seen {
    /// One runs, or wants to.
    awake: bool,
    /// One sleeps that did not at the last look. It may be blocked.
    dozing: bool,
}

/// Whom to look at: each with the stint in which it is busy.
type Subjects = Vec<(Arc<Post>, u64)>;

impl State {
    /// Looks at the queues of what is listed, and takes sources out that have none, for the caller to drop after unlocking.
    fn survey(&mut self, now: Instant, done: &mut Vec<Arc<dyn Source>>) -> Queues {
        let mut queues = Queues::default();
        // Two looks are further apart than the interval says. Of jobs that are this short, one thread does more alone.
        let many = u64::try_from(2 * self.sight.interval.as_micros()).unwrap_or(u64::MAX);
        for _ in 0..self.listed.len().min(AT_ONCE) {
            let Some(mut listed) = self.listed.pop_front() else { break };
            if listed.source.queued() == 0 && listed.source.set_unlisted(false) {
                done.push(listed.source);
                continue;
            }
            // A virtual run calls for each job when its turn comes.
            if listed.source.turns().is_none() {
                if let Some((first, last)) = listed.source.line() {
                    let (started, spawned) = (first.saturating_sub(listed.front), last.saturating_sub(listed.mark));
                    // Whoever spawns so fast is left alone, too: a worker would fight for the queue's lock. But not for long.
                    listed.alone = (spawned >= many).then(|| listed.alone.unwrap_or(now));
                    let alone = listed.alone.is_some_and(|since| now.saturating_duration_since(since) < LEFT_ALONE);
                    listed.rested = listed.rested.filter(|at| now.saturating_duration_since(*at) < 2 * LEFT_ALONE);
                    let waits = first <= listed.mark;
                    let left = started >= many || alone;
                    if waits && !left {
                        queues.most = queues.most.max(if listed.is_crowded() { 1 } else { usize::MAX });
                    }
                    queues.left |= waits && left;
                    queues.new |= !waits;
                    (listed.mark, listed.front) = (last, first);
                }
            }
            self.listed.push_back(listed);
        }
        queues
    }

    /// A worker was since then in the way of those who spawn into a source, or run its jobs: they are left alone from now on, as
    /// is one who spawns fast. Tells whether they are; not where there is something else to do, or nobody might look.
    ///
    /// They may have been other workers, and must not all go: one whose round began before the last went says nothing.
    fn leave_alone(&mut self, source: &Arc<dyn Source>, since: Instant, now: Instant) -> bool {
        let others = self.listed.len() != 1 || self.forced > 0 || self.extra > 0;
        if self.unserved || (others && !mutant!("rests_beside_others")) {
            return false;
        }
        let Some(listed) = self.listed.iter_mut().find(|listed| Arc::ptr_eq(&listed.source, source)) else {
            return false;
        };
        if listed.rested.is_some_and(|rested| since <= rested) && !mutant!("all_rest") {
            return false;
        }
        (listed.alone, listed.rested) = (Some(now), Some(now));
        true
    }

    /// Whom the kernel is to be asked about: those that may be blocked, and a few of those that are, in turn.
    fn subjects(&mut self) -> Subjects {
        let from = self.sight.next % self.busy.len().max(1);
        self.sight.next = from + AT_ONCE;
        let in_turn = || self.busy[from..].iter().chain(&self.busy[..from]);
        let blocked = |post: &&Arc<Post>| post.unseen.load(Ordering::Relaxed);
        let open = in_turn().filter(|post| !blocked(post)).take(AT_ONCE);
        let subjects = open.chain(in_turn().filter(blocked).take(BLOCKED_AT_ONCE));
        subjects.map(|post| (Arc::clone(post), post.stint.load(Ordering::Relaxed))).collect()
    }

    /// Notes what the kernel has said.
    fn note(&mut self, subjects: &Subjects, asleep: &[Option<bool>]) -> Seen {
        let mut seen = Seen::default();
        self.sight.since_blocked = self.sight.since_blocked.saturating_add(1);
        for ((post, stint), asleep) in subjects.iter().zip(asleep) {
            let Some(asleep) = *asleep else { continue };
            self.sight.kernel_tells = true;
            if post.stint.load(Ordering::Relaxed) != *stint || !post.is_busy() {
                continue; // it may have slept in a wait that it announced
            }
            if !asleep {
                seen.awake = true;
                self.set_awake(post);
            } else if !post.asleep.swap(true, Ordering::Relaxed) {
                seen.dozing = true;
            } else if !post.unseen.swap(true, Ordering::Relaxed) {
                self.unseen += 1;
                self.sight.since_blocked = 0;
            }
        }
        seen
    }

    /// Calls workers for jobs that have waited: as many as there are places; and where workers are found blocked, look after
    /// look, more at a time, before those that were called are seen blocked in turn: on a busy machine it may take them long
    /// to get there. But never more than are blocked may be awake beyond the places that the pool has.
    fn grow(&mut self, config: &Config, at_most: usize) -> Vec<Then> {
        let (own, moving) = (self.own_places(config), self.active - self.unseen);
        let mut most = own.saturating_sub(moving);
        if self.sight.since_blocked < STILL_BLOCKING {
            most = most.max(self.sight.step.min((own + self.unseen).saturating_sub(moving)));
        } else {
            (self.sight.step, self.ahead) = (1, 0);
        }
        if self.sight.since_blocked >= STILL_BLOCKING {
            // Those that have not gone to rest since show that the jobs are worth a thread.
            most = most.min(at_most.max(moving.saturating_sub(self.coming)));
        }
        if most == 0 {
            return Vec::new();
        }
        self.ahead = (moving + most).saturating_sub(own);
        let todo = self.find_workers(config, most);
        if self.unseen > 0 && !todo.is_empty() {
            self.sight.step = (most * 2).min(MOST);
        }
        todo
    }

    fn find_workers(&mut self, config: &Config, most: usize) -> Vec<Then> {
        let mut todo = Vec::new();
        for _ in 0..most {
            let then = self.find_worker(config, 0);
            if then.is_nothing() {
                break;
            }
            let last = then.none;
            todo.push(then);
            if last {
                break;
            }
        }
        todo
    }

    /// Whether a slow look is due.
    fn is_slow(&mut self, now: Instant) -> bool {
        if self.listed.is_empty() {
            (self.sight.slow_at, self.sight.slow) = (None, FIRST_SLOW);
            return false;
        }
        let slow = self.sight.slow_at.is_some_and(|at| at <= now);
        if slow || self.sight.slow_at.is_none() {
            self.sight.quiet_since = self.sight.quiet_since.filter(|_| slow).or(Some(now));
            self.sight.slow_at = now.checked_add(self.sight.slow);
        }
        slow
    }

    /// Nothing is listed, and has not been for a while.
    fn end_of_looks(&mut self) {
        for at in 0..self.busy.len() {
            let post = Arc::clone(&self.busy[at]);
            self.set_awake(&post);
        }
        self.ahead = 0;
        self.watch = None;
        self.sight = Sight { listings: self.listings, ..Sight::default() };
    }

    /// At a slow look: how many workers to add regardless, because no job has finished for so long.
    fn add_regardless(&mut self, now: Instant, waits: bool) -> usize {
        let finished = self.finished();
        let sight = &mut self.sight;
        sight.slow = (sight.slow * 2).min(PATIENCE);
        if finished != mem::replace(&mut sight.finished, finished) || !waits {
            sight.quiet_since = Some(now);
            sight.slow = FIRST_SLOW;
            if self.extra == 0 {
                (sight.patience, sight.add) = (PATIENCE, 1);
            }
        }
        let quiet = sight.quiet_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if quiet < sight.patience {
            return 0;
        }
        // Where the kernel tells, those that sleep have been replaced: these compute, and only a job that spins until another
        // has run needs this. Elsewhere they may sleep as well.
        let (add, factor) = if sight.kernel_tells { (1, 3) } else { (sight.add, 2) };
        sight.add = sight.add.saturating_mul(2);
        sight.patience = sight.patience.saturating_mul(factor);
        sight.quiet_since = Some(now);
        self.extra = self.extra.saturating_add(add);
        add
    }
}

impl PoolCore {
    /// Tells all who wait for a worker that there is none to be had. As many as `held` were counted as coming, and are not.
    pub(super) fn rescue(&self, held: usize) {
        let mut state = self.lock();
        let done = state.unlist_done();
        let listed: Vec<_> = state.listed.iter().map(|listed| Arc::clone(&listed.source)).collect();
        drop(state);
        drop(done);
        for source in &listed {
            source.rescue();
        }
        // Who is poked is in the run's order by now. An active worker might be on its way.
        self.give_up(&listed, held, |state| state.active == 0);
    }

    /// Has virtual runs go on without the jobs of `sources` that wait for a worker, if nobody comes; `held` as in
    /// [`rescue`](PoolCore::rescue).
    pub(super) fn give_up(&self, sources: &[Arc<dyn Source>], held: usize, nobody_comes: impl FnOnce(&State) -> bool) {
        let turns: Vec<_> = sources.iter().filter_map(|source| source.turns()).collect();
        if turns.is_empty() && held == 0 {
            return;
        }
        // Under the lock: nobody sets out meanwhile.
        let mut state = self.lock();
        let given_up: Vec<_> =
            if nobody_comes(&state) { turns.iter().filter_map(|turns| turns.give_up()).collect() } else { Vec::new() };
        state.coming -= held;
        drop(state);
        for go_on in given_up {
            go_on();
        }
    }

    /// Something was listed last, because the job of that number was queued: sees to it that a look comes soon.
    pub(super) fn expect(self: &Arc<Self>, state: &mut State, number: u64) {
        if state.watch.is_some() && state.sight.interval <= STEADY {
            return;
        }
        state.sight.interval = SHORT;
        if let Some(listed) = state.listed.back_mut() {
            listed.mark = number; // at that look, it has waited since now
        }
        self.plan(state, SHORT);
    }

    /// Something is listed: sees to it that looks come.
    pub(super) fn arm(self: &Arc<Self>, state: &mut State) {
        if state.watch.is_none() {
            state.sight.interval = SHORT;
            self.plan(state, SHORT);
        }
    }

    /// A worker was since then in the way of others at a source. Tells whether it is to rest.
    pub(super) fn rest(self: &Arc<Self>, state: &mut State, from: &Arc<dyn Source>, since: Instant) -> bool {
        if !state.leave_alone(from, since, prim::now()) {
            return false;
        }
        if state.watch.is_none() || state.sight.interval > STEADY {
            state.sight.interval = SHORT;
            self.plan(state, SHORT);
        }
        !state.unserved
    }

    /// Plans the next look, in place of the one that is due.
    fn plan(self: &Arc<Self>, state: &mut State, after: Duration) {
        if let Some(watch) = state.watch.take() {
            alarm::unwatch(watch);
        }
        let Some(at) = prim::now().checked_add(after) else { return };
        let target: Weak<PoolCore> = Arc::downgrade(self);
        let target: Weak<dyn Due> = target;
        let (watch, served) = alarm::watch_anyhow(at, &target);
        (state.watch, state.unserved) = (watch, !served);
    }

    /// A look.
    pub(crate) fn look(self: &Arc<Self>, now: Instant, asleep: impl Fn(&Path) -> Option<bool>) {
        let mut done = Vec::new();
        let mut state = self.lock();
        let queues = state.survey(now, &mut done);
        let old = queues.most > 0;
        let listings = state.listings;
        let listed = mem::replace(&mut state.sight.listings, listings) != listings;
        let mut seen = Seen::default();
        if state.unseen > 0 || (old && state.active >= state.places(&self.config)) {
            let subjects = state.subjects();
            drop(state);
            let said: Vec<_> = subjects.iter().map(|(post, _)| asleep(&post.thread)).collect();
            state = self.lock();
            seen = state.note(&subjects, &said);
        }
        let slow = state.is_slow(now);
        let mut todo = Vec::new();
        if old && (slow || state.refusal.is_none()) {
            todo = state.grow(&self.config, queues.most);
        }
        let (mut add, mut turns) = (0, Vec::new());
        if slow {
            let in_run = state.listed.iter().filter(|listed| listed.source.turns().is_some());
            turns = in_run.map(|listed| Arc::clone(&listed.source)).collect();
            let waits = old || (state.coming == 0 && turns.iter().any(|source| source.wanted() > 0));
            add = state.add_regardless(now, waits);
            if waits && todo.is_empty() {
                // A refused start is tried again here, too.
                todo = state.find_workers(&self.config, add.max(1));
            }
            if add > 0 && todo.is_empty() && state.is_used_up(&self.config) {
                // The workers may wait, unseen, for the very jobs that are queued. Sooner would be wrong: a joiner with a
                // time limit is not to run a job for which a worker gets free in a moment (D14).
                todo.push(Then { none: true, ..Then::default() });
            }
        }
        if listed || !state.listed.is_empty() {
            state.sight.listed_at = Some(now);
        }
        let over = state.sight.listed_at.is_none_or(|at| now.saturating_duration_since(at) >= LINGER);
        if over && state.listed.is_empty() {
            state.end_of_looks();
        } else {
            let doubtful = queues.new || (seen.dozing && !seen.awake);
            // Who was called has yet to come, or others to follow those that were found blocked.
            let expects = old && (state.coming > 0 || state.sight.since_blocked < STILL_BLOCKING / 2);
            let soon = doubtful || expects || listed || seen.dozing || !todo.is_empty() || state.listed.is_empty();
            state.sight.empty = if queues.new || queues.left || old { 0 } else { state.sight.empty.saturating_add(1) };
            state.sight.interval = match soon {
                true if state.sight.empty > STEADY_AFTER => STEADY,
                true => SHORT,
                false => (2 * state.sight.interval).min(if queues.left { LEFT_ALONE } else { LONG }),
            };
            let after = if doubtful { CONFIRM } else { state.sight.interval };
            self.plan(&mut state, after);
        }
        drop(state);
        drop(done);
        for then in todo {
            self.follow(then);
        }
        if !slow {
            return;
        }
        if add > 0 {
            // The workers that run may wait, unseen, for what the run does next.
            self.give_up(&turns, 0, |state| state.coming == 0);
        }
        // After the new try: one refusal that is over is no starvation.
        self.starve(|source| source.turns().is_none());
        for source in turns {
            if let Some(turns) = source.turns() {
                turns.retry();
            }
        }
    }

    /// The seats of all workers, if no further one can be had.
    pub(crate) fn all_taken(&self) -> Option<Vec<u64>> {
        let state = self.lock();
        state.no_thread(&self.config).map(|_| state.workers.values().map(|post| post.seat.id).collect())
    }

    /// Finds scopes whose queued jobs can never start, and tells them: no thread can be had, and everybody who could take
    /// one stands in a wait that only such jobs can end.
    pub(crate) fn starve(self: &Arc<Self>, of: impl Fn(&dyn Source) -> bool) {
        if let Some((sources, text)) = self.starving(of) {
            for source in sources {
                source.starve(&text);
            }
        }
    }

    pub(super) fn starving(
        self: &Arc<Self>,
        of: impl Fn(&dyn Source) -> bool,
    ) -> Option<(Vec<Arc<dyn Source>>, String)> {
        let (listed, no_thread) = {
            let state = self.lock();
            let no_thread = state.no_thread(&self.config)?;
            (state.listed.iter().map(|listed| Arc::clone(&listed.source)).collect::<Vec<_>>(), no_thread)
        };
        if !listed.iter().any(|source| of(&**source)) {
            return None; // a virtual run's order is not to depend on a look of the alarm: see `try_again`
        }
        // Who may open a barrier, or set an event, that is waited for: the owners, and who has opened their scopes.
        let mut owners: Vec<_> = listed.iter().map(|source| source.owner()).collect();
        owners.extend(listed.iter().flat_map(|source| source.around()));
        let pool: Arc<dyn Party> = Arc::clone(self) as Arc<dyn Party>;
        // One who moves among the workers is enough for all, and need not be found for each.
        if !is_standstill(vec![Arc::clone(&pool)], &owners) {
            return None;
        }
        let mut starving = listed;
        starving.retain(|source| {
            let parties = vec![Arc::clone(&pool), source.owner()];
            of(&**source) && source.queued() > 0 && is_standstill(parties, &owners)
        });
        let queued: usize = starving.iter().map(|source| source.queued()).sum();
        if queued == 0 {
            return None;
        }
        let (mut names, mut waits) = (Vec::new(), Vec::new());
        for source in &starving {
            let (queued, waiting) = source.picture();
            names.extend(queued);
            waits.extend(waiting);
        }
        let text = format!(
            "starved: {queued} queued {} never start ({}): {no_thread}, and all threads wait for jobs of these scopes \
             ({}); allow more threads, or let jobs not wait for each other",
            if queued == 1 { "job can" } else { "jobs can" },
            first_few(&names),
            first_few(&waits),
        );
        Some((starving, text))
    }
}

impl Due for PoolCore {
    fn due(self: Arc<Self>) {
        self.look(prim::now(), is_asleep);
    }
}

impl Party for PoolCore {
    /// Stands if no thread can be had.
    fn still(&self) -> Option<u64> {
        let state = self.lock();
        state.no_thread(&self.config).map(|_| state.starts)
    }

    fn enders(&self) -> Option<Vec<Arc<dyn Party>>> {
        let state = self.lock();
        Some(state.workers.values().map(|post| Arc::clone(&post.seat) as Arc<dyn Party>).collect())
    }

    /// A refusal may be over by now: that of another pool than the one that looks was perhaps never tried again. A virtual
    /// run does that itself.
    fn try_again(self: Arc<Self>) -> bool {
        let mut state = self.lock();
        if state.refusal.is_none() {
            return false;
        }
        let then = state.find_worker(&self.config, 0);
        drop(state);
        let tries = !then.is_nothing();
        self.follow(then);
        tries
    }
}

/// Joins the first few texts of a list that may be long.
fn first_few(texts: &[String]) -> String {
    const FEW: usize = 5;
    let shown = texts.iter().take(FEW).cloned().collect::<Vec<_>>().join(", ");
    match texts.len().saturating_sub(FEW) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::{park::seat::with_chair, pool::tests::Fake};

    const PARALLELISM: usize = 2;

    fn config() -> Config {
        Config { parallelism: PARALLELISM, max_threads: 1000, ..Config::default() }
    }

    /// So many jobs are queued; the workers that there may be run already.
    fn full(jobs: usize) -> (State, Arc<Fake>) {
        let (mut state, source) = (State::default(), Fake::new());
        (0..jobs).for_each(|_| source.push(|| ()));
        assert!(source.set_listed());
        state.put(source.clone());
        begin(&mut state, PARALLELISM);
        state.active = PARALLELISM;
        (state, source)
    }

    /// Workers that have been called begin with a job.
    fn begin(state: &mut State, workers: usize) {
        for _ in 0..workers {
            let post = with_chair(|chair| Post::new(Arc::clone(chair.seat())));
            state.set_busy(&post);
        }
    }

    /// A look at which the kernel says so of each; returns how many workers are called.
    fn look(state: &mut State, source: &Fake, asleep: impl Fn(usize) -> bool) -> usize {
        let most = state.survey(Instant::now(), &mut Vec::new()).most;
        let subjects = state.subjects();
        let said: Vec<_> = (0..subjects.len()).map(|at| Some(asleep(at))).collect();
        state.note(&subjects, &said);
        let called = if most > 0 { state.grow(&config(), most).len() } else { 0 };
        state.coming = 0;
        begin(state, called);
        for _ in 0..called {
            source.run(&mut || false);
        }
        called
    }

    #[test]
    fn the_more_workers_are_blocked_in_turn_the_more_are_called() {
        let (mut state, source) = full(1000);
        assert_eq!(look(&mut state, &source, |_| true), 0, "the jobs may be new");
        let called: Vec<_> = (0..9).map(|_| look(&mut state, &source, |_| true)).collect();
        assert_eq!(called, [2, 2, 4, 4, 8, 8, 16, 16, 32]);
    }

    #[test]
    fn who_computes_keeps_its_place() {
        let (mut state, source) = full(1000);
        let called: usize = (0..1000).map(|_| look(&mut state, &source, |_| false)).sum();
        assert_eq!(called, 0);
    }

    #[test]
    fn who_sleeps_now_and_then_keeps_its_place() {
        let (mut state, source) = full(1000);
        let called: usize = (0..1000).map(|n| look(&mut state, &source, |at| (at + n) % 2 == 0)).sum();
        assert_eq!(called, 0);
    }

    #[test]
    fn a_place_given_for_a_blocked_worker_goes_back_when_it_runs() {
        let (mut state, source) = full(1000);
        for _ in 0..3 {
            look(&mut state, &source, |_| true);
        }
        assert_eq!((state.unseen, state.active), (2, 6));
        look(&mut state, &source, |_| false);
        assert_eq!(state.unseen, 0);
        assert!(state.active > state.places(&config()), "some are too many: they lie down after their jobs");
        let called: usize = (0..40).map(|_| look(&mut state, &source, |_| false)).sum();
        assert_eq!((called, state.ahead, state.sight.step), (0, 0, 1));
    }

    #[test]
    fn no_more_are_called_than_jobs_are_queued() {
        let (mut state, source) = full(3);
        state.sight.step = MOST;
        let called: usize = (0..3).map(|_| look(&mut state, &source, |_| true)).sum();
        assert_eq!(called, 3);
    }

    /// However often others have the looks come.
    #[test]
    fn who_does_nothing_but_spawn_is_left_alone_for_a_while_only() {
        let (mut state, source) = full(1);
        let began = Instant::now();
        let mut is_old = |after: Duration| {
            (0..1000).for_each(|_| source.push(|| ()));
            state.sight.interval = SHORT;
            state.survey(began + after, &mut Vec::new()).most > 0
        };
        assert!(!is_old(Duration::ZERO), "the first look");
        assert!(!is_old(SHORT) && !is_old(LEFT_ALONE / 2));
        assert!(is_old(SHORT + LEFT_ALONE) && is_old(2 * LEFT_ALONE));
    }

    #[test]
    fn where_a_worker_was_in_the_way_one_is_called_at_a_time_and_only_after_a_while() {
        let (mut state, source) = full(1000);
        state.active = 0;
        let (began, of) = (Instant::now(), source.clone() as Arc<dyn Source>);
        let called = |state: &mut State, after: Duration| {
            (0..1000).for_each(|_| source.push(|| ()));
            state.sight.interval = SHORT;
            let most = state.survey(began + after, &mut Vec::new()).most;
            if most > 0 { state.grow(&config(), most).len() } else { 0 }
        };
        assert_eq!(called(&mut state, Duration::ZERO), 0);
        assert_eq!(called(&mut state, LEFT_ALONE), 1);
        assert!(state.leave_alone(&of, began + LEFT_ALONE, began + LEFT_ALONE + SHORT));
        assert_eq!(called(&mut state, 2 * LEFT_ALONE), 0);
        assert_eq!(called(&mut state, 2 * LEFT_ALONE + SHORT), 1);
    }

    #[test]
    fn of_workers_that_are_in_each_other_s_way_one_stays() {
        let (mut state, source) = full(1000);
        let (began, of) = (Instant::now(), source as Arc<dyn Source>);
        let at = |round| began + round * SHORT;
        assert!(state.leave_alone(&of, at(0), at(2)));
        assert!(!state.leave_alone(&of, at(1), at(4)), "of those it was in the way of, one has gone");
        assert!(state.leave_alone(&of, at(3), at(4)), "and others were there since");
    }

    #[test]
    fn nobody_rests_who_has_something_else_to_do_or_could_be_forgotten() {
        type Change = fn(&mut State);
        let now = Instant::now();
        let changes: [Change; 4] = [
            |state| state.unserved = true,
            |state| state.extra = 1,
            |state| state.forced = 1,
            |state| state.put(Fake::new()),
        ];
        for change in changes {
            let (mut state, source) = full(1000);
            change(&mut state);
            assert!(!state.leave_alone(&(source as Arc<dyn Source>), now, now));
        }
    }

    #[test]
    fn nobody_is_called_for_a_job_that_is_new_at_each_look() {
        let (mut state, source) = full(1);
        state.active = 0;
        for _ in 0..10 {
            assert_eq!(look(&mut state, &source, |_| false), 0);
            source.run(&mut || false);
            source.push(|| ());
        }
    }
}
