//! Models of the protocols, run by loom: `RUSTFLAGS="--cfg tassel_loom" cargo test --release --lib model`.
//!
//! Each runs the code that ships, on loom's locks and atomics, in every order of two or three threads with at most three
//! preemptions (two, where there are many steps), and with every value that the memory orderings allow a load to see. A wake-up that is lost shows as a
//! deadlock, an effect that is not ordered before a look as a stale value.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_poke_is_never_lost` | who pokes after a change makes the waiter see it | a poke that stores where it should swap |
//! | `every_poke_counts_with_two_pokers` | a poke that finds `POKED` publishes its change, too | a poke that returns when it reads `POKED` |
//! | `a_stale_poke_costs_a_look_and_no_more` | a poke before the change, or a token left over, eats no later poke | a park that forgets a poke that came before it |
//! | `a_poke_is_not_lost_beside_a_channel` | a poke reaches who sleeps in a channel, through the mailbox | a poke that unparks |
//! | `a_message_is_not_lost_to_a_poke` | data wins, and of a poke that comes with it a message is left at most | a mailbox that is made too late |
//! | `a_crowd_wakes_those_in_channels_too` | who leaves a channel takes part in waking the others | a park that forgets its crowd |
//! | `a_wait_under_a_lock_misses_no_change` | who sees no change under the lock is told of it, also a second waiter | a wait that is listed after it has unlocked |
//! | `a_crowd_is_woken_by_those_who_are_woken` | who leaves its park takes part in waking the others | a park that forgets its crowd |
//! | `a_sleeper_whose_time_is_over_counts_only_if_it_helps` | the same where it leaves by itself | a helper that was not parked |
//! | `a_sleeper_in_two_crowds_is_missed_by_neither` | who helps one crowd is no helper of another | a crowd that takes the place of another |
//! | `a_job_that_waits_at_its_scope_s_node_is_stopped_by_its_handle` | who makes a job its own node tells the waiter | a node that is made in silence |
//! | `a_child_linked_during_a_cancel_is_marked` | it is in the list that the walk reads, or copies the flag | a link without the copy |
//! | `a_grandchild_linked_during_a_cancel_is_marked` | the same one step below the node that is cancelled | a walk that reads the list before it sets the flag |
//! | `a_child_is_marked_through_its_second_parent` | the same for `Parents::also` | a link that looks at the first parent only |
//! | `a_second_cancel_returns_when_all_below_is_marked` | promise 1 of `cancel/mark.rs` | a second cancel that does not take the tree lock |
//! | `a_cancel_through_another_tree_waits_for_the_walk` | the same where a walk through the other parent is under way | a tree lock per tree |
//! | `a_mark_never_shows_without_a_cause` | cause before flag, on a walk and on a late link | a flag set before the cause |
//! | `a_seat_registered_during_a_cancel_is_poked_or_refused` | *registered* means that a poke will come | a registration that does not look |
//! | `a_hook_set_during_a_cancel_is_told` | one side sees the other | a look outside the lock |
//! | `a_child_linked_during_a_close_is_cancelled` | a leaf that is closed without the tree lock is seen by late children | a close that sets the flag after it has unlocked |
//! | `a_child_linked_during_a_close_with_a_walk_is_cancelled` | the same where the close walks | as above |
//! | `a_child_linked_during_a_move_has_the_new_deadline` | it is in the list that the mover reads, or sees the instant | a link without a look after it |
//! | `a_grandchild_linked_during_a_move_has_the_new_deadline` | the same one step below | a walk that reads the list before it refreshes |
//! | `a_child_linked_during_moves_of_both_parents_has_the_earlier_deadline` | who refreshes second sees all that the first saw | a link that copies one parent's instant |
//! | `a_seat_registered_during_a_move_is_poked_or_sees_it` | nobody sleeps past a deadline that was moved | a walk that reads the seats before it stores the instant |
//! | `a_cleanup_linked_during_a_cancel_now_is_ended` | the end of the grace is handed down as a cancel is | a look at `STOPPING` only |
//! | `a_second_move_returns_when_all_below_have_it` | promise 2 of `cancel/deadline.rs` | a move without the tree lock |
//! | `a_mover_and_a_cancel_agree` | a deadline moves, or is a deadline no more | a refresh that looks out for what is marked |
//! | `a_callback_runs_once_or_never_and_not_after_its_drop` | also against a cancel that has taken it out | a drop that does not wait |
//! | `a_callback_kept_registered_runs_once` | no cancel misses it, none runs it twice | a registration that does not look |
//! | `a_callback_of_a_closed_node_never_runs` | a close is not a cancel | effects that call for *closed* |
//! | `the_owner_sees_everything_when_the_count_is_zero` | effects and captures are gone before the count is lowered, and the last lowering wakes | a count lowered before the closure is dropped, a relaxed count, a poke before the count |
//! | `the_owner_sees_everything_of_what_was_given_back` | the same where it is lowered by who has the lock | as above |
//! | `the_owner_sees_everything_of_what_was_swept` | the same for a closure that is discarded | a count lowered before the captures are dropped |
//! | `a_frame_stays_open_for_what_its_closures_tie` | a late spawn goes up before its spawner comes down | a count raised by whoever runs the closure |
//! | `a_value_is_taken_or_dropped_once_by_either_end` | the content of a cell belongs to one end at a time | a writer that stores its state where it should swap |
//! | `a_value_that_nobody_wants_is_dropped_once` | who comes second drops it, while the frame is open | as above |
//! | `a_claimed_job_starts_or_is_dropped` | exactly one outcome, of runner, cancel and joiner | a drop that stores where it should exchange |
//! | `a_job_cancelled_by_its_handle_starts_or_is_dropped` | the same for a cancel of the job's own node | as above |
//! | `a_timeout_in_the_queue_is_on_record_when_the_scope_ends` | whoever decides records before anybody counts the job out | a record after the lock is let go |
//! | `a_joiner_is_told_of_the_end` | outcome and joiners change under one lock | joiners taken before the outcome is there |
//! | `of_joins_that_close_a_ring_at_once_exactly_one_is_refused` | to enter and to search is one step | a lock let go between the two |
//! | `work_handed_to_a_leaving_worker_is_done` | a worker that leaves and work that comes decide under one lock | a worker that leaves although it was taken |
//! | `work_handed_to_a_sleeping_worker_is_done` | the token is kept until the worker sleeps | a worker that lies down after it has unlocked |
//! | `a_source_that_is_listed_late_is_let_go` | who lists and who leaves need no order | an unlisting that trusts the list |
//! | `work_behind_a_worker_that_blocks_unseen_is_done` | two looks give its place to another | a worker found blocked that keeps its place |
//! | `work_left_by_a_refused_thread_is_done` | an idle worker takes what a start that failed was for | a refusal that only undoes its reservation |
//!
//! Those of what jobs share stand in `model/sync.rs`.
//!
//! # Does not know
//!
//! Time (it stands still, and the alarm is silent), virtual runs, and what threads keep in `thread_local!`: loom's
//! threads share one of the system's.

