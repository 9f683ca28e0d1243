//! Hand-off of work against a worker that lies down or leaves, and growth: `pool/`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `work_handed_to_a_leaving_worker_is_done` | a worker that leaves and work that comes decide under one lock | a worker that leaves although it was taken |
//! | `work_handed_to_a_sleeping_worker_is_done` | the token is kept until the worker sleeps | a worker that lies down after it has unlocked |
//! | `a_source_that_is_listed_late_is_let_go` | who lists and who leaves need no order | an unlisting that trusts the list |
//! | `work_behind_a_worker_that_blocks_unseen_is_done` | two looks give its place to another | a worker found blocked that keeps its place |
//! | `work_left_by_a_refused_thread_is_done` | an idle worker takes what a start that failed was for | a refusal that only undoes its reservation |
//!
//! # Does not know
//!
//! Scopes: here they have numbers of jobs, and no more. And the alarm, without which no worker rests.

use super::{MANY, check, check_with, checker::thread};
use crate::{
    park::{
        seat::{Chair, Seat},
        standstill::Party,
    },
    pool::{Pool, Source, while_blocked},
    prim::{self, AtomicUsize, Condition, Mutex, Ordering},
};
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocks {
    Not,
    /// Each announces a wait.
    Announced,
    /// The first waits for another, and announces nothing.
    Unseen,
}

/// A scope that has nothing but numbers of jobs.
struct Jobs {
    me: Weak<Jobs>,
    /// How many are queued; whether it is listed; whether a job has begun.
    queue: Mutex<(usize, bool, bool)>,
    done: AtomicUsize,
    owner: Arc<Seat>,
    /// How a job blocks.
    blocks: Blocks,
    changed: Condition,
}

impl Jobs {
    fn new(chair: &Chair, blocks: Blocks) -> Arc<Self> {
        Arc::new_cyclic(|me| Jobs {
            me: Weak::clone(me),
            queue: Mutex::new((0, false, false)),
            done: AtomicUsize::new(0),
            owner: Arc::clone(chair.seat()),
            blocks,
            changed: Condition::default(),
        })
    }

    fn add(&self, pool: &Pool) {
        let mut queue = self.queue.lock();
        queue.0 += 1;
        let lists = !std::mem::replace(&mut queue.1, true);
        drop(queue);
        // As a spawn does. In a model there is no alarm, so to be listed is to ask.
        if lists {
            pool.core().list(self.me.upgrade().unwrap(), 0);
        }
    }

    /// As the owner of a scope that does not help itself.
    fn wait(&self, chair: &Chair, jobs: usize) {
        while self.done.load(Ordering::Relaxed) < jobs {
            chair.park(None);
        }
    }

    fn run_one(&self) -> bool {
        let mut queue = self.queue.lock();
        if queue.0 == 0 {
            return false;
        }
        queue.0 -= 1;
        if self.blocks == Blocks::Unseen && !std::mem::replace(&mut queue.2, true) {
            self.owner.poke();
            while self.done.load(Ordering::Relaxed) == 0 {
                queue = self.changed.wait(queue, || self.queue.lock());
            }
        }
        drop(queue);
        if self.blocks == Blocks::Announced {
            while_blocked(|| ());
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        drop(self.queue.lock());
        self.changed.tell();
        self.owner.poke();
        true
    }
}

impl Source for Jobs {
    fn run(&self, go_on: &mut dyn FnMut() -> bool) -> Option<Instant> {
        while self.run_one() && go_on() {}
        None
    }

    fn queued(&self) -> usize {
        self.queue.lock().0
    }

    fn line(&self) -> Option<(u64, u64)> {
        (self.queued() > 0).then_some((0, 0))
    }

    fn set_listed(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.0 > 0 && !std::mem::replace(&mut queue.1, true)
    }

