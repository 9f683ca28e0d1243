//! Park and poke: `park/seat.rs`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_poke_is_never_lost` | who pokes after a change makes the waiter see it | a poke that stores where it should swap |
//! | `every_poke_counts_with_two_pokers` | a poke that finds `POKED` publishes its change, too | a poke that returns when it reads `POKED` |
//! | `a_stale_poke_costs_a_look_and_no_more` | a poke before the change, or a token left over, eats no later poke | a park that forgets a poke that came before it |
//! | `a_poke_is_not_lost_beside_a_channel` | a poke reaches who sleeps in a channel, through the mailbox | a poke that unparks |
//! | `a_message_is_not_lost_to_a_poke` | data wins, and of a poke that comes with it a message is left at most | a mailbox that is made too late |
//! | `a_crowd_wakes_those_in_channels_too` | who leaves a channel takes part in waking the others | a park that forgets its crowd |
//! | `a_crowd_is_woken_by_those_who_are_woken` | who leaves its park takes part in waking the others | a park that forgets its crowd |
//! | `a_sleeper_whose_time_is_over_counts_only_if_it_helps` | the same where it leaves by itself | a helper that was not parked |
//! | `a_sleeper_in_two_crowds_is_missed_by_neither` | who helps one crowd is no helper of another | a crowd that takes the place of another |
//!
//! # Does not know
//!
//! What is waited for.

use super::{
    MANY, cancel, check,
    checker::{AtomicBool, thread},
    node,
};
use crate::{
    cancel::node::Node,
    park::{
        seat::{Chair, Channel, Seat},
        turns::Meeting,
    },
    prim::{self, Mailbox, Ordering},
};
use std::{sync::Arc, time::Instant};

fn wait_for(chair: &Chair, flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        chair.park(None);
    }
}

/// Changes, with no ordering of its own, then pokes.
fn change(flag: &AtomicBool, seat: &Seat) {
    flag.store(true, Ordering::Relaxed);
    seat.poke();
}

#[test]
fn a_poke_is_never_lost() {
    check(|| {
        let chair = Chair::new();
        let flag = Arc::new(AtomicBool::new(false));
        let (seat, theirs) = (Arc::clone(chair.seat()), Arc::clone(&flag));
        let poker = thread::spawn(move || change(&theirs, &seat));
        wait_for(&chair, &flag);
        poker.join().unwrap();
    });
}

#[test]
fn every_poke_counts_with_two_pokers() {
    check(|| {
        let chair = Chair::new();
        let flags = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let pokers = flags.clone().map(|flag| {
            let seat = Arc::clone(chair.seat());
            thread::spawn(move || change(&flag, &seat))
        });
        for flag in &flags {
            wait_for(&chair, flag);
        }
        for poker in pokers {
            poker.join().unwrap();
        }
    });
}

#[test]
fn a_stale_poke_costs_a_look_and_no_more() {
    check(|| {
        let chair = Chair::new();
        let flags = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (seat, theirs) = (Arc::clone(chair.seat()), flags.clone());
        let poker = thread::spawn(move || {
            seat.poke(); // for nothing
            for flag in &theirs {
                change(flag, &seat);
            }
        });
        for flag in &flags {
            wait_for(&chair, flag);
        }
        poker.join().unwrap();
    });
}

/// A channel of the user's, with room for one message.
#[derive(Default)]
struct Letters {
    channel: Arc<Mailbox>,
    /// One came while the thread slept.
    came: bool,
}

impl Letters {
    fn take(&mut self) -> bool {
        self.came |= self.channel.take();
        self.came
    }
}

impl Channel for Letters {
    fn sleep(&mut self, mailbox: &Mailbox, _: Option<Instant>) {
        Mailbox::sleep_in(&[&*self.channel, mailbox]);
        if !self.take() {
            mailbox.take();
        }
    }

    fn is_for_meeting(&self) -> bool {
        false
    }

    fn meet(&mut self, _: &Meeting) {}
}

