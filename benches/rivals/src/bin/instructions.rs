//! Counts the instructions of what the library does most, and says where they go.
//!
//! ```sh
//! cargo run --release -p tassel-rivals --bin instructions                     # prints the table; needs valgrind
//! cargo run --release -p tassel-rivals --bin instructions -- docs/costs.md    # puts it there, between two marks
//! ```
//!
//! Valgrind's callgrind counts them, with each function that was inlined under its own file; so the counts repeat, whatever
//! else the machine does, but for what other threads of the pool add. Each operation is counted in two runs of this program, of
//! which one makes more of them: what it costs is the difference. A waiting or waking thread costs time in the kernel, which no
//! such table shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    hint::black_box,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

const BEGIN: &str = "<!-- instructions: begin -->\n";
const END: &str = "<!-- instructions: end -->";

/// An operation, and how often the two runs make it.
struct Operation {
    name: &'static str,
    times: fn(usize),
    runs: [usize; 2],
}

const OPERATIONS: &[Operation] = &[
    Operation { name: "a scope without jobs", times: scopes, runs: [500, 1500] },
    Operation { name: "a scope with 1 job", times: scopes_of_one, runs: [500, 1500] },
    Operation { name: "each further job", times: jobs, runs: [20_000, 60_000] },
    Operation { name: "each with name and result", times: named_jobs, runs: [20_000, 60_000] },
    Operation { name: "a `join`", times: joins, runs: [500, 1500] },
    Operation { name: "a `checkpoint`", times: checkpoints, runs: [20_000, 60_000] },
    Operation { name: "lock and unlock", times: locks, runs: [20_000, 60_000] },
];

/// Jobs in one scope.
const JOBS: usize = 200;

fn scopes(times: usize) {
    for _ in 0..times {
        tassel::scope(|_| ()).expect("nobody fails");
    }
}

fn scopes_of_one(times: usize) {
    for _ in 0..times {
        tassel::scope(|s| drop(s.spawn(|| ()))).expect("nobody fails");
    }
}

fn jobs(times: usize) {
    for _ in 0..times / JOBS {
        let scope = tassel::scope(|s| {
            for n in 0..JOBS {
                s.spawn(move || {
                    black_box(n);
                });
            }
        });
        scope.expect("nobody fails");
    }
}

fn named_jobs(times: usize) {
    for _ in 0..times / JOBS {
        let sum = tassel::scope(|s| {
            let jobs: Vec<_> = (0..JOBS).map(|n| s.job("job").spawn(move || Ok(black_box(n)))).collect();
            Ok(jobs.into_iter().map(|job| job.join()).sum::<Result<usize, _>>()?)
        });
        black_box(sum.expect("nobody fails"));
    }
}

fn joins(times: usize) {
    for n in 0..times {
        let both = tassel::join(|| Ok(black_box(n)), || Ok(black_box(n)));
        black_box(both.expect("nobody fails"));
    }
}

fn checkpoints(times: usize) {
    let done = tassel::scope(|_| {
        for _ in 0..times {
            tassel::checkpoint()?;
        }
        Ok(())
    });
    done.expect("nobody stops it");
}

fn locks(times: usize) {
    let mutex = tassel::sync::Mutex::new(0);
    for _ in 0..times {
        *mutex.lock().expect("nobody has it") += 1;
    }
    black_box(mutex.into_inner());
}

/// Where an instruction belongs, by the name that callgrind gives its function: `file:function`, the file being that of what
/// was inlined there.
fn part(function: &str) -> &'static str {
    const PARTS: &[(&str, &[&str])] = &[
        ("allocator", &["malloc", "sys/alloc", "alloc/src/alloc.rs", "raw_vec", "__rust_alloc", "__rust_dealloc"]),
        ("copies", &["memmove", "memcpy", "memset"]),
        ("clock", &["clock_gettime", "core/src/time.rs", "std/src/time.rs", "unix/time.rs", "time/unix"]),
        (
            "locks, counters, cells",
            &["parking_lot", "lock_api", "atomic.rs", "sync/once", "once_lock", "alloc/src/sync.rs"],
        ),
        ("scope", &["src/scope/", "tassel::scope::"]),
        ("cancel", &["src/cancel/", "tassel::cancel::"]),
        ("pool, park, wait", &["src/pool/", "src/park/", "src/wait/", "tassel::pool", "tassel::park", "tassel::wait"]),
        (
            "raw, error, value",
            &["src/raw/", "src/error/", "src/value", "tassel::raw", "tassel::error", "tassel::value"],
        ),
    ];
    let found = PARTS.iter().find(|(_, marks)| marks.iter().any(|mark| function.contains(mark)));
    found.map_or("std where it was inlined, and others", |(name, _)| name)
}

