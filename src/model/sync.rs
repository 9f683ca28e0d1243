//! Models of what jobs share: semaphores, locks and their kin.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_permit_that_comes_back_wakes_who_waits` | room and those who wait for it stand under one lock | a waiter that enters after it has unlocked |
//! | `a_turn_of_a_waiter_that_stops_goes_to_the_next` | who leaves hands on what it was given | a leaver that does not look whether it was chosen |
//! | `a_mutex_that_is_let_go_wakes_who_waits` | sign and cell are looked at in the right order on both sides | a leaver that reads the sign before it unlocks |
//! | `a_lock_that_a_waiter_was_told_of_and_did_not_take_goes_to_the_next` | who leaves the queue tells the next | a leaver that only leaves |
//! | `a_writer_and_readers_wake_each_other` | readers in the queue bring each other in | a reader that tells nobody |
//! | `readers_behind_a_writer_that_stops_come_in` | as for a mutex | as above |
//! | `a_notification_between_the_look_and_the_wait_is_not_lost` | a waiter is entered before it unlocks | one that enters after |
//! | `a_notification_of_a_waiter_that_stops_goes_to_the_next` | it is passed on, also while the mutex is taken again | a leaver that does not look whether it was chosen |
//! | `an_initialiser_that_fails_leaves_its_turn_to_who_waits` | the turn is free before anybody is told | a turn that ends with its thread |
//!
//! Those of locks have two preemptions at most: with three, some take minutes.
//!
//! # Does not know
//!
//! Time: nobody waits with a limit.

use super::{cancel, check, check_with, checker::thread, label, node};
use crate::{
    cancel::{
        current::{self, Frame, Strand},
        node::Node,
    },
    sync::{Condvar, Mutex, OnceCell, RwLock, Semaphore},
};
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

#[test]
fn a_mutex_that_is_let_go_wakes_who_waits() {
    check_with(2, || {
        let mutex = Arc::new(Mutex::new(0));
        let others = [(); 2].map(|()| {
            let mutex = Arc::clone(&mutex);
            thread::spawn(move || *mutex.lock().unwrap() += 1)
        });
        *mutex.lock().unwrap() += 1;
        for other in others {
            other.join().unwrap();
        }
        assert_eq!((*mutex.lock().unwrap(), mutex.waiting()), (3, 0));
    });
}

#[test]
fn a_lock_that_a_waiter_was_told_of_and_did_not_take_goes_to_the_next() {
    check(|| {
        let mutex = Arc::new(Mutex::new(()));
        let guard = mutex.try_lock();
        let here = node(None, None);
        let stopped = {
            let (mutex, here) = (Arc::clone(&mutex), Arc::clone(&here));
            thread::spawn(move || stand(&here, || drop(mutex.lock())))
        };
        let next = {
            let mutex = Arc::clone(&mutex);
            thread::spawn(move || drop(mutex.lock().unwrap()))
        };
        drop(guard);
        cancel(&here);
        stopped.join().unwrap();
        next.join().unwrap();
        assert!(mutex.try_lock().is_some() && mutex.waiting() == 0);
    });
}

#[test]
fn a_writer_and_readers_wake_each_other() {
    check_with(2, || {
        let lock = Arc::new(RwLock::new(0));
        let guard = lock.try_write();
        let readers = [(); 2].map(|()| {
            let lock = Arc::clone(&lock);
            thread::spawn(move || *lock.read().unwrap())
        });
        drop(guard);
        *lock.write().unwrap() += 1;
        for reader in readers {
            assert!(reader.join().unwrap() < 2);
        }
        assert_eq!((*lock.read().unwrap(), lock.waiting()), (1, 0));
    });
}

#[test]
fn readers_behind_a_writer_that_stops_come_in() {
    check_with(2, || {
        let lock = Arc::new(RwLock::new(()));
        let guard = lock.try_write();
        let here = node(None, None);
        let stopped = {
            let (lock, here) = (Arc::clone(&lock), Arc::clone(&here));
            thread::spawn(move || stand(&here, || drop(lock.write())))
        };
        let next = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || drop(lock.read().unwrap()))
        };
        drop(guard);
        cancel(&here);
        stopped.join().unwrap();
        next.join().unwrap();
        assert!(lock.try_write().is_some() && lock.waiting() == 0);
    });
}

#[test]
fn a_notification_between_the_look_and_the_wait_is_not_lost() {
    check(|| {
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let waiter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || drop(shared.1.wait_while(shared.0.lock().unwrap(), |set| !*set).unwrap()))
        };
        *shared.0.lock().unwrap() = true;
        shared.1.notify_one();
        waiter.join().unwrap();
    });
}

#[test]
fn a_notification_of_a_waiter_that_stops_goes_to_the_next() {
    check_with(2, || {
        let shared = Arc::new((Mutex::new(0), Condvar::new()));
        let here = node(None, None);
        let take = |shared: &(Mutex<u32>, Condvar)| -> bool {
            let Ok(guard) = shared.0.lock() else { return false };
            let Ok(mut guard) = shared.1.wait_while(guard, |letters| *letters == 0) else { return false };
            *guard -= 1;
            true
        };
        let stopped = {
            let (shared, here) = (Arc::clone(&shared), Arc::clone(&here));
            thread::spawn(move || stand(&here, || take(&shared)))
        };
        let next = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || take(&shared))
        };
        let send = || {
            *shared.0.lock().unwrap() += 1;
            shared.1.notify_one();
        };
        send();
        cancel(&here);
        if stopped.join().unwrap() {
            send();
        }
        assert!(next.join().unwrap());
        assert_eq!(*shared.0.lock().unwrap(), 0);
    });
}

#[test]
fn an_initialiser_that_fails_leaves_its_turn_to_who_waits() {
    check(|| {
        let cell = Arc::new(OnceCell::new());
        let fails = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || drop(cell.get_or_try_init(|| anyhow::bail!("no"))))
        };
        let here = node(None, None);
        let stopped = {
            let (cell, here) = (Arc::clone(&cell), Arc::clone(&here));
            thread::spawn(move || stand(&here, || drop(cell.get_or_init(|| 1))))
        };
        cancel(&here);
        let got = *cell.get_or_init(|| 2).unwrap();
        fails.join().unwrap();
        stopped.join().unwrap();
        assert_eq!(cell.get(), Some(&got));
    });
}
