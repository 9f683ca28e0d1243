//! Three stages with bounded channels between them: what does it cost to hand a number on?

use std::{sync::mpsc, thread};

use async_io::block_on;
use criterion::Criterion;
use crossbeam::channel::bounded;
use futures_concurrency::prelude::*;
use tassel::{channel, scope};

use crate::{
    common::{Race, group},
    runtimes::{smol, tokio},
};

const NUMBERS: u64 = 10_000;
const ROOM: usize = 64;
const SUM: u64 = (NUMBERS - 1) * NUMBERS * (2 * NUMBERS - 1) / 6;

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = group(c, "pipeline");
    Race::new(SUM)
        .elements(NUMBERS)
        .program("tassel", by_tassel)
        .program("std", by_std)
        .program("crossbeam", by_crossbeam)
        .program("tokio tasks", by_tokio)
        .program("smol tasks", by_smol)
        .program("futures-concurrency", by_futures_concurrency)
        .run(&mut group, NUMBERS);
    group.finish();
}

/// A stage whose successor is gone has nothing to do any more, here and below.
fn by_tassel() -> u64 {
    let sum = scope(|s| {
        let ((numbers, to_square), (squares, to_sum)) = (bounded(ROOM), bounded(ROOM));
        s.spawn(move || Ok((0..NUMBERS).try_for_each(|n| channel::send(&numbers, n))?));
        s.spawn(move || {
            for n in channel::iter(&to_square) {
                let n: u64 = n?;
                channel::send(&squares, n * n)?;
            }
            Ok(())
        });
        let sum = s.spawn(move || Ok(channel::iter(&to_sum).sum::<Result<u64, _>>()?));
        Ok(sum.join()?)
    });
    sum.expect("no job fails")
}

fn by_std() -> u64 {
    thread::scope(|s| {
        let ((numbers, to_square), (squares, to_sum)) = (mpsc::sync_channel(ROOM), mpsc::sync_channel(ROOM));
        s.spawn(move || (0..NUMBERS).try_for_each(|n| numbers.send(n)));
        s.spawn(move || to_square.iter().try_for_each(|n: u64| squares.send(n * n)));
        s.spawn(move || to_sum.iter().sum()).join().expect("no job panics")
    })
}

fn by_crossbeam() -> u64 {
    let sum = crossbeam::scope(|s| {
        let ((numbers, to_square), (squares, to_sum)) = (bounded(ROOM), bounded(ROOM));
        s.spawn(move |_| (0..NUMBERS).try_for_each(|n| numbers.send(n)));
        s.spawn(move |_| to_square.iter().try_for_each(|n: u64| squares.send(n * n)));
        s.spawn(move |_| to_sum.iter().sum()).join().expect("no job panics")
    });
    sum.expect("no job panics")
}

fn by_tokio() -> u64 {
    let (numbers, mut to_square) = tokio::sync::mpsc::channel(ROOM);
    let (squares, mut to_sum) = tokio::sync::mpsc::channel(ROOM);
    tokio().block_on(async move {
        tokio::spawn(async move {
            for n in 0..NUMBERS {
                numbers.send(n).await.expect("somebody listens");
            }
        });
        tokio::spawn(async move {
            while let Some(n) = to_square.recv().await {
                squares.send(n * n).await.expect("somebody listens");
            }
        });
        let sum = tokio::spawn(async move {
            let mut sum = 0;
            while let Some(n) = to_sum.recv().await {
                sum += n;
            }
            sum
        });
        sum.await.expect("no task panics")
    })
}

fn by_smol() -> u64 {
    let (first, second, third) = stages();
    let tasks = (smol().spawn(first), smol().spawn(second), smol().spawn(third));
    block_on(async {
        tasks.0.await;
        tasks.1.await;
        tasks.2.await
    })
}

fn by_futures_concurrency() -> u64 {
    block_on(stages().join()).2
}

fn stages() -> (impl Future<Output = ()>, impl Future<Output = ()>, impl Future<Output = u64>) {
    let (numbers, to_square) = async_channel::bounded(ROOM);
    let (squares, to_sum) = async_channel::bounded(ROOM);
    let first = async move {
        for n in 0..NUMBERS {
            numbers.send(n).await.expect("somebody listens");
        }
    };
    let second = async move {
        while let Ok(n) = to_square.recv().await {
            squares.send(n * n).await.expect("somebody listens");
        }
    };
    let third = async move {
        let mut sum = 0;
        while let Ok(n) = to_sum.recv().await {
            sum += n;
        }
        sum
    };
    (first, second, third)
}
