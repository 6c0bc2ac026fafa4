//! A whole run: each scenario prepared on each server, measured in blocks, and what was written read back.

use std::sync::Arc;

use crate::build;
use crate::content::{Blob, Content};
use crate::error::BenchError;
use crate::load::{Load, Measured, Seats, measure};
use crate::report::{Block, Report};
use crate::scenario::Scenario;
use crate::target::Target;
use crate::work::Work;

/// Of what a block wrote, how many entries and bytes are read back at most.
const SAMPLE_COUNT_MAX: usize = 64;
const SAMPLE_BYTES_MAX: u64 = 256 << 20;

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// One server, or two to compare.
    pub targets: Vec<Target>,
    /// In this order.
    pub scenarios: Vec<Scenario>,
    /// How much, for how long.
    pub load: Load,
    /// Blocks of each scenario on each server; with two servers they alternate.
    pub blocks: u32,
    /// Where contents and choices come from.
    pub seed: u64,
}

/// Runs it to its end, saying what it is at. It blocks this thread, which must not be one of a runtime.
///
/// Errors: a wrong byte, an entry that is gone, a server that cannot be reached. A scenario that a server refuses is left out
/// and named in the report; if all are, that is an error.
pub fn run(plan: &Plan, progress: &dyn Fn(&str)) -> Result<Report, BenchError> {
    if plan.targets.is_empty() || plan.targets.len() > 2 {
        return Err(BenchError::Usage(
            "one server, or two to compare".to_owned(),
        ));
    }
    let targets: Vec<Arc<Target>> = plan.targets.iter().cloned().map(Arc::new).collect();
    let mut report = Report::new(plan.seed, &targets, &plan.load);
    let run = Run {
        content: Arc::new(Content::new(plan.seed)),
        plan,
        targets,
        progress,
    };
    for scenario in &plan.scenarios {
        match run.scenario(*scenario) {
            Ok(blocks) => report.add(blocks),
            Err(Failed {
                target,
                error: error @ BenchError::Refused(_),
            }) => {
                let url = &run.targets[target].url;
                report.left_out.push(format!("{scenario}: {url}: {error}"));
            }
            Err(Failed { target, error }) => {
                return Err(in_scenario(*scenario, &run.targets[target].url, error));
            }
        }
    }
    if report.blocks.is_empty() {
        return Err(BenchError::Refused(report.left_out.join("; ")));
    }
    Ok(report)
}

/// The error, and where it came up.
fn in_scenario(scenario: Scenario, url: &str, error: BenchError) -> BenchError {
    let place = |what: String| format!("{scenario}, {url}: {what}");
    match error {
        BenchError::Wrong(what) => BenchError::Wrong(place(what)),
        BenchError::Connection(what) => BenchError::Connection(place(what)),
        other => other,
    }
}

struct Failed {
    target: usize,
    error: BenchError,
}

struct Run<'a> {
    plan: &'a Plan,
    content: Arc<Content>,
    targets: Vec<Arc<Target>>,
    progress: &'a dyn Fn(&str),
}

