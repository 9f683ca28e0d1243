//! What the programs run on: one of each for the process, as a program would have it.

use std::{
    sync::{Once, OnceLock},
    thread,
};

use async_executor::Executor;
use async_io::block_on;
use futures_lite::future;
use tassel::pool::Pool;
use tokio::runtime::{self, Runtime};

/// Threads of smol's executor: it has none of its own. As many as tokio has on two cores.
const THREADS: usize = 2;

pub(crate) fn tokio() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime can be had"))
}

/// A runtime of tokio's that ends with its program, for jobs that block.
pub(crate) fn tokio_for_blocking(jobs: usize) -> Runtime {
    runtime::Builder::new_current_thread().max_blocking_threads(jobs).build().expect("a runtime can be had")
}

pub(crate) fn smol() -> &'static Executor<'static> {
    static EXECUTOR: Executor<'static> = Executor::new();
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        for _ in 0..THREADS {
            thread::spawn(|| block_on(EXECUTOR.run(future::pending::<()>())));
        }
    });
    &EXECUTOR
}

/// A pool that ends with its program, and may have a thread for each of so many jobs.
pub(crate) fn pool(jobs: usize) -> Pool {
    Pool::builder().max_threads(2 * jobs).build().expect("there may be threads")
}
