//! What holds of a whole process: the threads it has left, how often it wakes up, what it prints, how it ends.

use crate::{child, child_side, finish, guarded};
use anyhow::bail;
use std::{
    env, fs, hint,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, Output, Termination, exit},
    sync::{
        Barrier as StdBarrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};
use tassel::{ErrorGroup, ReasonKind, ScopeOptions, pool::Pool, scope, sleep, sync::Barrier, testing::virtual_time};

const HOUR: Duration = Duration::from_secs(3600);

/// Numbers from the kernel about the threads of this process whose names begin so.
#[derive(Debug)]
struct Tasks {
    count: usize,
    switches: u64,
}

fn tasks(prefix: &str) -> Tasks {
    let mut found = Tasks { count: 0, switches: 0 };
    for task in fs::read_dir("/proc/self/task").expect("the kernel lists threads").flatten() {
        // A thread may be gone by now.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
        let value = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim)
        };
        if value("Name").starts_with(prefix) {
            found.count += 1;
            found.switches += value("voluntary_ctxt_switches").parse::<u64>().expect("a number");
        }
    }
    found
}

/// Gives way until something is so; the guard around ends it if it never is.
fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

/// Gives way for a while; nothing is asserted about how long.
fn linger(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        hint::spin_loop();
        thread::yield_now();
    }
}

#[track_caller]
fn passes(test: &str, env: &[(&str, &str)]) -> Output {
    let output = child(test, env);
    assert!(
        output.status.success(),
        "{test}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn busy_pool(prefix: &str, threads: usize) -> Pool {
    let pool = Pool::builder().parallelism(2).keep_alive(HOUR).name_prefix(prefix).build().unwrap();
    let barrier = Barrier::new(threads);
    ScopeOptions::new()
        .pool(&pool)
        .inline(false)
        .open(|s| (0..threads).for_each(|_| drop(s.spawn(|| Ok(barrier.wait().map(drop)?)))))
        .unwrap();
    pool
}

// S75:
#[test]
fn no_thread_is_left_after_shutdown() {
    guarded(|| passes("child::after_shutdown", &[]));
}

#[test]
#[ignore = "a child process of `no_thread_is_left_after_shutdown`"]
fn after_shutdown() {
    child_side(|| {
        let pool = busy_pool("gone", 8);
        assert!(tasks("gone").count >= 8, "{:?}", tasks("gone"));
        pool.shutdown().unwrap();
        // Joined by the shutdown; the kernel may list a joined thread a moment longer.
        until(|| tasks("gone").count == 0);
        assert_eq!(pool.stats().workers, 0);
    });
}

// S75:
#[test]
fn no_thread_is_left_after_the_last_handle_is_dropped() {
    guarded(|| passes("child::after_drop", &[]));
}

#[test]
#[ignore = "a child process of `no_thread_is_left_after_the_last_handle_is_dropped`"]
fn after_drop() {
    child_side(|| {
        let pool = busy_pool("gone", 8);
        let other = pool.clone();
        drop(pool);
        assert!(tasks("gone").count >= 8, "a clone is the pool: {:?}", tasks("gone"));
        drop(other);
        until(|| tasks("gone").count == 0);
    });
}

#[test]
fn workers_leave_after_their_keep_alive() {
    guarded(|| passes("child::after_keep_alive", &[]));
}

#[test]
#[ignore = "a child process of `workers_leave_after_their_keep_alive`"]
fn after_keep_alive() {
    child_side(|| {
        let pool = Pool::builder().keep_alive(Duration::from_millis(1)).name_prefix("gone").build().unwrap();
        for _ in 0..3 {
            let ran = AtomicUsize::new(0);
            ScopeOptions::new()
                .pool(&pool)
                .inline(false)
                .open(|s| {
                    for _ in 0..20 {
                        s.spawn(|| {
                            ran.fetch_add(1, SeqCst);
                        });
                    }
                })
                .unwrap();
            assert_eq!(ran.into_inner(), 20);
            until(|| tasks("gone").count == 0 && pool.stats().workers == 0);
        }
        pool.shutdown().unwrap();
    });
}

// S40:
#[test]
fn an_idle_pool_sleeps() {
    guarded(|| passes("child::idle", &[]));
}

#[test]
#[ignore = "a child process of `an_idle_pool_sleeps`"]
fn idle() {
    child_side(|| {
        let pool = busy_pool("idle", 8);
        until(|| {
            let stats = pool.stats();
            stats.idle == stats.workers && stats.queued == 0
        });
        // The thread of the library's alarm leaves when no deadline is left.
        until(|| tasks("tassel").count == 0);
        let mut last = tasks("idle").switches;
        until(|| {
            linger(Duration::from_millis(200));
            std::mem::replace(&mut last, tasks("idle").switches) == last
        });
        let before = tasks("idle");
        linger(Duration::from_millis(500));
        let after = tasks("idle");
        assert_eq!((before.count, before.switches), (after.count, after.switches));
    });
}

// S40:
#[test]
fn a_hundred_sleepers_wake_up_once_each() {
    guarded(|| passes("child::sleepers", &[]));
}

#[test]
#[ignore = "a child process of `a_hundred_sleepers_wake_up_once_each`"]
fn sleepers() {
    child_side(|| {
        let pool = Pool::builder().name_prefix("nap").build().unwrap();
        let woken = AtomicUsize::new(0);
        ScopeOptions::new()
            .pool(&pool)
            .inline(false)
            .open(|s| {
                for _ in 0..100 {
                    s.spawn(|| {
                        let slept = sleep(HOUR);
                        woken.fetch_add(1, SeqCst);
                        Ok(slept?)
                    });
                }
                until(|| pool.stats().blocked == 100);
                // Nobody looks at a clock meanwhile.
                let before = tasks("nap").switches;
                linger(Duration::from_millis(300));
                let asleep = tasks("nap");
                assert!(asleep.count >= 100 && asleep.switches - before <= 100, "{before} {asleep:?}");
                s.cancel();
                until(|| woken.load(SeqCst) == 100);
                let awake = tasks("nap");
                assert!(awake.switches - asleep.switches <= 1000, "{asleep:?} {awake:?}");
                Ok(())
            })
            .unwrap();
        // From start to end: to park, to be woken, locks on the way.
        let all = tasks("");
        assert!(all.switches <= 3000, "{all:?}");
        pool.shutdown().unwrap();
    });
}

// S16, D23:
#[test]
fn main_may_return_the_group() {
    guarded(|| {
        let output = child("child::returns_the_group", &[("RUST_BACKTRACE", "1")]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in ["Error: ", "scope `crawl`", "job `disk`", "disk full", "job `net`", "no route", "child.rs:"] {
            assert!(text.contains(part), "`{part}` is missing in\n{text}");
        }
        assert!(!text.contains("stack backtrace") && !text.contains("rust_begin"), "{text}");
    });
}

#[test]
#[ignore = "a child process of `main_may_return_the_group`"]
fn returns_the_group() {
    child_side(|| {
        let main = || -> Result<(), ErrorGroup> {
            let options = ScopeOptions::new().name("crawl").on_failure(tassel::OnFailure::KeepGoing);
            options.open(|s| {
                s.job("disk").spawn(|| -> tassel::Result<()> { bail!("disk full") });
                s.job("net").spawn(|| -> tassel::Result<()> { bail!("no route") });
                Ok(())
            })
        };
        // What std does with what `main` returns.
        let code = main().report();
        assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::FAILURE));
        exit(1);
    });
}

