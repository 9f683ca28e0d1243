//! What does a wait on a channel cost that a cancel can end, beside one that nothing can end?
//!
//! *Pipeline*: N numbers through one bounded channel, from one thread to another, which adds them up. *Ping-pong*: a number
//! goes to and fro between two threads, N times, by two channels with room for one. *Stopped*: N threads wait on one
//! channel; how long until all are joined, from the cancel, or from the drop of the last sender. With crossbeam these are
//! threads that end then; with tassel they go back to the pool.
//!
//! crossbeam's plain `recv` and `send` are what the calls of tassel are to be close to: it is the same channel. Flume, kanal
//! and tokio's `mpsc`, with its blocking calls and in tasks, have channels of their own.
//!
//! Bad numbers: a pipeline above 1.1 times crossbeam's, a ping-pong above 1.25 times. More for each that is stopped when more
//! wait.
//!
//! The feature `testing` of tassel is off, unless the whole workspace is run at once: then the groups say so.

#[path = "../../common/mod.rs"]
mod common;

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Race, group, run};
use criterion::Criterion;
use crossbeam::channel::{Receiver, Sender, bounded, select, unbounded};
use tassel::{CancelToken, channel, snapshot};

const NUMBERS: u64 = 100_000;
const ROOM: usize = 128;
const ROUNDS: u64 = 10_000;
const WAITERS: [usize; 3] = [10, 100, 1000];

fn main() {
    run(&[pipeline, ping_pong, stopped]);
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime can be made")
    });
    &RUNTIME
}

/// Runs two pieces of code at once, each below the token, as code of tassel's would be.
fn two<A: Send>(token: &CancelToken, first: impl FnOnce() -> A + Send, second: impl FnOnce() -> u64 + Send) -> u64 {
    thread::scope(|s| {
        s.spawn(token.bind(first));
        token.enter(second)
    })
}

fn pipeline(c: &mut Criterion) {
    let mut group = group(c, "channel, pipeline");
    let token = CancelToken::new();
    Race::new(NUMBERS * (NUMBERS - 1) / 2)
        .elements(NUMBERS)
        .program("tassel", || {
            let (sender, receiver) = bounded(ROOM);
            let send = move || (0..NUMBERS).try_for_each(|n| channel::send(&sender, n)).is_ok();
            two(&token, send, move || channel::iter(&receiver).map_while(Result::ok).sum())
        })
        .program("crossbeam", || {
            let (sender, receiver) = bounded(ROOM);
            let send = move || (0..NUMBERS).try_for_each(|n| sender.send(n)).is_ok();
            two(&token, send, move || receiver.iter().sum())
        })
        .program("crossbeam select", || {
            let (sender, receiver) = bounded(ROOM);
            let send = move || (0..NUMBERS).try_for_each(|n| sender.send(n)).is_ok();
            let stop = token.receiver();
            let next = move || {
                select! {
                    recv(receiver) -> number => number.ok(),
                    recv(stop) -> _ => None,
                }
            };
            two(&token, send, || std::iter::from_fn(next).sum())
        })
        .program("flume", || {
            let (sender, receiver) = flume::bounded(ROOM);
            let send = move || (0..NUMBERS).try_for_each(|n| sender.send(n)).is_ok();
            two(&token, send, move || receiver.iter().sum())
        })
        .program("kanal", || {
            let (sender, receiver) = kanal::bounded(ROOM);
            let send = move || (0..NUMBERS).try_for_each(|n| sender.send(n)).is_ok();
            two(&token, send, move || receiver.sum())
        })
        .program("tokio mpsc, blocking", || {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(ROOM);
            let send = move || (0..NUMBERS).try_for_each(|n| sender.blocking_send(n)).is_ok();
            two(&token, send, move || std::iter::from_fn(|| receiver.blocking_recv()).sum())
        })
        .program("tokio mpsc, tasks", || {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(ROOM);
            runtime().block_on(async move {
                tokio::spawn(async move {
                    for n in 0..NUMBERS {
                        sender.send(n).await.expect("somebody listens");
                    }
                });
                let sum = tokio::spawn(async move {
                    let mut sum = 0;
                    while let Some(n) = receiver.recv().await {
                        sum += n;
                    }
                    sum
                });
                sum.await.expect("no task panics")
            })
        })
        .run(&mut group, NUMBERS);
    group.finish();
}

