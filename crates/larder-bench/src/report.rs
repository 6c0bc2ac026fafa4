//! What a run came to: JSON by serde, and a table for people.

use std::fmt::Write as _;

use serde::Serialize;

use crate::compare;
use crate::histogram::Histogram;
use crate::load::{Load, Measured};
use crate::target::{Protocol, Target};

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of this form.
    pub version: u32,
    /// What contents and choices came from.
    pub seed: u64,
    /// Who was measured; the others name them by their place here, from 0.
    pub targets: Vec<Subject>,
    /// How much was asked.
    pub load: Load,
    /// Each block that was measured.
    pub blocks: Vec<Block>,
    /// The blocks of each scenario and server together.
    pub figures: Vec<Figure>,
    /// The first server's figures divided by the second's.
    pub ratios: Vec<Ratio>,
    /// What could not be measured, and why.
    pub left_out: Vec<String>,
}

/// A server.
#[derive(Debug, Serialize)]
pub struct Subject {
    /// As it was given.
    pub url: String,
    /// What was spoken.
    pub protocol: Protocol,
    /// Its process, if that was given.
    pub pid: Option<u32>,
}

/// What was counted, in one block or in several.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// Requests with an answer.
    pub requests: u64,
    /// Bodies both ways, in bytes.
    pub bytes: u64,
    /// How long, in seconds.
    pub seconds: f64,
    /// Reads that found nothing.
    pub misses: u64,
    /// Requests that the server would not serve.
    pub refused: u64,
    /// Requests without an answer.
    pub errors: u64,
    /// Processor time of the server, in seconds.
    pub server_cpu_s: Option<f64>,
    /// The most of the server's memory that was seen resident, in bytes.
    pub server_rss_bytes: Option<u64>,
    /// Processor time of this program, in seconds.
    pub client_cpu_s: Option<f64>,
}

/// Latencies in microseconds; each at most one percent above the true one.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the names are the meaning")]
pub struct Latency {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// One stretch of time on one server.
#[derive(Debug, Serialize)]
pub struct Block {
    /// What was measured.
    pub scenario: String,
    /// The server's place.
    pub target: usize,
    /// The how manieth of its scenario.
    pub block: u32,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// How long requests took.
    pub latency_us: Latency,
    #[serde(skip)]
    pub(crate) histogram: Histogram,
}

/// All blocks of a scenario on one server.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub scenario: String,
    /// The server's place.
    pub target: usize,
    /// How many blocks there are of it; for a build, how many builds.
    pub blocks: u32,
    /// Requests in a second.
    pub requests_per_s: f64,
    /// Bodies, in megabytes in a second.
    pub megabytes_per_s: f64,
    /// Processor time of the server for a request, in microseconds.
    pub server_cpu_us_per_request: Option<f64>,
    /// Bodies for a second of the server's processors, in gigabytes.
    pub gigabytes_per_server_cpu_s: Option<f64>,
    /// Of one processor, how much this program used; near its number of threads it measured itself.
    pub client_cpu_share: Option<f64>,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// How long requests took.
    pub latency_us: Latency,
}

/// One figure of the first server divided by the second's.
#[derive(Debug, Serialize)]
pub struct Ratio {
    /// What was measured.
    pub scenario: String,
    /// `requests_per_s` or `requests_per_server_cpu_s`; more is better in both.
    pub figure: &'static str,
    /// The first divided by the second.
    pub ratio: f64,
    /// With 95 % confidence at least this; unknown if there was one pair of blocks.
    pub low: Option<f64>,
    /// With 95 % confidence at most this.
    pub high: Option<f64>,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        let sum = |one: Option<f64>, two: Option<f64>| one.zip(two).map(|(one, two)| one + two);
        self.server_cpu_s = sum(self.server_cpu_s, other.server_cpu_s);
        self.client_cpu_s = sum(self.client_cpu_s, other.client_cpu_s);
        self.server_rss_bytes = self.server_rss_bytes.max(other.server_rss_bytes);
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
        self.misses += other.misses;
        self.refused += other.refused;
        self.errors += other.errors;
    }
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let quantile = |share: f64| micros(histogram.quantile(share));
        Self {
            mean: histogram.mean() / 1e3,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: micros(histogram.max()),
        }
    }
}

impl Block {
    pub(crate) fn new(scenario: String, target: usize, block: u32, measured: Measured) -> Self {
        let tally = measured.tally;
        Self {
            scenario,
            target,
            block,
            counts: Counts {
                requests: tally.latency.count(),
                bytes: tally.bytes,
                seconds: measured.wall.as_secs_f64(),
                misses: tally.misses,
                refused: tally.refused,
                errors: tally.errors,
                server_cpu_s: measured.server_cpu_s,
                server_rss_bytes: measured.server_rss_bytes,
                client_cpu_s: measured.client_cpu_s,
            },
            latency_us: Latency::of(&tally.latency),
            histogram: tally.latency,
        }
    }

    fn requests_per_s(&self) -> f64 {
        self.counts.requests as f64 / self.counts.seconds
    }

