//! Models of what jobs share: semaphores, locks and their kin.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_permit_that_comes_back_wakes_who_waits` | room and those who wait for it stand under one lock | a waiter that enters after it has unlocked |
//! | `a_turn_of_a_waiter_that_stops_goes_to_the_next` | who leaves hands on what it was given | a leaver that does not look whether it was chosen |
//!
//! # Does not know
//!
//! Time: nobody waits with a limit.

use super::{cancel, check, label, node};
use crate::{
    cancel::{
        current::{self, Frame, Strand},
        node::Node,
    },
    sync::Semaphore,
};
use loom::thread;
use std::sync::Arc;

/// Calls `f` at `node`.
fn stand<R>(node: &Arc<Node>, f: impl FnOnce() -> R) -> R {
    let strand = Strand::at(label("region"), "model".into(), 0, node);
    current::enter(Frame::of(&strand), f)
}

#[test]
fn a_permit_that_comes_back_wakes_who_waits() {
    check(|| {
        let semaphore = Arc::new(Semaphore::new(1));
        let others = [(); 2].map(|()| {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || drop(semaphore.acquire().unwrap()))
        });
        drop(semaphore.acquire().unwrap());
        for other in others {
            other.join().unwrap();
        }
        assert_eq!((semaphore.in_use(), semaphore.waiting()), (0, 0));
    });
}

#[test]
fn a_turn_of_a_waiter_that_stops_goes_to_the_next() {
    check(|| {
        let semaphore = Arc::new(Semaphore::new(1));
        let permit = semaphore.try_acquire();
        let here = node(None, None);
        let stopped = {
            let (semaphore, here) = (Arc::clone(&semaphore), Arc::clone(&here));
            thread::spawn(move || stand(&here, || drop(semaphore.acquire())))
        };
        let next = {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || drop(semaphore.acquire().unwrap()))
        };
        drop(permit);
        cancel(&here);
        stopped.join().unwrap();
        next.join().unwrap();
        assert_eq!((semaphore.in_use(), semaphore.waiting()), (0, 0));
    });
}
