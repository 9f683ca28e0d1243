//! A worker's life: started, given sources in turn, idle, gone.
//!
//! # Promises
//!
//! 1. A refused thread undoes its reservation and loses nothing (D18).
//! 2. A worker goes idle only when, under the lock, there is nothing that it may take; or to rest for a while from a source
//!    where it was in the way of others ([`rest`](PoolCore::rest)).
//! 3. Nobody joins a thread that may still run anybody's code.
//! 4. While one source is listed, and the worker has a place and is not in the way of others, it takes job after job without
//!    the pool's lock.
//!
//! # Does not know
//!
//! When the pool grows, and why.

use crate::{
    park::seat::with_chair,
    pool::{
        core::PoolCore,
        here,
        roster::Bed,
        source::Source,
        state::{Hand, Post, Then},
        watch::LEFT_ALONE,
    },
    prim::{self, thread_local},
};
use std::{
    cell::RefCell,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Tells that a worker's thread-locals are destroyed.
#[derive(Default)]
struct Gone(RefCell<Option<Arc<AtomicBool>>>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(gone) = self.0.get_mut() {
            gone.store(true, Ordering::Relaxed);
        }
    }
}

thread_local! {
    /// The first that a worker touches, so the last that is destroyed.
    static GONE: Gone = Gone::default();
}

/// Gives a worker's place back if its source unwinds, which it must not.
struct Unwound<'a> {
    core: &'a Arc<PoolCore>,
    worker: u64,
    post: &'a Post,
}

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.core.lose(self.worker, self.post);
        }
    }
}

impl PoolCore {
    /// Starts a worker whose place is reserved.
    pub(super) fn start(self: &Arc<Self>, worker: u64) {
        let core = Arc::clone(self);
        let refused = self.config.refuse.as_ref().is_some_and(|refuse| refuse(worker));
        let started = if refused {
            Err(std::io::Error::other("refused by a test"))
        } else {
            let name = thread_name(&self.config.name_prefix, worker);
            let gone = Arc::new(AtomicBool::new(false));
            let tells = Arc::clone(&gone);
            let started = prim::start_thread(name, self.config.stack_size, move || {
                GONE.with(|gone| gone.0.replace(Some(tells)));
                core.work(worker);
            });
            started.map(|thread| Hand { thread, gone })
        };
        let mut state = self.lock();
        match started {
            Ok(hand) => {
                state.started(worker, hand);
                let done: Vec<_> = {
                    let (done, rest) = mem::take(&mut state.left).into_iter().partition(Hand::is_gone);
                    state.left = rest;
                    done
                };
                drop(state);
                self.changed.tell();
                for hand in done {
                    drop(hand.thread.join());
                }
            }
            Err(error) => {
                state.threads -= 1;
                state.active -= 1;
                state.coming -= 1;
                state.refused += 1;
                state.refusal = Some(error.to_string());
                // A worker may have gone idle because this place was reserved.
                let free = state.needs_worker(0) && state.active < state.places(&self.config);
                let free = free && !mutant!("refusal_only_undone");
                let idle = if free { state.take_idle() } else { None };
                // Counted as coming until the turn in a virtual run is given up: a look of the alarm in between would try again,
                // and what is refused would depend on when it comes.
                let held = usize::from(idle.is_none());
                state.coming += held;
                drop(state);
                self.changed.tell();
                if let Some(idle) = idle {
                    idle.unpark();
                }
                self.rescue(held);
            }
        }
    }

    /// A worker's life.
    pub(super) fn work(self: Arc<Self>, worker: u64) {
        let bed = Bed::new();
        let post = with_chair(|chair| Post::new(Arc::clone(chair.seat())));
        here::set_current(Some((&self, &post)));
        let mut state = self.lock();
        state.begin(worker, &post);
        drop(state);
        let mut crowded = None;
        while let Some(source) = self.next_source(worker, &post, &bed, crowded.take()) {
            let unwound = Unwound { core: &self, worker, post: &post };
            let since = self.serve(&*source, &post);
            drop(unwound);
            if source.turns().is_some() && source.wanted() > 0 {
                self.ask(source);
            } else {
                crowded = since.map(|since| (source, since));
            }
        }
        here::set_current(None);
    }

