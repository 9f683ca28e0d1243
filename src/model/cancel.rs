//! Marks and closes against whatever is linked meanwhile: `cancel/node.rs`, `cancel/mark.rs`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_child_linked_during_a_cancel_is_marked` | it is in the list that the walk reads, or copies the flag | a link without the copy |
//! | `a_grandchild_linked_during_a_cancel_is_marked` | the same one step below the node that is cancelled | a walk that reads the list before it sets the flag |
//! | `a_child_is_marked_through_its_second_parent` | the same for `Parents::also` | a link that looks at the first parent only |
//! | `a_second_cancel_returns_when_all_below_is_marked` | promise 1 of `cancel/mark.rs` | a second cancel that does not take the tree lock |
//! | `a_cancel_through_another_tree_waits_for_the_walk` | the same where a walk through the other parent is under way | a tree lock per tree |
//! | `a_mark_never_shows_without_a_cause` | cause before flag, on a walk and on a late link | a flag set before the cause |
//! | `a_seat_registered_during_a_cancel_is_poked_or_refused` | *registered* means that a poke will come | a registration that does not look |
//! | `a_cleanup_linked_during_a_cancel_now_is_ended` | the end of the grace is handed down as a cancel is | a look at `STOPPING` only |
//! | `a_hook_set_during_a_cancel_is_told` | one side sees the other | a look outside the lock |
//! | `a_child_linked_during_a_close_is_cancelled` | a leaf that is closed without the tree lock is seen by late children | a close that sets the flag after it has unlocked |
//! | `a_child_linked_during_a_close_with_a_walk_is_cancelled` | the same where the close walks | as above |
//!
//! # Does not know
//!
//! Jobs and threads.

