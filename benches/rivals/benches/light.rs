//! What do light jobs cost, beside forte?
//!
//! A scope with N trivial jobs that write to a place they borrow, as in the bench `spawn`. forte runs a job on the thread that
//! spawned it unless a heartbeat says that others want work; it has two threads here, beside this one. *From a worker* it is
//! measured alone, by a thread that is one already. (Newer
//! releases of forte need a newer Rust than this package; the one that is used stands in its `Cargo.toml`.)
//!
//! Bad numbers: more for one job than half of forte's.
//!
//! The feature `testing` of tassel is off, unless the whole workspace is run at once: then the groups say so.

#[path = "../../common/mod.rs"]
mod common;

use std::{hint::black_box, mem};

use common::{Race, group, run};
use criterion::Criterion;
use forte::{ThreadPool, Worker};

const JOBS: [u64; 4] = [1, 10, 1000, 10_000];
const THREADS: usize = 2;

static FORTE: ThreadPool = ThreadPool::new();

fn main() {
    FORTE.resize_to(THREADS);
    run(&[jobs]);
}

fn jobs(c: &mut Criterion) {
    let mut group = group(c, "light");
    for jobs in JOBS {
        let mut ours: Vec<u64> = (0..jobs).map(|_| 0).collect();
        let mut theirs = ours.clone();
        let mut within = ours.clone();
        Race::new(jobs * (jobs + 1) / 2)
            .elements(jobs)
            .program("tassel", || by_tassel(&mut ours))
            .program("forte", || FORTE.with_worker(|worker| by_forte(worker, &mut theirs)))
            .run(&mut group, jobs);
        FORTE.with_worker(|worker| {
            Race::new(jobs * (jobs + 1) / 2)
                .elements(jobs)
                .program("forte, from a worker", || by_forte(worker, &mut within))
                .run(&mut group, jobs);
        });
    }
    group.finish();
}

fn by_tassel(places: &mut [u64]) -> u64 {
    let done = tassel::scope(|s| {
        for (n, place) in (1..).zip(&mut *places) {
            s.spawn(move || *place = black_box(n));
        }
        Ok(())
    });
    done.expect("no job fails");
    places.iter_mut().map(mem::take).sum()
}

fn by_forte(worker: &Worker, places: &mut [u64]) -> u64 {
    worker.scope(|s| {
        for (n, place) in (1..).zip(&mut *places) {
            s.spawn(move |_| *place = black_box(n));
        }
    });
    places.iter_mut().map(mem::take).sum()
}
