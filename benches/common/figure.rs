//! Figures that are no times: threads, bytes.
//!
//! They go through criterion as the times do, so that they stand in the same reports and files.

use std::fmt::Display;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput,
    measurement::{Measurement, ValueFormatter},
};

use super::{FEWEST_SAMPLES, SHORT, criterion, group_name, is_quick, is_test, part, times};

/// How often a figure is taken.
const ROUNDS: usize = 5;

/// What is counted.
#[derive(Clone, Copy)]
pub(crate) struct Unit(pub(crate) &'static str);

/// Runs the benches of a file that count something.
pub(crate) fn run(unit: Unit, benches: &[fn(&mut Criterion<Unit>)]) {
    let mut criterion = criterion().with_measurement(unit);
    for bench in benches {
        bench(&mut criterion);
    }
    criterion.final_summary();
}

/// Opens a group of figures about one question.
pub(crate) fn group<'c>(c: &'c mut Criterion<Unit>, name: &str) -> BenchmarkGroup<'c, Unit> {
    let mut group = c.benchmark_group(group_name(name));
    group.sampling_mode(SamplingMode::Flat).sample_size(FEWEST_SAMPLES);
    group.warm_up_time(SHORT).measurement_time(super::LAP);
    group
}

/// Takes a figure a few times, and hands all to criterion.
pub(crate) fn figure(
    group: &mut BenchmarkGroup<'_, Unit>,
    name: &str,
    parameter: impl Display,
    mut figure: impl FnMut() -> f64,
) {
    let (mut figures, mut played) = (Vec::new(), 0);
    group.bench_function(BenchmarkId::new(name, parameter), |b| {
        if figures.is_empty() {
            let rounds = if is_test() || is_quick() { 1 } else { ROUNDS };
            figures.extend((0..rounds).map(|_| figure()));
            figures.push(figures[0]); // criterion wants two at least
            part(&mut figures);
        }
        let figure = figures[played % figures.len()];
        played += 1;
        b.iter_custom(|iterations| times(figure, iterations));
    });
}

impl Measurement for Unit {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {}

    fn end(&self, (): ()) -> f64 {
        0.0
    }

    fn add(&self, one: &f64, other: &f64) -> f64 {
        one + other
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Unit {
    fn scale_values(&self, _: f64, _: &mut [f64]) -> &'static str {
        self.0
    }

    fn scale_throughputs(&self, _: f64, _: &Throughput, _: &mut [f64]) -> &'static str {
        self.0
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        self.0
    }
}
