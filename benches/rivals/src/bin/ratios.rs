//! Makes the table of ratios out of what criterion has left in the target directory.
//!
//! ```sh
//! cargo bench -p tassel-rivals --bench '*'
//! cargo run -p tassel-rivals --bin ratios                     # prints it
//! cargo run -p tassel-rivals --bin ratios -- docs/costs.md    # puts it there, between two marks, with a plot beside it
//! ```
//!
//! A ratio is that of two medians of one race, so of rounds that took turns in one process. Where a figure exists only from
//! a build with the feature `testing`, it is taken and marked with `*`.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const COMMAND: &str = "cargo bench -p tassel-rivals --bench '*'";
const BEGIN: &str = "<!-- ratios: begin -->\n";
const END: &str = "<!-- ratios: end -->";

/// What is to be held: so many times the rival, or so much.
enum Goal {
    Ratio(&'static str, f64),
    Median(f64),
    OnceInAHundred(f64),
}
use Goal::{Median, OnceInAHundred, Ratio};

/// Workload, criterion's group, program and parameter, and the goal. Times are nanoseconds.
type Row = (&'static str, &'static str, &'static str, &'static str, Goal);

const ROWS: &[Row] = &[
    ("scope with 1 job", "spawn", "tassel", "1", Ratio("rayon::scope", 0.02)),
    ("scope with 1 job", "light", "tassel", "1", Ratio("forte", 0.5)),
    ("10 jobs", "spawn", "tassel", "10", Ratio("rayon::scope", 0.05)),
    ("100 jobs, name and result", "spawn", "tassel, name and result", "100", Ratio("rayon::scope", 0.8)),
    ("1000 jobs, name and result", "spawn", "tassel, name and result", "1000", Ratio("rayon::scope", 0.8)),
    ("10,000 jobs, name and result", "spawn", "tassel, name and result", "10000", Ratio("rayon::scope", 0.8)),
    ("10,000 jobs, name and result", "spawn", "tassel, name and result", "10000", Median(600e3)),
    ("100 jobs", "spawn", "tassel", "100", Ratio("rayon::scope", 0.6)),
    ("1000 jobs", "spawn", "tassel", "1000", Ratio("rayon::scope", 0.6)),
    ("10,000 jobs", "spawn", "tassel", "10000", Ratio("rayon::scope", 0.6)),
    ("1,000,000 jobs", "spawn", "tassel", "1000000", Ratio("rayon::scope", 0.3)),
    ("1 job after 2 ms idle", "start, idle", "tassel", "2 ms", Ratio("tokio spawn_blocking", 0.12)),
    ("1 job after 20 ms idle", "start, idle", "tassel", "20 ms", Median(12e3)),
    ("start beside a body, warm", "start, beside a body that computes", "tassel, warm", "1 job", Median(200e3)),
    ("start beside a body, warm", "start, beside a body that computes", "tassel, warm", "1 job", OnceInAHundred(1e6)),
    ("start beside a body, cold", "start, beside a body that computes", "tassel, cold", "1 job", Median(200e3)),
    ("start beside a body, cold", "start, beside a body that computes", "tassel, cold", "1 job", OnceInAHundred(1e6)),
    ("200 jobs of 20 us CPU", "computing", "tassel", "200 x 20 us", Ratio("rayon::in_place_scope", 1.05)),
    ("2 jobs of 20 us CPU", "computing", "tassel", "2 x 20 us", Ratio("serial", 1.0)),
    ("1000 asleep, cold", "asleep, cold", "tassel", "1000", Ratio("std", 1.05)),
    ("1000 asleep, warm", "asleep, warm", "tassel", "1000", Ratio("tokio spawn_blocking", 0.95)),
    ("1000 asleep, warm", "asleep, warm", "tassel", "1000", Ratio("std", 0.5)),
    ("10,000 asleep, cold", "asleep, cold", "tassel", "10000", Ratio("tokio spawn_blocking", 0.75)),
    ("10,000 asleep, warm", "asleep, warm", "tassel", "10000", Ratio("tokio spawn_blocking", 0.7)),
    ("memory of a sleeper", "memory of a sleeper", "tassel", "10000", Median(10.0 * 1024.0)),
    ("memory of a sleeper", "memory of a sleeper", "tassel", "10000", Ratio("std", 1.05)),
    ("cancel of 10, to all joined", "cancel, to all joined", "tassel", "10", Ratio("std Condvar", 0.4)),
    ("cancel of 1000, to all joined", "cancel, to all joined", "tassel", "1000", Ratio("std Condvar", 0.85)),
    ("cancel of 10,000, to all joined", "cancel, to all joined", "tassel", "10000", Ratio("std Condvar", 0.75)),
    ("cancel of 10, the call", "cancel, the call", "tassel", "10", Median(50e3)),
    ("cancel of 1000, the call", "cancel, the call", "tassel", "1000", Median(50e3)),
    ("cancel of 10,000, the call", "cancel, the call", "tassel", "10000", Median(50e3)),
    ("cancel of 10,000 tokens, the call", "cancel, tokens", "tassel", "10000", Median(150e3)),
    ("cancel of 100,000 tokens, the call", "cancel, tokens", "tassel", "100000", Median(1500e3)),
    ("1000 x `token.is_cancelled`", "looks", "token.is_cancelled", "in a scope", Ratio("acquire load", 1.3)),
    ("the same, 64 scopes deep", "looks", "token.is_cancelled", "64 scopes deep", Ratio("acquire load", 1.3)),
    ("the same, with a deadline", "looks", "token.is_cancelled", "with a deadline", Ratio("acquire load", 1.3)),
    ("1000 x `checkpoint`", "looks", "checkpoint", "in a scope", Ratio("acquire load", 2.5)),
    ("the same, 64 scopes deep", "looks", "checkpoint", "64 scopes deep", Ratio("acquire load", 2.5)),
    ("the same, with a deadline", "looks", "checkpoint", "with a deadline", Ratio("acquire load", 2.5)),
    ("1000 x `token.is_cancelled`", "tokens, looks", "tassel", "1", Ratio("tokio-util", 0.25)),
    ("the same, 64 tokens deep", "tokens, looks", "tassel", "64", Ratio("tokio-util", 0.25)),
    ("1000 x `checkpoint`", "tokens, looks", "tassel checkpoint", "1", Ratio("tokio-util", 0.4)),
    ("the same, 64 tokens deep", "tokens, looks", "tassel checkpoint", "64", Ratio("tokio-util", 0.4)),
    ("a scope at each of 10,945 forks", "fork, scope", "tassel", "20", Ratio("rayon", 2.0)),
    ("a join at each of 10,945 forks", "fork, join", "tassel", "20", Ratio("rayon", 2.0)),
    ("64 jobs at a std barrier", "barrier", "tassel", "64 jobs", Ratio("std", 1.1)),
    ("the same beside six threads", "barrier", "tassel", "64 jobs beside six", Ratio("std", 1.1)),
    ("64 jobs of 5 ms CPU", "computing", "tassel", "64 x 5 ms", Ratio("rayon::scope", 1.03)),
    ("the same beside six threads", "computing", "tassel", "64 x 5 ms beside six", Ratio("rayon::scope", 1.03)),
    ("threads of 64 jobs of 5 ms CPU", "threads at most", "tassel", "64 x 5 ms", Median(6.0)),
    ("the same beside six threads", "threads at most", "tassel", "64 x 5 ms beside six", Median(6.0)),
    ("threads of 64 jobs of 2 s CPU", "threads at most", "tassel", "64 x 2 s", Median(8.0)),
    ("100,000 numbers through a channel", "channel, pipeline", "tassel", "100000", Ratio("crossbeam", 1.1)),
    ("10,000 times to and fro by channels", "channel, ping-pong", "tassel", "10000", Ratio("crossbeam", 1.25)),
    (
        "1000 stopped at a channel",
        "channel, stopped",
        "tassel",
        "1000",
        Ratio("crossbeam, the last sender dropped", 1.25),
    ),
    ("CPU of an idle pool in a second", "CPU of an idle second", "tassel", "64", Median(1.0)),
    ("threads after the keep-alive", "threads after the keep-alive", "tassel", "64", Median(1.0)),
];

/// Groups that stand in a table of their own, each program beside all others.
const AGAINST_ASYNC: [&str; 6] = ["fan-out", "failure", "timeout", "pipeline", "requests", "memory of a sleeper"];

/// The plot in the chapter: a file beside it. The library's documentation has it as a URI instead, by another definition of
/// the same link, which comes first.
const PLOT: &str = "![Each workload's ratio and its goal, on a logarithmic scale][plot]\n\n[plot]: costs.svg\n";

/// Measures of the plot, in pixels: its width, where the scale begins, what is above it, and a row.
const WIDTH: u32 = 960;
const LEFT: u32 = 440;
const TOP: u32 = 36;
const ROW: u32 = 18;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let criterion = target.join("criterion");
    let results = Results::read(&criterion)?;
    ensure!(!results.0.is_empty(), "{} holds no results: run `{COMMAND}` first", criterion.display());
    let text = format!("{}\n{}\n{}\n{}", machine(), table(&results)?, PLOT, against_async(&results)?);
    let Some(chapter) = env::args_os().nth(1) else { return Ok(io::stdout().write_all(text.as_bytes())?) };
    let chapter = Path::new(&chapter);
    put(chapter, &text)?;
    let svg = plot(&results)?;
    fs::write(chapter.with_extension("uri"), uri(&svg)?)?;
    fs::write(chapter.with_extension("svg"), svg)?;
    Ok(())
}

