//! Shows the ways in which one job is stopped while the others go on, and what its joiner is told of each.
//!
//! Seven jobs start, each with a guard that prints when it is dropped. One finishes, one stops itself, one runs out of
//! time, one is stopped by a token that it gave away, and three through their handles: one that has not started, one that
//! sleeps, and one that is at something which must not be torn apart, and ends that first. A stop is no more than an
//! error that a call returns: `?` passes it on, and guards drop on the way out. None of these stops is a failure but the
//! timeout; so the program ends with 1.
//!
//! With `--virtual` it takes no time and prints the same each time. In real time the job that is to be stopped before it
//! starts may have been quicker.

use clap::Parser;
use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    sync::mpsc,
    time::{Duration, Instant},
};
use tassel::{
    CancelToken, ErrorGroup, OnFailure, ScopeOptions, checkpoint, now, region::shield, sleep, testing::virtual_time,
};

#[derive(Parser)]
#[command(name = "cancellation", about = "Stops jobs one by one; shows what drops, and what their joins say")]
struct Options {
    /// Virtual time: the same steps in no time
    #[arg(long = "virtual")]
    in_virtual_time: bool,
}

const LONG: Duration = Duration::from_secs(3600);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Prints a line, with the time since the program began.
fn say(began: Instant, what: impl Display) {
    let _ = writeln!(io::stdout(), "{:>3} ms: {what}", (now() - began).as_millis());
}

/// What a job holds, such as a connection or a lock file.
struct Guard {
    job: &'static str,
    began: Instant,
}

impl Drop for Guard {
    fn drop(&mut self) {
        say(self.began, format_args!("the guard of `{}` drops", self.job));
    }
}

/// What most of the jobs do.
fn work(_held: Guard, time: Duration) -> tassel::Result<&'static str> {
    sleep(time)?;
    Ok("a value")
}

fn cancellation() -> Result<(), ErrorGroup> {
    let began = now();
    let guard = |job| Guard { job, began };
    let (give, given) = mpsc::channel();

    // Else the failure, the timeout, would stop the others.
    let options = ScopeOptions::new().name("cancellation").on_failure(OnFailure::KeepGoing);
    options.open(|s| {
        let held = guard("finishes");
        let finishes = s.job("finishes").spawn(move || work(held, ms(100)));

        let held = guard("stops itself");
        let stops_itself = s.job("stops itself").spawn(move || {
            CancelToken::current().cancel_with("nothing to do");
            work(held, LONG)
        });

        let held = guard("too slow");
        let too_slow = s.job("too slow").timeout(ms(200)).spawn(move || work(held, LONG));

        let held = guard("by token");
        let by_token = s.job("by token").spawn(move || {
            give.send(CancelToken::current())?;
            work(held, LONG)
        });

        let held = guard("not started");
        let not_started = s.job("not started").spawn(move || work(held, LONG));

        let held = guard("asleep");
        let asleep = s.job("asleep").spawn(move || work(held, LONG));

        let held = guard("busy");
        let busy = s.job("busy").spawn(move || {
            let _held = held;
            shield(LONG, || Ok(sleep(ms(500))?))?; // no stop from outside is seen in here,
            say(began, "`busy` has done what must not be torn apart");
            checkpoint()?; // but here it is
            Ok("a value")
        });

        say(began, "the body stops `not started`");
        not_started.cancel();
        sleep(ms(300))?;
        say(began, "the body stops `by token`");
        given.recv()?.cancel_with("nobody waits for it");
        sleep(ms(100))?;
        say(began, "the body stops `asleep` and `busy`");
        asleep.cancel();
        busy.cancel_with("closing time");

        for job in [finishes, stops_itself, too_slow, by_token, not_started, asleep, busy] {
            let name = job.name();
            match job.join() {
                Ok(value) => say(began, format_args!("join: job `{name}` has {value}")),
                Err(error) => say(began, format_args!("join: {error}")),
            }
        }
        say(began, format_args!("all joined; is the scope cancelled? {}", s.is_cancelled()));
        Ok(())
    })
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = if options.in_virtual_time { virtual_time(cancellation) } else { cancellation() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(group) => {
            let _ = writeln!(io::stderr(), "{group:?}");
            ExitCode::FAILURE
        }
    }
}
