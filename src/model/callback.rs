//! Callbacks against cancels and closes: `cancel/callback.rs`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_callback_runs_once_or_never_and_not_after_its_drop` | also against a cancel that has taken it out | a drop that does not wait |
//! | `a_callback_kept_registered_runs_once` | no cancel misses it, none runs it twice | a registration that does not look |
//! | `a_callback_of_a_closed_node_never_runs` | a close is not a cancel | effects that call for *closed* |
//!
//! # Does not know
//!
//! What a callback does.

use super::{Plain, cancel, check, checker::thread, node};
use std::sync::Arc;

fn callback(runs: &Arc<Plain>) -> Box<dyn FnOnce() + Send> {
    let runs = Arc::clone(runs);
    Box::new(move || runs.touch())
}

#[test]
fn a_callback_runs_once_or_never_and_not_after_its_drop() {
    check(|| {
        let node = node(None, None);
        let theirs = Arc::clone(&node);
        let canceller = thread::spawn(move || cancel(&theirs));
        let runs = Arc::new(Plain::default());
        let registration = node.on_cancel(callback(&runs));
        drop(registration);
        // What has run is seen, and nothing runs from here on.
        let seen = runs.seen();
        canceller.join().unwrap();
        assert_eq!(runs.seen(), seen);
        assert!(seen <= 1);
    });
}

#[test]
fn a_callback_kept_registered_runs_once() {
    check(|| {
        let root = node(None, None);
        let child = node(Some(&root), None);
        let other = Arc::clone(&child);
        let cancellers = [thread::spawn(move || cancel(&root)), thread::spawn(move || cancel(&other))];
        let runs = Arc::new(Plain::default());
        let registration = child.on_cancel(callback(&runs));
        for canceller in cancellers {
            canceller.join().unwrap();
        }
        drop(registration);
        assert_eq!(runs.seen(), 1);
    });
}

#[test]
fn a_callback_of_a_closed_node_never_runs() {
    check(|| {
        let node = node(None, None);
        let theirs = Arc::clone(&node);
        let closer = thread::spawn(move || theirs.close());
        let runs = Arc::new(Plain::default());
        let registration = node.on_cancel(callback(&runs));
        drop(registration);
        closer.join().unwrap();
        assert_eq!(runs.seen(), 0);
        assert_eq!(Arc::strong_count(&runs), 1);
    });
}