/// Puts the text into a chapter, in the place of what stood there before.
fn put(chapter: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(chapter).with_context(|| format!("reading {}", chapter.display()))?;
    let (head, rest) = old.split_once(BEGIN).with_context(|| format!("no line `{}`", BEGIN.trim()))?;
    let (_, tail) = rest.split_once(END).with_context(|| format!("no line `{END}`"))?;
    fs::write(chapter, format!("{head}{BEGIN}{text}{END}{tail}"))?;
    Ok(())
}

/// What a program took in its rounds, sorted.
struct Figures {
    rounds: Vec<f64>,
    testing: bool,
}

impl Figures {
    fn median(&self) -> f64 {
        let middle = self.rounds.len() / 2;
        if self.rounds.len() % 2 == 1 {
            self.rounds[middle]
        } else {
            f64::midpoint(self.rounds[middle - 1], self.rounds[middle])
        }
    }

    /// What only one round in a hundred exceeds.
    fn once_in_a_hundred(&self) -> f64 {
        self.rounds[self.rounds.len() * 99 / 100]
    }

    fn best(&self) -> f64 {
        self.rounds[0]
    }

    fn worst(&self) -> f64 {
        self.rounds[self.rounds.len() - 1]
    }

    fn mark(&self) -> &'static str {
        if self.testing { "\\*" } else { "" }
    }
}

