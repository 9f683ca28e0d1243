//! Models of the protocols, run by loom on the code that ships:
//! `RUSTFLAGS="--cfg tassel_loom" cargo test --release --lib model`.
//!
//! | model | breaks if |
//! |---|---|
//! | `a_poke_is_never_lost` | a poke does not swap, or a park does not look at what its swap returned |
//! | `a_child_linked_during_a_cancel_is_marked` | a new node does not copy its parents' flag, or copies it before it is in the list |
//! | `a_second_cancel_returns_no_sooner` | a second caller does not take the tree lock |
//! | `a_seat_registered_during_a_cancel_is_refused_or_poked` | the flag is not looked at under the list's lock |
//! | `a_child_linked_during_a_close_is_marked` | a close without children skips the flag |
//! | `a_callback_runs_once_or_never_and_not_after_its_registration` | dropping a registration does not wait |
//! | `a_frame_stays_open_until_the_last_closure_is_gone` | the count goes down before the closure is gone, or without release |
//! | `a_job_starts_or_is_dropped_never_both` | start and drop are not exchanges of one word |
//! | `work_is_handed_to_a_worker_that_stays` | a worker leaves without taking itself out under the lock |

use crate::{
    cancel::{
        current::Strand,
        node::{Node, Parents},
        reason::{Label, Reason, ReasonKind},
    },
    park::{
        clock::Clock,
        seat::{Chair, Seat},
    },
    pool::{Bed, Roster},
    prim::{AtomicBool, AtomicUsize, Mutex, Ordering},
    raw::{Face, Home, Tally, Tether, tether},
    scope::job::{Job, Outcome},
};
use loom::thread;
use std::{panic::Location, sync::Arc};

/// Explores every interleaving with at most three preemptions.
fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

fn label() -> Label {
    Label::new("node", None, Location::caller())
}

fn below(parent: Option<&Arc<Node>>, also: Option<&Arc<Node>>) -> Arc<Node> {
    Node::new(&Parents { parent, also }, label(), Clock::Real, None)
}

fn cancel(node: &Arc<Node>) {
    node.cancel(&Reason::new(ReasonKind::Explicit, label(), Clock::Real.now()), false);
}

#[test]
fn a_poke_is_never_lost() {
    model(|| {
        let chair = Chair::new();
        let changed = Arc::new(AtomicUsize::new(0));
        // A poke of an earlier wait may come at any time as well.
        let pokers = [0, 1].map(|change| {
            let (seat, changed) = (Arc::clone(chair.seat()), Arc::clone(&changed));
            thread::spawn(move || {
                changed.fetch_add(change, Ordering::Relaxed);
                seat.poke();
            })
        });
        while changed.load(Ordering::Relaxed) == 0 {
            chair.park(&Clock::Real, None, 0);
        }
        for poker in pokers {
            poker.join().unwrap();
        }
    });
}

#[test]
fn a_child_linked_during_a_cancel_is_marked() {
    model(|| {
        let (first, second) = (below(None, None), below(None, None));
        let stopped = Arc::clone(&second);
        let canceller = thread::spawn(move || cancel(&stopped));
        let child = below(Some(&first), Some(&second));
        canceller.join().unwrap();
        assert!(child.is_stopping() && child.reason().is_some());
        assert!(!first.is_stopping());
    });
}

#[test]
fn a_second_cancel_returns_no_sooner() {
    model(|| {
        let root = below(None, None);
        let child = below(Some(&root), None);
        let leaf = below(Some(&child), None);
        let (top, bottom) = (Arc::clone(&root), Arc::clone(&leaf));
        let other = thread::spawn(move || {
            cancel(&top);
            assert!(bottom.is_stopping());
        });
        cancel(&root);
        assert!(leaf.is_stopping());
        other.join().unwrap();
    });
}

#[test]
fn a_seat_registered_during_a_cancel_is_refused_or_poked() {
    model(|| {
        let chair = Chair::new();
        let node = below(None, None);
        let stopped = Arc::clone(&node);
        let canceller = thread::spawn(move || cancel(&stopped));
        if let Ok(key) = node.add_seat(chair.seat()) {
            while !node.is_stopping() {
                chair.park(&Clock::Real, None, 0);
            }
            node.remove_seat(key);
        }
        assert!(node.reason().is_some());
        canceller.join().unwrap();
    });
}