/// A wait for a letter, or for a change that is poked; tells whether it has got a letter.
fn letter_or(letters: &mut Letters, chair: &Chair, changed: &AtomicBool) -> bool {
    loop {
        if letters.take() {
            return true;
        }
        if changed.load(Ordering::Relaxed) {
            return false;
        }
        chair.park_beside(letters, None);
    }
}

#[test]
fn a_poke_is_not_lost_beside_a_channel() {
    check(|| {
        let (chair, flag) = (Chair::new(), Arc::new(AtomicBool::new(false)));
        let seat = Arc::clone(chair.seat());
        let poker = thread::spawn({
            let flag = Arc::clone(&flag);
            move || change(&flag, &seat)
        });
        assert!(!letter_or(&mut Letters::default(), &chair, &flag));
        poker.join().unwrap();
    });
}

#[test]
fn a_message_is_not_lost_to_a_poke() {
    check(|| {
        let (chair, flag) = (Chair::new(), Arc::new(AtomicBool::new(false)));
        let seat = Arc::clone(chair.seat());
        let mut letters = Letters::default();
        let sender = thread::spawn({
            let letters = Arc::clone(&letters.channel);
            move || letters.put()
        });
        let poker = thread::spawn({
            let flag = Arc::clone(&flag);
            move || change(&flag, &seat)
        });
        let got = letter_or(&mut letters, &chair, &flag);
        sender.join().unwrap();
        // What was not taken is still there, and the poke that came meanwhile costs a look.
        assert!(got || letter_or(&mut letters, &chair, &AtomicBool::new(false)));
        wait_for(&chair, &flag);
        poker.join().unwrap();
    });
}

/// Sleeps at this node, in a channel where nothing comes, until the node stops.
fn sleep_in_channel(node: &Arc<Node>) {
    let chair = Chair::new();
    let key = node.add_seat(chair.seat());
    let mut letters = Letters::default();
    while !node.is_stopping() {
        chair.park_beside(&mut letters, None);
    }
    if let Ok(key) = key {
        node.remove_seat(key);
    }
}

#[test]
fn a_crowd_wakes_those_in_channels_too() {
    check(|| {
        let top = node(None, None);
        let sleepers: Vec<_> = (0..MANY)
            .map(|_| {
                let top = Arc::clone(&top);
                thread::spawn(move || sleep_in_channel(&top))
            })
            .collect();
        cancel(&top);
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    });
}

/// Sleeps at these nodes until all of them stop.
fn sleep_at(nodes: &[Arc<Node>]) {
    let chair = Chair::new();
    for node in nodes {
        let _ = node.add_seat(chair.seat());
    }
    while !nodes.iter().all(|node| node.is_stopping()) {
        chair.park(None);
    }
}

#[test]
fn a_crowd_is_woken_by_those_who_are_woken() {
    check(|| {
        let node = node(None, None);
        let sleepers = [(); MANY].map(|()| {
            let node = Arc::clone(&node);
            thread::spawn(move || sleep_at(&[node]))
        });
        cancel(&node);
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    });
}

#[test]
fn a_sleeper_whose_time_is_over_counts_only_if_it_helps() {
    check(|| {
        let node = node(None, None);
        let theirs = Arc::clone(&node);
        let first = thread::spawn(move || {
            let chair = Chair::new();
            let _ = theirs.add_seat(chair.seat());
            chair.park(Some(prim::now()));
        });
        let theirs = Arc::clone(&node);
        let second = thread::spawn(move || sleep_at(&[theirs]));
        cancel(&node);
        first.join().unwrap();
        second.join().unwrap();
    });
}

#[test]
fn a_sleeper_in_two_crowds_is_missed_by_neither() {
    check(|| {
        let nodes = [(); 2].map(|()| node(None, None));
        let theirs = nodes.clone();
        let sleeper = thread::spawn(move || sleep_at(&theirs));
        let theirs = nodes.clone();
        let other = thread::spawn(move || {
            cancel(&theirs[1]);
            sleep_at(&theirs);
        });
        cancel(&nodes[0]);
        sleeper.join().unwrap();
        other.join().unwrap();
    });
}