/// By group, program and parameter.
struct Results(BTreeMap<[String; 3], Figures>);

impl Results {
    /// Reads what stands at the end of each path `…/new/benchmark.json`.
    fn read(criterion: &Path) -> Result<Self> {
        let mut results = BTreeMap::new();
        let mut folders = vec![criterion.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                folders.extend(entry.file_type()?.is_dir().then(|| entry.path()));
            }
            if folder.ends_with("new") && folder.join("benchmark.json").exists() {
                let id = json(&folder.join("benchmark.json"))?;
                let name = |key: &str| id[key].as_str().unwrap_or_default().to_owned();
                let key = ["group_id", "function_id", "value_str"].map(name);
                results.insert(key, Figures { rounds: rounds(&json(&folder.join("sample.json"))?), testing: false });
            }
        }
        let testing: Vec<_> = results.keys().filter(|key| key[0].ends_with(" (testing)")).cloned().collect();
        for key in testing {
            let figures = results.remove(&key).context("a key that was just there")?;
            let [group, program, parameter] = key;
            let group = group.trim_end_matches(" (testing)").to_owned();
            results.entry([group, program, parameter]).or_insert(Figures { testing: true, ..figures });
        }
        Ok(Results(results))
    }

    fn get(&self, group: &str, program: &str, parameter: &str) -> Option<&Figures> {
        self.0.get(&[group, program, parameter].map(str::to_owned))
    }
}

