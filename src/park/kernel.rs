//! What the kernel says of threads. Linux only: elsewhere it says nothing.
//!
//! # Does not know
//!
//! Why somebody asks.

use std::{fs, path::PathBuf};

/// How many threads of the machine run or want to, by `/proc/loadavg`: the part before the slash in `2/345`.
pub(super) fn runnable() -> u32 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split(' ').nth(3).and_then(|threads| threads.split('/').next()?.parse().ok());
    running.unwrap_or(1)
}

/// The kernel's folder for the calling thread; empty where there is none.
pub(super) fn kernel_thread() -> PathBuf {
    match fs::read_link("/proc/thread-self") {
        Ok(thread) => PathBuf::from("/proc").join(thread),
        Err(_) => PathBuf::new(),
    }
}

/// Names the sleep a thread is in, by the count of its voluntary context switches; `None` if it runs or wants to.
pub(super) fn sleep_of(thread: &std::path::Path) -> Option<u64> {
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too; the state follows the last one.
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    if state == 'R' {
        return None;
    }
    let status = fs::read_to_string(thread.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}
