//! Races: rivals that do the same work by turns, in one process.
//!
//! Criterion measures one function after the other. On a machine that is not quiet that compares the hour of the one with
//! the hour of the other, so here each round lets every program run once, in an order that rotates; what criterion gets,
//! and makes its statistics and plots of, are the times of these rounds. A sample of its reports is a round; the warm-up
//! and the number of iterations that it names mean nothing.
//!
//! Every program of a race returns a value, and all must return the same: who does less work fails.
//!
//! Each group says in its name when the feature `testing` was on. It is in the benches of this package and in a run of the
//! whole workspace, and adds to what each wait costs. Figures to quote come from `cargo bench -p tassel-rivals --bench '*'`,
//! which builds the same files without it.
//!
//! `--quick` makes no plots, and stops a race of long programs early: all rounds of those that take a few seconds, but three at
//! least of each. `--test`, or no `--bench`, runs each program once and reports nothing new.

#![allow(dead_code, reason = "a bench takes what it needs")]

pub(crate) mod figure;

use std::{
    any::type_name,
    env,
    fmt::{Debug, Display},
    fs,
    process::{self, Command},
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, measurement::WallTime};

/// Rounds of a race that says nothing else: enough that the median does not care for a bad moment.
const ROUNDS: usize = 15;

/// A lap of a short program is repeated to take about this long, or the clock would be part of the figure.
const LAP: Duration = Duration::from_millis(10);

/// A race that has taken so long begins no further round: somebody is so slow that it does not matter by how much.
const BUDGET: Duration = Duration::from_secs(90);

/// The same in a quick run, which still makes so many rounds.
const QUICK_BUDGET: Duration = Duration::from_secs(5);
const QUICK_ROUNDS: usize = 3;

/// Between two laps, so that no worker of the last one still spins or goes to sleep while the next is timed; again and again as
/// long as threads end that the last one has left behind, or the next would pay for them.
const PAUSE: Duration = Duration::from_millis(1);

/// How long criterion warms up: all that it does itself is to play back what the rounds have measured.
const SHORT: Duration = Duration::from_nanos(1);

/// The fewest samples that criterion takes.
const FEWEST_SAMPLES: usize = 10;

/// Says whether errors have backtraces, where it is set; panics go by `RUST_BACKTRACE` alone.
const BACKTRACES: &str = "RUST_LIB_BACKTRACE";

/// Runs the benches of a file: its `main`.
///
/// With `RUST_BACKTRACE` set, anyhow takes a backtrace whenever `?` makes an error of its own of another, which is what each
/// stopped job does: ten times what the stop costs. So they run in a process that takes none.
pub(crate) fn run(benches: &[fn(&mut Criterion)]) {
    if env::var_os(BACKTRACES).is_none_or(|wanted| wanted != "0") {
        let this = env::current_exe().expect("a bench is a file");
        let status = Command::new(this).args(env::args_os().skip(1)).env(BACKTRACES, "0").status();
        process::exit(status.expect("it has been run before").code().unwrap_or(1));
    }
    let mut criterion = criterion();
    for bench in benches {
        bench(&mut criterion);
    }
    criterion.final_summary();
}

/// As the command line says. Criterion's own quick mode would take two samples of what was measured already, so in ours it
/// sees only the filter.
fn criterion() -> Criterion {
    if !has("--quick") {
        return Criterion::default().configure_from_args();
    }
    let criterion = Criterion::default().without_plots();
    match env::args().skip(1).find(|arg| !arg.starts_with('-')) {
        Some(filter) => criterion.with_filter(filter),
        None => criterion,
    }
}

/// Whether this is a short run, for somebody who waits.
pub(crate) fn is_quick() -> bool {
    has("--quick") || is_test()
}

/// Whether this is to show only that everything runs.
pub(crate) fn is_test() -> bool {
    has("--test") || !has("--bench")
}

fn has(arg: &str) -> bool {
    env::args().any(|given| given == arg)
}

/// Opens a group of races about one question.
pub(crate) fn group<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(group_name(name));
    group.sampling_mode(SamplingMode::Flat).warm_up_time(SHORT).measurement_time(LAP);
    group
}

fn group_name(name: &str) -> String {
    if testing_is_on() { format!("{name} (testing)") } else { name.to_owned() }
}

/// Whether the library was built with its feature `testing`, which no `cfg` of a bench can see: in the block, `testing` is
/// the library's module if there is one, else the one beside it.
fn testing_is_on() -> bool {
    mod testing {
        pub(super) struct Deadlock;
    }
    let name = {
        #[allow(unused_imports, clippy::wildcard_imports, reason = "has a module `testing` only with the feature")]
        use tassel::*;
        type_name::<testing::Deadlock>()
    };
    name.starts_with("tassel::")
}

/// Programs that do the same work.
pub(crate) struct Race<'p, V> {
    expected: V,
    rounds: usize,
    elements: Option<u64>,
    runners: Vec<Runner<'p, V>>,
}

