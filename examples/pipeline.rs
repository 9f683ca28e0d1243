//! Shows a pipeline that stops as one: it reads lines, parses them and writes the numbers, over channels with little room.
//!
//! One job reads, two parse, one writes. Reading is the fastest, so the first channel is full most of the time, and the reader
//! waits in `send`. Line 12 is no number: its parser fails, and with that the scope stops the others, wherever they wait. A
//! send that is stopped gives its line back, and what the channels hold is still in them, as these were made outside the
//! scope. So in the end every line that was read is accounted for. The program ends with 1.
//!
//! `--good` leaves the bad line out: then every line is written, and the program ends with 0. With `--virtual` it takes no time
//! and prints the same each time.

use anyhow::Context as _;
use clap::Parser;
use std::{
    io::{self, Write},
    process::ExitCode,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};
use tassel::{
    ErrorGroup, ScopeOptions,
    channel::{self, Receiver, SendError, Sender},
    sleep,
    testing::virtual_time,
};

#[derive(Parser)]
#[command(name = "pipeline", about = "Reads, parses and writes lines; shows where each is when one of them is bad")]
struct Options {
    /// Every line is a number
    #[arg(long)]
    good: bool,
    /// Virtual time: the same steps in no time
    #[arg(long = "virtual")]
    in_virtual_time: bool,
}

const LINES: u32 = 20;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Line {
    number: u32,
    text: String,
}

fn lines(good: bool) -> impl Iterator<Item = Line> {
    let text =
        move |number: u32| if number == 12 && !good { "twelve".to_owned() } else { (number * number).to_string() };
    (1..=LINES).map(move |number| Line { number, text: text(number) })
}

/// Where the lines have got to.
#[derive(Default)]
struct Counts {
    read: AtomicU32,
    bad: AtomicU32,
    written: AtomicU32,
    /// Given back by a send that was stopped, or still in work.
    in_hand: AtomicU32,
}

impl Counts {
    /// Hands a value on; one that comes back is counted, and let go.
    fn send<T>(&self, to: &Sender<T>, value: T) -> Result<(), SendError<()>> {
        channel::send(to, value).map_err(|unsent| {
            self.in_hand.fetch_add(1, Relaxed);
            unsent.without_value()
        })
    }

    /// Works on a value for a while; if it is stopped meanwhile, the value is counted.
    fn work(&self, time: Duration) -> Result<(), tassel::Cancelled> {
        sleep(time).inspect_err(|_| {
            self.in_hand.fetch_add(1, Relaxed);
        })
    }
}

fn read(good: bool, counts: &Counts, to: &Sender<Line>) -> tassel::Result<()> {
    for line in lines(good) {
        sleep(ms(10))?;
        counts.read.fetch_add(1, Relaxed);
        counts.send(to, line)?;
    }
    Ok(())
}

fn parse(counts: &Counts, from: &Receiver<Line>, to: &Sender<u64>) -> tassel::Result<()> {
    for line in channel::iter(from) {
        let line = line?;
        counts.work(ms(50))?;
        let number = line.text.parse().with_context(|| {
            counts.bad.fetch_add(1, Relaxed);
            format!("line {}: `{}`", line.number, line.text)
        })?;
        counts.send(to, number)?;
    }
    Ok(())
}

fn write(counts: &Counts, from: &Receiver<u64>) -> tassel::Result<()> {
    for number in channel::iter(from) {
        let number = number?;
        counts.work(ms(30))?;
        counts.written.fetch_add(1, Relaxed);
        writeln!(io::stdout(), "{number}")?;
    }
    Ok(())
}

fn pipeline(good: bool) -> Result<(), ErrorGroup> {
    let counts = Counts::default();
    let (to_parse, lines) = channel::bounded(4);
    let (to_write, numbers) = channel::bounded(4);
    let result = ScopeOptions::new().name("pipeline").open(|s| {
        // Each stage has its senders: when all of one are gone, the next one ends.
        let counts = &counts;
        s.job("read").spawn(move || read(good, counts, &to_parse));
        for to_write in [to_write.clone(), to_write] {
            let lines = &lines;
            s.job("parse").spawn(move || parse(counts, lines, &to_write));
        }
        s.job("write").spawn(|| write(counts, &numbers));
        Ok(())
    });
    let Counts { read, bad, written, in_hand } = counts;
    let (unparsed, unwritten) = (lines.try_iter().count(), numbers.try_iter().count());
    let _ = writeln!(
        io::stdout(),
        "{} lines read: {} written, {} bad, {} in hand, {unparsed} left to parse, {unwritten} left to write",
        read.into_inner(),
        written.into_inner(),
        bad.into_inner(),
        in_hand.into_inner(),
    );
    result
}

fn main() -> ExitCode {
    let options = Options::parse();
    let run = move || pipeline(options.good);
    match if options.in_virtual_time { virtual_time(run) } else { run() } {
        Ok(()) => ExitCode::SUCCESS,
        Err(group) => {
            let _ = writeln!(io::stderr(), "{group:?}");
            ExitCode::FAILURE
        }
    }
}
