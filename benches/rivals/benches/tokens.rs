//! What does a token cost, beside tokio-util's `CancellationToken`?
//!
//! *Looks*: a thousand times `is_cancelled()` of a token, one of its own and one 64 tokens deep, and the ambient
//! `checkpoint()`, for which tokio has nothing but a token that is handed on. *Cancel*: the call, with N tokens below at which nobody
//! waits. *Make*: a child of a token, made and dropped.
//!
//! Bad numbers: a look above a quarter of tokio-util's, a checkpoint above 0.4 of it. A cancel that costs more a token.
//!
//! The feature `testing` of tassel is off, unless the whole workspace is run at once: then the groups say so.

#[path = "../../common/mod.rs"]
mod common;

use std::{hint::black_box, time::Instant};

use common::{Race, group, run};
use criterion::Criterion;
use tassel::{CancelToken, checkpoint};
use tokio_util::sync::CancellationToken;

const LOOKS: u64 = 1000;
const DEPTHS: [usize; 2] = [1, 64];
const TOKENS: [usize; 2] = [1000, 100_000];
const MADE: u64 = 100;

fn main() {
    run(&[looks, cancel, make]);
}

fn looks(c: &mut Criterion) {
    let mut group = group(c, "tokens, looks");
    for depth in DEPTHS {
        let (ours, theirs) = (CancelToken::new(), CancellationToken::new());
        // What is above must live, or a token would have nothing above it.
        let mut ours = vec![ours];
        let mut theirs = vec![theirs];
        for at in 1..depth {
            ours.push(ours[at - 1].child());
            theirs.push(theirs[at - 1].child_token());
        }
        let (ours, theirs) = (&ours[depth - 1], &theirs[depth - 1]);
        ours.enter(|| {
            Race::new(LOOKS)
                .elements(LOOKS)
                .program("tassel", || count(|| !black_box(ours).is_cancelled()))
                .program("tassel checkpoint", || count(|| checkpoint().is_ok()))
                .program("tokio-util", || count(|| !black_box(theirs).is_cancelled()))
                .run(&mut group, depth);
        });
    }
    group.finish();
}

/// Looks as a loop does that would end at the answer.
fn count(goes_on: impl Fn() -> bool) -> u64 {
    for n in 0..LOOKS {
        if !goes_on() {
            return n;
        }
        black_box(n);
    }
    LOOKS
}

fn cancel(c: &mut Criterion) {
    let mut group = group(c, "tokens, cancel");
    for tokens in TOKENS {
        Race::new(tokens)
            .elements(tokens as u64)
            .timed("tassel", || {
                let top = CancelToken::new();
                let below: Vec<_> = (0..tokens).map(|_| top.child()).collect();
                let began = Instant::now();
                top.cancel();
                (began.elapsed(), below.iter().filter(|token| token.is_cancelled()).count())
            })
            .timed("tokio-util", || {
                let top = CancellationToken::new();
                let below: Vec<_> = (0..tokens).map(|_| top.child_token()).collect();
                let began = Instant::now();
                top.cancel();
                (began.elapsed(), below.iter().filter(|token| token.is_cancelled()).count())
            })
            .run(&mut group, tokens);
    }
    group.finish();
}

fn make(c: &mut Criterion) {
    let mut group = group(c, "tokens, make");
    let (ours, theirs) = (CancelToken::new(), CancellationToken::new());
    Race::new(MADE)
        .elements(MADE)
        .program("tassel", || (0..MADE).map(|_| u64::from(!black_box(ours.child()).is_cancelled())).sum())
        .program("tokio-util", || (0..MADE).map(|_| u64::from(!black_box(theirs.child_token()).is_cancelled())).sum())
        .run(&mut group, MADE);
    group.finish();
}