/// Runs a program so many times, checks each value, and says how long that took.
type Lap<'p, V> = Box<dyn FnMut(u64, &V) -> Duration + 'p>;

struct Runner<'p, V> {
    name: &'static str,
    lap: Lap<'p, V>,
    repeats: bool,
    /// Nanoseconds a run, round by round.
    times: Vec<f64>,
}

impl<'p, V: PartialEq + Debug> Race<'p, V> {
    /// A race of programs of which each must return `expected`.
    pub(crate) fn new(expected: V) -> Self {
        Race { expected, rounds: ROUNDS, elements: None, runners: Vec::new() }
    }

    /// Sets how many rounds there are in a full run.
    pub(crate) fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    /// Has criterion say how long each of so many elements took.
    pub(crate) fn elements(mut self, elements: u64) -> Self {
        self.elements = Some(elements);
        self
    }

    /// Adds a program that is timed as a whole.
    pub(crate) fn program(mut self, name: &'static str, mut program: impl FnMut() -> V + 'p) -> Self {
        let lap = move |times, expected: &V| {
            let began = Instant::now();
            for _ in 0..times {
                assert_eq!(program(), *expected, "{name} does other work than its rivals");
            }
            began.elapsed()
        };
        self.runners.push(Runner { name, lap: Box::new(lap), repeats: true, times: Vec::new() });
        self
    }

    /// Adds a program that times the part of it that matters, and runs once a round.
    pub(crate) fn timed(mut self, name: &'static str, mut program: impl FnMut() -> (Duration, V) + 'p) -> Self {
        let lap = move |times, expected: &V| {
            let mut sum = Duration::ZERO;
            for _ in 0..times {
                let (time, value) = program();
                assert_eq!(value, *expected, "{name} does other work than its rivals");
                sum += time;
            }
            sum
        };
        self.runners.push(Runner { name, lap: Box::new(lap), repeats: false, times: Vec::new() });
        self
    }

    /// Runs all rounds as soon as criterion asks for the first figure, and hands it one program's after the other.
    pub(crate) fn run(mut self, group: &mut BenchmarkGroup<'_, WallTime>, parameter: impl Display) {
        let rounds = if is_test() {
            1
        } else if is_quick() {
            self.rounds.div_ceil(5).max(self.rounds.min(ROUNDS))
        } else {
            self.rounds
        };
        group.sample_size(rounds * FEWEST_SAMPLES.div_ceil(rounds));
        if let Some(elements) = self.elements {
            group.throughput(Throughput::Elements(elements));
        }
        for at in 0..self.runners.len() {
            let mut played = 0;
            group.bench_function(BenchmarkId::new(self.runners[at].name, &parameter), |b| {
                if has("--profile-time") {
                    return b.iter_custom(|times| (self.runners[at].lap)(times, &self.expected));
                }
                if self.runners[at].times.is_empty() {
                    self.measure(rounds);
                }
                let times = &self.runners[at].times;
                let time = times[played % times.len()];
                played += 1;
                b.iter_custom(|iterations| Duration::from_secs_f64(self::times(time * 1e-9, iterations)));
            });
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a few thousand, and nanoseconds of minutes")]
    fn measure(&mut self, rounds: usize) {
        let repeats: Vec<_> = self.runners.iter_mut().map(|runner| runner.repeats(&self.expected)).collect();
        let (least, budget) = if is_quick() { (QUICK_ROUNDS, QUICK_BUDGET) } else { (1, BUDGET) };
        let began = Instant::now();
        for round in (0..rounds).take_while(|&round| round < least || began.elapsed() < budget) {
            for turn in 0..self.runners.len() {
                let at = (round + turn) % self.runners.len();
                pause();
                let time = (self.runners[at].lap)(repeats[at], &self.expected);
                self.runners[at].times.push(time.as_nanos() as f64 / repeats[at] as f64);
            }
        }
        for runner in &mut self.runners {
            part(&mut runner.times);
        }
    }
}

fn pause() {
    let mut before = threads();
    loop {
        thread::sleep(PAUSE);
        let now = threads();
        if now >= before {
            return;
        }
        before = now;
    }
}

/// How many threads the process has, where the kernel tells.
pub(crate) fn threads() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Threads:"))?.trim().parse().ok()
}

impl<V> Runner<'_, V> {
    /// How often the program must run in a lap. Finding out is its warm-up.
    fn repeats(&mut self, expected: &V) -> u64 {
        let mut times = 1;
        while self.repeats && !is_test() && (self.lap)(times, expected) < LAP {
            times *= 2;
        }
        times
    }
}

/// What criterion is to divide by the number of iterations again.
#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn times(figure: f64, iterations: u64) -> f64 {
    figure * iterations as f64
}

/// Takes figures that are all equal apart by next to nothing: criterion cannot plot what has no width.
pub(crate) fn part(figures: &mut [f64]) {
    if let [first, rest @ ..] = figures {
        if rest.iter().all(|figure| figure.total_cmp(first).is_eq()) {
            *first *= 1.0 + 1e-6;
        }
    }
}
