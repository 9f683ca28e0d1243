//! Shows what a cancel does to who has a lock, and to who waits for it.
//!
//! Four jobs want one printer, and have it one after the other. `A` has it for five seconds, but is cancelled after two:
//! its sleep ends, its guard is dropped on the way out, and `B`, who came first, has the printer at that moment. `C` is
//! cancelled while it waits: it leaves the queue without having had the printer. `D` waits behind `C`, so when `B` is done the
//! turn is `D`'s: nobody hangs, and nobody has a lock that somebody else thinks to have. A snapshot shows who has it, and who
//! waits. A job that its handle has cancelled is no failure, so the program ends with 0.
//!
//! With `--virtual` it takes no time and prints the same each time; `--scale 0.01` makes it a hundred times as fast in real
//! time.

use clap::Parser;
use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};
use tassel::{ErrorGroup, ScopeOptions, now, sleep, snapshot, sync::Mutex, testing::virtual_time};

#[derive(Clone, Copy, Parser)]
#[command(name = "lock_cancellation", about = "Cancels who has a lock, and who waits for it")]
struct Options {
    /// How long a second is, in seconds
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// Virtual time: the same steps in no time
    #[arg(long = "virtual")]
    in_virtual_time: bool,
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (0.0001..=1000.0).contains(&scale) => Ok(scale),
        Ok(_) => Err("from 0.0001 to 1000".into()),
        Err(error) => Err(format!("{error}")),
    }
}

struct Clock {
    began: Instant,
    scale: f64,
}

impl Clock {
    fn sleep(&self, seconds: u32) -> Result<(), tassel::Cancelled> {
        sleep(Duration::from_secs(seconds.into()).mul_f64(self.scale))
    }

    /// Prints a line, with the seconds since the program began.
    fn say(&self, what: impl Display) {
        let seconds = (now() - self.began).as_secs_f64() / self.scale;
        let _ = writeln!(io::stdout(), "{seconds:>3.0} s: {what}");
    }
}

/// Prints for so long, when the printer is free.
fn print(name: &str, seconds: u32, printer: &Mutex<Vec<String>>, clock: &Clock) -> tassel::Result<()> {
    let mut pages = printer.lock().inspect_err(|_| clock.say(format_args!("{name} is cancelled as it waits")))?;
    clock.say(format_args!("{name} has the printer"));
    clock.sleep(seconds).inspect_err(|_| clock.say(format_args!("{name} is cancelled as it prints")))?;
    pages.push(format!("a page of {name}"));
    clock.say(format_args!("{name} is done"));
    Ok(())
}

fn lock_cancellation(scale: f64) -> Result<(), ErrorGroup> {
    let clock = Clock { began: now(), scale };
    let printer = Mutex::named("printer", Vec::new());
    ScopeOptions::new().name("office").open(|s| {
        let (clock, printer) = (&clock, &printer);
        let spawn = |name, seconds| s.job(name).spawn(move || print(name, seconds, printer, clock));
        let a = spawn("A", 5);
        spawn("B", 2);
        let c = spawn("C", 2);
        spawn("D", 2);
        clock.sleep(1)?;
        for job in snapshot::of(s).jobs() {
            if let Some(printer) = &job.resource {
                clock.say(format_args!("{} waits for the printer, which {} has", job.name, printer.held_by.join(", ")));
            }
        }
        clock.sleep(1)?;
        a.cancel();
        clock.sleep(1)?;
        c.cancel();
        Ok(())
    })?;
    let _ = writeln!(io::stdout(), "printed: {}", printer.into_inner().join(", "));
    Ok(())
}

fn main() -> ExitCode {
    let Options { scale, in_virtual_time } = Options::parse();
    let run = move || lock_cancellation(if in_virtual_time { 1.0 } else { scale });
    match if in_virtual_time { virtual_time(run) } else { run() } {
        Ok(()) => ExitCode::SUCCESS,
        Err(group) => {
            let _ = writeln!(io::stderr(), "{group:?}");
            ExitCode::FAILURE
        }
    }
}
