//! The sleeper example with its options: what it prints, to the byte, and how it ends.

use crate::{
    examples::{Ran, example, golden, without_the_hook},
    guarded,
};
use std::{process::Command, sync::Mutex};
use tassel::{Scope, scope, sleep, snapshot, testing::virtual_time};

fn sleeper() -> Command {
    example("sleeper")
}

fn run(arguments: &str) -> Ran {
    crate::examples::run("sleeper", arguments)
}

#[test]
fn with_naps_of_its_own_it_prints_their_golden_file() {
    guarded(|| {
        let ran = run("--virtual --scale 0.5 --nap D=2.5 --nap E=1");
        assert_eq!((ran.code, ran.out + &ran.err), (Some(0), golden("sleeper-nap.txt")));
    });
}

#[test]
fn a_failure_a_panic_and_a_timeout_stop_the_others_and_end_with_one() {
    guarded(|| {
        for (arguments, name) in [
            ("--virtual --fail B", "sleeper-fail.txt"),
            ("--virtual --panic B", "sleeper-panic.txt"),
            ("--virtual --timeout 2", "sleeper-timeout.txt"),
            ("--virtual --timeout 2 --tree", "sleeper-tree.txt"),
        ] {
            let ran = run(arguments);
            assert_eq!(ran.code, Some(1), "{arguments}");
            assert_eq!(ran.out + &without_the_hook(&ran.err, "B was told to panic"), golden(name), "{arguments}");
        }
    });
}

#[test]
fn bad_options_are_told_and_end_with_two() {
    guarded(|| {
        for (arguments, text) in [
            ("--fail Z", "--fail: there is no nap called `Z`"),
            ("--panic Z", "--panic: there is no nap called `Z`"),
            ("--nap A=1 --nap A=2", "two naps are called `A`"),
            ("--nap A=-1", "a nap of -1s times 1 is no length of time"),
            ("--nap A", "expected NAME=SECS, such as D=2.5"),
            ("--nap =1", "the name before `=` is empty"),
            ("--nap A=soon", "`soon` is no number of seconds"),
            ("--timeout inf", "a timeout of infs times 1 is no length of time"),
            ("--scale x", "invalid value 'x'"),
            ("--sideways", "unexpected argument '--sideways'"),
        ] {
            let ran = run(arguments);
            assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{arguments}");
            assert!(ran.err.contains(text), "{arguments}: {}", ran.err);
        }
    });
}

/// The messages of the steps, which have three lines each.
fn steps(out: &str) -> Vec<String> {
    let lines: Vec<_> = out.lines().collect();
    lines.chunks(3).map(|step| step[1].to_owned()).collect()
}

#[test]
fn in_real_time_only_the_order_of_going_to_sleep_may_differ() {
    guarded(|| {
        let ran = run("--scale 0.02");
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        let steps = steps(&ran.out);
        let at = |step: &str| steps.iter().position(|s| s == step).unwrap_or_else(|| panic!("no `{step}`: {steps:?}"));
        assert_eq!((steps.len(), at("Tasks complete")), (8, 7));
        let _ = at("tasks created");
        for nap in ["A 5s", "B 3s", "C 1s"] {
            let (name, seconds) = nap.split_once(' ').unwrap();
            assert!(
                at(&format!("{name} napping {seconds}")) < at(&format!("{name} woken after {seconds}")),
                "{steps:?}"
            );
        }
    });
}

#[cfg(unix)]
mod ctrl_c {
    use super::sleeper;
    use crate::{CHILD_LIMIT, guarded, read_aside};
    use std::{
        io::{BufRead, BufReader, Read},
        process::{Child, ChildStdout, Command, Stdio},
        sync::mpsc::Receiver,
    };

    /// A sleeper that runs beside the test, and not longer than it.
    struct Live {
        child: Child,
        out: ChildStdout,
        err: Receiver<Vec<u8>>,
    }

    impl Live {
        /// Starts it with a nap that outlasts any test, but not by much.
        fn nap(name: &str) -> Live {
            let nap = format!("--nap={name}=60");
            let mut child = sleeper().arg(nap).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let (out, err) = (child.stdout.take().unwrap(), read_aside(child.stderr.take().unwrap()));
            Live { child, out, err }
        }

        fn interrupt(&self) {
            let kill = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
            assert!(kill.unwrap().success());
        }

        /// Waits for its end, and returns its code and what it wrote to standard error.
        fn end(mut self) -> (Option<i32>, String) {
            let err = self.err.recv_timeout(CHILD_LIMIT).expect("it ends in time");
            (self.child.wait().unwrap().code(), String::from_utf8(err).unwrap())
        }
    }

    impl Drop for Live {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    // S30:
    #[test]
    fn the_first_stops_the_tree_and_is_reported() {
        guarded(|| {
            let mut live = Live::nap("A");
            let mut out = BufReader::new(&mut live.out);
            let mut said = String::new();
            while !said.contains("A napping") {
                said.clear();
                assert_ne!(out.read_line(&mut said).unwrap(), 0, "it ended before it was asked to");
            }
            live.interrupt();
            let (code, err) = live.end();
            assert_eq!(code, Some(130), "{err}");
            assert!(err.contains("was stopped: Ctrl-C (examples/sleeper.rs:"), "{err}");
        });
    }

    // S30:
    #[test]
    fn a_second_one_ends_it_at_once_though_a_job_cannot_be_stopped() {
        guarded(|| {
            // A line that is longer than a pipe holds: who prints it is stuck, and no cancel can help.
            let mut live = Live::nap(&"A".repeat(100_000));
            live.out.read_exact(&mut [0]).unwrap();
            live.interrupt();
            // Signals do not queue: one that comes before the first was taken in is the first still.
            while live.child.try_wait().unwrap().is_none() {
                live.interrupt();
            }
            // An orderly end would have said what was stopped.
            assert_eq!(live.end(), (Some(130), String::new()));
        });
    }
}

#[test]
fn a_job_is_in_the_picture_from_its_spawn_to_its_end() {
    guarded(|| {
        for run in 0..200 {
            let pictures = Mutex::new(Vec::new());
            let look = |s: &Scope<'_, '_>| {
                let names = snapshot::of(s).jobs().map(|job| job.name.clone()).collect::<Vec<_>>().join(" ");
                pictures.lock().unwrap().push(names);
            };
            let look = &look;
            virtual_time(|| {
                scope(|s| {
                    for (name, seconds) in [("A", 5), ("B", 3), ("C", 1)] {
                        s.job(name).spawn(move || {
                            look(s);
                            Ok(sleep(std::time::Duration::from_secs(seconds))?)
                        });
                    }
                })
                .unwrap();
            });
            assert_eq!(pictures.into_inner().unwrap(), ["A B C", "A B C", "A B C"], "run {run}");
        }
    });
}