mod sync;

use crate::{
    cancel::{
        current::{self, Activity, Frame, Ground, Line, Seed, Strand},
        deadline::Deadline,
        mark::tree_lock,
        node::{Hook, Node, Parents, Sight, Terms},
        reason::{Label, Reason, ReasonKind},
    },
    park::{
        clock::Clock,
        seat::{Chair, Channel, Seat},
        standstill::{Party, Wait},
        turns::Meeting,
    },
    pool::{Pool, Source, while_blocked},
    prim::{AtomicUsize, Condition, Mailbox, Mutex, Ordering},
    raw::{Face, Home, Reader, Tally, Tether, Tied, tether},
    scope::{
        core::{Core, Queued, Setup},
        job::{Facts, Outcome},
        run,
    },
    wait::{
        Call,
        cycle::{self, For},
        wait_in,
    },
};
use loom::{model::Builder, sync::atomic::AtomicBool, thread};
use std::{
    panic::Location,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

fn check(model: impl Fn() + Send + Sync + 'static) {
    check_with(3, model);
}

/// As [`check`], with that many preemptions at most.
fn check_with(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        // Made here, so that its first use orders nothing.
        drop(tree_lock());
        model();
    });
}

#[track_caller]
fn label(what: &'static str) -> Label {
    Label::new(what, None, Location::caller())
}

fn node(parent: Option<&Arc<Node>>, also: Option<&Arc<Node>>) -> Arc<Node> {
    Node::new(&Parents { parent, also }, label("node"), Clock::Real, None)
}

fn cancel(node: &Arc<Node>) {
    cancel_as(ReasonKind::Explicit, node);
}

fn cancel_as(kind: ReasonKind, node: &Arc<Node>) {
    node.cancel(&Reason::new(kind, label("model"), Instant::now()), true);
}

