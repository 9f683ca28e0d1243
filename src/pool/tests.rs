//! The pool alone, with sources that are no scopes.

use super::{
    core::PoolCore,
    here::{current, while_blocked},
    source::Source,
    state::Config,
};
use crate::park::{
    seat::{Seat, with_chair},
    standstill::Party,
};
use std::{
    collections::{BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

type Task = Box<dyn FnOnce() + Send>;

/// Far beyond what any of these takes; the failure of this crate is a hang.
const GUARD: Duration = Duration::from_secs(30);

/// Never reached by a test that does not wait for it.
const LONG: Duration = Duration::from_secs(3600);

/// A queue of closures, as a scope is one of jobs.
pub(super) struct Fake {
    tasks: Mutex<VecDeque<Task>>,
    /// How many were ever pushed.
    pushed: AtomicUsize,
    listed: AtomicBool,
    rescues: AtomicUsize,
    /// Whoever runs its tasks is in the way.
    is_crowded: AtomicBool,
    starved: Mutex<Option<String>>,
    owner: Arc<Seat>,
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Fake {
            tasks: Mutex::default(),
            pushed: AtomicUsize::new(0),
            listed: AtomicBool::new(false),
            rescues: AtomicUsize::new(0),
            is_crowded: AtomicBool::new(false),
            starved: Mutex::default(),
            owner: with_chair(|chair| Arc::clone(chair.seat())),
        })
    }

    pub(super) fn push(&self, task: impl FnOnce() + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap();
        tasks.push_back(Box::new(task));
        self.pushed.fetch_add(1, Ordering::SeqCst);
    }

    /// As a spawn does: nobody is called.
    fn queue(self: &Arc<Self>, core: &Arc<PoolCore>, task: impl FnOnce() + Send + 'static) {
        self.push(task);
        if self.set_listed() {
            core.list(self.clone(), self.pushed.load(Ordering::SeqCst) as u64);
        }
    }

    fn give(self: &Arc<Self>, core: &Arc<PoolCore>, task: impl FnOnce() + Send + 'static) {
        self.push(task);
        core.ask(self.clone());
    }

    /// Gives a task and returns the name of the thread that ran it.
    fn run_on(self: &Arc<Self>, core: &Arc<PoolCore>) -> String {
        let (tell, told) = mpsc::channel();
        self.give(core, move || {
            let _ = tell.send(thread::current().name().unwrap_or_default().to_owned());
        });
        told.recv_timeout(GUARD).unwrap()
    }
}

impl Source for Fake {
    fn run(&self, go_on: &mut dyn FnMut() -> bool) -> Option<Instant> {
        loop {
            let task = self.tasks.lock().unwrap().pop_front();
            let task = task?;
            let began = Instant::now();
            task();
            let crowded = self.is_crowded.load(Ordering::SeqCst).then_some(began);
            if !go_on() || crowded.is_some() {
                return crowded;
            }
        }
    }

    fn queued(&self) -> usize {
        self.tasks.lock().unwrap().len()
    }

    fn line(&self) -> Option<(u64, u64)> {
        let queued = self.tasks.lock().unwrap().len() as u64;
        let last = self.pushed.load(Ordering::SeqCst) as u64;
        (queued > 0).then_some((last - queued + 1, last))
    }

    fn set_listed(&self) -> bool {
        let tasks = self.tasks.lock().unwrap();
        !tasks.is_empty() && !self.listed.swap(true, Ordering::SeqCst)
    }

    fn set_unlisted(&self, anyway: bool) -> bool {
        let tasks = self.tasks.lock().unwrap();
        let done = anyway || tasks.is_empty();
        self.listed.fetch_and(!done, Ordering::SeqCst);
        done
    }

    fn is_listed(&self) -> bool {
        self.listed.load(Ordering::SeqCst)
    }

    fn rescue(&self) {
        self.rescues.fetch_add(1, Ordering::SeqCst);
    }

    fn around(&self) -> Vec<Arc<dyn Party>> {
        Vec::new()
    }

    fn owner(&self) -> Arc<dyn Party> {
        Arc::clone(&self.owner) as Arc<dyn Party>
    }

    fn picture(&self) -> (Vec<String>, Vec<String>) {
        (vec!["`fake`".into()], vec!["the body waits in scope exit".into()])
    }

    fn starve(&self, text: &str) {
        *self.starved.lock().unwrap() = Some(text.to_owned());
        self.tasks.lock().unwrap().clear();
    }
}

fn core(parallelism: usize, max_threads: usize, keep_alive: Duration) -> Arc<PoolCore> {
    PoolCore::new(Config { parallelism, max_threads, keep_alive, ..Config::default() })
}

/// Looks until it holds. Asserts nothing about how soon.
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + GUARD;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        thread::yield_now();
    }
}

fn shut_down(core: &Arc<PoolCore>) {
    let (tell, told) = mpsc::channel();
    let shut = Arc::clone(core);
    thread::spawn(move || {
        shut.shut_down();
        let _ = tell.send(());
    });
    told.recv_timeout(GUARD).unwrap();
    assert_eq!(core.counts().workers, 0);
}