/// Runs many jobs, some of which wait for others, and checks that nothing is lost.
fn works(pool: Option<&Pool>) {
    let open = || pool.iter().fold(ScopeOptions::new(), |options, pool| options.pool(pool));
    let sum = open()
        .open(|s| {
            let jobs: Vec<_> = (1..=200_u64)
                .map(|n| {
                    s.spawn(move || {
                        let twice = scope(|s| {
                            let half = s.spawn(move || Ok(n));
                            sleep(Duration::from_micros(100))?;
                            Ok(half.join()? + n)
                        })?;
                        Ok(twice)
                    })
                })
                .collect();
            let mut sum = 0;
            for job in jobs {
                sum += job.join()?;
            }
            Ok(sum)
        })
        .unwrap();
    assert_eq!(sum, 40_200);
    let group = open()
        .open(|s| {
            s.job("bad").spawn(|| -> tassel::Result<()> { bail!("really") });
            s.spawn(|| Ok(sleep(HOUR)?));
            Ok(())
        })
        .unwrap_err();
    assert_eq!((group.len(), group.primary().name().as_ref()), (1, "bad"));
}

// S9, D18:
#[test]
#[cfg(target_os = "linux")]
fn a_program_finishes_where_the_system_has_no_memory_for_threads() {
    guarded(|| {
        let binary = env::current_exe().unwrap();
        let mut command = Command::new("sh");
        // The pool asks for stacks of 1 GiB, of which a few fit.
        command.args(["-c", "ulimit -v 4000000; exec \"$0\" \"$@\""]).arg(binary);
        command.args(["child::short_of_memory", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(crate::IN_CHILD, "1");
        let output = finish(&mut command);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{text}", output.status);
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the child is found");
    });
}

#[test]
#[ignore = "a child process of `a_program_finishes_where_the_system_has_no_memory_for_threads`"]
fn short_of_memory() {
    child_side(|| {
        let pool = Pool::builder().stack_size(1 << 30).build().unwrap();
        works(Some(&pool));
        // All at once: more than fit.
        let parked = AtomicUsize::new(0);
        ScopeOptions::new()
            .pool(&pool)
            .open(|s| {
                for _ in 0..16 {
                    s.spawn(|| {
                        parked.fetch_add(1, SeqCst);
                        Ok(sleep(Duration::from_millis(2))?)
                    });
                }
            })
            .unwrap();
        assert_eq!(parked.into_inner(), 16);
        let stats = pool.stats();
        assert!(stats.refused > 0 && stats.peak > 0, "{stats:?}");
        pool.shutdown().unwrap();
    });
}

// S9, D18:
#[test]
fn a_program_finishes_where_no_thread_can_be_had() {
    guarded(|| passes("child::without_threads", &[]));
}

#[test]
#[ignore = "a child process of `a_program_finishes_where_no_thread_can_be_had`"]
fn without_threads() {
    child_side(|| {
        let pool = Pool::builder().stack_size(1 << 60).name_prefix("none").build().unwrap();
        works(Some(&pool));
        assert!(pool.stats().refused > 0, "{:?}", pool.stats());
        assert_eq!(tasks("none").count, 0);
    });
}

// S9, D18:
#[test]
fn starvation_is_found_where_the_system_refuses_every_thread() {
    // No thread of the library itself can be had, either: its stacks would be as large.
    guarded(|| passes("child::without_any_thread", &[("RUST_MIN_STACK", &(1_u64 << 60).to_string())]));
}

#[test]
#[ignore = "a child process of `starvation_is_found_where_the_system_refuses_every_thread`"]
fn without_any_thread() {
    child_side(|| {
        assert!(thread::Builder::new().spawn(|| ()).is_err());
        works(None);
        for virtually in [false, true] {
            let meet = || {
                let barrier = Barrier::new(2);
                scope(|s| {
                    s.spawn(|| Ok(barrier.wait().map(drop)?));
                    s.spawn(|| Ok(barrier.wait().map(drop)?));
                    Ok(())
                })
            };
            let group = if virtually { virtual_time(meet) } else { meet() }.unwrap_err();
            assert_eq!(group.reason().map(tassel::Reason::kind), Some(ReasonKind::Starved), "{group:?}");
        }
    });
}

#[test]
fn a_process_ends_while_workers_are_idle() {
    guarded(|| {
        let output = passes("child::leaves_workers_behind", &[]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    });
}

#[test]
#[ignore = "a child process of `a_process_ends_while_workers_are_idle`"]
fn leaves_workers_behind() {
    child_side(|| {
        works(None);
        let all_there = StdBarrier::new(2);
        scope(|s| {
            s.job("own").own_thread().spawn(|| {
                all_there.wait();
            });
            all_there.wait();
        })
        .unwrap();
    });
}

// S29:
#[test]
fn with_panic_abort_the_first_panic_ends_the_process() {
    guarded(|| {
        let output = finish(&mut Command::new(&*abort_program()));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{}", output.status);
        assert!(text.contains("the only panic"), "{text}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "before\n");
    });
}

/// Compiles a program with `panic = "abort"` against the library that cargo built for these tests.
fn abort_program() -> Program {
    let code = r#"
        fn main() {
            let group = tassel::scope(|s| {
                println!("before");
                s.spawn(|| panic!("the only panic"));
                s.spawn(|| Ok(tassel::sleep(std::time::Duration::from_secs(3600))?));
                Ok(())
            });
            println!("after: {}", group.is_err());
        }
    "#;
    program("abort", &["-Cpanic=abort"], code)
}

/// A program that is compiled, and removed when this is dropped.
pub(crate) struct Program {
    source: PathBuf,
    program: PathBuf,
}

impl Deref for Program {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        for file in [&self.source, &self.program] {
            let _ = fs::remove_file(file);
        }
    }
}

/// Compiles a program against the library that cargo built for these tests.
pub(crate) fn program(name: &str, flags: &[&str], code: &str) -> Program {
    let deps = env::current_exe().unwrap().parent().unwrap().to_owned();
    let libraries = fs::read_dir(&deps).unwrap().flatten().filter(|file| {
        let path = file.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        stem.starts_with("libtassel-") && path.extension().is_some_and(|kind| kind == "rlib")
    });
    let newest = libraries.max_by_key(|file| file.metadata().and_then(|data| data.modified()).ok());
    let library = newest.expect("cargo built the library for this test").path();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let own = std::process::id(); // two runs of the tests at once
    let (source, program) = (folder.join(format!("{name}-{own}.rs")), folder.join(format!("{name}-{own}")));
    let built = Program { source, program };
    let Program { source, program } = &built;
    fs::write(source, code).unwrap();
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.arg("--edition=2024").args(flags).arg("--extern").arg(format!("tassel={}", library.display()));
    rustc.arg("-L").arg(format!("dependency={}", deps.display())).arg("-o").arg(program).arg(source);
    let output = finish(&mut rustc);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    built
}