impl Run<'_> {
    fn scenario(&self, scenario: Scenario) -> Result<Vec<Block>, Failed> {
        let each = |work: &mut dyn FnMut(usize) -> Result<(), BenchError>| {
            let targets = 0..self.targets.len();
            let failed = |target| move |error| Failed { target, error };
            targets
                .clone()
                .try_for_each(|target| work(target).map_err(failed(target)))
        };
        if let Scenario::Build(_) = scenario {
            return self.build(scenario);
        }
        let mut works = Vec::new();
        each(&mut |target| {
            if !scenario.suits(self.targets[target].protocol) {
                let why = format!("{:?} has no such thing", self.targets[target].protocol);
                return Err(BenchError::Refused(why));
            }
            works.push(self.prepare(scenario, target)?);
            Ok(())
        })?;
        let load = Load {
            // What may be written counts for the scenario.
            write_bytes_max: self.plan.load.write_bytes_max / u64::from(self.plan.blocks.max(1)),
            ..self.plan.load.clone()
        };
        let mut blocks = Vec::new();
        for (block, target) in self.turns() {
            let name = scenario.to_string();
            let measured = self
                .measure(&name, target, block, &works[target], scenario, &load)
                .map_err(|error| Failed { target, error })?;
            blocks.push(Block::new(name, target, block, measured));
        }
        Ok(blocks)
    }

    /// A build is stored and restored in each block, as one that the server has not seen.
    fn build(&self, scenario: Scenario) -> Result<Vec<Block>, Failed> {
        let Scenario::Build(shape) = scenario else {
            return Ok(Vec::new());
        };
        let mut blocks = Vec::new();
        for (block, target) in self.turns() {
            let failed = |error| Failed { target, error };
            let protocol = self.targets[target].protocol;
            if !scenario.suits(protocol) {
                let why = format!("{protocol:?} has no such thing");
                return Err(failed(BenchError::Refused(why)));
            }
            (self.progress)(&format!("{scenario}: making the blobs of a build"));
            let tasks = build::tasks(shape, self.plan.seed, &self.content, protocol);
            let mut work = Work::Store(tasks);
            for phase in ["store", "restore"] {
                let name = format!("{scenario} {phase}");
                let shared = Arc::new(work);
                let measured = self
                    .measure(&name, target, block, &shared, scenario, &self.plan.load)
                    .map_err(failed)?;
                blocks.push(Block::new(name, target, block, measured));
                let Some(Work::Store(tasks)) = Arc::into_inner(shared) else {
                    break;
                };
                work = Work::Restore(tasks);
            }
        }
        Ok(blocks)
    }

    /// Whose turn it is: A B, B A, A B, so that neither always comes first.
    fn turns(&self) -> Vec<(u32, usize)> {
        let count = self.targets.len();
        let of_block = |block: u32| {
            let order: Vec<usize> = match block % 2 {
                0 => (0..count).collect(),
                _ => (0..count).rev().collect(),
            };
            order.into_iter().map(move |target| (block, target))
        };
        (0..self.plan.blocks.max(1)).flat_map(of_block).collect()
    }

    fn prepare(&self, scenario: Scenario, target: usize) -> Result<Arc<Work>, BenchError> {
        (self.progress)(&format!("{scenario}: storing what will be asked for"));
        let prepared = scenario.prepare(&self.targets[target], &self.content, self.plan.seed);
        let seats = Seats {
            connections: 4,
            streams: 2,
        };
        for fill in prepared.fill {
            let measured = self.once(target, Work::Fill(fill), seats)?;
            let tally = measured.tally;
            if tally.refused + tally.errors > 0 {
                let why = tally.trouble.unwrap_or_default();
                return Err(BenchError::Refused(format!("cannot store: {why}")));
            }
        }
        Ok(Arc::new(prepared.work))
    }

    fn measure(
        &self,
        name: &str,
        target: usize,
        block: u32,
        work: &Arc<Work>,
        scenario: Scenario,
        load: &Load,
    ) -> Result<Measured, BenchError> {
        let url = &self.targets[target].url;
        let (number, blocks) = (block + 1, self.plan.blocks.max(1));
        (self.progress)(&format!("{name}: block {number} of {blocks} on {url}"));
        let seats = scenario.seats(self.targets[target].protocol, load);
        let measured = measure(
            &self.targets[target],
            &self.content,
            work,
            seats,
            load,
            work.turns(),
        )?;
        let tally = &measured.tally;
        let requests = tally.latency.count();
        if tally.lost > 0 {
            return Err(BenchError::Lost {
                lost: tally.lost,
                sampled: requests,
            });
        }
        if tally.refused * 2 > requests || requests == 0 {
            let why = tally
                .trouble
                .clone()
                .unwrap_or_else(|| "no answer in this time".to_owned());
            return Err(BenchError::Refused(why));
        }
        self.read_back(target, tally.written.iter().rev())?;
        Ok(measured)
    }

    /// Reads some of what was written.
    fn read_back<'b>(
        &self,
        target: usize,
        newest_first: impl Iterator<Item = &'b Blob>,
    ) -> Result<(), BenchError> {
        let mut bytes = 0;
        let sample: Vec<Blob> = newest_first
            .take(SAMPLE_COUNT_MAX)
            .take_while(|blob| {
                let is_first = bytes == 0;
                bytes += blob.size;
                is_first || bytes <= SAMPLE_BYTES_MAX
            })
            .cloned()
            .collect();
        if sample.is_empty() {
            return Ok(());
        }
        let sampled = sample.len() as u64;
        let seats = Seats {
            connections: 1,
            streams: 1,
        };
        let measured = self.once(target, Work::ReadBack(sample), seats)?;
        let tally = measured.tally;
        match tally.lost + tally.errors + tally.refused {
            0 => Ok(()),
            lost => Err(BenchError::Lost { lost, sampled }),
        }
    }

    /// Work that is not measured.
    fn once(&self, target: usize, work: Work, seats: Seats) -> Result<Measured, BenchError> {
        let load = Load {
            threads: 1,
            ..self.plan.load.clone()
        };
        let turns = work.turns();
        let work = Arc::new(work);
        measure(
            &self.targets[target],
            &self.content,
            &work,
            seats,
            &load,
            turns,
        )
    }
}