#[test]
fn the_worker_that_lay_down_last_is_taken_first() {
    let (core, source) = (core(2, 8, LONG), Fake::new());
    let mut names = BTreeSet::new();
    for _ in 0..50 {
        names.insert(source.run_on(&core));
        until("idle", || core.counts().idle == core.counts().workers);
    }
    assert!(names.len() <= 2, "{names:?}");
    shut_down(&core);
}

/// A task that tells in which stint its worker runs it.
fn stint(tell: &mpsc::Sender<u64>) -> impl FnOnce() + Send + use<> {
    let tell = tell.clone();
    move || {
        let stint = current().map(|(_, post)| post.stint.load(Ordering::SeqCst));
        let _ = tell.send(stint.unwrap());
    }
}

#[test]
fn a_worker_that_is_in_the_way_rests_and_is_called_again() {
    let (core, source) = (core(1, 1, LONG), Fake::new());
    source.is_crowded.store(true, Ordering::SeqCst);
    let (tell, told) = mpsc::channel();
    (0..20).for_each(|_| source.push(stint(&tell)));
    core.ask(source.clone());
    let stints: BTreeSet<_> = (0..20).map(|_| told.recv_timeout(GUARD).unwrap()).collect();
    assert!(stints.len() > 1, "it lay down in between");
    shut_down(&core);
}

#[test]
fn a_worker_that_is_in_the_way_does_not_rest_where_another_source_is_listed() {
    let (core, crowded, other) = (core(1, 1, LONG), Fake::new(), Fake::new());
    crowded.is_crowded.store(true, Ordering::SeqCst);
    let ((tell, told), (go, wait)) = (mpsc::channel(), mpsc::channel::<()>());
    let first = stint(&tell);
    crowded.give(&core, move || {
        let _ = wait.recv_timeout(GUARD);
        first();
    });
    crowded.give(&core, stint(&tell));
    other.give(&core, stint(&tell));
    go.send(()).unwrap();
    let (first, second) = (told.recv_timeout(GUARD).unwrap(), told.recv_timeout(GUARD).unwrap());
    assert_eq!(first, second, "it did not lie down");
    told.recv_timeout(GUARD).unwrap();
    shut_down(&core);
}

#[test]
fn a_worker_that_is_in_the_way_does_not_rest_where_a_job_is_to_start_at_once() {
    let (core, source) = (core(1, 1, LONG), Fake::new());
    source.is_crowded.store(true, Ordering::SeqCst);
    let (tell, told) = mpsc::channel();
    core.force();
    (0..3).for_each(|_| source.push(stint(&tell)));
    core.ask(source.clone());
    let stints: BTreeSet<_> = (0..3).map(|_| told.recv_timeout(GUARD).unwrap()).collect();
    assert_eq!(stints.len(), 1);
    core.unforce();
    shut_down(&core);
}

#[test]
fn an_announced_wait_makes_room_and_gives_it_back() {
    let (core, source) = (core(1, 8, LONG), Fake::new());
    let (go, wait) = mpsc::channel::<()>();
    source.give(&core, move || {
        let _ = while_blocked(|| wait.recv_timeout(GUARD));
    });
    until("blocked", || core.counts().blocked == 1);
    source.run_on(&core);
    go.send(()).unwrap();
    until("back", || core.counts().blocked == 0 && core.counts().idle == 2);
    shut_down(&core);
}

#[test]
fn a_wait_announced_twice_counts_once_and_an_unwinding_one_comes_back() {
    let (core, source) = (core(1, 8, LONG), Fake::new());
    let (tell, told) = mpsc::channel();
    source.give(&core, move || {
        let (pool, _) = current().unwrap();
        let inside = while_blocked(|| while_blocked(|| pool.counts().blocked));
        let unwound = catch_unwind(AssertUnwindSafe(|| while_blocked(|| std::panic::resume_unwind(Box::new(())))));
        let _ = tell.send((inside, unwound.is_err(), pool.counts().blocked));
    });
    assert_eq!(told.recv_timeout(GUARD), Ok((1, true, 0)));
    shut_down(&core);
}

#[test]
fn a_refused_start_rescues_and_is_counted() {
    let refuse = Config { refuse: Some(Arc::new(|_| true)), ..Config::default() };
    let (core, source) = (PoolCore::new(refuse), Fake::new());
    source.give(&core, || ());
    assert!(source.rescues.load(Ordering::SeqCst) > 0);
    let counts = core.counts();
    assert!(counts.workers == 0 && counts.peak == 0 && counts.refused > 0, "{counts:?}");
}