/// Instructions by part.
type Counts = BTreeMap<&'static str, i64>;

/// Runs an operation so many times under callgrind.
fn count(operation: usize, times: usize) -> Result<Counts> {
    let file = env::temp_dir().join(format!("tassel-callgrind-{}", std::process::id()));
    let ran = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe()?)
        .args(["--times", &operation.to_string(), &times.to_string()])
        .stderr(Stdio::null())
        .status();
    ensure!(ran.context("valgrind is to be installed")?.success(), "valgrind failed");
    let listed = Command::new("callgrind_annotate").args(["--auto=no", "--threshold=100"]).arg(&file).output()?;
    fs::remove_file(&file)?;
    ensure!(listed.status.success(), "callgrind_annotate failed");
    let mut counts = Counts::new();
    // `1,234 ( 5.67%)  file:function [object]`
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let Some((count, function)) = line.split_once('(').filter(|_| line.contains("%)  ")) else { continue };
        let Ok(count) = count.trim().replace(',', "").parse::<i64>() else { continue };
        if !function.contains("PROGRAM TOTALS") {
            *counts.entry(part(function)).or_default() += count;
        }
    }
    ensure!(!counts.is_empty(), "callgrind_annotate says nothing");
    Ok(counts)
}

/// What one of an operation costs.
fn cost(at: usize, operation: &Operation) -> Result<Counts> {
    let [few, many] = operation.runs;
    let (few_counts, many_counts) = (count(at, few)?, count(at, many)?);
    let made = i64::try_from(many - few)?;
    let each = many_counts.into_iter().map(|(part, count)| {
        let before = few_counts.get(part).copied().unwrap_or(0);
        (part, (count - before + made / 2).div_euclid(made))
    });
    Ok(each.collect())
}

fn table() -> Result<String> {
    let columns =
        OPERATIONS.iter().enumerate().map(|(at, operation)| cost(at, operation)).collect::<Result<Vec<_>>>()?;
    let mut table = String::from("| instructions |");
    for operation in OPERATIONS {
        write!(table, " {} |", operation.name)?;
    }
    table.push_str("\n|---|");
    table.push_str(&"---:|".repeat(OPERATIONS.len()));
    let mut row = |name: &str, of: &dyn Fn(&Counts) -> i64| -> Result<()> {
        write!(table, "\n| {name} |")?;
        for column in &columns {
            write!(table, " {} |", of(column))?;
        }
        Ok(())
    };
    row("all", &|column| column.values().sum())?;
    let parts: BTreeSet<&str> = columns.iter().flat_map(Counts::keys).copied().collect();
    for part in parts {
        row(part, &|column| column.get(part).copied().unwrap_or(0))?;
    }
    table.push('\n');
    Ok(table)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.as_slice() {
        [flag, operation, times] if flag == "--times" => {
            let operation = &OPERATIONS[operation.parse::<usize>()?];
            (operation.times)(times.parse()?);
        }
        [] => io::stdout().write_all(table()?.as_bytes())?,
        [chapter] => {
            let path = Path::new(chapter);
            let text = fs::read_to_string(path).with_context(|| format!("reading {chapter}"))?;
            let Some((before, rest)) = text.split_once(BEGIN) else { bail!("{chapter} has no mark {BEGIN}") };
            let Some((_, after)) = rest.split_once(END) else { bail!("{chapter} has no mark {END}") };
            fs::write(path, format!("{before}{BEGIN}{}\n{END}{after}", table()?))?;
        }
        _ => bail!("at most the file of the chapter"),
    }
    Ok(())
}
