//! Shows workers that serve until they are told to stop, and then have a while to say goodbye.
//!
//! Four workers share one scope. After half a second the body stops it, and every wait of a worker fails from then on; so
//! what a worker does on its way out stands in `cleanup`, where waits go on for as long as the *grace* lasts: one budget
//! of 300 ms for all, from the moment of the stop. Three workers are done before it ends, and the fourth is cut. A report
//! says so when all are home. To be stopped is no failure; a worker that was cut in its goodbye makes it one, and the
//! program ends with 1.
//!
//! With `--virtual` it takes no time and prints the same each time.

use anyhow::bail;
use clap::Parser;
use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};
use tassel::{ErrorGroup, ScopeOptions, now, region::cleanup, sleep, testing::virtual_time};

#[derive(Parser)]
#[command(name = "graceful_shutdown", about = "Stops four workers; shows who ends well within the grace")]
struct Options {
    /// Virtual time: the same steps in no time
    #[arg(long = "virtual")]
    in_virtual_time: bool,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Prints a line, with the time since the program began.
fn say(began: Instant, what: impl Display) {
    let _ = writeln!(io::stdout(), "{:>3} ms: {what}", (now() - began).as_millis());
}

struct Worker {
    name: &'static str,
    /// How long a request takes.
    request: Duration,
    /// How long it takes to put everything in order before the end.
    goodbye: Duration,
    served: u32,
    ended_well: bool,
}

impl Worker {
    fn new(name: &'static str, request: Duration, goodbye: Duration) -> Self {
        Worker { name, request, goodbye, served: 0, ended_well: false }
    }

    fn work(&mut self, began: Instant) -> tassel::Result<()> {
        while sleep(self.request).is_ok() {
            self.served += 1;
        }
        say(began, format_args!("`{}` is stopped, and needs {:?} to say goodbye", self.name, self.goodbye));
        // The limit of its own is for a stop that has no grace.
        if let Err(cut) = cleanup(ms(1000), || Ok(sleep(self.goodbye)?)) {
            say(began, format_args!("`{}` is cut", self.name));
            // Passed on as it is, it would be a stop, which the scope takes in. As a text it is a failure.
            bail!("cut in its goodbye: {cut}");
        }
        say(began, format_args!("`{}` has said goodbye", self.name));
        self.ended_well = true;
        Ok(())
    }
}

fn graceful_shutdown() -> Result<(), ErrorGroup> {
    let began = now();
    let mut workers = [
        Worker::new("web", ms(30), ms(50)),
        Worker::new("mail", ms(70), ms(250)),
        Worker::new("cache", ms(45), ms(10)),
        Worker::new("archive", ms(120), ms(800)),
    ];
    let result = ScopeOptions::new().name("server").grace(ms(300)).open(|s| {
        for worker in &mut workers {
            s.job(worker.name).spawn(move || worker.work(began));
        }
        sleep(ms(500))?;
        say(began, "the body stops the scope");
        s.cancel_with("closing time");
        Ok(())
    });
    say(began, "all are home");
    for Worker { name, served, ended_well, .. } in workers {
        let end = if ended_well { "ended well" } else { "was cut" };
        let _ = writeln!(io::stdout(), "        {name:<7}  {served:>2} requests, {end}");
    }
    result
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = if options.in_virtual_time { virtual_time(graceful_shutdown) } else { graceful_shutdown() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(group) => {
            let _ = writeln!(io::stderr(), "{group:?}");
            ExitCode::FAILURE
        }
    }
}
