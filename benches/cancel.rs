//! What does a cancel cost, and what does it cost to ask for one?
//!
//! *To all joined*: N jobs sleep for an hour, the body cancels, and the time runs until the scope has returned, from a pool that may have enough threads. Beside it
//! are N threads that wait at one std `Condvar`, told by a flag and `notify_all`. *The call*: the same, but the time ends
//! when `cancel()` or `notify_all()` returns. *Tokens*: `cancel()` of a token with N tokens below it at which nobody waits.
//! All N wait before the time begins: for tassel the pool says so, for std the lock that each of them gives up in its wait.
//!
//! *Looks*: a thousand times `token.is_cancelled()`, `tassel::is_cancelled()` and `checkpoint()`, at the top, 64 scopes
//! deep, and below a deadline, beside an acquire load.
//!
//! Bad numbers: to all joined, more than 0.4 of the `Condvar` for 10, 0.85 for 1000, 0.75 for 10,000. A call of more than 50
//! us. More than 15 ns a token. A look of a token above 1.3 loads, a checkpoint above 2.5, and any that grows with depth.

mod common;

use std::{
    hint::black_box,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, Ordering::Acquire},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Race, group, run};
use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use tassel::{CancelToken, ScopeOptions, checkpoint, is_cancelled, pool::Pool, region::fail_after, sleep};

const SLEEPERS: [usize; 3] = [10, 1000, 10_000];
const TOKENS: [usize; 3] = [1000, 10_000, 100_000];
const HOUR: Duration = Duration::from_secs(3600);

/// Looks a program: enough that the way to them does not count.
const LOOKS: u64 = 1000;
const DEPTH: usize = 64;

fn main() {
    run(&[sleepers, tokens, looks]);
}

fn sleepers(c: &mut Criterion) {
    let mut joined = group(c, "cancel, to all joined");
    for jobs in SLEEPERS {
        let race = Race::new(jobs)
            .timed("tassel", move || (sleepers_of_tassel(jobs).joined, jobs))
            .timed("std Condvar", move || (waiters_at_a_condvar(jobs).joined, jobs));
        race.run(&mut joined, jobs);
    }
    joined.finish();
    let mut called = group(c, "cancel, the call");
    for jobs in SLEEPERS {
        let race = Race::new(jobs)
            .timed("tassel", move || (sleepers_of_tassel(jobs).called, jobs))
            .timed("std Condvar", move || (waiters_at_a_condvar(jobs).called, jobs));
        race.run(&mut called, jobs);
    }
    called.finish();
}

/// How long after it began a cancel was told, and all were home.
struct Cancel {
    called: Duration,
    joined: Duration,
}

fn sleepers_of_tassel(jobs: usize) -> Cancel {
    let pool = Pool::builder().max_threads(2 * jobs).build().expect("two are enough");
    let ended = ScopeOptions::new().pool(&pool).open(|s| {
        let handles: Vec<_> = (0..jobs).map(|_| s.spawn(|| Ok(sleep(HOUR)?))).collect();
        while pool.stats().blocked < jobs {
            thread::yield_now();
        }
        let began = Instant::now();
        s.cancel();
        let called = began.elapsed();
        drop(handles);
        Ok((began, called))
    });
    let (began, called) = ended.expect("a scope that cancels itself keeps its value");
    let joined = began.elapsed();
    pool.shutdown().expect("nothing runs");
    Cancel { called, joined }
}

fn waiters_at_a_condvar(jobs: usize) -> Cancel {
    let (state, condvar) = (Mutex::new((0, false)), Condvar::new());
    let (began, called) = thread::scope(|s| {
        for _ in 0..jobs {
            s.spawn(|| {
                let mut state = state.lock().expect("nobody panics");
                state.0 += 1;
                while !state.1 {
                    state = condvar.wait(state).expect("nobody panics");
                }
            });
        }
        // Who has counted itself and given up the lock waits.
        while state.lock().expect("nobody panics").0 < jobs {
            thread::yield_now();
        }
        let began = Instant::now();
        state.lock().expect("nobody panics").1 = true;
        condvar.notify_all();
        (began, began.elapsed())
    });
    Cancel { called, joined: began.elapsed() }
}

fn tokens(c: &mut Criterion) {
    let mut group = group(c, "cancel, tokens");
    for tokens in TOKENS {
        let race = Race::new(tokens).elements(tokens as u64).timed("tassel", move || {
            let top = CancelToken::new();
            let below: Vec<_> = (0..tokens).map(|_| top.child()).collect();
            let began = Instant::now();
            top.cancel();
            let called = began.elapsed();
            (called, below.iter().filter(|token| token.is_cancelled()).count())
        });
        race.run(&mut group, tokens);
    }
    group.finish();
}

fn looks(c: &mut Criterion) {
    let mut group = group(c, "looks");
    let done = tassel::scope(|_| {
        look(&mut group, "in a scope");
        Ok(())
    });
    done.expect("nobody cancels");
    deeper(DEPTH, &mut || look(&mut group, "64 scopes deep"));
    let limited = fail_after(HOUR, || {
        look(&mut group, "with a deadline");
        Ok(())
    });
    limited.expect("an hour is not over");
    group.finish();
}

fn deeper(depth: usize, looks: &mut dyn FnMut()) {
    if depth == 0 {
        return looks();
    }
    let inner = tassel::scope(|_| {
        deeper(depth - 1, looks);
        Ok(())
    });
    inner.expect("nobody cancels");
}

fn look(group: &mut BenchmarkGroup<'_, WallTime>, parameter: &str) {
    let (token, flag) = (CancelToken::current(), AtomicBool::new(false));
    Race::new(LOOKS)
        .elements(LOOKS)
        .program("token.is_cancelled", || count(|| !black_box(&token).is_cancelled()))
        .program("is_cancelled", || count(|| !is_cancelled()))
        .program("checkpoint", || count(|| checkpoint().is_ok()))
        .program("acquire load", || count(|| !black_box(&flag).load(Acquire)))
        .run(group, parameter);
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