    fn requests_per_server_cpu_s(&self) -> f64 {
        self.counts.requests as f64 / self.counts.server_cpu_s.unwrap_or(f64::INFINITY)
    }
}

impl Report {
    pub(crate) fn new(seed: u64, targets: &[impl AsRef<Target>], load: &Load) -> Self {
        let subject = |target: &Target| Subject {
            url: target.url.clone(),
            protocol: target.protocol,
            pid: target.pid,
        };
        Self {
            version: 1,
            seed,
            targets: targets
                .iter()
                .map(|target| subject(target.as_ref()))
                .collect(),
            load: load.clone(),
            blocks: Vec::new(),
            figures: Vec::new(),
            ratios: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Adds a scenario's blocks, and what follows from them.
    pub(crate) fn add(&mut self, blocks: Vec<Block>) {
        let mut names: Vec<String> = Vec::new();
        for block in &blocks {
            if !names.contains(&block.scenario) {
                names.push(block.scenario.clone());
            }
        }
        for name in names {
            let of = |target: usize| -> Vec<&Block> {
                let of_target = |block: &&Block| block.scenario == name && block.target == target;
                blocks.iter().filter(of_target).collect()
            };
            let figures = (0..self.targets.len()).map(|target| figure(&name, target, &of(target)));
            self.figures.extend(figures);
            if self.targets.len() == 2 {
                self.ratios.extend(ratios(&name, &of(0), &of(1)));
            }
        }
        self.blocks.extend(blocks);
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (place, target) in self.targets.iter().enumerate() {
            let _ = writeln!(
                text,
                "{} {} ({:?})",
                letter(place),
                target.url,
                target.protocol
            );
        }
        let _ = writeln!(text, "seed {}\n", self.seed);
        let head = [
            "SCENARIO", "SERVER", "REQ/S", "MB/S", "P50", "P99", "P99.9", "MAX", "CPU/REQ",
            "GB/CPU-S", "RSS", "CLIENT", "",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.figures.iter().map(|figure| figure.row(self.load.rate)));
        text += &columns(&rows);
        if !self.ratios.is_empty() {
            let head = ["SCENARIO", "FIGURE", "A / B", "95 %"];
            let mut rows = vec![head.map(str::to_owned).to_vec()];
            rows.extend(self.ratios.iter().map(Ratio::row));
            text += "\n";
            text += &columns(&rows);
        }
        for left_out in &self.left_out {
            let _ = writeln!(text, "\nleft out: {left_out}");
        }
        text.trim_end().to_owned()
    }
}

fn figure(scenario: &str, target: usize, blocks: &[&Block]) -> Figure {
    let mut histogram = Histogram::default();
    let mut counts = blocks
        .first()
        .map(|block| block.counts.clone())
        .unwrap_or_default();
    for (place, block) in blocks.iter().enumerate() {
        histogram.add(&block.histogram);
        if place > 0 {
            counts.add(&block.counts);
        }
    }
    let (requests, bytes) = (counts.requests as f64, counts.bytes as f64);
    // Under its resolution, time is not zero but unknown.
    let cpu = counts.server_cpu_s.filter(|cpu| *cpu > 0.0);
    Figure {
        scenario: scenario.to_owned(),
        target,
        blocks: blocks.len() as u32,
        requests_per_s: requests / counts.seconds,
        megabytes_per_s: bytes / 1e6 / counts.seconds,
        server_cpu_us_per_request: cpu.map(|cpu| cpu * 1e6 / requests.max(1.0)),
        gigabytes_per_server_cpu_s: cpu.filter(|_| bytes > 0.0).map(|cpu| bytes / 1e9 / cpu),
        client_cpu_share: counts.client_cpu_s.map(|cpu| cpu / counts.seconds),
        latency_us: Latency::of(&histogram),
        counts,
    }
}

fn ratios(scenario: &str, first: &[&Block], second: &[&Block]) -> Vec<Ratio> {
    type Of = fn(&Block) -> f64;
    let figures: [(&'static str, Of); 2] = [
        ("requests_per_s", Block::requests_per_s),
        (
            "requests_per_server_cpu_s",
            Block::requests_per_server_cpu_s,
        ),
    ];
    let ratio = |(figure, of): (&'static str, Of)| {
        let pairs = first
            .iter()
            .zip(second)
            .map(|(one, two)| (of(one), of(two)));
        let finite = pairs.filter(|(one, two)| one.is_finite() && two.is_finite());
        let estimate = compare::ratio(&finite.collect::<Vec<_>>())?;
        Some(Ratio {
            scenario: scenario.to_owned(),
            figure,
            ratio: estimate.ratio,
            low: estimate.bounds.map(|(low, _)| low),
            high: estimate.bounds.map(|(_, high)| high),
        })
    };
    figures.into_iter().filter_map(ratio).collect()
}

impl Figure {
    fn row(&self, rate: Option<f64>) -> Vec<String> {
        let or_dash = |value: Option<f64>, text: fn(f64) -> String| {
            value.map_or_else(|| "-".to_owned(), text)
        };
        let Counts {
            misses,
            refused,
            errors,
            ..
        } = self.counts;
        let mut notes = Vec::new();
        for (count, what) in [
            (misses, "misses"),
            (refused, "refused"),
            (errors, "without an answer"),
        ] {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        }
        if self.scenario.ends_with(" store") || self.scenario.ends_with(" restore") {
            let each = |seconds: f64| duration(seconds * 1e6 / f64::from(self.blocks.max(1)));
            let cpu = self
                .counts
                .server_cpu_s
                .map(|cpu| format!(", {} of CPU", each(cpu)));
            let cpu = cpu.unwrap_or_default();
            notes.push(format!("{}{cpu} each", each(self.counts.seconds)));
        }
        if rate.is_some_and(|rate| self.requests_per_s < 0.95 * rate) {
            notes.push("below the rate asked for".to_owned());
        }
        vec![
            self.scenario.clone(),
            letter(self.target).to_string(),
            format!("{:.0}", self.requests_per_s),
            format!("{:.1}", self.megabytes_per_s),
            duration(self.latency_us.p50),
            duration(self.latency_us.p99),
            duration(self.latency_us.p999),
            duration(self.latency_us.max),
            or_dash(self.server_cpu_us_per_request, duration),
            or_dash(self.gigabytes_per_server_cpu_s, |value| {
                format!("{value:.2}")
            }),
            or_dash(
                self.counts.server_rss_bytes.map(|bytes| bytes as f64 / 1e6),
                |value| format!("{value:.0} MB"),
            ),
            or_dash(self.client_cpu_share, |share| {
                format!("{:.0} %", share * 100.0)
            }),
            notes.join(", "),
        ]
    }
}

impl Ratio {
    fn row(&self) -> Vec<String> {
        let bounds = self.low.zip(self.high);
        vec![
            self.scenario.clone(),
            self.figure.replace('_', " "),
            format!("{:.2}", self.ratio),
            bounds.map_or_else(String::new, |(low, high)| format!("{low:.2} to {high:.2}")),
        ]
    }
}

fn letter(place: usize) -> char {
    if place == 0 { 'A' } else { 'B' }
}

/// Microseconds, for people.
fn duration(micros: f64) -> String {
    match micros {
        micros if micros < 1e3 => format!("{micros:.1} µs"),
        micros if micros < 1e6 => format!("{:.2} ms", micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}

fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(target: usize, number: u32, requests: u64, cpu_s: Option<f64>) -> Block {
        let mut histogram = Histogram::default();
        (0..requests).for_each(|_| histogram.record(2_000_000));
        Block {
            scenario: "read:4KiB".to_owned(),
            target,
            block: number,
            counts: Counts {
                requests,
                bytes: requests * 4096,
                seconds: 2.0,
                server_cpu_s: cpu_s,
                ..Counts::default()
            },
            latency_us: Latency::of(&histogram),
            histogram,
        }
    }

    fn report(blocks: Vec<Block>) -> Report {
        let target = |url: &str| std::sync::Arc::new(Target::parse(url, None, None).unwrap());
        let targets = [target("http://a"), target("http://b")];
        let mut report = Report::new(7, &targets, &Load::default());
        report.add(blocks);
        report
    }

    #[test]
    fn figures_are_of_all_blocks_and_ratios_of_pairs() {
        let report = report(vec![
            block(0, 0, 1000, Some(0.01)),
            block(1, 0, 500, Some(0.02)),
            block(1, 1, 1500, Some(0.03)),
            block(0, 1, 3000, Some(0.03)),
        ]);
        let [first, second] = &report.figures[..] else {
            panic!("{:?}", report.figures)
        };
        assert!((first.requests_per_s - 1000.0).abs() < 1e-9);
        assert!((first.server_cpu_us_per_request.unwrap() - 10.0).abs() < 1e-6);
        assert!((second.server_cpu_us_per_request.unwrap() - 25.0).abs() < 1e-6);
        assert!((first.latency_us.p50 - 2000.0).abs() < 20.0);
        let ratios: Vec<(&str, f64)> = report.ratios.iter().map(|r| (r.figure, r.ratio)).collect();
        assert!(
            ratios[0].0 == "requests_per_s" && (ratios[0].1 - 2.0).abs() < 1e-9,
            "{ratios:?}"
        );
        // Of the pairs 100,000 and 25,000, then 100,000 and 50,000.
        assert!((ratios[1].1 - 8f64.sqrt()).abs() < 1e-9, "{ratios:?}");
        let text = report.text();
        assert!(text.contains("requests per server cpu s  2.83"), "{text}");
        assert!(text.contains("seed 7"), "{text}");
    }

    #[test]
    fn without_a_process_there_is_no_figure_of_its_time() {
        let report = report(vec![block(0, 0, 10, None), block(1, 0, 20, None)]);
        assert_eq!(report.figures[0].server_cpu_us_per_request, None);
        assert_eq!(report.ratios.len(), 1);
    }
}
