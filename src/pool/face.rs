//! The public face of the pool: [`Pool`], [`PoolBuilder`], [`PoolStats`].
//!
//! # Does not know
//!
//! When threads start and leave: that is `core`.

use crate::pool::{
    core::PoolCore,
    here::{global, is_in, while_blocked},
    state::Config,
};
use std::{error::Error, fmt, sync::Arc, time::Duration};

/// A pool of threads for jobs. Most programs never make one: there is a global one.
///
/// It starts threads when jobs need them, and lets them go when they have been idle for a while. `parallelism` bounds
/// the workers that are not blocked, never those that wait: jobs may block on each other, nested to any depth.
///
/// Clones are the same pool. When the last is dropped, idle workers leave; scopes that run go on.
///
/// # Examples
///
/// ```
/// use tassel::{ScopeOptions, pool::Pool};
/// let pool = Pool::builder().parallelism(1).name_prefix("fetch").build()?;
/// let answer = ScopeOptions::new().pool(&pool).open(|s| Ok(s.spawn(|| Ok(42)).join()?))?;
/// assert_eq!(answer, 42);
/// pool.shutdown()?;
/// # Ok::<(), tassel::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    core: Arc<PoolCore>,
    global: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.global {
            self.core.close();
        }
    }
}

impl Pool {
    /// Returns the pool of scopes that name none and are opened outside any job.
    #[must_use]
    pub fn global() -> Self {
        Pool { handle: Arc::new(Handle { core: global(), global: true }) }
    }

    /// Starts to build a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder { config: Config::default() }
    }

    pub(crate) fn core(&self) -> &Arc<PoolCore> {
        &self.handle.core
    }

    /// Returns numbers about the pool at this moment.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let counts = self.core().counts();
        PoolStats {
            workers: counts.workers,
            idle: counts.idle,
            blocked: counts.blocked,
            queued: self.core().queued(),
            peak: counts.peak,
            refused: counts.refused,
        }
    }

    /// Refuses new scopes, waits for those that run, and joins every thread, so what jobs have left in thread-locals is
    /// dropped when it returns.
    ///
    /// Blocks until then. Not a checkpoint.
    ///
    /// # Errors
    ///
    /// From a job or body of a scope on this pool, which it would wait for, from the destructor of a thread-local of one
    /// of its threads, and for the global pool, which has no owner.
    pub fn shutdown(&self) -> Result<(), ShutdownError> {
        if self.handle.global {
            return Err(ShutdownError::Global);
        }
        if is_in(self.core()) {
            return Err(ShutdownError::OwnJob);
        }
        // The caller may be a worker of another pool.
        while_blocked(|| self.core().shut_down());
        Ok(())
    }
}

/// Why a pool cannot be shut down here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShutdownError {
    /// The caller is a job on this pool, or the body of a scope on it.
    OwnJob,
    /// It is the global pool.
    Global,
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ShutdownError::OwnJob => {
                "a pool cannot be shut down by a job or body of its own scopes: do it after the scope"
            }
            ShutdownError::Global => "the global pool cannot be shut down: build one with `Pool::builder()` for that",
        })
    }
}

impl Error for ShutdownError {}

/// Numbers about a [`Pool`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Threads alive.
    pub workers: usize,
    /// Of these, those without a job.
    pub idle: usize,
    /// Of these, those that wait in a call of the library.
    pub blocked: usize,
    /// Jobs queued in scopes that wait for a worker.
    pub queued: usize,
    /// The most threads that were alive at once.
    pub peak: usize,
    /// How often the system refused a thread.
    pub refused: u64,
}

/// Builds a [`Pool`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct PoolBuilder {
    config: Config,
}

impl PoolBuilder {
    /// Sets how many workers run that are not blocked: at least 1. The default is the number of cores.
    pub fn parallelism(mut self, parallelism: usize) -> Self {
        self.config.parallelism = parallelism;
        self
    }

    /// Sets how many threads there may be at once, blocked or not: at least 1.
    ///
    /// The default is three quarters of what the system allows the process, as far as it tells: on Linux by the limits on
    /// memory maps (a thread takes four), on threads, on processes of the user, and of the control group. With Linux' usual
    /// settings that is about 12,000; elsewhere it is 8192.
    ///
    /// Where it is reached, jobs wait for a thread to get free, and the opener of a scope runs jobs itself at the end.
    /// Jobs that wait for each other may need more: then their scope is cancelled with a reason that says so.
    pub fn max_threads(mut self, max_threads: usize) -> Self {
        self.config.max_threads = max_threads;
        self
    }

    /// Sets how long a worker stays without work. The default is ten seconds.
    pub fn keep_alive(mut self, keep_alive: Duration) -> Self {
        self.config.keep_alive = keep_alive;
        self
    }

    /// Sets the stack size of the workers, in bytes. The default is std's.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.config.stack_size = Some(bytes);
        self
    }

    /// Sets what the workers' names begin with. A number follows; the prefix is cut so that both fit the 15 bytes that
    /// Linux keeps.
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.config.name_prefix = prefix.into();
        self
    }

    /// Refuses the start of threads for which `refuse` says so; it gets the number of the start, from 1. For tests of
    /// what a program does when the system has no thread to give.
    #[cfg(feature = "testing")]
    pub fn refuse_threads(mut self, refuse: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        self.config.refuse = Some(Arc::new(refuse));
        self
    }

    /// Builds the pool. No thread is started yet.
    ///
    /// # Errors
    ///
    /// If a number is zero that must not be, or the prefix holds a NUL byte.
    pub fn build(self) -> Result<Pool, BuildError> {
        let config = self.config;
        let fault = if config.parallelism == 0 {
            Some("parallelism is 0: give the number of jobs that may compute at once, at least 1")
        } else if config.max_threads == 0 {
            Some("max_threads is 0: give at least 1")
        } else if config.name_prefix.contains('\0') {
            Some("the name prefix holds a NUL byte: thread names cannot")
        } else {
            None
        };
        match fault {
            Some(text) => Err(BuildError(text)),
            None => Ok(Pool { handle: Arc::new(Handle { core: PoolCore::new(config), global: false }) }),
        }
    }
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.config;
        let mut f = f.debug_struct("PoolBuilder");
        f.field("parallelism", &c.parallelism).field("max_threads", &c.max_threads);
        f.field("keep_alive", &c.keep_alive).field("stack_size", &c.stack_size);
        f.field("name_prefix", &c.name_prefix).finish_non_exhaustive()
    }
}

/// Why a pool cannot be built; the text says what to give instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError(&'static str);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for BuildError {}
