//! What does a job cost that needs no thread of its own?
//!
//! A scope with N trivial jobs, opened, run and left, back to back. Each job makes a number. *Plain* jobs write it to a
//! place that they borrow, those with a *result* return it to whoever joins them in order, *named* ones have a name as
//! well. All of them may fail, and would be reported. rayon's jobs have neither names nor results nor errors: they write to
//! the same borrowed places. The sum is checked, so nobody gets away with less work. `std::thread::scope` makes a thread
//! per job and is left out beyond a hundred.
//!
//! Bad numbers: more for one plain job than a fiftieth of `rayon::scope`'s; more for a job of 10,000 with name and result
//! than 0.8 of it, or without them than 0.6; more at 1,000,000 than 0.3; anything that grows faster than N.

mod common;

use std::{hint::black_box, mem, thread};

use common::{Race, group, run};
use criterion::Criterion;

/// Jobs a scope: alone, a handful, batches, a flood.
const JOBS: [u64; 6] = [1, 10, 100, 1000, 10_000, 1_000_000];

/// More threads than this at once measure the system, not the library.
const MOST_THREADS: u64 = 100;

fn main() {
    run(&[jobs]);
}

fn jobs(c: &mut Criterion) {
    let mut group = group(c, "spawn");
    for jobs in JOBS {
        let mut race = Race::new(jobs * (jobs + 1) / 2).elements(jobs);
        let mut places = Places::new(jobs);
        race = race.program("tassel", move || places.fill(plain_by_tassel));
        let mut places = Places::new(jobs);
        race = race.program("tassel, name", move || places.fill(named_by_tassel));
        race = race.program("tassel, result", move || results_by_tassel(jobs));
        race = race.program("tassel, name and result", move || named_results_by_tassel(jobs));
        let mut places = Places::new(jobs);
        race = race.program("rayon::scope", move || places.fill(by_rayon));
        let mut places = Places::new(jobs);
        race = race.program("rayon::in_place_scope", move || places.fill(by_rayon_in_place));
        if jobs <= MOST_THREADS {
            race = race.program("std", move || named_results_by_std(jobs));
        }
        race.run(&mut group, jobs);
    }
    group.finish();
}

/// Where jobs without a result leave their numbers. Made once, so that no program pays for it.
struct Places(Vec<u64>);

impl Places {
    fn new(jobs: u64) -> Self {
        Places((0..jobs).map(|_| 0).collect())
    }

    /// Has each place filled, and takes the sum out again.
    fn fill(&mut self, program: impl FnOnce(&mut [u64])) -> u64 {
        program(&mut self.0);
        self.0.iter_mut().map(mem::take).sum()
    }
}

fn plain_by_tassel(places: &mut [u64]) {
    let done = tassel::scope(|s| {
        for (n, place) in (1..).zip(places) {
            s.spawn(move || *place = black_box(n));
        }
        Ok(())
    });
    done.expect("no job fails");
}

fn named_by_tassel(places: &mut [u64]) {
    let done = tassel::scope(|s| {
        for (n, place) in (1..).zip(places) {
            s.job("trivial").spawn(move || *place = black_box(n));
        }
        Ok(())
    });
    done.expect("no job fails");
}

fn results_by_tassel(jobs: u64) -> u64 {
    let sum = tassel::scope(|s| {
        let handles: Vec<_> = (1..=jobs).map(|n| s.spawn(move || Ok(black_box(n)))).collect();
        let mut sum = 0;
        for handle in handles {
            sum += handle.join()?;
        }
        Ok(sum)
    });
    sum.expect("no job fails")
}

fn named_results_by_tassel(jobs: u64) -> u64 {
    let sum = tassel::scope(|s| {
        let handles: Vec<_> = (1..=jobs).map(|n| s.job("trivial").spawn(move || Ok(black_box(n)))).collect();
        let mut sum = 0;
        for handle in handles {
            sum += handle.join()?;
        }
        Ok(sum)
    });
    sum.expect("no job fails")
}

fn by_rayon(places: &mut [u64]) {
    rayon::scope(|s| {
        for (n, place) in (1..).zip(places) {
            s.spawn(move |_| *place = black_box(n));
        }
    });
}

fn by_rayon_in_place(places: &mut [u64]) {
    rayon::in_place_scope(|s| {
        for (n, place) in (1..).zip(places) {
            s.spawn(move |_| *place = black_box(n));
        }
    });
}

fn named_results_by_std(jobs: u64) -> u64 {
    thread::scope(|s| {
        let named = |n| {
            let builder = thread::Builder::new().name("trivial".to_owned());
            builder.spawn_scoped(s, move || black_box(n)).expect("a hundred threads can be had")
        };
        let handles: Vec<_> = (1..=jobs).map(named).collect();
        handles.into_iter().map(|handle| handle.join().expect("no job panics")).sum()
    })
}
