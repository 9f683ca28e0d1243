//! How many threads the system lets this process have: [`thread_cap`].
//!
//! Near its limits a system fails badly: a thread that was started may find no memory for its stack. So a pool keeps away from
//! them by a margin, and what is beyond waits in the queue.
//!
//! # Promises
//!
//! 1. Limits that are not told, or not understood, do not count. Where none is told, the cap is [`UNKNOWN`].
//!
//! # Does not know
//!
//! Limits that are set later, and how many threads others have.

use std::{fs, path::Path, sync::OnceLock};

/// Far from where systems fail, of which nothing is known.
const UNKNOWN: usize = 8192;

/// A thread's stack, its guard page, and the same for signals.
const MAPS_OF_A_THREAD: usize = 4;

/// Returns three quarters of the lowest limit. It is asked for once.
pub(super) fn thread_cap() -> usize {
    static CAP: OnceLock<usize> = OnceLock::new();
    *CAP.get_or_init(|| cap(|path| fs::read_to_string(path).ok()))
}

fn cap(read: impl Fn(&Path) -> Option<String>) -> usize {
    let number = |path: &str| read(Path::new(path))?.trim().parse::<usize>().ok();
    let mut limits = vec![
        number("/proc/sys/vm/max_map_count").map(|maps| maps / MAPS_OF_A_THREAD),
        number("/proc/sys/kernel/threads-max"),
        number("/proc/sys/kernel/pid_max"),
        read(Path::new("/proc/self/limits")).and_then(|limits| of_user(&limits)),
    ];
    for group in read(Path::new("/proc/self/cgroup")).unwrap_or_default().lines().filter_map(control_group) {
        // Each group around counts as well.
        for (root, path) in [("/sys/fs/cgroup", group), ("/sys/fs/cgroup/pids", group)] {
            for around in Path::new(path).ancestors() {
                let folder = Path::new(root).join(around.strip_prefix("/").unwrap_or(around));
                limits.push(read(&folder.join("pids.max")).and_then(|limit| limit.trim().parse().ok()));
            }
        }
    }
    let lowest = limits.into_iter().flatten().min();
    lowest.map_or(UNKNOWN, |lowest| (lowest / 4 * 3).max(1))
}

/// The soft limit on processes, which counts threads, in `/proc/self/limits`.
fn of_user(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max processes"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The path of the group that limits processes: `0::/path`, or in the first version `8:pids:/path`.
fn control_group(line: &str) -> Option<&str> {
    let mut parts = line.splitn(3, ':').skip(1);
    let controllers = parts.next()?;
    let limits = controllers.is_empty() || controllers.split(',').any(|controller| controller == "pids");
    parts.next().filter(|_| limits)
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;

    fn cap_of(files: &[(&str, &str)]) -> usize {
        cap(|path| files.iter().find(|(known, _)| Path::new(known) == path).map(|(_, text)| (*text).to_owned()))
    }

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
                          Max processes             400                  96365                processes \n";

    #[test]
    fn a_system_that_tells_nothing_gets_a_careful_cap() {
        assert_eq!(cap_of(&[]), UNKNOWN);
        let odd = [("/proc/sys/kernel/pid_max", "many"), ("/proc/self/limits", "Max processes unlimited unlimited")];
        assert_eq!(cap_of(&odd), UNKNOWN);
    }

    #[test]
    fn the_lowest_limit_counts_and_a_quarter_of_it_is_left_to_others() {
        let maps = ("/proc/sys/vm/max_map_count", "65536\n");
        assert_eq!(cap_of(&[maps]), 12_288);
        assert_eq!(cap_of(&[maps, ("/proc/sys/kernel/threads-max", "4000")]), 3000);
        assert_eq!(cap_of(&[maps, ("/proc/self/limits", LIMITS)]), 300);
    }

    #[test]
    fn a_control_group_limits_and_so_do_those_around_it() {
        let v2 = ("/proc/self/cgroup", "0::/a/b\n");
        assert_eq!(cap_of(&[v2, ("/sys/fs/cgroup/a/b/pids.max", "max"), ("/sys/fs/cgroup/a/pids.max", "40")]), 30);
        let v1 = ("/proc/self/cgroup", "9:memory:/m\n8:cpu,pids:/p\n");
        assert_eq!(cap_of(&[v1, ("/sys/fs/cgroup/pids/p/pids.max", "20"), ("/sys/fs/cgroup/m/pids.max", "4")]), 15);
    }

    #[test]
    fn there_is_one_thread_at_least() {
        assert_eq!(cap_of(&[("/proc/sys/kernel/pid_max", "1")]), 1);
    }
}
