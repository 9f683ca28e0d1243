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
    prim::{self, Mutex, Parker, Unparker},
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
struct Alarm {
    watches: Watches,
    /// Wakes the thread, while there is one.
    serving: Option<Unparker>,
}

static ALARM: PerProcess<Mutex<Alarm>> = PerProcess::new(Mutex::default);

/// Set while something is watched and the system refuses the thread. A hint: who misses it just parks as ever, and who
/// finds it set for no reason, in a forked child say, resets it.
static UNSERVED: AtomicBool = AtomicBool::new(false);

impl Alarm {
    /// Whether there is a thread, started now if need be.
    fn serves(&mut self) -> bool {
        if self.serving.is_none() {
            let parker = Parker::new();
            let unparker = parker.unparker().clone();
            if prim::start_thread("tassel-alarm".into(), None, move || serve(&parker)).is_ok() {
                self.serving = Some(unparker);
                UNSERVED.store(false, Ordering::Relaxed);
            }
        }
        self.serving.is_some()
    }

    /// The earliest instant that is watched without a thread.
    fn unserved(&self) -> Option<Instant> {
        if self.serving.is_some() { None } else { self.watches.earliest() }
    }
}

/// See [`Clock::watch`](super::clock::Clock::watch).
pub(crate) fn watch(at: Instant, target: Weak<dyn Due>) -> Option<Watch> {
    if prim::is_timeless() {
        return None; // a model has no alarm: a static would carry its locks into the next
    }
    let mut alarm = ALARM.get().lock();
    if !alarm.serves() {
        return None;
    }
    let is_earliest = alarm.watches.earliest().is_none_or(|earliest| at < earliest);
    let watch = alarm.watches.insert(at, target);
    let wake = if is_earliest { alarm.serving.clone() } else { None };
    drop(alarm);
    if let Some(thread) = wake {
        thread.unpark();
    }
    Some(watch)
}

/// Watches even if the system refuses the thread: then those who park stand in for it ([`unserved`], [`serve_due`]), and
/// the result is `false`.
pub(crate) fn watch_anyhow(at: Instant, target: &Weak<dyn Due>) -> (Option<Watch>, bool) {
    if prim::is_timeless() {
        return (None, false);
    }
    if let Some(watch) = watch(at, Weak::clone(target)) {
        return (Some(watch), true);
    }
    let mut alarm = ALARM.get().lock();
    let watch = alarm.watches.insert(at, Weak::clone(target));
    // Somebody else may have got a thread meanwhile: it sleeps until what was the earliest instant before.
    let wake = alarm.serving.clone();
    let served = wake.is_some();
    UNSERVED.store(!served, Ordering::Relaxed);
    drop(alarm);
    if let Some(thread) = wake {
        thread.unpark();
    }
    (Some(watch), served)
}

/// The earliest instant that is watched without a thread: who parks calls [`serve_due`] when it has come.
pub(crate) fn unserved() -> Option<Instant> {
    if !UNSERVED.load(Ordering::Relaxed) {
        return None;
    }
    let alarm = ALARM.get().lock();
    let unserved = alarm.unserved();
    UNSERVED.store(unserved.is_some(), Ordering::Relaxed);
    unserved
}

/// Tells what is due on this thread, if the system still refuses one.
pub(crate) fn serve_due() {
    let mut alarm = ALARM.get().lock();
    if alarm.serves() {
        return;
    }
    let due = alarm.watches.take_due(prim::now());
    UNSERVED.store(alarm.unserved().is_some(), Ordering::Relaxed);
    drop(alarm);
    for target in due.iter().filter_map(Weak::upgrade) {
        target.due();
    }
}

/// See [`Clock::unwatch`](super::clock::Clock::unwatch).
pub(crate) fn unwatch(watch: Watch) {
    let gone = ALARM.get().lock().watches.remove(watch);
    drop(gone);
}

/// The alarm thread. No wake-up is lost: it looks under the lock, and every insertion of an earlier instant unparks it
/// after it has held the lock. So one that it did not see comes after its look, and the parker keeps the token.
fn serve(parker: &Parker) {
    let alarm = ALARM.get();
    let mut idle_until = None;
    loop {
        let mut alarm = alarm.lock();
        let now = prim::now();
        let due = alarm.watches.take_due(now);
        if !due.is_empty() {
            idle_until = None;
            drop(alarm);
            for target in due.iter().filter_map(Weak::upgrade) {
                target.due();
            }
            continue;
        }
        let until = if let Some(at) = alarm.watches.earliest() {
            idle_until = None;
            at
        } else {
            let until = *idle_until.get_or_insert(now + LINGER);
            if now >= until {
                // The decision to leave and its trace are one step under the lock: a later watch starts a new thread.
                alarm.serving = None;
                return;
            }
            until
        };
        drop(alarm);
        parker.park_deadline(until);
    }
}
