//! How much does the process grow by for each that sleeps?
//!
//! Each figure is taken in a process of its own, since memory that one program gave back would be there for the next. Where
//! there is no `/proc`, none is.

use std::{
    env, fs, process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use async_io::Timer;
use criterion::Criterion;
use tassel::ScopeOptions;

use crate::{
    HOUR,
    common::figure::{Unit, figure, group},
    runtimes::{pool, smol, tokio, tokio_for_blocking},
};

/// Says to this program that it is such a process: who sleeps, and how many.
const CHILD: &str = "TASSEL_RIVALS_MEMORY";

const SLEEPERS: [usize; 2] = [1000, 10_000];
const PROGRAMS: [(&str, Program); 5] = [
    ("tassel", by_tassel),
    ("std", by_std),
    ("tokio tasks", by_tokio_tasks),
    ("tokio spawn_blocking", by_tokio_blocking),
    ("smol tasks", by_smol),
];

/// Has so many sleep, of which each counts itself.
type Program = fn(usize, &Asleep);

/// Time to fall asleep, after the last has said that it is about to.
const SETTLE: Duration = Duration::from_millis(100);

pub(crate) fn bench(c: &mut Criterion<Unit>) {
    if resident().is_none() {
        return;
    }
    let mut group = group(c, "memory of a sleeper");
    for sleepers in SLEEPERS {
        for (name, _) in PROGRAMS {
            figure(&mut group, name, sleepers, || in_child(name, sleepers));
        }
    }
    group.finish();
}

fn in_child(name: &str, sleepers: usize) -> f64 {
    let program = env::current_exe().expect("this program has a path");
    let output = process::Command::new(program).env(CHILD, format!("{sleepers} {name}")).output();
    let output = output.expect("a process can be had");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{name}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

pub(crate) fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Prints how many bytes a sleeper takes, and ends the process with all that sleep in it.
#[expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "the parent reads the number; bytes are few enough"
)]
pub(crate) fn child() {
    let order = env::var(CHILD).expect("set by the parent");
    let (sleepers, name) = order.split_once(' ').expect("a number and a name");
    let sleepers = sleepers.parse().expect("a number");
    let (_, program) = PROGRAMS.into_iter().find(|(other, _)| *other == name).expect("the name of a program");
    let asleep = Asleep(Arc::new(AtomicUsize::new(0)));
    let before = resident().expect("the parent looked");
    let counted = asleep.clone();
    thread::spawn(move || program(sleepers, &counted));
    while asleep.0.load(Relaxed) < sleepers {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(SETTLE);
    let grown = resident().expect("the parent looked").saturating_sub(before);
    println!("{}", grown as f64 / sleepers as f64);
    process::exit(0);
}

/// Bytes of this process that are in memory.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// Counts those that are about to sleep.
#[derive(Clone)]
struct Asleep(Arc<AtomicUsize>);

impl Asleep {
    fn count(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn by_tassel(sleepers: usize, asleep: &Asleep) {
    let ended = ScopeOptions::new().pool(&pool(sleepers)).open(|s| {
        for _ in 0..sleepers {
            s.spawn(|| {
                asleep.count();
                Ok(tassel::sleep(HOUR)?)
            });
        }
        Ok(())
    });
    ended.expect("nobody wakes");
}

fn by_std(sleepers: usize, asleep: &Asleep) {
    thread::scope(|s| {
        for _ in 0..sleepers {
            s.spawn(|| {
                asleep.count();
                thread::sleep(HOUR);
            });
        }
    });
}

fn by_tokio_tasks(sleepers: usize, asleep: &Asleep) {
    for _ in 0..sleepers {
        let asleep = asleep.clone();
        tokio().spawn(async move {
            asleep.count();
            tokio::time::sleep(HOUR).await;
        });
    }
}

fn by_tokio_blocking(sleepers: usize, asleep: &Asleep) {
    let runtime = tokio_for_blocking(sleepers);
    for _ in 0..sleepers {
        let asleep = asleep.clone();
        runtime.spawn_blocking(move || {
            asleep.count();
            thread::sleep(HOUR);
        });
    }
}

fn by_smol(sleepers: usize, asleep: &Asleep) {
    for _ in 0..sleepers {
        let asleep = asleep.clone();
        let task = smol().spawn(async move {
            asleep.count();
            Timer::after(HOUR).await;
        });
        task.detach();
    }
}
