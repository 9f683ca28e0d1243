//! Deadlines that move: `cancel/deadline.rs`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_child_linked_during_a_move_has_the_new_deadline` | it is in the list that the mover reads, or sees the instant | a link without a look after it |
//! | `a_grandchild_linked_during_a_move_has_the_new_deadline` | the same one step below | a walk that reads the list before it refreshes |
//! | `a_child_linked_during_moves_of_both_parents_has_the_earlier_deadline` | who refreshes second sees all that the first saw | a link that copies one parent's instant |
//! | `a_seat_registered_during_a_move_is_poked_or_sees_it` | nobody sleeps past a deadline that was moved | a walk that reads the seats before it stores the instant |
//! | `a_second_move_returns_when_all_below_have_it` | promise 2 of `cancel/deadline.rs` | a move without the tree lock |
//! | `a_mover_and_a_cancel_agree` | a deadline moves, or is a deadline no more | a refresh that looks out for what is marked |
//!
//! # Does not know
//!
//! What happens when one has come.

use super::{cancel, check, checker::thread, node};
use crate::{
    cancel::{deadline::Deadline, node::Node},
    park::seat::Chair,
    prim,
};
use std::{
    panic::Location,
    sync::Arc,
    time::{Duration, Instant},
};

/// So far away that no model reaches it.
fn far(hours: u32) -> Deadline {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(prim::now);
    let at = *START + hours * Duration::from_secs(3600);
    Deadline { at, limit: None, place: Location::caller() }
}

fn has_deadline(node: &Node, hours: u32) -> bool {
    let at = Some(far(hours).at);
    node.deadline() == at && node.next_due() == at && node.seen().is_none()
}

#[test]
fn a_child_linked_during_a_move_has_the_new_deadline() {
    for (before, after) in [(None, Some(2)), (Some(9), Some(2)), (Some(2), Some(9)), (Some(9), None)] {
        check(move || {
            let parent = node(None, None);
            parent.set_deadline(before.map(far));
            let theirs = Arc::clone(&parent);
            let linker = thread::spawn(move || node(Some(&theirs), None));
            parent.set_deadline(after.map(far));
            let child = linker.join().unwrap();
            match after {
                Some(hours) => assert!(has_deadline(&child, hours)),
                None => assert!(child.deadline().is_none() && child.seen() == Some(false)),
            }
        });
    }
}

#[test]
fn a_grandchild_linked_during_a_move_has_the_new_deadline() {
    check(|| {
        let root = node(None, None);
        root.set_deadline(Some(far(2)));
        let child = node(Some(&root), None);
        let linker = thread::spawn(move || node(Some(&child), None));
        root.set_deadline(Some(far(9)));
        assert!(has_deadline(&linker.join().unwrap(), 9));
    });
}

#[test]
fn a_child_linked_during_moves_of_both_parents_has_the_earlier_deadline() {
    check(|| {
        let (parent, also) = (node(None, None), node(None, None));
        parent.set_deadline(Some(far(1)));
        let movers = [(&parent, 9), (&also, 5)].map(|(node, hours)| {
            let node = Arc::clone(node);
            thread::spawn(move || node.set_deadline(Some(far(hours))))
        });
        let child = node(Some(&parent), Some(&also));
        for mover in movers {
            mover.join().unwrap();
        }
        assert!(has_deadline(&child, 5));
    });
}

#[test]
fn a_seat_registered_during_a_move_is_poked_or_sees_it() {
    check(|| {
        let root = node(None, None);
        root.set_deadline(Some(far(9)));
        let child = node(Some(&root), None);
        let mover = thread::spawn(move || root.set_deadline(Some(far(2))));
        let chair = Chair::new();
        let key = child.add_seat(chair.seat()).unwrap();
        // Until the new instant: if it sleeps for the old one, then a poke is owed.
        while child.next_due() != Some(far(2).at) {
            chair.park(child.next_due());
        }
        child.remove_seat(key);
        mover.join().unwrap();
    });
}

#[test]
fn a_second_move_returns_when_all_below_have_it() {
    check(|| {
        let root = node(None, None);
        let child = node(Some(&root), None);
        let theirs = (Arc::clone(&root), Arc::clone(&child));
        let other = thread::spawn(move || {
            theirs.0.set_deadline(Some(far(2)));
            assert!(has_deadline(&theirs.1, 2));
        });
        root.set_deadline(Some(far(2)));
        assert!(has_deadline(&child, 2));
        other.join().unwrap();
    });
}

#[test]
fn a_mover_and_a_cancel_agree() {
    check(|| {
        let root = node(None, None);
        let child = node(Some(&root), None);
        let theirs = Arc::clone(&root);
        let canceller = thread::spawn(move || cancel(&theirs));
        root.set_deadline(Some(far(2)));
        canceller.join().unwrap();
        assert!(root.is_stopping() && child.is_stopping());
        // Both saw the move, or nobody did; and nobody is to look out for it.
        assert_eq!(root.deadline(), child.deadline());
        assert_eq!((root.next_due(), child.next_due()), (None, None));
    });
}
