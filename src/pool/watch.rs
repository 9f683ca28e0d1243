//! What the pool does while tickets wait: it looks again, and tells whom it cannot serve.
//!
//! # Promises
//!
//! 1. A refused start is tried again.
//! 2. Blocking that nobody announces is outlasted: without a finished job for a while, workers are added regardless.
//! 3. Jobs that can never start are found and their scopes told ([`Source::starve`]).
//! 4. A source whose queue is empty is not kept for long, even if no worker ever comes.
//!
//! # Does not know
//!
//! What jobs wait for: that is followed by `park/standstill.rs`.

use crate::{
    park::{
        alarm::{self, Due},
        standstill::{Party, is_standstill},
    },
    pool::{
        core::PoolCore,
        source::Source,
        state::{PATIENCE, State, Then},
    },
};
use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

impl PoolCore {
    /// Tells all who wait for a worker that there is none to be had. As many as `held` were counted as coming, and are not.
    pub(super) fn rescue(&self, held: usize) {
        let mut state = self.state.lock();
        let done = state.unlist_done();
        let listed: Vec<_> = state.listed.iter().cloned().collect();
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
        let mut state = self.state.lock();
        let given_up: Vec<_> =
            if nobody_comes(&state) { turns.iter().filter_map(|turns| turns.give_up()).collect() } else { Vec::new() };
        state.coming -= held;
        drop(state);
        for go_on in given_up {
            go_on();
        }
    }

    /// Sees to it that the pool looks again while tickets wait.
    pub(super) fn arm(self: &Arc<Self>, state: &mut State) {
        if state.armed || state.listed.is_empty() {
            return;
        }
        let now = Instant::now();
        if state.quiet_since.is_none() {
            state.quiet_since = Some(now);
            state.finished_seen = self.finished.load(Ordering::Relaxed);
        }
        let Some(at) = now.checked_add(state.look) else { return };
        let target: Weak<PoolCore> = Arc::downgrade(self);
        let target: Weak<dyn Due> = target;
        alarm::watch_anyhow(at, &target);
        state.armed = true;
    }

    /// The seats of all workers, if no further one can be had.
    pub(crate) fn all_taken(&self) -> Option<Vec<u64>> {
        let state = self.state.lock();
        state.no_thread(&self.config).map(|_| state.workers.values().map(|seat| seat.id).collect())
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
            let state = self.state.lock();
            let no_thread = state.no_thread(&self.config)?;
            (state.listed.iter().cloned().collect::<Vec<_>>(), no_thread)
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
    /// Tickets have waited for a while.
    fn due(self: Arc<Self>) {
        let mut state = self.state.lock();
        state.armed = false;
        let done = state.unlist_done();
        let finished = self.finished.load(Ordering::Relaxed);
        if state.listed.is_empty() {
            state.calm(finished);
            drop(state);
            drop(done);
            return;
        }
        let now = Instant::now();
        if finished != state.finished_seen || !state.needs_worker() {
            state.calm(finished);
            state.quiet_since = Some(now);
        }
        let quiet = state.quiet_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let mut add = 0;
        if quiet >= state.patience {
            add = state.add;
            state.add = state.add.saturating_mul(2);
            state.patience = state.patience.saturating_mul(2);
            state.quiet_since = Some(now);
            state.extra = state.extra.saturating_add(add);
        }
        state.look = (state.look * 2).min(PATIENCE);
        let mut todo = Vec::new();
        let turns: Vec<_> = state.listed.iter().filter(|source| source.turns().is_some()).cloned().collect();
        // A refused start is tried again here, too.
        for _ in 0..add.max(1) {
            let then = state.find_worker(&self.config);
            if then.is_nothing() {
                break;
            }
            let last = then.none;
            todo.push(then);
            if last {
                break;
            }
        }
        if add > 0 && todo.is_empty() && state.is_used_up(&self.config) {
            // The workers may wait, unseen, for the very jobs that are queued. Sooner would be wrong: a joiner with a time
            // limit is not to run a job for which a worker gets free in a moment (D14).
            todo.push(Then { none: true, ..Then::default() });
        }
        self.arm(&mut state);
        drop(state);
        drop(done);
        for then in todo {
            self.follow(then);
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
}

impl Party for PoolCore {
    /// Stands if no thread can be had.
    fn still(&self) -> Option<u64> {
        let state = self.state.lock();
        state.no_thread(&self.config).map(|_| state.starts)
    }

    fn enders(&self) -> Option<Vec<Arc<dyn Party>>> {
        let state = self.state.lock();
        Some(state.workers.values().map(|seat| Arc::clone(seat) as Arc<dyn Party>).collect())
    }

    /// A refusal may be over by now: that of another pool than the one that looks was perhaps never tried again. A virtual
    /// run does that itself.
    fn try_again(self: Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.refusal.is_none() {
            return false;
        }
        let then = state.find_worker(&self.config);
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
