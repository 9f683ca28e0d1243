//! Calls that may be left behind: `wait/abandon.rs`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `who_waits_for_a_call_is_told_of_its_end` | seat and end change under one lock | an end that pokes nobody |
//! | `what_a_call_ends_with_is_for_who_waits_or_for_the_call` | exactly one of them has it, whatever stop comes | a waiter that leaves without a look |
//!
//! # Does not know
//!
//! The thread that makes the call, and the limit.

use super::{cancel, check, checker::thread, node};
use crate::{
    cancel::{
        current::{self, Activity, Frame, Ground, Line, Seed},
        node::Node,
    },
    park::{seat::Chair, standstill::Wait},
    wait::{Call, abandon::Handover, wait_in},
};
use std::{panic::Location, sync::Arc};

/// Waits in a job for the end of a call, or leaves it behind.
fn await_end(handover: &Handover<u8>, scope: &Arc<Node>) -> Option<u8> {
    let (ground, seed) = (Ground::new(Arc::clone(scope), None), Seed::new(None, Location::caller(), 1));
    let chair = Chair::new();
    let (line, base) = (Line::Seed(&seed, &ground), &ground.node);
    let frame = Frame { line, base, is_region: false, scope: 0, inlined: 0, uses: None };
    let call = Call::new(Activity::Abandon, Wait::Open);
    let waited = current::enter(frame, || wait_in(&chair, &call, None, &mut |seat| handover.look(seat)));
    waited.ok().or_else(|| handover.leave())
}

#[test]
fn who_waits_for_a_call_is_told_of_its_end() {
    check(|| {
        let handover = Arc::new(Handover::new());
        let call = {
            let handover = Arc::clone(&handover);
            thread::spawn(move || handover.end(7))
        };
        assert_eq!(await_end(&handover, &node(None, None)), Some(7));
        assert_eq!(call.join().unwrap(), Ok(()));
    });
}

#[test]
fn what_a_call_ends_with_is_for_who_waits_or_for_the_call() {
    check(|| {
        let (handover, scope) = (Arc::new(Handover::new()), node(None, None));
        let call = {
            let handover = Arc::clone(&handover);
            thread::spawn(move || handover.end(7))
        };
        let waiter = {
            let (handover, scope) = (Arc::clone(&handover), Arc::clone(&scope));
            thread::spawn(move || await_end(&handover, &scope))
        };
        cancel(&scope);
        match (waiter.join().unwrap(), call.join().unwrap()) {
            (Some(7), Ok(())) | (None, Err(7)) => {}
            other => panic!("lost, or there twice: {other:?}"),
        }
    });
}
