//! Shows how jobs fail, how their failures come back together, and how they are handled by kind.
//!
//! Eight jobs run in a scope that keeps going. Each fails in a way of its own: with an error, an error with context, an
//! error type of the program's, an `io::Error`, a panic, a timeout, an inner scope, and one that is isolated, so that only
//! its joiner hears of it. All others come back in one group, which is drawn as a tree, and taken apart: what the program
//! can deal with is handled by type. The same jobs in a scope that fails fast, which is the default, leave one failure:
//! the first stops the rest. What nobody handled goes to standard error, and the program ends with 1.
//!
//! With `--virtual` it takes no time and prints the same each time.

use anyhow::{Context, bail};
use clap::Parser;
use std::{
    fmt::Display,
    io::{self, Write},
    num::ParseIntError,
    process::ExitCode,
    time::Duration,
};
use tassel::{ErrorGroup, OnFailure, Scope, ScopeOptions, region::TimedOut, scope, sleep, testing::virtual_time};

#[derive(Parser)]
#[command(name = "failures", about = "Fails in eight ways; shows the group, and handles it by kind")]
struct Options {
    /// Virtual time: the same steps in no time
    #[arg(long = "virtual")]
    in_virtual_time: bool,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn say(what: impl Display) {
    let _ = writeln!(io::stdout(), "{what}");
}

/// An error type of the program's own.
#[derive(Debug, thiserror::Error)]
#[error("shelf {shelf} is full")]
struct ShelfFull {
    shelf: u32,
}

fn spawn_all<'scope>(s: &'scope Scope<'scope, '_>) -> tassel::Result<()> {
    s.job("error").spawn(|| -> tassel::Result<()> {
        sleep(ms(10))?;
        bail!("no paper")
    });
    s.job("context").spawn(|| {
        sleep(ms(20))?;
        let pages: u32 = "twelve".parse().context("reading the number of pages")?;
        Ok(pages)
    });
    s.job("custom").spawn(|| -> tassel::Result<()> {
        sleep(ms(30))?;
        Err(ShelfFull { shelf: 7 }.into())
    });
    s.job("io").spawn(|| -> tassel::Result<()> {
        sleep(ms(40))?;
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the printer is off").into())
    });
    s.job("panic").spawn(|| {
        sleep(ms(50))?;
        let pages: [u32; 0] = [];
        Ok(*pages.iter().max().expect("there is a page"))
    });
    s.job("timeout").timeout(ms(60)).spawn(|| Ok(sleep(Duration::MAX)?));
    s.job("inner").spawn(|| {
        sleep(ms(70))?;
        ScopeOptions::new().name("copies").on_failure(OnFailure::KeepGoing).open(|s| {
            for shelf in [1, 2] {
                s.job(format!("copy {shelf}")).spawn(move || Err::<(), _>(ShelfFull { shelf }.into()));
            }
            Ok(())
        })?;
        Ok(())
    });
    let isolated = s.job("isolated").isolated().spawn(|| -> tassel::Result<()> {
        sleep(ms(5))?;
        bail!("no colour")
    });
    // The outer result is about the join, the inner one is the job's.
    if let Err(leaf) = isolated.join()? {
        say(format_args!("The joiner of the isolated job deals with it: {leaf:#}"));
    }
    Ok(())
}

/// Deals with what it knows, and returns the rest: here a text, which has no type to ask for, and a panic.
fn handle(group: ErrorGroup) -> Option<ErrorGroup> {
    let rest = group.handle::<ShelfFull>(|full| tell("shelves to empty", &full))?;
    let rest = rest.handle::<ParseIntError>(|bad| tell("numbers to correct", &bad))?;
    let rest = rest.handle::<io::Error>(|io| tell("devices to look after", &io))?;
    rest.handle::<TimedOut>(|late| tell("jobs to do again", &late))
}

fn tell(what: &str, group: &ErrorGroup) -> tassel::Result<()> {
    for leaf in group.leaves() {
        writeln!(io::stdout(), "{what}: {leaf:#}")?;
    }
    Ok(())
}

fn failures() -> Result<(), ErrorGroup> {
    say("--- keep going: every failure comes back");
    let keep_going = ScopeOptions::new().name("print").on_failure(OnFailure::KeepGoing);
    let Err(group) = keep_going.open(|s| spawn_all(s)) else { return Ok(()) };
    say(format_args!("{group}"));
    say("--- as a tree, which mirrors that of the scopes");
    say(format_args!("{group:?}"));

    say("--- handled by kind, wherever in the tree, beneath any context");
    let rest = handle(group);

    say("--- fail fast: the first failure stops the rest");
    let Err(first) = scope(|s| spawn_all(s)) else { return Ok(()) };
    say(format_args!("{first:?}"));

    rest.map_or(Ok(()), Err)
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = if options.in_virtual_time { virtual_time(failures) } else { failures() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(group) => {
            let _ = writeln!(io::stderr(), "{group:?}");
            ExitCode::FAILURE
        }
    }
}