/// Sends a number, and receives its successor, until `ROUNDS` have been made; the other thread answers.
fn play(
    token: &CancelToken,
    mut there: (impl FnMut(u64) + Send, impl FnMut() -> Option<u64> + Send),
    mut back: (impl FnMut(u64) + Send, impl FnMut() -> Option<u64> + Send),
) -> u64 {
    let answer = move || {
        while let Some(n) = there.1() {
            back.0(n + 1);
        }
    };
    let ask = move || {
        let mut last = 0;
        for _ in 0..ROUNDS {
            there.0(last);
            last = back.1().expect("there is an answer");
        }
        last
    };
    two(token, answer, ask)
}

fn ping_pong(c: &mut Criterion) {
    let mut group = group(c, "channel, ping-pong");
    let token = CancelToken::new();
    Race::new(ROUNDS)
        .elements(ROUNDS)
        .program("tassel", || {
            let ends = |(sender, receiver): (Sender<u64>, Receiver<u64>)| {
                (move |n| channel::send(&sender, n).expect("somebody listens"), move || channel::recv(&receiver).ok())
            };
            play(&token, ends(bounded(1)), ends(bounded(1)))
        })
        .program("crossbeam", || {
            let ends = |(sender, receiver): (Sender<u64>, Receiver<u64>)| {
                (move |n| sender.send(n).expect("somebody listens"), move || receiver.recv().ok())
            };
            play(&token, ends(bounded(1)), ends(bounded(1)))
        })
        .program("crossbeam select", || {
            let ends = |(sender, receiver): (Sender<u64>, Receiver<u64>)| {
                let stop = token.receiver();
                let next = move || {
                    select! {
                        recv(receiver) -> number => number.ok(),
                        recv(stop) -> _ => None,
                    }
                };
                (move |n| sender.send(n).expect("somebody listens"), next)
            };
            play(&token, ends(bounded(1)), ends(bounded(1)))
        })
        .program("flume", || {
            let ends = |(sender, receiver): (flume::Sender<u64>, flume::Receiver<u64>)| {
                (move |n| sender.send(n).expect("somebody listens"), move || receiver.recv().ok())
            };
            play(&token, ends(flume::bounded(1)), ends(flume::bounded(1)))
        })
        .program("kanal", || {
            let ends = |(sender, receiver): (kanal::Sender<u64>, kanal::Receiver<u64>)| {
                (move |n| sender.send(n).expect("somebody listens"), move || receiver.recv().ok())
            };
            play(&token, ends(kanal::bounded(1)), ends(kanal::bounded(1)))
        })
        .program("tokio mpsc, blocking", || {
            use tokio::sync::mpsc;
            let ends = |(sender, mut receiver): (mpsc::Sender<u64>, mpsc::Receiver<u64>)| {
                (move |n| sender.blocking_send(n).expect("somebody listens"), move || receiver.blocking_recv())
            };
            play(&token, ends(mpsc::channel(1)), ends(mpsc::channel(1)))
        })
        .run(&mut group, ROUNDS);
    group.finish();
}

fn stopped(c: &mut Criterion) {
    let mut group = group(c, "channel, stopped");
    for waiters in WAITERS {
        Race::new(waiters)
            .elements(waiters as u64)
            .timed("tassel", || {
                let (_sender, receiver) = unbounded::<u64>();
                let stopped = AtomicUsize::new(0);
                let mut began = Instant::now();
                let done = tassel::scope(|s| {
                    for _ in 0..waiters {
                        s.spawn(|| {
                            stopped.fetch_add(usize::from(channel::recv(&receiver).is_err()), Ordering::Relaxed);
                        });
                    }
                    until(|| {
                        let picture = snapshot::of(s);
                        picture.entries.iter().filter(|entry| entry.state.to_string().ends_with("recv")).count()
                            == waiters
                    });
                    began = Instant::now();
                    s.cancel();
                    Ok(())
                });
                assert!(done.is_ok());
                (began.elapsed(), stopped.into_inner())
            })
            .timed("crossbeam, the last sender dropped", || {
                let (sender, receiver) = unbounded::<u64>();
                let (arrived, stopped) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let mut began = Instant::now();
                thread::scope(|s| {
                    for _ in 0..waiters {
                        s.spawn(|| {
                            arrived.fetch_add(1, Ordering::Relaxed);
                            stopped.fetch_add(usize::from(receiver.recv().is_err()), Ordering::Relaxed);
                        });
                    }
                    until(|| arrived.load(Ordering::Relaxed) == waiters);
                    thread::sleep(Duration::from_millis(10)); // and asleep
                    began = Instant::now();
                    drop(sender);
                });
                (began.elapsed(), stopped.into_inner())
            })
            .run(&mut group, waiters);
    }
    group.finish();
}

fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        thread::sleep(Duration::from_millis(1));
    }
}
