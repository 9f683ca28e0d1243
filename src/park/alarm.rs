//! Instants that somebody must be told of although nobody waits for them.
//!
//! A thread that waits times itself out. What has no waiter, such as a deadline seen only through `is_cancelled()`, or
//! a pool that wants to look again, is put here. One thread serves the whole process. It exists while something is
//! watched, and a little longer, since watches come in bursts.
//!
//! # Promises
//!
//! 1. What is watched is told once, soon after its instant, outside our locks, unless it was unwatched or is gone.
//! 2. Without a watch there is no thread (after [`LINGER`]); with one it sleeps until the earliest instant.
//! 3. Where the system refuses the thread, those who park stand in for it, as far as the caller asks for that.
//!
//! # Does not know
//!
//! What it tells: anything that is [`Due`].

use crate::{
    prim::{self, Condvar, Mutex},
    raw::PerProcess,
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// What can be told that its instant has passed.
pub(crate) trait Due: Send + Sync {
    /// Called outside our locks. A slow one delays the others.
    fn due(self: Arc<Self>);
}

/// Names one entry.
pub(crate) type Watch = (Instant, u64);

/// The entries by time. Plain data, also used by virtual runs.
#[derive(Default)]
pub(crate) struct Watches {
    entries: BTreeMap<Watch, Weak<dyn Due>>,
    next: u64,
}

impl Watches {
    pub(crate) fn insert(&mut self, at: Instant, target: Weak<dyn Due>) -> Watch {
        self.next += 1;
        let watch = (at, self.next);
        self.entries.insert(watch, target);
        watch
    }

    /// The caller drops the result outside its lock.
    #[must_use]
    pub(crate) fn remove(&mut self, watch: Watch) -> Option<Weak<dyn Due>> {
        self.entries.remove(&watch)
    }

    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out what is due at `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Weak<dyn Due>> {
        let mut due = Vec::new();
        while let Some(first) = self.entries.first_entry() {
            if first.key().0 > now {
                break;
            }
            due.push(first.remove());
        }
        due
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("len", &self.entries.len()).finish_non_exhaustive()
    }
}

/// How long the thread stays without a watch: long enough for a loop of short timeouts to reuse it.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    watches: Watches,
    serving: bool,
}

struct Alarm {
    state: Mutex<State>,
    changed: Condvar,
}

static ALARM: PerProcess<Alarm> =
    PerProcess::new(|| Alarm { state: Mutex::new(State::default()), changed: Condvar::default() });

/// Set while something is watched and the system refuses the thread. A hint: who misses it just parks as ever.
static UNSERVED: AtomicBool = AtomicBool::new(false);

impl Alarm {
    /// Whether there is a thread, started now if need be.
    fn serves(state: &mut State) -> bool {
        if !state.serving && prim::start_thread("tassel-alarm".into(), None, serve).is_ok() {
            state.serving = true;
            UNSERVED.store(false, Ordering::Relaxed);
        }
        state.serving
    }
}

/// See [`Clock::watch`](super::clock::Clock::watch).
pub(crate) fn watch(at: Instant, target: Weak<dyn Due>) -> Option<Watch> {
    if cfg!(tassel_loom) {
        return None; // a model has no alarm: a static would carry its locks into the next
    }
    let alarm = ALARM.get();
    let mut state = alarm.state.lock();
    if !Alarm::serves(&mut state) {
        return None;
    }
    let is_earliest = state.watches.earliest().is_none_or(|earliest| at < earliest);
    let watch = state.watches.insert(at, target);
    drop(state);
    if is_earliest {
        alarm.changed.notify_one();
    }
    Some(watch)
}

/// Watches even if the system refuses the thread: then those who park stand in for it ([`unserved`], [`serve_due`]).
pub(crate) fn watch_anyhow(at: Instant, target: &Weak<dyn Due>) {
    if cfg!(tassel_loom) || watch(at, Weak::clone(target)).is_some() {
        return;
    }
    let mut state = ALARM.get().state.lock();
    state.watches.insert(at, Weak::clone(target));
    UNSERVED.store(!state.serving, Ordering::Relaxed);
    drop(state);
    // Somebody else may have got a thread meanwhile: it sleeps until what was the earliest instant before.
    ALARM.get().changed.notify_one();
}

/// The earliest instant that is watched without a thread: who parks calls [`serve_due`] when it has come.
pub(crate) fn unserved() -> Option<Instant> {
    if !UNSERVED.load(Ordering::Relaxed) {
        return None;
    }
    let state = ALARM.get().state.lock();
    if state.serving { None } else { state.watches.earliest() }
}

/// Tells what is due on this thread, if the system still refuses one.
pub(crate) fn serve_due() {
    let mut state = ALARM.get().state.lock();
    if Alarm::serves(&mut state) {
        return;
    }
    let due = state.watches.take_due(Instant::now());
    UNSERVED.store(state.watches.earliest().is_some(), Ordering::Relaxed);
    drop(state);
    for target in due.iter().filter_map(Weak::upgrade) {
        target.due();
    }
}

/// See [`Clock::unwatch`](super::clock::Clock::unwatch).
pub(crate) fn unwatch(watch: Watch) {
    let gone = ALARM.get().state.lock().watches.remove(watch);
    drop(gone);
}

/// The alarm thread. No wake-up is lost: it sleeps on `changed`, which gives the lock up, and every insertion of an
/// earlier instant notifies after it has held the lock.
fn serve() {
    let alarm = ALARM.get();
    let mut idle_until = None;
    let mut state = alarm.state.lock();
    loop {
        let now = Instant::now();
        let due = state.watches.take_due(now);
        if !due.is_empty() {
            idle_until = None;
            drop(state);
            for target in due.iter().filter_map(Weak::upgrade) {
                target.due();
            }
            drop(due);
            state = alarm.state.lock();
            continue;
        }
        if let Some(at) = state.watches.earliest() {
            idle_until = None;
            alarm.changed.wait_until(&mut state, at);
        } else {
            let until = *idle_until.get_or_insert(now + LINGER);
            if now >= until {
                // The decision to leave and its trace are one step under the lock: a later watch starts a new thread.
                state.serving = false;
                return;
            }
            alarm.changed.wait_until(&mut state, until);
        }
    }
}