fn json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

fn rounds(sample: &Value) -> Vec<f64> {
    let numbers = |key: &str| sample[key].as_array().into_iter().flatten().filter_map(Value::as_f64);
    let mut rounds: Vec<_> =
        numbers("times").zip(numbers("iters")).map(|(time, iterations)| time / iterations).collect();
    rounds.sort_by(f64::total_cmp);
    rounds
}

/// Where and of what the figures are, as far as the system says.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cpu = model.map_or("an unknown CPU", |(_, name)| name);
    let cores = thread::available_parallelism().map_or_else(|_| "?".to_owned(), |cores| cores.to_string());
    let (rustc, commit) = (said("rustc", &["--version"]), said("git", &["rev-parse", "--short", "HEAD"]));
    let dirty = if said("git", &["status", "--porcelain"]).is_empty() { "" } else { " with changes" };
    format!("{cpu}, {cores} cores; {rustc}; commit {commit}{dirty}; `{COMMAND}`\n")
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// What a row comes to: how many times its goal, its best and its worst round by the rival's median or by the goal, and the
/// words for it.
struct Outcome {
    of_goal: f64,
    span: [f64; 2],
    columns: [String; 5],
}

/// Figures that are all the same are told apart by a little when criterion gets them: it wants to see some spread.
fn is_held(of_goal: f64) -> bool {
    of_goal <= 1.001
}

fn outcome(results: &Results, row: &Row) -> Option<Outcome> {
    let (_, group, program, parameter, goal) = row;
    let ours = results.get(group, program, parameter)?;
    let show = |value| amount(group, value);
    let range = |figures: &Figures| format!("{} – {}", show(figures.best()), show(figures.worst()));
    let spread = |by: f64| [ours.best() / by, ours.worst() / by];
    let (value, of_goal, span, rival, ratio, asked, ranges) = match goal {
        Ratio(name, at_most) => {
            let rival = results.get(group, name, parameter)?;
            let ratio = ours.median() / rival.median();
            let told = format!("{} ({name}){}", show(rival.median()), rival.mark());
            let ranges = format!("{}; {}", range(ours), range(rival));
            (ours.median(), ratio / at_most, spread(rival.median()), told, short(ratio), format!("{at_most} x"), ranges)
        }
        Median(at_most) => {
            let of_goal = ours.median() / at_most;
            (ours.median(), of_goal, spread(*at_most), "–".to_owned(), "–".to_owned(), show(*at_most), range(ours))
        }
        OnceInAHundred(at_most) => {
            let value = ours.once_in_a_hundred();
            let asked = format!("{} in 99 %", show(*at_most));
            (value, value / at_most, spread(*at_most), "–".to_owned(), "–".to_owned(), asked, range(ours))
        }
    };
    let held = if is_held(of_goal) { "held" } else { "missed" };
    let columns = [format!("{}{}", show(value), ours.mark()), rival, ratio, format!("{asked}: {held}"), ranges];
    Some(Outcome { of_goal, span, columns })
}

fn table(results: &Results) -> Result<String> {
    let mut text = "| workload | ours | rival | ratio | goal | best – worst |\n|---|---|---|---|---|---|\n".to_owned();
    for row in ROWS {
        match outcome(results, row) {
            Some(outcome) => writeln!(text, "| {} | {} |", row.0, outcome.columns.join(" | "))?,
            None => writeln!(text, "| {} | not measured | | | | |", row.0)?,
        }
    }
    Ok(text)
}

