//! Shows three jobs that nap in one scope: who lives, who moves, and that all come home together.
//!
//! Each step prints the live jobs as `Name[moving]`, the body (`Main`) first, then a message. The whole takes as long as
//! the longest nap. With `--virtual` it takes no time at all and prints the same each time.

use anyhow::{Context, bail, ensure};
use clap::{CommandFactory, Parser, error::ErrorKind};
use std::{
    io::{self, Write},
    process::{self, ExitCode},
    sync::Mutex,
    time::Duration,
};
use tassel::{
    CancelToken, ErrorGroup, ReasonKind, Scope, ScopeOptions, sleep,
    snapshot::{self, Snapshot},
    testing::virtual_time,
};

#[derive(Parser)]
#[command(name = "sleeper", about = "Naps in one scope; shows who lives and who moves")]
struct Options {
    /// Virtual time: the same steps in no time
    #[arg(long = "virtual")]
    in_virtual_time: bool,
    /// Multiplies every nap and the timeout
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    scale: f64,
    /// A nap of its own; may be repeated, and replaces the three
    #[arg(long, value_name = "NAME=SECS", value_parser = parse_nap)]
    nap: Vec<Nap>,
    /// The job that fails when it wakes
    #[arg(long, value_name = "NAME")]
    fail: Option<String>,
    /// The job that panics when it wakes
    #[arg(long, value_name = "NAME")]
    panic: Option<String>,
    /// Stops everybody after this many seconds
    #[arg(long, value_name = "SECS")]
    timeout: Option<f64>,
    /// Draws the scope as a tree at each step, instead of a line of pairs
    #[arg(long)]
    tree: bool,
}

#[derive(Clone)]
struct Nap {
    name: String,
    seconds: f64,
}

fn parse_nap(text: &str) -> anyhow::Result<Nap> {
    let (name, seconds) = text.split_once('=').context("expected NAME=SECS, such as D=2.5")?;
    ensure!(!name.is_empty(), "the name before `=` is empty");
    let seconds = seconds.parse().with_context(|| format!("`{seconds}` is no number of seconds"))?;
    Ok(Nap { name: name.to_owned(), seconds })
}

/// What the jobs do, once the options have been found good.
struct Plan {
    naps: Vec<(String, f64, Duration)>,
    timeout: Option<Duration>,
    fail: Option<String>,
    panic: Option<String>,
    tree: bool,
}

impl Plan {
    fn new(options: Options) -> anyhow::Result<Self> {
        let scale = options.scale;
        let mut naps = options.nap;
        if naps.is_empty() {
            naps = [("A", 5.0), ("B", 3.0), ("C", 1.0)].map(|(name, s)| Nap { name: name.into(), seconds: s }).into();
        }
        let time = |what: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds * scale)
                .with_context(|| format!("{what} of {seconds}s times {scale} is no length of time"))
        };
        let mut planned: Vec<(String, f64, Duration)> = Vec::new();
        for Nap { name, seconds } in naps {
            ensure!(planned.iter().all(|(other, ..)| *other != name), "two naps are called `{name}`");
            let nap = time("a nap", seconds)?;
            planned.push((name, seconds, nap));
        }
        for (option, name) in [("--fail", &options.fail), ("--panic", &options.panic)] {
            if let Some(name) = name {
                ensure!(planned.iter().any(|(nap, ..)| nap == name), "{option}: there is no nap called `{name}`");
            }
        }
        let timeout = options.timeout.map(|seconds| time("a timeout", seconds)).transpose()?;
        Ok(Plan { naps: planned, timeout, fail: options.fail, panic: options.panic, tree: options.tree })
    }
}

impl Plan {
    /// Prints one step: who lives and moves at this moment, and what happens. One at a time, so that the picture and the
    /// message belong together.
    fn step(&self, scope: Option<&Scope<'_, '_>>, message: &str) -> io::Result<()> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock();
        let picture = scope.map(snapshot::of);
        let line = match picture {
            Some(picture) if self.tree => picture.to_string(),
            picture => pairs(picture.as_ref()),
        };
        writeln!(io::stdout(), "{line}\n{message}\n-------------------------")
    }
}

/// The live jobs after the main thread, each with whether it moves.
fn pairs(picture: Option<&Snapshot>) -> String {
    let show = |moves: bool| if moves { "True" } else { "False" };
    // The first entry is the scope itself, and does what its body does.
    let body = picture.is_none_or(|picture| picture.entries[0].state.is_running());
    let mut line = format!("Main[{}]", show(body));
    for job in picture.iter().flat_map(|picture| picture.jobs()) {
        line.extend([" ", &job.name, "[", show(job.state.is_running()), "]"]);
    }
    line
}

fn nap_together(plan: &Plan, token: &CancelToken) -> Result<(), ErrorGroup> {
    let options = ScopeOptions::new().name("sleeper").under(token);
    let options = match plan.timeout {
        Some(timeout) => options.timeout(timeout),
        None => options,
    };
    options.open(|s| {
        for (name, seconds, nap) in &plan.naps {
            s.job(name).spawn(move || {
                plan.step(Some(s), &format!("{name} napping {seconds}s"))?;
                if let Err(stop) = sleep(*nap) {
                    plan.step(Some(s), &format!("{name} woken early"))?;
                    return Err(stop.into());
                }
                if plan.fail.as_ref() == Some(name) {
                    bail!("{name} was told to fail");
                }
                assert!(plan.panic.as_ref() != Some(name), "{name} was told to panic");
                plan.step(Some(s), &format!("{name} woken after {seconds}s"))?;
                Ok(())
            });
        }
        plan.step(Some(s), "tasks created")?;
        Ok(())
    })?;
    let _ = plan.step(None, "Tasks complete");
    Ok(())
}

/// The first Ctrl-C stops the tree, a second one ends the process.
fn cancel_on_ctrl_c(token: &CancelToken) -> Result<(), ctrlc::Error> {
    let token = token.clone();
    ctrlc::set_handler(move || {
        if token.is_cancelled() {
            process::exit(130);
        }
        token.cancel_by_signal("Ctrl-C");
    })
}

fn main() -> ExitCode {
    let options = Options::parse();
    let in_virtual_time = options.in_virtual_time;
    let plan = match Plan::new(options) {
        Ok(plan) => plan,
        Err(error) => Options::command().error(ErrorKind::ValueValidation, format!("{error:#}")).exit(),
    };
    let token = CancelToken::new();
    if let Err(error) = cancel_on_ctrl_c(&token) {
        let _ = writeln!(io::stderr(), "Ctrl-C will end the program at once: {error}");
    }
    let result =
        if in_virtual_time { virtual_time(|| nap_together(&plan, &token)) } else { nap_together(&plan, &token) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(group) => {
            let _ = writeln!(io::stderr(), "{group:?}");
            let by_signal = token.reason().is_some_and(|reason| reason.kind() == ReasonKind::Signal);
            ExitCode::from(if by_signal { 130 } else { 1 })
        }
    }
}
