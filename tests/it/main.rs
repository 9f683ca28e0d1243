//! One integration binary, a module per property; this file holds the helpers they share.
//!
//! No test sleeps, and none may hang: each runs in [`guarded`], in [`virtually`], or in a process of its own
//! ([`child`], whose other half is [`child_side`]). `tidy.rs` checks that.

mod abandon;
mod blocking;
mod cancel;
mod channel;
mod checkpoint;
mod child;
mod compiler;
mod cycle;
mod deadline;
mod edges;
mod elastic;
mod examples;
mod fail;
mod grace;
mod group;
mod join;
mod json;
mod many;
mod messages;
mod pair;
mod panic;
mod sleeper;
mod snapshot;
mod spawn;
mod stress;
mod sync;
mod table_absorb;
mod table_result;
mod tidy;
mod traits;
mod values;
mod virtual_time;

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    panic::Location,
    process::{Command, Output, Stdio, abort},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};
use tassel::{ErrorGroup, ScopeOptions};

/// How long a test may take: a hundred times what the slowest needs on a loaded two-core machine.
const LIMIT: Duration = Duration::from_secs(30);

/// How long a child process may take; less than [`LIMIT`], so that the parent can still tell what it wrote.
const CHILD_LIMIT: Duration = Duration::from_secs(20);

/// Set in the processes that [`child`] starts.
const IN_CHILD: &str = "TASSEL_CHILD";

/// Runs a test under a watchdog, which names it and aborts the process if it hangs.
#[track_caller]
fn guarded<T>(test: impl FnOnce() -> T) -> T {
    guarded_for(LIMIT, test)
}

/// [`guarded`] with a limit of its own, for stress tests that were asked to take longer.
#[track_caller]
fn guarded_for<T>(limit: Duration, test: impl FnOnce() -> T) -> T {
    let _watchdog = Watchdog::start(limit, Location::caller());
    test()
}

/// Runs a guarded test in virtual time, where hours pass at once.
#[track_caller]
fn virtually<T>(test: impl FnOnce() -> T) -> T {
    guarded(|| tassel::testing::virtual_time(test))
}

/// Options of a scope with a name.
fn named(name: &str) -> ScopeOptions {
    ScopeOptions::new().name(name)
}

/// All leaves with their causes, in order, those of a scope that was being cancelled marked by a star.
fn told(group: &ErrorGroup) -> Vec<String> {
    let star = |during| if during { "*" } else { "" };
    group.leaves().map(|leaf| format!("{leaf:#}{}", star(leaf.during_cancellation()))).collect()
}

/// A picture without the places of the calls that wait.
fn placeless(picture: &str) -> String {
    let mut parts = picture.split(" at tests/it/");
    let first = parts.next().unwrap_or_default().to_owned();
    let after_place = |part: &str| {
        part.trim_start_matches(|c: char| c != ':' && c != '\n')[1..].trim_start_matches(char::is_numeric).to_owned()
    };
    parts.fold(first, |all, part| all + &after_place(part))
}

/// A thread that aborts the process unless its owner is dropped, by return or by panic, before the limit.
struct Watchdog {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchdog {
    fn start(limit: Duration, place: &'static Location<'static>) -> Self {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let name = thread::current().name().unwrap_or("a test").to_owned();
        let watched = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let guard = watched.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (guard, wait) =
                watched.1.wait_timeout_while(guard, limit, |over| !*over).unwrap_or_else(PoisonError::into_inner);
            drop(guard);
            if wait.timed_out() {
                let text = format!("\n{name} ({place}) hangs: no end after {limit:?}\n{}", threads());
                // Not `eprintln`, which the test harness would capture, and lose with the process.
                let _ = io::stderr().write_all(text.as_bytes());
                abort();
            }
        });
        Watchdog { over, thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One line for each thread of this process: its name and what the kernel says it does. Empty where unknown.
fn threads() -> String {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lines = tasks.filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let wait = fs::read_to_string(task.path().join("wchan")).unwrap_or_default();
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some(format!("  thread {name}: {} {wait}\n", rest.get(1..2)?))
    });
    lines.collect()
}

/// Runs one test of this binary, by its full name, in a process of its own, and returns how it ended.
///
/// The test named is ignored otherwise and wraps its code in [`child_side`]. It runs alone there, beside the main
/// thread of the test harness, which waits. A child that hangs is killed.
fn child(test: &str, env: &[(&str, &str)]) -> Output {
    let binary = env::current_exe().expect("the test binary has a path");
    let mut command = Command::new(binary);
    command.args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(IN_CHILD, test).envs(env.iter().copied());
    let output = finish(&mut command);
    assert!(
        !String::from_utf8_lossy(&output.stdout).contains("running 0 tests"),
        "no test is called `{test}`, or it is not ignored"
    );
    output
}

/// Runs the half of a test that [`child`] starts; does nothing anywhere else.
fn child_side(code: impl FnOnce()) {
    if env::var_os(IN_CHILD).is_some() {
        code();
    }
}

/// Runs a command to its end and returns what it wrote; kills it, and panics, if it takes longer than [`CHILD_LIMIT`].
fn finish(command: &mut Command) -> Output {
    let what = command.get_args().map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("`{what}` does not start: {error}"));
    let stdout = read_aside(child.stdout.take().expect("it is piped"));
    let stderr = read_aside(child.stderr.take().expect("it is piped"));

    // Both pipes end when the process does, so waiting for them is waiting for it, with a limit.
    let texts = stdout.recv_timeout(CHILD_LIMIT).and_then(|out| Ok((out, stderr.recv_timeout(CHILD_LIMIT)?)));
    let Ok((stdout, stderr)) = texts else {
        let _ = child.kill();
        let _ = child.wait();
        let wrote =
            |pipe: mpsc::Receiver<Vec<u8>>| String::from_utf8_lossy(&pipe.recv().unwrap_or_default()).into_owned();
        panic!("`{what}` hangs\n--- its output\n{}\n--- its errors\n{}", wrote(stdout), wrote(stderr));
    };
    let status = child.wait().expect("it was not waited for before");
    Output { status, stdout, stderr }
}

/// Reads a pipe to its end on a thread of its own, so that the other one cannot fill up meanwhile.
fn read_aside(mut pipe: impl io::Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    receive
}

/// `SplitMix64`: small, and good enough to choose what a stress test does next.
struct Rng(u64);

/// A generator that repeats itself for the same seed. A stress test says its seed when it fails.
fn seeded_rng(seed: u64) -> Rng {
    Rng(seed)
}

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True `percent` times in a hundred.
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Looks again and again, until it is so or the code here is to stop.
fn until(is_so: impl Fn() -> bool) -> tassel::Result<()> {
    while !is_so() {
        tassel::checkpoint()?;
        thread::yield_now();
    }
    Ok(())
}

/// How many rounds a stress test runs: its own short count, or what `TASSEL_STRESS` says.
fn stress_rounds(short: u64) -> u64 {
    env::var("TASSEL_STRESS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(short)
}