#[test]
fn a_child_linked_during_a_close_is_marked() {
    model(|| {
        let scope = below(None, None);
        let left = Arc::clone(&scope);
        let owner = thread::spawn(move || left.close());
        let child = below(Some(&scope), None);
        owner.join().unwrap();
        assert_eq!(child.reason().map(|reason| reason.kind()), Some(ReasonKind::Closed));
    });
}

#[test]
fn a_callback_runs_once_or_never_and_not_after_its_registration() {
    model(|| {
        let node = below(None, None);
        let runs = Arc::new(AtomicUsize::new(0));
        let ran = Arc::clone(&runs);
        let registration = node.on_cancel(Box::new(move || {
            ran.fetch_add(1, Ordering::Relaxed);
        }));
        let stopped = Arc::clone(&node);
        let canceller = thread::spawn(move || cancel(&stopped));
        drop(registration);
        let seen = runs.load(Ordering::Relaxed);
        canceller.join().unwrap();
        assert!(seen <= 1);
        assert_eq!(runs.load(Ordering::Relaxed), seen, "it ran after its registration was gone");
    });
}

/// The owner of a frame, and what its seat is.
struct Owner(Arc<Seat>);

impl Home for Owner {
    fn all_home(&self) {
        self.0.poke();
    }
}

struct Bare;

impl Face for Bare {
    type Home = Owner;
    type Of<'t, 'env>
        = Tether<'t, 'env, Owner>
    where
        'env: 't;

    fn wrap<'t, 'env>(tether: Tether<'t, 'env, Owner>) -> Tether<'t, 'env, Owner> {
        tether
    }
}

#[test]
fn a_frame_stays_open_until_the_last_closure_is_gone() {
    model(|| {
        let chair = Chair::new();
        let tally = Tally::new(Owner(Arc::clone(chair.seat())));
        let (ran, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        struct Gone<'a>(&'a AtomicUsize);
        impl Drop for Gone<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let body = tether::<Bare, _>(
            &tally,
            |frame| {
                let job = |run: bool| {
                    let (gone, ran) = (Gone(&dropped), &ran);
                    let mut tied = frame.0.tie(move || {
                        let _gone = gone;
                        ran.fetch_add(1, Ordering::Relaxed);
                    });
                    thread::spawn(move || {
                        if run {
                            tied.run();
                        }
                        drop(tied);
                    })
                };
                [job(true), job(false)]
            },
            |_| {
                while tally.live() > 0 {
                    chair.park(&Clock::Real, None, 0);
                }
            },
        );
        assert_eq!((ran.load(Ordering::Relaxed), dropped.load(Ordering::Relaxed)), (1, 2));
        for thread in body.unwrap() {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_job_starts_or_is_dropped_never_both() {
    model(|| {
        let scope = below(None, None);
        let strand = Strand::job(label(), &"scope".into(), 0, &scope, None, None);
        let job = Job::new(strand, false, false);
        let (stopped, joined) = (Arc::clone(&scope), Arc::clone(&job));
        let joiner = thread::spawn(move || {
            cancel(&stopped);
            joined.drop_if_stopping()
        });
        // The claimer's look after its claim (D6).
        let started = !job.strand.nearest().is_stopping() && job.start();
        let dropped = joiner.join().unwrap() || (!started && job.drop_if_stopping());
        assert!(started != dropped);
        let never = matches!(job.outcome(), Some(Outcome::Cancelled { started: false, .. }));
        assert_eq!(never, dropped);
    });
}

#[test]
fn work_is_handed_to_a_worker_that_stays() {
    model(|| {
        let pool = Arc::new(Mutex::new((Roster::default(), 0_u32)));
        let left = Arc::new(AtomicBool::new(false));
        let (of_worker, leaves) = (Arc::clone(&pool), Arc::clone(&left));
        let worker = thread::spawn(move || {
            let bed = Bed::new();
            let mut state = of_worker.lock();
            state.0.lie_down(1, &bed);
            drop(state);
            // Its time has run out, at any moment.
            let mut state = of_worker.lock();
            if state.0.leave(1) {
                leaves.store(true, Ordering::Relaxed);
                return;
            }
            while state.0.is_idle(1) {
                drop(state);
                bed.sleep(None);
                state = of_worker.lock();
            }
            state.1 -= 1;
        });
        let mut state = pool.lock();
        let taken = state.0.take();
        if let Some(taken) = taken {
            state.1 += 1;
            drop(state);
            taken.unpark();
        } else {
            drop(state);
        }
        worker.join().unwrap();
        assert_eq!(pool.lock().1, 0, "work was handed to a worker that left");
    });
}