    fn set_unlisted(&self, anyway: bool) -> bool {
        let mut queue = self.queue.lock();
        let done = anyway || queue.0 == 0;
        queue.1 &= !done;
        done
    }

    fn is_listed(&self) -> bool {
        self.queue.lock().1
    }

    fn rescue(&self) {
        self.owner.poke();
    }

    fn around(&self) -> Vec<Arc<dyn Party>> {
        Vec::new()
    }

    fn owner(&self) -> Arc<dyn Party> {
        Arc::clone(&self.owner) as Arc<dyn Party>
    }

    fn picture(&self) -> (Vec<String>, Vec<String>) {
        (Vec::new(), Vec::new())
    }

    fn starve(&self, text: &str) {
        panic!("{text}");
    }
}

fn pool(keep_alive: Duration) -> Pool {
    Pool::builder().parallelism(1).max_threads(2).keep_alive(keep_alive).build().unwrap()
}

/// One job after the other: more at a time would need the watch, which is silent.
fn hand_off(keep_alive: Duration) {
    let pool = pool(keep_alive);
    let chair = Chair::new();
    let jobs = Jobs::new(&chair, Blocks::Not);
    for done in 1..=MANY {
        // From the second on: the worker is about to look for more, lies down, sleeps, leaves or is gone.
        jobs.add(&pool);
        jobs.wait(&chair, done);
    }
    pool.shutdown().unwrap();
    assert_eq!(pool.stats().workers, 0);
    assert_eq!(jobs.queued(), 0);
}

#[test]
fn work_handed_to_a_leaving_worker_is_done() {
    check(|| hand_off(Duration::ZERO));
}

#[test]
fn work_handed_to_a_sleeping_worker_is_done() {
    check(|| hand_off(Duration::MAX));
}

#[test]
fn a_source_that_is_listed_late_is_let_go() {
    check(|| {
        let pool = pool(Duration::MAX);
        let chair = Chair::new();
        let jobs = Jobs::new(&chair, Blocks::Not);
        pool.core().enter_scope().unwrap();
        jobs.queue.lock().0 += 1;
        // Asks for somebody who sweeps, as a cancel from outside does.
        let canceller = {
            let (pool, jobs) = (pool.clone(), Arc::clone(&jobs));
            thread::spawn(move || pool.core().ask(jobs))
        };
        jobs.run_one();
        jobs.wait(&chair, 1);
        pool.core().leave_scope(&*jobs);
        canceller.join().unwrap();
        // The alarm's.
        pool.core().look(prim::now(), |_| None);
        pool.shutdown().unwrap();
        assert!(!jobs.is_listed() && Arc::strong_count(&jobs) == 1);
    });
}

#[test]
fn work_behind_a_worker_that_blocks_unseen_is_done() {
    // Three threads and three locks: with one preemption more it takes minutes.
    check_with(2, || {
        let pool = pool(Duration::MAX);
        let chair = Chair::new();
        let jobs = Jobs::new(&chair, Blocks::Unseen);
        jobs.add(&pool);
        jobs.add(&pool);
        while !jobs.queue.lock().2 {
            chair.park(None);
        }
        for _ in 0..2 {
            pool.core().look(prim::now(), |_| Some(true));
        }
        jobs.wait(&chair, 2);
        pool.shutdown().unwrap();
        assert_eq!(jobs.queued(), 0);
    });
}

#[test]
fn work_left_by_a_refused_thread_is_done() {
    check(|| {
        let pool =
            Pool::builder().parallelism(1).keep_alive(Duration::MAX).refuse_threads(|nth| nth > 1).build().unwrap();
        let chair = Chair::new();
        let jobs = Jobs::new(&chair, Blocks::Announced);
        jobs.add(&pool);
        // Calls for a thread while the worker blocks; by the time that it is refused, the worker may be idle.
        jobs.add(&pool);
        pool.core().call();
        jobs.wait(&chair, 2);
        pool.shutdown().unwrap();
    });
}
