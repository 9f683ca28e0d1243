//! Shows what limits on time do: around code, within each other, of a job, of a scope, and where they do not reach.
//!
//! Each line pair is a call, what it returned, and how long it took. `move_on_after` answers `None` when the time is over,
//! `fail_after` fails. Of nested limits the one that passes first counts, and only the code inside it ends. The timeouts of
//! jobs and scopes are failures. At last, the trap: a job belongs to its scope, not to the place where it was spawned, so
//! a limit around `spawn` or `join` does not stop the job; one of its own does, or a limit around its whole scope. All of
//! this was to be expected, so the program ends with 0.
//!
//! With `--virtual` it takes no time and prints the same each time.

use clap::Parser;
use std::{
    fmt::Debug,
    io::{self, Write},
    time::Duration,
};
use tassel::{
    ScopeOptions, now,
    region::{fail_after, move_on_after},
    scope, sleep,
    testing::virtual_time,
};

#[derive(Parser)]
#[command(name = "timeouts", about = "Limits the time of code, jobs and scopes; shows what each limit stops")]
struct Options {
    /// Virtual time: the same steps in no time
    #[arg(long = "virtual")]
    in_virtual_time: bool,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn nap(time: Duration) -> tassel::Result<&'static str> {
    sleep(time)?;
    Ok("slept well")
}

/// Runs `f`, and prints what came of it and how long it took.
fn show<T: Debug>(what: &str, f: impl FnOnce() -> tassel::Result<T>) {
    let began = now();
    let answer = match f() {
        Ok(value) => format!("Ok({value:?})"),
        Err(error) => format!("Err({error})"),
    };
    let _ = writeln!(io::stdout(), "{what}\n{:>5} ms: {answer}", (now() - began).as_millis());
}

fn around_code() {
    show("a nap of 100 ms, 300 ms to go", || move_on_after(ms(300), || nap(ms(100))));
    show("a nap of 300 ms, move on after 100 ms", || move_on_after(ms(100), || nap(ms(300))));
    show("a nap of 300 ms, fail after 100 ms", || fail_after(ms(100), || nap(ms(300))));
}

fn nested() {
    show("the inner limit is the shorter one: the code around it goes on", || {
        fail_after(ms(300), || {
            let inner = move_on_after(ms(100), || nap(ms(1000)))?;
            Ok((inner, nap(ms(100))?))
        })
    });
    show("the outer limit is the shorter one: the inner one passes the stop on", || {
        move_on_after(ms(100), || {
            let inner = move_on_after(ms(300), || nap(ms(1000)))?;
            Ok((inner, nap(ms(100))?))
        })
    });
}

fn of_jobs_and_scopes() {
    show("a job that times out fails, and stops its siblings", || {
        let all = ScopeOptions::new().name("all");
        Ok(all.open(|s| {
            let slow = s.job("slow").timeout(ms(100)).spawn(|| nap(ms(1000)));
            let sibling = s.job("sibling").spawn(|| nap(ms(200)));
            Ok((slow.join()?, sibling.join()?))
        })?)
    });
    show("if it is isolated, its joiner decides, and the siblings go on", || {
        Ok(scope(|s| {
            let slow = s.job("slow").isolated().timeout(ms(100)).spawn(|| nap(ms(1000)));
            let sibling = s.job("sibling").spawn(|| nap(ms(200)));
            Ok((slow.join()?.unwrap_or("no sleep"), sibling.join()?))
        })?)
    });
    show("the timeout of a scope stops all that is in it", || {
        let all = ScopeOptions::new().name("all").timeout(ms(100));
        Ok(all.open(|s| {
            let first = s.spawn(|| nap(ms(1000)));
            let second = s.spawn(|| nap(ms(1000)));
            Ok((first.join()?, second.join()?))
        })?)
    });
}

fn around_a_spawn() {
    show("100 ms around `spawn`: over at once, so nothing is stopped, and the scope waits for the job", || {
        Ok(scope(|s| {
            move_on_after(ms(100), || {
                s.spawn(|| nap(ms(500)));
                Ok("spawned")
            })
        })?)
    });
    show("100 ms around `join`: the wait is stopped, the job is not, and the scope waits for it", || {
        Ok(scope(|s| {
            let job = s.spawn(|| nap(ms(500)));
            move_on_after(ms(100), || Ok(job.join()?))
        })?)
    });
    show("100 ms for the job itself", || {
        Ok(scope(|s| {
            let job = s.job("slow").isolated().timeout(ms(100)).spawn(|| nap(ms(500)));
            Ok(job.join()?.ok())
        })?)
    });
    show("100 ms around the scope, with all its jobs", || {
        move_on_after(ms(100), || {
            Ok(scope(|s| {
                let job = s.spawn(|| nap(ms(500)));
                Ok(job.join()?)
            })?)
        })
    });
}

fn timeouts() {
    around_code();
    nested();
    of_jobs_and_scopes();
    around_a_spawn();
}

fn main() {
    let options = Options::parse();
    if options.in_virtual_time { virtual_time(timeouts) } else { timeouts() }
}
