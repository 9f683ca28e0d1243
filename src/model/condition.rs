//! Waits under a lock: `prim.rs`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_wait_under_a_lock_misses_no_change` | who sees no change under the lock is told of it, also a second waiter | a wait that is listed after it has unlocked |
//!
//! # Does not know
//!
//! What the lock guards.

use super::check;
use super::checker::thread;
use crate::prim::{Condition, Mutex};
use std::sync::Arc;

#[test]
fn a_wait_under_a_lock_misses_no_change() {
    check(|| {
        let shared = Arc::new((Mutex::new(0), Condition::default()));
        let wait_for_two = |shared: &(Mutex<u32>, Condition)| {
            let mut seen = shared.0.lock();
            while *seen < 2 {
                seen = shared.1.wait(seen, || shared.0.lock());
            }
        };
        let (changer, other) = (Arc::clone(&shared), Arc::clone(&shared));
        let changes = thread::spawn(move || {
            for _ in 0..2 {
                *changer.0.lock() += 1;
                changer.1.tell();
            }
        });
        let waits = thread::spawn(move || wait_for_two(&other));
        wait_for_two(&shared);
        changes.join().unwrap();
        waits.join().unwrap();
    });
}