/// Counts what is done, with no ordering of its own: a reader that nothing orders after it may miss it.
#[derive(Debug, Default)]
struct Plain(AtomicUsize);

impl Plain {
    fn touch(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn seen(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// Waits under a lock.

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

// Seats.

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
        let sleepers: Vec<_> = (0..2)
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
        let sleepers = [(); 2].map(|()| {
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
            chair.park(Some(Instant::now()));
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

// The cancellation tree.

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

/// So far away that no model reaches it.
fn far(hours: u32) -> Deadline {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
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
        let reason = Reason::new(ReasonKind::Explicit, label("model"), Instant::now());
        parent.cancel_within(&reason, true, Some(Duration::ZERO));
        let (cleanup, shield) = linker.join().unwrap();
        assert!(cleanup.is_stopping() && cleanup.reason().is_some());
        assert!(!shield.is_stopping());
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

// Count and exit.

/// Wakes the owner.
struct Owner(Arc<Seat>);

impl Home for Owner {
    type Held = ();

    fn all_home(&self) {
        self.0.poke();
    }
}

/// No face: the tether itself.
struct Bare<H: Home>(std::marker::PhantomData<H>);

impl<H: Home> Face for Bare<H> {
    type Home = H;
    type Of<'t, 'env>
        = Tether<'t, 'env, H>
    where
        'env: 't;

    fn wrap<'t, 'env>(tether: Tether<'t, 'env, H>) -> Tether<'t, 'env, H> {
        tether
    }
}

/// A capture whose drop touches the frame.
struct Touches<'a>(&'a Plain);

impl Touches<'_> {
    /// By reference to the whole, so that a closure captures that.
    fn touch(&self) {
        self.0.touch();
    }

    /// As a closure's whole code.
    fn go(self) -> Result<(), ()> {
        self.touch();
        Ok(())
    }
}

impl Drop for Touches<'_> {
    fn drop(&mut self) {
        self.0.touch();
    }
}

#[test]
fn a_frame_stays_open_for_what_its_closures_tie() {
    check(|| {
        let chair = Chair::new();
        let tally = Tally::new(Owner(Arc::clone(chair.seat())), ());
        let cell = Plain::default();
        let mut thread = None;
        let result = tether::<Bare<Owner>, _, _>(
            &tally,
            |frame| {
                let (tether, late) = (frame.0, Touches(&cell));
                let second = Arc::new(Mutex::new(None));
                let place = Arc::clone(&second);
                let tie_late = move || {
                    *place.lock() = Some(tether.tie((), move || late.go(), |(), tied| tied).0);
                    Ok::<(), ()>(())
                };
                let (first, _) = tether.tie((), tie_late, |(), tied| tied);
                thread = Some(thread::spawn(move || {
                    first.run();
                    // From here on, only the second holds the frame open.
                    drop(first);
                    let second = second.lock().take();
                    second.unwrap().run();
                }));
            },
            drop,
            || {
                while tally.live() > 0 {
                    chair.park(None);
                }
            },
        );
        assert!(result.is_ok());
        assert_eq!(cell.seen(), 2);
        thread.unwrap().join().unwrap();
    });
}

#[test]
fn the_owner_sees_everything_when_the_count_is_zero() {
    check(|| counted_out(|_, tied| drop(tied)));
}

#[test]
fn the_owner_sees_everything_of_what_was_given_back() {
    check(|| {
        counted_out(|tally, tied| {
            let (lent, kept) = tied.lend();
            lent.spend();
            let shared = tally.lock().give_back(kept, lent);
            drop(shared);
        });
    });
}

#[test]
fn the_owner_sees_everything_of_what_was_swept() {
    check(|| counted_out(|_, tied| tied.discard().unwrap()));
}

/// One closure is run and dropped, the other only dropped, in that way.
fn counted_out(unrun: fn(&Tally<Owner>, Tied<Owner, (), ()>)) {
    let chair = Chair::new();
    let tally = Tally::new(Owner(Arc::clone(chair.seat())), ());
    let cells = [Plain::default(), Plain::default()];
    let mut threads = Vec::new();
    let result = tether::<Bare<Owner>, _, _>(
        &tally,
        |frame| {
            let tether = frame.0;
            let run = Touches(&cells[0]);
            let (tied, _) = tether.tie((), move || run.go(), |(), tied| tied);
            threads.push(thread::spawn(move || {
                tied.run();
            }));
            let dropped = Touches(&cells[1]);
            let (tied, _) = tether.tie((), move || dropped.go(), |(), tied| tied);
            let tally = Arc::clone(&tally);
            threads.push(thread::spawn(move || unrun(&tally, tied)));
        },
        drop,
        || {
            while tally.live() > 0 {
                chair.park(None);
            }
        },
    );
    assert!(result.is_ok());
    assert_eq!(cells.each_ref().map(Plain::seen), [2, 1]);
    for thread in threads {
        thread.join().unwrap();
    }
}

// The two ends of a cell.

#[test]
fn a_value_is_taken_or_dropped_once_by_either_end() {
    check(|| cell_ends(|reader| drop(reader.take())));
}

#[test]
fn a_value_that_nobody_wants_is_dropped_once() {
    check(|| cell_ends(|reader| drop(reader)));
}

/// One thread runs a closure and the frame's owner ends with its reader, in that way.
fn cell_ends(end: impl for<'t> FnOnce(Reader<'t, (), Touches<'t>, ()>)) {
    let chair = Chair::new();
    let tally = Tally::new(Owner(Arc::clone(chair.seat())), ());
    let value = Plain::default();
    let mut thread = None;
    let result = tether::<Bare<Owner>, _, _>(
        &tally,
        |frame| {
            let value = &value;
            let (tied, reader) = frame.0.tie((), move || Ok(Touches(value)), |(), tied| tied);
            let tally = Arc::clone(&tally);
            thread = Some(thread::spawn(move || {
                let (lent, kept) = tied.lend();
                lent.run();
                let before = lent.publish(1);
                assert_eq!((before.unwrap(), lent.shared().state()), (0, 1));
                let shared = tally.lock().give_back(kept, lent);
                drop(shared);
            }));
            end(reader);
        },
        drop,
        || {
            while tally.live() > 0 {
                chair.park(None);
            }
        },
    );
    assert!(result.is_ok());
    assert_eq!(value.seen(), 1);
    thread.unwrap().join().unwrap();
}

// Jobs.

/// How a thread of a model stops a job.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    Scope,
    Handle,
    Timeout,
    Not,
}

/// One thread claims and runs the only job, another stops it, the scope's owner waits as a joiner (but for
/// [`Stop::Timeout`]), then for the count.
fn claim_against(stop: Stop) {
    let chair = Chair::new();
    let node = node(None, None);
    let pool = Pool::builder().parallelism(1).build().unwrap();
    let ground = Ground::new(Arc::clone(&node), None);
    let core = Core::new(Setup {
        body: Strand::on(&ground, label("body"), 0),
        ground: Arc::clone(&ground),
        pool: Arc::clone(pool.core()),
        fail_fast: stop != Stop::Timeout,
        inline: true,
        inlined: 0,
        keep: None,
    });
    let seed = Seed::new(None, label("job").place, 1);
    if matches!(stop, Stop::Handle | Stop::Timeout) {
        // Made here: loom does not know that a std cell publishes what it holds.
        seed.strand(&ground).node();
    }
    let mut seed = Some(seed);
    let mut job = None;
    let (ran, captures) = (Plain::default(), Plain::default());
    let mut threads = Vec::new();
    let mut dropped = None;
    let mut joined = None;
    let result = tether::<Bare<Core>, _, _>(
        &core,
        |frame| {
            let (ran, captures) = (&ran, Touches(&captures));
            let tether: &Tether<'_, '_, Core> = frame.0;
            let work = move || {
                captures.touch();
                ran.touch();
                Ok(())
            };
            let facts = Facts::new(seed.take().unwrap(), false, false);
            let (tied, _): (Queued, _) = tether.tie(facts, work, |_, tied| tied);
            let job = job.insert(tied.shared().clone());
            let claimed = core.claim_new(tied).unwrap();
            let runs_in = Arc::clone(&core);
            threads.push(thread::spawn(move || runs_in.leave(claimed.run(&runs_in, false).unwrap())));
            if stop != Stop::Not {
                let (job, node, core) = (job.clone(), Arc::clone(&node), Arc::clone(&core));
                let ground = Arc::clone(&ground);
                dropped = Some(thread::spawn(move || {
                    match stop {
                        Stop::Scope => cancel(&node),
                        Stop::Timeout => cancel_as(ReasonKind::Deadline, job.seed.strand(&ground).node()),
                        _ => cancel(job.seed.strand(&ground).node()),
                    }
                    let dropped = run::give_up(&core, &job);
                    // A job that is dropped says so at once, and that it never started.
                    let outcome = job.outcome();
                    let never = matches!(outcome, Some(Outcome::Cancelled { started: false, .. } | Outcome::Failed(_)));
                    assert!(never || !dropped);
                    dropped
                }));
            }
            if stop == Stop::Timeout {
                return; // a joiner would wait until it is on record
            }
            joined = Some(loop {
                job.add_joiner(chair.seat());
                if let Some(outcome) = job.outcome() {
                    break outcome;
                }
                chair.park(None);
            });
        },
        drop,
        || {
            // The count's poke goes to the core's owner, whom a model cannot be: see `with_chair`.
            while core.live() > 0 {
                thread::yield_now();
            }
        },
    );
    assert!(result.is_ok());
    let job = job.unwrap();
    // The scope has ended: what is not on record by now is lost.
    let failed = core.take_leaf(job.id()).is_some();
    let ran = ran.seen();
    assert_eq!(captures.seen(), ran + 1);
    let dropped = dropped.is_some_and(|thread| thread.join().unwrap());
    for thread in threads {
        thread.join().unwrap();
    }
    for outcome in joined.into_iter().chain(job.outcome()) {
        match outcome {
            Outcome::Value => assert!(ran == 1 && !dropped),
            Outcome::Cancelled { started: false, .. } => {
                assert!(ran == 0 && matches!(stop, Stop::Scope | Stop::Handle))
            }
            Outcome::Failed(_) => assert!(ran == 0 && failed && stop == Stop::Timeout),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_claimed_job_starts_or_is_dropped() {
    check_with(2, || claim_against(Stop::Scope));
}

#[test]
fn a_job_cancelled_by_its_handle_starts_or_is_dropped() {
    check_with(2, || claim_against(Stop::Handle));
}

#[test]
fn a_timeout_in_the_queue_is_on_record_when_the_scope_ends() {
    check(|| claim_against(Stop::Timeout));
}

#[test]
fn a_joiner_is_told_of_the_end() {
    check(|| claim_against(Stop::Not));
}

#[test]
fn a_job_that_waits_at_its_scope_s_node_is_stopped_by_its_handle() {
    check(|| {
        let scope = node(None, None);
        let (ground, seed) = (Ground::new(Arc::clone(&scope), None), Seed::new(None, Location::caller(), 1));
        let strand = Arc::clone(seed.strand(&ground));
        let waiter = thread::spawn(move || {
            let chair = Chair::new();
            let (line, base) = (Line::Seed(&seed, &ground), &ground.node);
            let frame = Frame { line, base, is_region: false, scope: 0, inlined: 0, uses: None };
            let call = Call::new(Activity::Sleep, Wait::Open);
            current::enter(frame, || wait_in(&chair, &call, None, &mut |_| None::<()>).is_err())
        });
        cancel(strand.node());
        assert!(waiter.join().unwrap());
        assert!(!scope.is_stopping());
    });
}

// Joins.

#[test]
fn of_joins_that_close_a_ring_at_once_exactly_one_is_refused() {
    check(|| {
        let ground = Ground::new(node(None, None), None);
        let job = |number| Strand::on(&ground, Label { number, ..label("job") }, number);
        let (a, b) = (job(1), job(2));
        let other = {
            let (a, b) = (Arc::clone(&a), Arc::clone(&b));
            thread::spawn(move || cycle::enter(&[b], &For::Job(a)))
        };
        let mine = cycle::enter(&[a], &For::Job(b));
        let other = other.join().unwrap();
        assert!(mine.is_ok() != other.is_ok());
        assert_eq!(mine.err().or(other.err()).unwrap().len(), 2);
    });
}

// The pool.

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
    fn run(&self, go_on: &mut dyn FnMut() -> bool) -> bool {
        let mut ran = false;
        while self.run_one() {
            ran = true;
            if !go_on() {
                break;
            }
        }
        ran
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

fn hand_off(keep_alive: Duration) {
    let pool = pool(keep_alive);
    let chair = Chair::new();
    let jobs = Jobs::new(&chair, Blocks::Not);
    jobs.add(&pool);
    jobs.wait(&chair, 1);
    // The worker is about to look for more, lies down, sleeps, leaves or is gone.
    jobs.add(&pool);
    jobs.wait(&chair, 2);
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
        pool.core().look(Instant::now(), |_| None);
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
            pool.core().look(Instant::now(), |_| Some(true));
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
