//! Virtual time for tests: programs that sleep for hours run in milliseconds, in the same order each time.
//!
//! Needs the feature `testing`.
//!
//! # Does not know
//!
//! How turns are given: that is the run's, in `park/virtual_run.rs`.

use crate::{
    cancel::{
        current::{self, Frame, Strand},
        node::{Node, Parents},
        reason::{Label, Reason, ReasonKind},
    },
    park::{clock::Clock, seat::with_chair, virtual_run::Run},
    prim::Mutex,
};
use std::{error::Error, fmt, panic::Location, sync::Arc};

/// A virtual-time run in which everybody waited and nothing could end the waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlock {
    text: String,
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Deadlock {}

/// Ends the run, also when the program unwinds.
struct Running {
    run: Arc<Run>,
    node: Arc<Node>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.node.close();
        with_chair(|chair| self.run.end(chair.seat()));
        self.run.finish();
    }
}

/// Runs `f` in virtual time and returns its value.
///
/// One job moves at a time; who waits hands on to who has been ready longest, then in the order of spawning. When nobody
/// can move, the clock jumps to the next instant that anybody waits for. So what the program prints is the same each
/// time. A cancel from outside reaches into the run; deadlines from outside do not.
///
/// A job that blocks outside the library, at a std barrier say, is found asleep after a while (on Linux), and the others
/// go on. A loop that polls without waiting keeps the clock from moving.
///
/// # Panics
///
/// If everybody waits and nothing can end it: a deadlock. All are cancelled first. And whatever `f` panics with.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::{now, sleep, testing::virtual_time};
/// let hour = Duration::from_secs(3600);
/// let slept = virtual_time(|| {
///     let start = now();
///     sleep(hour).unwrap();
///     now() - start
/// });
/// assert_eq!(slept, hour);
/// ```
#[track_caller]
pub fn virtual_time<T>(f: impl FnOnce() -> T) -> T {
    match try_virtual_time(f) {
        Ok(value) => value,
        Err(deadlock) => panic!("{deadlock}"),
    }
}

/// Runs `f` in virtual time as [`virtual_time`] does; a deadlock is an error.
///
/// # Errors
///
/// Returns [`Deadlock`] if everybody waited and nothing could end it. All were cancelled then, and `f` has returned.
#[track_caller]
pub fn try_virtual_time<T>(f: impl FnOnce() -> T) -> Result<T, Deadlock> {
    let label = Label::new("virtual run", None, Location::caller());
    let run = with_chair(|chair| Run::start(chair.seat()));
    let outer = current::node();
    let parents = Parents { parent: outer.as_ref(), also: None };
    let node = Node::new(&parents, label.clone(), Clock::Virtual(Arc::clone(&run)), None);
    let report = Arc::new(Mutex::new(None));
    let (told, root) = (Arc::clone(&report), Arc::downgrade(&node));
    run.set_on_deadlock(Box::new(move |waiting| {
        let who = if waiting == 1 { "1 thread waits".into() } else { format!("{waiting} threads wait") };
        let text = format!("deadlock: {who}, and nothing can end it");
        *told.lock() = Some(text.clone());
        if let Some(root) = root.upgrade() {
            let reason = Reason::new(ReasonKind::Deadlock, root.label().clone(), root.clock().now());
            root.cancel(&reason.text_is(text), false);
        }
    }));
    let running = Running { run, node: Arc::clone(&node) };
    let strand = Strand::at(label, "".into(), 0, &node);
    let frame = current::enter(Frame { strand, region: None, scope: 0, inlined: 0 });
    let value = f();
    drop(frame);
    drop(running);
    let report = report.lock().take();
    match report {
        Some(text) => Err(Deadlock { text }),
        None => Ok(value),
    }
}