    /// Runs jobs of a source: one, and more if nobody else may be in want of this worker. Tells since when it was in others'
    /// way.
    fn serve(&self, source: &dyn Source, post: &Post) -> Option<Instant> {
        source.run(&mut || {
            // Nobody else writes it.
            post.finished.store(post.finished.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            // Hints: see "out of the lock" in `core.rs`.
            let others = self.recall.load(Ordering::Relaxed) || post.unseen.load(Ordering::Relaxed);
            !others || mutant!("worker_never_looks_up")
        })
    }

    /// A worker dies of a bug in a source: its place must not die with it.
    pub(super) fn lose(self: &Arc<Self>, worker: u64, post: &Post) {
        let mut state = self.lock();
        state.arrive(post);
        state.set_inactive(post);
        state.depart(worker);
        let then = state.find_worker(&self.config, 0);
        drop(state);
        self.changed.tell();
        self.follow(then);
    }

    /// Gives a worker its next source; `None` when it is to leave. From a source where it was in the way it rests, if no other
    /// is listed.
    pub(super) fn next_source(
        self: &Arc<Self>,
        worker: u64,
        post: &Arc<Post>,
        bed: &Bed,
        crowded: Option<(Arc<dyn Source>, Instant)>,
    ) -> Option<Arc<dyn Source>> {
        let mut done = Vec::new();
        let mut state = self.lock();
        // Whether it runs or not: it is about to look.
        state.set_awake(post);
        let mut rests = false;
        if let Some((source, since)) = crowded {
            rests = self.rest(&mut state, &source, since);
            done.push(source);
        }
        loop {
            let rests = if mutant!("rests_when_called") { rests } else { mem::take(&mut rests) };
            let spare = state.active > state.places(&self.config) && state.active > 1;
            if !spare && !rests {
                if let Some(source) = state.next_listed(&mut done) {
                    let mut spoken = 0;
                    if source.turns().is_none() {
                        state.arrive(post);
                        spoken = 1;
                    }
                    // More than this worker can do at once: somebody else may be needed. Unless this one is to see whether it is
                    // in the way.
                    let then =
                        if state.is_crowded() { Then::default() } else { state.find_worker(&self.config, spoken) };
                    drop(state);
                    self.follow(Then { none: false, ..then });
                    return Some(source);
                }
                state.extra = 0;
            }
            state.set_inactive(post);
            state.arrive(post);
            if state.closed && state.scopes == 0 {
                state.depart(worker);
                self.changed.tell();
                return None;
            }
            mutant!("lie_down_after_unlock" => drop(state); state = self.lock());
            let night = state.roster.lie_down(bed);
            let rest = if rests { 2 * LEFT_ALONE } else { Duration::ZERO };
            let until = prim::now().checked_add(self.config.keep_alive.max(rest));
            loop {
                drop(state);
                done.clear();
                bed.sleep(until);
                state = self.lock();
                if !state.roster.is_idle(night) {
                    // Taken: whoever took it counted it as active, and coming.
                    post.set_coming();
                    state.set_busy(post);
                    break;
                }
                if until.is_some_and(|until| prim::now() >= until) && state.roster.leave(night) {
                    state.depart(worker);
                    self.changed.tell();
                    return None;
                }
            }
        }
    }
}

/// Fits a worker's name into the 15 bytes that Linux keeps, at the expense of the prefix.
fn thread_name(prefix: &str, worker: u64) -> String {
    let number = format!("-{worker}");
    let mut room = 15_usize.saturating_sub(number.len()).min(prefix.len());
    while !prefix.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{number}", &prefix[..room])
}

/// Says that the calling worker has claimed a job.
pub(crate) fn set_arrived() {
    if let Some((core, post)) = here::current() {
        core.lock().arrive(&post);
    }
}

/// Says that the calling worker will be free in a moment, before others go on who may need it.
pub(crate) fn set_coming() {
    let Some((core, post)) = here::current() else { return };
    let mut state = core.lock();
    if !post.set_coming() {
        state.coming += 1;
    }
}
