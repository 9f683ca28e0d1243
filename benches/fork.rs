//! What does it cost to fork at each step of a recursion?
//!
//! The Fibonacci number of 20, in the way that forks 10,945 times: one half is a job, the other is done here. `scope` opens a
//! scope at each fork, as `rayon::scope` does beside it; `join` is that of either: ours is a scope of one job. The figures are those of
//! the whole; criterion's throughput is that of forks. *Serial* is the recursion without any of it.
//!
//! Bad numbers: a scope at each fork that takes more than twice `rayon::scope`'s; a `join` that takes more than the scope.

mod common;

use std::hint::black_box;

use common::{Race, group, run};
use criterion::Criterion;

const N: u64 = 20;
const NUMBER: u64 = 6765;
const FORKS: u64 = 10_945;

fn main() {
    run(&[scopes, joins]);
}

fn scopes(c: &mut Criterion) {
    let mut group = group(c, "fork, scope");
    Race::new(NUMBER)
        .elements(FORKS)
        .program("tassel", || by_scopes_of_tassel(black_box(N)))
        .program("rayon", || by_scopes_of_rayon(black_box(N)))
        .program("serial", || serial(black_box(N)))
        .run(&mut group, N);
    group.finish();
}

fn by_scopes_of_tassel(n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let sum = tassel::scope(|s| {
        let left = s.spawn(move || Ok(by_scopes_of_tassel(n - 1)));
        let right = by_scopes_of_tassel(n - 2);
        Ok(left.join()? + right)
    });
    sum.expect("no job fails")
}

fn by_scopes_of_rayon(n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let mut left = 0;
    let right = rayon::scope(|s| {
        s.spawn(|_| left = by_scopes_of_rayon(n - 1));
        by_scopes_of_rayon(n - 2)
    });
    left + right
}

fn joins(c: &mut Criterion) {
    let mut group = group(c, "fork, join");
    Race::new(NUMBER)
        .elements(FORKS)
        .program("tassel", || by_joins_of_tassel(black_box(N)))
        .program("rayon", || by_joins_of_rayon(black_box(N)))
        .program("serial", || serial(black_box(N)))
        .run(&mut group, N);
    group.finish();
}

fn by_joins_of_tassel(n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let both = tassel::join(|| Ok(by_joins_of_tassel(n - 2)), move || Ok(by_joins_of_tassel(n - 1)));
    let (left, right) = both.expect("neither fails");
    left + right
}

fn by_joins_of_rayon(n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let (left, right) = rayon::join(|| by_joins_of_rayon(n - 1), || by_joins_of_rayon(n - 2));
    left + right
}

fn serial(n: u64) -> u64 {
    if n < 2 { n } else { serial(black_box(n - 1)) + serial(black_box(n - 2)) }
}