use super::{Plain, cancel, check, checker::thread, label, node};
use crate::{
    cancel::{
        node::{Hook, Node, Parents, Sight, Terms},
        reason::{Reason, ReasonKind},
    },
    park::{clock::Clock, seat::Chair},
    prim,
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

#[test]
fn a_child_linked_during_a_cancel_is_marked() {
    check(|| {
        let parent = node(None, None);
        let theirs = Arc::clone(&parent);
        let linker = thread::spawn(move || node(Some(&theirs), None));
        cancel(&parent);
        let child = linker.join().unwrap();
        assert!(child.is_stopping());
        assert!(child.reason().is_some());
    });
}

#[test]
fn a_grandchild_linked_during_a_cancel_is_marked() {
    check(|| {
        let root = node(None, None);
        let child = node(Some(&root), None);
        let theirs = Arc::clone(&child);
        let linker = thread::spawn(move || node(Some(&theirs), None));
        cancel(&root);
        assert!(child.is_stopping());
        assert!(linker.join().unwrap().is_stopping());
    });
}

#[test]
fn a_child_is_marked_through_its_second_parent() {
    check(|| {
        let (parent, also) = (node(None, None), node(None, None));
        let theirs = (Arc::clone(&parent), Arc::clone(&also));
        let linker = thread::spawn(move || node(Some(&theirs.0), Some(&theirs.1)));
        cancel(&also);
        let child = linker.join().unwrap();
        assert!(child.is_stopping());
        assert!(!parent.is_stopping());
        assert!(child.outside().is_some());
    });
}

#[test]
fn a_second_cancel_returns_when_all_below_is_marked() {
    check(|| {
        let root = node(None, None);
        let child = node(Some(&root), None);
        let leaf = node(Some(&child), None);
        let theirs = (Arc::clone(&root), Arc::clone(&leaf));
        let other = thread::spawn(move || {
            cancel(&theirs.0);
            assert!(theirs.1.is_stopping());
        });
        cancel(&root);
        assert!(child.is_stopping());
        assert!(leaf.is_stopping());
        other.join().unwrap();
    });
}

#[test]
fn a_cancel_through_another_tree_waits_for_the_walk() {
    check(|| {
        let (root, also) = (node(None, None), node(None, None));
        let child = node(Some(&root), Some(&also));
        let leaf = node(Some(&child), None);
        let other = thread::spawn(move || cancel(&root));
        cancel(&also);
        assert!(child.is_stopping());
        assert!(leaf.is_stopping());
        other.join().unwrap();
    });
}

#[test]
fn a_mark_never_shows_without_a_cause() {
    check(|| {
        let root = node(None, None);
        let child = node(Some(&root), None);
        let theirs = Arc::clone(&root);
        let canceller = thread::spawn(move || cancel(&theirs));
        // On a thread of its own: loom tries no order in which the first look of the main one comes late.
        let looker = thread::spawn(move || {
            for node in [&root, &child] {
                if node.is_stopping() {
                    assert!(node.reason().is_some());
                }
            }
            let late = node(Some(&child), None);
            if late.is_stopping() {
                assert!(late.reason().is_some());
                assert!(late.outside().is_some());
            }
            late
        });
        canceller.join().unwrap();
        assert!(looker.join().unwrap().is_stopping());
    });
}

#[test]
fn a_seat_registered_during_a_cancel_is_poked_or_refused() {
    check(|| {
        let root = node(None, None);
        let child = node(Some(&root), None);
        let canceller = thread::spawn(move || cancel(&root));
        let chair = Chair::new();
        if let Ok(key) = child.add_seat(chair.seat()) {
            // Not even a look: a poke is owed.
            loop {
                chair.park(None);
                if child.is_stopping() {
                    break;
                }
            }
            child.remove_seat(key);
        }
        assert!(child.is_stopping());
        canceller.join().unwrap();
    });
}

#[test]
fn a_cleanup_linked_during_a_cancel_now_is_ended() {
    check(|| {
        let parent = node(None, None);
        cancel(&parent);
        let theirs = Arc::clone(&parent);
        let linker = thread::spawn(move || {
            let terms = |sight| Terms { sight, ..Terms::default() };
            let parents = Parents { parent: Some(&theirs), also: None };
            let cleanup = Node::with(&parents, label("cleanup"), Clock::Real, terms(Sight::End));
            let parents = Parents { parent: Some(&cleanup), also: None };
            let shield = Node::with(&parents, label("shield"), Clock::Real, terms(Sight::Shielded));
            (cleanup, shield)
        });
        let reason = Reason::new(ReasonKind::Explicit, label("model"), prim::now());
        parent.cancel_within(&reason, true, Some(Duration::ZERO));
        let (cleanup, shield) = linker.join().unwrap();
        assert!(cleanup.is_stopping() && cleanup.reason().is_some());
        assert!(!shield.is_stopping());
    });
}

/// Counts how often it is told.
#[derive(Debug, Default)]
struct Told(Plain);

impl Hook for Told {
    fn host(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync> {
        self
    }

    fn stopping(&self) {
        self.0.touch();
    }
}

#[test]
fn a_hook_set_during_a_cancel_is_told() {
    check(|| {
        let node = node(None, None);
        let told = Arc::new(Told::default());
        let theirs = Arc::clone(&node);
        let canceller = thread::spawn(move || cancel(&theirs));
        let hook: Weak<Told> = Arc::downgrade(&told);
        node.set_hook(hook);
        canceller.join().unwrap();
        assert!(told.0.seen() > 0);
    });
}

#[test]
fn a_child_linked_during_a_close_is_cancelled() {
    check(|| {
        let parent = node(None, None);
        let theirs = Arc::clone(&parent);
        let linker = thread::spawn(move || node(Some(&theirs), None));
        parent.close();
        assert!(parent.is_stopping());
        let child = linker.join().unwrap();
        assert!(child.is_stopping());
        assert!(child.reason().is_some_and(|reason| reason.kind() == ReasonKind::Closed));
    });
}

#[test]
fn a_child_linked_during_a_close_with_a_walk_is_cancelled() {
    check(|| {
        let root = node(None, None);
        let parent = node(Some(&root), None);
        let sibling = node(Some(&parent), None);
        let theirs = Arc::clone(&parent);
        let linker = thread::spawn(move || node(Some(&theirs), None));
        let canceller = thread::spawn(move || cancel(&root));
        parent.close();
        assert!(parent.is_stopping());
        assert!(sibling.is_stopping());
        let child = linker.join().unwrap();
        assert!(child.is_stopping());
        canceller.join().unwrap();
    });
}