#[test]
fn a_thread_that_is_asked_for_is_not_alive() {
    let asked: Arc<OnceLock<Arc<PoolCore>>> = Arc::default();
    let seen = Arc::new(Mutex::new(None));
    let (pool, counts) = (Arc::clone(&asked), Arc::clone(&seen));
    let refuse = Arc::new(move |_| {
        *counts.lock().unwrap() = pool.get().map(|core| core.counts());
        true
    });
    let core = PoolCore::new(Config { refuse: Some(refuse), ..Config::default() });
    assert!(asked.set(Arc::clone(&core)).is_ok());
    Fake::new().give(&core, || ());
    let counts = seen.lock().unwrap().take().unwrap();
    assert_eq!((counts.workers, counts.peak, counts.refused), (0, 0, 0));
}

#[test]
fn a_source_whose_owner_did_its_jobs_is_let_go() {
    let refuse = Config { refuse: Some(Arc::new(|_| true)), ..Config::default() };
    let (core, source) = (PoolCore::new(refuse), Fake::new());
    source.give(&core, || ());
    source.run(&mut || true);
    until("let go", || Arc::strong_count(&source) == 1);
    assert!(!source.listed.load(Ordering::SeqCst));
    assert_eq!(core.counts().workers, 0);
}

#[test]
fn at_the_cap_a_ticket_waits_and_is_taken_by_who_gets_free() {
    let (core, source) = (core(4, 1, LONG), Fake::new());
    let (go, wait) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    source.give(&core, move || {
        let _ = wait.recv_timeout(GUARD);
    });
    source.give(&core, move || {
        let _ = tell.send(());
    });
    go.send(()).unwrap();
    told.recv_timeout(GUARD).unwrap();
    assert_eq!(core.counts().peak, 1);
    shut_down(&core);
}

#[test]
fn at_the_cap_a_worker_that_never_gets_free_has_the_owner_rescued() {
    let (core, source) = (core(4, 1, LONG), Fake::new());
    let (go, wait) = mpsc::channel::<()>();
    let (tell, started) = mpsc::channel();
    // Blocks where the pool cannot see it.
    source.give(&core, move || {
        let _ = tell.send(());
        let _ = wait.recv_timeout(2 * GUARD);
    });
    started.recv_timeout(GUARD).unwrap();
    source.give(&core, || ());
    until("rescued", || source.rescues.load(Ordering::SeqCst) > 0);
    go.send(()).unwrap();
    shut_down(&core);
}

#[test]
fn an_idle_worker_leaves_after_its_keep_alive() {
    let (core, source) = (core(2, 8, Duration::from_millis(1)), Fake::new());
    source.run_on(&core);
    until("gone", || core.counts().workers == 0);
    source.run_on(&core);
    shut_down(&core);
}

#[test]
fn a_close_lets_idle_workers_leave_and_waits_for_nobody() {
    let (core, source) = (core(2, 8, LONG), Fake::new());
    core.enter_scope().unwrap();
    source.run_on(&core);
    core.close();
    assert!(core.enter_scope().is_err());
    source.run_on(&core);
    core.leave_scope(&*source);
    until("gone", || core.counts().workers == 0);
}

#[test]
fn a_job_that_unwinds_takes_its_worker_along_and_nothing_else() {
    let (core, source) = (core(1, 1, LONG), Fake::new());
    source.push(|| std::panic::resume_unwind(Box::new(())));
    source.run_on(&core);
    shut_down(&core);
}

#[test]
fn many_hand_offs_from_many_threads_lose_nothing() {
    const ROUNDS: usize = 300;
    let (core, done) = (core(2, 8, Duration::from_micros(50)), Arc::new(AtomicUsize::new(0)));
    let givers: Vec<_> = (0..4)
        .map(|_| {
            let (core, done) = (Arc::clone(&core), Arc::clone(&done));
            thread::spawn(move || {
                let source = Fake::new();
                for _ in 0..ROUNDS {
                    let done = Arc::clone(&done);
                    source.give(&core, move || {
                        done.fetch_add(1, Ordering::SeqCst);
                    });
                    thread::yield_now();
                }
            })
        })
        .collect();
    for giver in givers {
        giver.join().unwrap();
    }
    until("all ran", || done.load(Ordering::SeqCst) == 4 * ROUNDS);
    shut_down(&core);
}

#[test]
fn a_pool_with_nothing_listed_looks_no_more_and_begins_again() {
    let (core, source) = (core(2, 8, LONG), Fake::new());
    for _ in 0..3 {
        // Nobody asks: a look finds it.
        let (tell, told) = mpsc::channel();
        source.queue(&core, move || {
            let _ = tell.send(());
        });
        told.recv_timeout(GUARD).unwrap();
        until("the looks end", || !core.is_watched());
        assert!(!source.is_listed());
    }
    shut_down(&core);
}

#[test]
fn a_scope_that_is_over_is_taken_off_the_list() {
    let (core, source) = (core(2, 8, LONG), Fake::new());
    core.enter_scope().unwrap();
    source.queue(&core, || ());
    assert!(source.is_listed());
    source.run(&mut || true);
    core.leave_scope(&*source);
    assert!(!source.is_listed());
    until("let go", || Arc::strong_count(&source) == 1);
}
