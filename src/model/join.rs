//! Joins that wait for each other: `wait/cycle.rs`.
//!
//! | model | proves | broken, for instance, by |
//! |---|---|---|
//! | `of_joins_that_close_a_ring_at_once_exactly_one_is_refused` | to enter and to search is one step | a lock let go between the two |
//!
//! # Does not know
//!
//! How a join waits.

use super::{check, checker::thread, label, node};
use crate::{
    cancel::{
        current::{Ground, Strand},
        reason::Label,
    },
    park::seat::with_chair,
    wait::cycle::{self, Entered, For},
};
use std::sync::Arc;

fn enter(joiner: Arc<Strand>, joined: Arc<Strand>) -> Result<Entered, Vec<String>> {
    with_chair(|chair| cycle::enter(&[joiner], For::Job(joined), None, chair.seat()))
}

#[test]
fn of_joins_that_close_a_ring_at_once_exactly_one_is_refused() {
    check(|| {
        let ground = Ground::new(node(None, None), None);
        let job = |number| Strand::on(&ground, Label { number, ..label("job") }, number);
        let (a, b) = (job(1), job(2));
        let other = {
            let (a, b) = (Arc::clone(&a), Arc::clone(&b));
            thread::spawn(move || enter(b, a))
        };
        let mine = enter(a, b);
        let other = other.join().unwrap();
        assert!(mine.is_ok() != other.is_ok());
        assert_eq!(mine.err().or(other.err()).unwrap().len(), 2);
    });
}
