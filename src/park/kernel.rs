//! What the kernel says of threads. Linux only: elsewhere it says nothing.
//!
//! # Does not know
//!
//! Why somebody asks.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// How many threads of the machine run or want to, by `/proc/loadavg`: the part before the slash in `2/345`.
pub(super) fn runnable() -> u32 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split(' ').nth(3).and_then(|threads| threads.split('/').next()?.parse().ok());
    running.unwrap_or(1)
}

/// The kernel's folder for the calling thread; empty where there is none.
pub(crate) fn kernel_thread() -> PathBuf {
    match fs::read_link("/proc/thread-self") {
        Ok(thread) => PathBuf::from("/proc").join(thread),
        Err(_) => PathBuf::new(),
    }
}

/// Whether a thread sleeps: it neither runs nor wants to. `None` where nothing tells, or if the thread is gone.
///
/// The file is not kept open: of a thousand threads, that would use up what a process may have open.
pub(crate) fn is_asleep(thread: &Path) -> Option<bool> {
    if thread.as_os_str().is_empty() {
        return None;
    }
    // A number, a name of 15 bytes at most, the state.
    let mut stat = [0; 64];
    let length = File::open(thread.join("stat")).ok()?.read(&mut stat).ok()?;
    // The name in parentheses may hold anything, parentheses too; the state follows the last one.
    let name_ends = stat[..length].iter().rposition(|byte| *byte == b')')?;
    stat.get(name_ends + 2).map(|state| *state != b'R')
}

/// Names the sleep a thread is in, by the count of its voluntary context switches; `None` if it runs or wants to.
pub(super) fn sleep_of(thread: &Path) -> Option<u64> {
    if !is_asleep(thread)? {
        return None;
    }
    let status = fs::read_to_string(thread.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}