/// Each workload's ratio, and its goal, on a logarithmic scale. On a card of its own, so that it can be read on any page.
fn plot(results: &Results) -> Result<String> {
    let rows: Vec<_> = ROWS.iter().filter_map(|row| Some((row, outcome(results, row)?))).collect();
    let height = TOP + ROW * u32::try_from(rows.len())? + TOP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#24292f\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#fff\"/>\n"
    );
    let bottom = height - TOP + 4;
    let (pale, dark) = ("#d0d7de", "#57606a");
    for (decade, grey) in [(0.01, pale), (0.1, pale), (1.0, dark), (10.0, pale), (100.0, pale)] {
        let x = place(decade);
        writeln!(svg, "<path d=\"M{x} {}V{bottom}\" stroke=\"{grey}\"/>", TOP - 4)?;
        for y in [TOP - 10, bottom + 14] {
            writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{decade} x</text>")?;
        }
    }
    for (nth, ((workload, .., goal), outcome)) in (0..).zip(&rows) {
        let y = TOP + ROW * nth + ROW / 2;
        let held = is_held(outcome.of_goal);
        let (color, inside) = if held { ("#0969da", "#0969da") } else { ("#bc4c00", "#fff") };
        let [best, at, worst, goal_at] = match goal {
            Ratio(_, at_most) => [outcome.span[0], outcome.of_goal * at_most, outcome.span[1], *at_most],
            _ => [outcome.span[0], outcome.of_goal, outcome.span[1], 1.0],
        };
        let against = if let Ratio(rival, _) = goal { rival } else { "the goal" };
        let workload = workload.replace('`', "");
        let [left, at, right, goal_at] = [best, at, worst, goal_at].map(place);
        writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{workload}", LEFT - 24, y + 4)?;
        writeln!(svg, "<tspan fill=\"#57606a\">: {against}</tspan></text>")?;
        writeln!(svg, "<path d=\"M{left} {y}H{right}\" stroke=\"{color}\" stroke-opacity=\".4\" stroke-width=\"3\"/>")?;
        writeln!(svg, "<path d=\"M{goal_at} {}v12\" stroke=\"#24292f\" stroke-width=\"2\"/>", y - 6)?;
        writeln!(
            svg,
            "<circle cx=\"{at}\" cy=\"{y}\" r=\"4\" fill=\"{inside}\" stroke=\"{color}\" stroke-width=\"2\"/>"
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// Where a ratio stands in the plot, to a tenth of a pixel.
fn place(ratio: f64) -> f64 {
    let decades = ratio.log10().clamp(-2.1, 2.1) + 2.1;
    ((f64::from(LEFT) + decades * f64::from(WIDTH - LEFT - 24) / 4.2) * 10.0).round() / 10.0
}

/// The same as a URI, for documentation that has no files beside it.
fn uri(svg: &str) -> Result<String> {
    let mut uri = "data:image/svg+xml,".to_owned();
    for byte in svg.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/,:=".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            write!(uri, "%{byte:02X}")?;
        }
    }
    Ok(uri)
}

fn against_async(results: &Results) -> Result<String> {
    let mut text = String::new();
    for group in AGAINST_ASYNC {
        let mut rows: BTreeMap<&str, Vec<(f64, &str, &Figures)>> = BTreeMap::new();
        for ([_, program, parameter], figures) in results.0.iter().filter(|(key, _)| key[0] == group) {
            rows.entry(parameter).or_default().push((figures.median(), program, figures));
        }
        for (parameter, mut programs) in rows {
            programs.sort_by(|one, other| one.0.total_cmp(&other.0));
            let told = programs.iter().map(|(median, program, figures)| {
                let program = if *program == "tassel" { "**tassel**" } else { program };
                format!("{program} {}{}", amount(group, *median), figures.mark())
            });
            writeln!(text, "* {group}, {parameter}: {}", told.collect::<Vec<_>>().join(", "))?;
        }
    }
    Ok(text)
}

/// A figure of a group, with its unit.
fn amount(group: &str, value: f64) -> String {
    match group {
        "threads at most" | "threads after the keep-alive" => format!("{value:.0}"),
        "memory of a sleeper" => format!("{value:.0} B"),
        _ if value < 1e3 => format!("{} ns", short(value)),
        _ if value < 1e6 => format!("{} us", short(value / 1e3)),
        _ if value < 1e9 => format!("{} ms", short(value / 1e6)),
        _ => format!("{} s", short(value / 1e9)),
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value {
        _ if value < 0.1 => format!("{value:.3}"),
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
