//! When is blocking code good enough, and when does async win?
//!
//! The same five programs, written with tassel, with async (tokio; smol's `async-executor`, `async-io` and `blocking`;
//! futures-concurrency, moro) and with plain threads (`std::thread::scope`, `crossbeam::scope`, `threadpool`), each as its own
//! documentation would have it. All return a value, and those of one race must return the same.
//!
//! * *Fan-out*: N jobs sleep for 50 ms; the sum of what they return.
//! * *Failure*: 1000 jobs sleep for an hour and one fails; what it failed with, when nobody is left.
//! * *Timeout*: 1000 jobs sleep for an hour under a limit of 10 ms; whether it was the limit, when nobody is left.
//! * *Pipeline*: three stages and two bounded channels; the sum at the end.
//! * *Requests*: 50 connections over loopback, 20 requests each; server and clients are the program's.
//! * *Memory*: what the process grows by for each of 1000 and 10,000 that sleep, in a process of their own.
//!
//! rayon has none of these: jobs that wait would keep its two threads from everybody else. `crossbeam::scope` and `threadpool` have
//! no way to stop a job, `std::thread::scope` neither: there a flag and a `Condvar` are written out. `blocking` has a cap of 500
//! threads, which only the environment raises, so its 1000 sleepers need two turns. tokio runs its default runtime, smol
//! two threads, futures-concurrency and moro the caller's. Threads that a pool keeps are made within the time for fan-outs, and are there
//! already for the rest, as a runtime's are.
//!
//! Use async where tens of thousands wait at once: a task that sleeps costs hundreds of bytes, a thread ten thousand, and
//! 10,000 are asleep before a tenth of the threads are. Use blocking code up to a few thousand: there it costs the same time,
//! borrows, and needs no second set of libraries.
//!
//! Bad numbers: a fan-out of 1000 that takes twice as long as tokio's; a failure, timeout or pipeline slower than that by plain
//! threads; more memory than `std::thread::scope`. That tokio needs a twentieth of the memory is no bad number, it is
//! the point.
//!
//! The feature `testing` of tassel is off, unless the whole workspace is run at once: then the groups say so.

#[path = "../../../common/mod.rs"]
mod common;
mod failure;
mod fan_out;
mod memory;
mod pipeline;
mod requests;
mod runtimes;
mod timeout;

use std::time::Duration;

use common::figure::{self, Unit};

/// Longer than anybody waits.
const HOUR: Duration = Duration::from_secs(3600);

fn main() {
    if memory::is_child() {
        return memory::child();
    }
    common::run(&[fan_out::bench, failure::bench, timeout::bench, pipeline::bench, requests::bench]);
    figure::run(Unit("bytes"), &[memory::bench]);
}
