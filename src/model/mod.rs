//! Models of the protocols, run by two checkers on the code that ships.
//!
//! **loom** runs a model in every order of two or three threads with at most three preemptions (two, where there are many
//! steps), and with every value that the memory orderings allow a load to see: `RUSTFLAGS="--cfg tassel_loom" cargo test --release --lib model`. A wake-up that is
//! lost shows as a deadlock, an effect that is not ordered before a look as a stale value.
//!
//! **shuttle** runs it in some thousand orders, drawn at random and by PCT, which looks for bugs that need few preemptions:
//! `RUSTFLAGS="--cfg tassel_shuttle" cargo test --release --lib model`. It knows no orderings and proves nothing, but what it
//! runs may be large: here models have [`MANY`] threads, and `scope` has whole programs, with time, workers and all.
//!
//! | file | is about |
//! |---|---|
//! | `condition` | waits under a lock |
//! | `seat` | park and poke, and crowds |
//! | `cancel`, `deadline`, `callback` | the tree: what a walk changes, against what is linked meanwhile |
//! | `count` | the count at a scope's exit, and a cell's two ends |
//! | `claim`, `join` | who starts, stops and waits for a job |
//! | `abandon` | calls that may be left behind |
//! | `sync` | what jobs share: semaphores, locks and their kin |
//! | `pool` | hand-off of work, growth |
//! | `scope` | all of it at once, for shuttle alone |
//!
//! # Does not know
//!
//! Time, but for `scope`: elsewhere it stands still, and the alarm is silent. Virtual runs. With loom, what threads keep in
//! `thread_local!`: its threads share one of the system's.

mod abandon;
mod callback;
mod cancel;
mod claim;
mod condition;
mod count;
mod deadline;
mod join;
mod pool;
#[cfg(tassel_shuttle)]
mod scope;
mod seat;
mod sync;

use crate::{
    cancel::{
        node::{Node, Parents},
        reason::{Label, Reason, ReasonKind},
    },
    park::clock::Clock,
    prim::{self, AtomicUsize, Ordering},
    raw::given::Bare,
};
use std::{panic::Location, sync::Arc};

/// What takes the place of std in a model's own code.
mod checker {
    #[cfg(tassel_loom)]
    pub(super) use loom::{sync::atomic::AtomicBool, thread};
    #[cfg(tassel_shuttle)]
    pub(super) use shuttle::{sync::atomic::AtomicBool, thread};
}

/// So many threads do the same in a model: as few as will do for loom.
const MANY: usize = if cfg!(tassel_loom) { 2 } else { 5 };

fn check(model: impl Fn() + Send + Sync + 'static) {
    check_with(3, model);
}

/// As [`check`], with that many preemptions at most.
#[cfg(tassel_loom)]
fn check_with(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        // Made here, so that its first use orders nothing.
        drop(crate::cancel::mark::tree_lock());
        model();
    });
}

#[cfg(tassel_shuttle)]
fn check_with(_: usize, model: impl Fn() + Send + Sync + 'static) {
    in_orders(2000, true, model);
}

/// As [`check`], in time: any deadline may pass at any moment.
#[cfg(tassel_shuttle)]
fn check_in_time(model: impl Fn() + Send + Sync + 'static) {
    in_orders(5000, false, model);
}

/// Runs a model in so many orders drawn at random, and as many drawn by PCT. A failure prints what `TASSEL_REPLAY` takes to
/// see it again; `TASSEL_ORDERS` says how many orders, to look for longer.
#[cfg(tassel_shuttle)]
fn in_orders(orders: usize, timeless: bool, model: impl Fn() + Send + Sync + 'static) {
    use shuttle::{
        Config, Runner,
        scheduler::{PctScheduler, RandomScheduler, ReplayScheduler},
    };
    let model = Arc::new(model);
    let run = || {
        let model = Arc::clone(&model);
        move || {
            prim::begin(timeless);
            model();
        }
    };
    let orders = std::env::var("TASSEL_ORDERS").map_or(orders, |orders| orders.parse().unwrap());
    let mut config = Config::new();
    config.stack_size = STACK;
    config.silence_warnings = true;
    if let Ok(file) = std::env::var("TASSEL_REPLAY") {
        Runner::new(ReplayScheduler::new_from_file(file).unwrap(), config).run(run());
        return;
    }
    Runner::new(RandomScheduler::new(orders), config.clone()).run(run());
    Runner::new(PctScheduler::new(DEPTH, orders), config).run(run());
}

/// Of a thread of shuttle's.
#[cfg(tassel_shuttle)]
const STACK: usize = 1 << 18;

/// PCT changes a thread's rank one time less in each order.
#[cfg(tassel_shuttle)]
const DEPTH: usize = 4;

#[track_caller]
fn label(what: &'static str) -> Label {
    Label::new(what, None, Location::caller())
}

fn node(parent: Option<&Arc<Node>>, also: Option<&Arc<Node>>) -> Arc<Node> {
    Node::new(&Parents { parent, also }, label("node"), Clock::Real, None)
}

fn cancel(node: &Arc<Node>) {
    cancel_as(ReasonKind::Explicit, node);
}

fn cancel_as(kind: ReasonKind, node: &Arc<Node>) {
    node.cancel(&Reason::new(kind, label("model"), prim::now()), true);
}

/// Counts what is done, with no ordering of its own: a reader that nothing orders after it may miss it.
#[derive(Debug, Default)]
struct Plain(AtomicUsize);

impl Plain {
    fn touch(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn seen(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A capture whose drop touches the frame.
struct Touches<'a>(&'a Plain);

impl Touches<'_> {
    /// By reference to the whole, so that a closure captures that.
    fn touch(&self) {
        self.0.touch();
    }

    /// As a closure's whole code.
    fn go(self) -> Result<(), ()> {
        self.touch();
        Ok(())
    }
}

impl Drop for Touches<'_> {
    fn drop(&mut self) {
        self.0.touch();
    }
}
