//! The count and the exit, and the two ends of a cell: `raw/tether.rs`, `raw/cell.rs`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `a_frame_stays_open_for_what_its_closures_tie` | a late spawn goes up before its spawner comes down | a count raised by whoever runs the closure |
//! | `the_owner_sees_everything_when_the_count_is_zero` | effects and captures are gone before the count is lowered, and the last lowering wakes | a count lowered before the closure is dropped, a relaxed count, a poke before the count |
//! | `the_owner_sees_everything_of_what_was_given_back` | the same where it is lowered by who has the lock | as above |
//! | `the_owner_sees_everything_of_what_was_swept` | the same for a closure that is discarded | a count lowered before the captures are dropped |
//! | `a_value_is_taken_or_dropped_once_by_either_end` | the content of a cell belongs to one end at a time | a writer that stores its state where it should swap |
//! | `a_value_that_nobody_wants_is_dropped_once` | who comes second drops it, while the frame is open | as above |
//!
//! # Does not know
//!
//! Scopes and jobs.

use super::{Bare, Plain, Touches, check, checker::thread};
use crate::{
    park::seat::{Chair, Seat},
    prim::Mutex,
    raw::{Home, Reader, Tally, Tied, tether},
};
use std::sync::Arc;

/// Wakes the owner.
struct Owner(Arc<Seat>);

impl Home for Owner {
    type Held = ();

    fn all_home(&self) {
        self.0.poke();
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
    check(|| counted_out(|_, tied| tied.try_discard().unwrap()));
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
