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
pub(crate) fn is_asleep(thread: &Path) -> Option<bool> {
    state_of(thread).map(|state| state != RUNS)
}

/// The letter of a thread that runs or wants to, and of one that waits for the kernel itself.
const RUNS: u8 = b'R';
const IN_THE_KERNEL: u8 = b'D';

/// A thread's state, by the kernel's letter.
///
/// The file is not kept open: of a thousand threads, that would use up what a process may have open.
fn state_of(thread: &Path) -> Option<u8> {
    if thread.as_os_str().is_empty() {
        return None;
    }
    // A number, a name of 15 bytes at most, the state.
    let mut stat = [0; 64];
    let length = File::open(thread.join("stat")).ok()?.read(&mut stat).ok()?;
    // The name in parentheses may hold anything, parentheses too; the state follows the last one.
    let name_ends = stat[..length].iter().rposition(|byte| *byte == b')')?;
    stat.get(name_ends + 2).copied()
}

/// Names the sleep a thread is in, by the count of its voluntary context switches; `None` if it runs or wants to, or waits for
/// the kernel itself: for a disk, or in a page fault for the lock of the process's memory, which is held while others make
/// threads. No other thread of a program ends that.
pub(super) fn sleep_of(thread: &Path) -> Option<u64> {
    if matches!(state_of(thread)?, RUNS | IN_THE_KERNEL) {
        return None;
    }
    let status = fs::read_to_string(thread.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}
