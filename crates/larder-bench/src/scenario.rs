//! Which scenarios there are, what they are called, and what each needs before it can be measured.

use std::fmt;
use std::sync::Arc;

use crate::build::{ACTION_BYTES, Shape};
use crate::content::{Blob, Content, Random};
use crate::error::BenchError;
use crate::load::{Load, Seats};
use crate::messages;
use crate::target::{Protocol, Target};
use crate::work::{Filling, Work, batch_count, fillings, mixed_size, new_blobs};

const SMALL_BYTES: u64 = 64 << 10;
const MIDDLE_BYTES: u64 = 1 << 20;

/// How much is stored to be read by `read`, in bytes and in entries: more entries than a processor's cache has, less than memory.
const READ_BYTES: u64 = 64 << 20;
const READ_COUNT_MAX: u64 = 1000;
const READ_COUNT_MIN: u64 = 4;

/// How many results `action` asks for, and batches `batch-read`.
const RESULT_COUNT: usize = 100;
const BATCH_COUNT: usize = 8;

/// The size of blobs that are only asked about.
const FOUND_BYTES: u64 = 100;

/// How many entries are there for `mixed`.
const MIXED_COUNT: usize = 1000;

/// The most digests in one `find`, and outputs in one `action`.
const COUNT_MAX: u32 = 50_000;

/// The largest entry of a scenario.
const ENTRY_BYTES_MAX: u64 = 1 << 30;

/// Lanes for which a rate is kept up: enough that late answers do not hold requests back.
const OPEN_LANES: u32 = 128;

/// Something to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Reads entries of this many bytes that are there.
    Read(u64),
    /// Reads entries that are not there.
    Miss,
    /// Writes new entries of this many bytes.
    Write(u64),
    /// Asks for results with this many outputs that are there.
    Action(u32),
    /// Asks for results that are not there.
    ActionMiss,
    /// `FindMissingBlobs` of so many, all there.
    Find(u32),
    /// `FindMissingBlobs` of so many, none there.
    FindAbsent(u32),
    /// `BatchReadBlobs` of blobs of this many bytes, as many as a batch takes.
    BatchRead(u64),
    /// `BatchUpdateBlobs` of blobs of this many bytes, as many as a batch takes.
    BatchUpdate(u64),
    /// Reads; this percentage finds something, and what does not is written.
    Mixed(u8),
    /// A whole build, stored and then restored.
    Build(Shape),
}

impl Scenario {
    /// The scenario of a name: `read:4KiB`, `miss`, `write:1MiB`, `action:10`, `action-miss`, `find:1000`, `find-absent:1000`,
    /// `batch-read:4KiB`, `batch-update:4KiB`, `mixed:90`, `dxos`, `buildbuddy`, `storm`.
    pub fn parse(name: &str) -> Result<Self, BenchError> {
        let usage = |why: String| BenchError::Usage(format!("scenario {name}: {why}"));
        let (kind, quantity) = match name.split_once(':') {
            Some((kind, quantity)) => (kind, Some(quantity)),
            None => (name, None),
        };
        let size = || parse_size(quantity.unwrap_or("4KiB")).map_err(usage);
        let count = |default: u32| match quantity.unwrap_or_default() {
            "" => Ok(default),
            text => text
                .parse()
                .ok()
                .filter(|count| (1..=COUNT_MAX).contains(count))
                .ok_or_else(|| usage(format!("a number from 1 to {COUNT_MAX}"))),
        };
        let alone = |scenario: Self| match quantity {
            None => Ok(scenario),
            Some(_) => Err(usage("it takes no number".to_owned())),
        };
        match kind {
            "read" => Ok(Self::Read(size()?)),
            "write" => Ok(Self::Write(size()?)),
            "batch-read" => Ok(Self::BatchRead(size()?.min(MIDDLE_BYTES))),
            "batch-update" => Ok(Self::BatchUpdate(size()?.min(MIDDLE_BYTES))),
            "action" => Ok(Self::Action(count(10)?)),
            "find" => Ok(Self::Find(count(1000)?)),
            "find-absent" => Ok(Self::FindAbsent(count(1000)?)),
            "mixed" => match count(90)? {
                percent @ 0..=100 => Ok(Self::Mixed(percent as u8)),
                _ => Err(usage("a percentage".to_owned())),
            },
            "miss" => alone(Self::Miss),
            "action-miss" => alone(Self::ActionMiss),
            "dxos" => alone(Self::Build(Shape::Dxos)),
            "buildbuddy" => alone(Self::Build(Shape::Buildbuddy)),
            "storm" => alone(Self::Build(Shape::Storm)),
            _ => Err(usage("there is none of this name".to_owned())),
        }
    }

    /// What is measured if nothing is asked for.
    pub fn usual(protocol: Protocol) -> Vec<Self> {
        let names: &[&str] = match protocol {
            Protocol::Nx | Protocol::Files => &[
                "read:4KiB",
                "read:1MiB",
                "read:64MiB",
                "write:4KiB",
                "write:1MiB",
                "miss",
                "mixed:90",
                "dxos",
                "buildbuddy",
                "storm",
            ],
            Protocol::ReapiHttp => &[
                "read:4KiB",
                "read:1MiB",
                "read:64MiB",
                "write:4KiB",
                "write:1MiB",
                "miss",
                "action:10",
                "action-miss",
                "mixed:90",
                "dxos",
                "buildbuddy",
            ],
            Protocol::Reapi => &[
                "action:10",
                "action-miss",
                "find:1000",
                "find:10000",
                "find-absent:1000",
                "batch-read:4KiB",
                "batch-update:4KiB",
                "read:128KiB",
                "read:64MiB",
                "write:128KiB",
                "write:64MiB",
                "mixed:90",
                "dxos",
                "buildbuddy",
            ],
        };
        let parse = |name: &&str| Self::parse(name).expect("a test has parsed every one of them");
        names.iter().map(parse).collect()
    }

    /// Whether `protocol` has what this needs.
    pub fn suits(self, protocol: Protocol) -> bool {
        match self {
            Self::Action(_) | Self::ActionMiss => {
                matches!(protocol, Protocol::Reapi | Protocol::ReapiHttp)
            }
            Self::Find(_) | Self::FindAbsent(_) | Self::BatchRead(_) | Self::BatchUpdate(_) => {
                protocol == Protocol::Reapi
            }
            Self::Build(Shape::Storm) => matches!(protocol, Protocol::Nx | Protocol::Files),
            Self::Read(_) | Self::Miss | Self::Write(_) | Self::Mixed(_) | Self::Build(_) => true,
        }
    }

    /// The lanes that measure it, as far as `load` does not say.
    pub(crate) fn seats(self, protocol: Protocol, load: &Load) -> Seats {
        let lanes = match self {
            Self::Build(shape) => shape.tasks_at_a_time(),
            _ if load.rate.is_some() => OPEN_LANES,
            Self::Read(bytes) | Self::Write(bytes) => match bytes {
                bytes if bytes <= SMALL_BYTES => 32,
                bytes if bytes <= MIDDLE_BYTES => 16,
                _ => 4,
            },
            Self::BatchRead(_) | Self::BatchUpdate(_) => 4,
            Self::Find(count) | Self::FindAbsent(count) if count >= 1000 => 8,
            _ => 32,
        };
        let (connections, streams) = match protocol {
            Protocol::Reapi => ((lanes / 16).max(2), lanes.div_ceil((lanes / 16).max(2))),
            _ => (lanes, 1),
        };
        Seats {
            connections: load.connections.unwrap_or(connections).max(1),
            streams: load.streams.unwrap_or(streams).max(1),
        }
    }

    /// What must be stored first, and what is then measured. A build has its own way.
    pub(crate) fn prepare(self, target: &Target, content: &Content, seed: u64) -> Prepared {
        let (protocol, instance) = (target.protocol, target.instance.as_str());
        let new = |size: u64, count: usize| {
            new_blobs(content, protocol, std::iter::repeat_n(size, count))
        };
        let stored = |blobs: &[Blob], work: Work| Prepared {
            fill: vec![fillings(protocol, blobs)],
            work,
        };
        match self {
            Self::Read(size) => {
                let count = READ_BYTES / size.max(1);
                let blobs = new(size, count.clamp(READ_COUNT_MIN, READ_COUNT_MAX) as usize);
                stored(&blobs.clone(), Work::Read(blobs))
            }
            Self::Find(count) => {
                let blobs = new(FOUND_BYTES, count as usize);
                let request = messages::blobs_request(instance, &blobs);
                let missing = Vec::new();
                stored(&blobs, Work::FindMissing { request, missing })
            }
            Self::BatchRead(size) => {
                let batches = std::iter::repeat_with(|| {
                    let blobs = new(size, batch_count(size));
                    (messages::blobs_request(instance, &blobs), blobs)
                });
                let batches: Vec<_> = batches.take(BATCH_COUNT).collect();
                let blobs: Vec<Blob> = batches
                    .iter()
                    .flat_map(|(_, blobs)| blobs.clone())
                    .collect();
                stored(&blobs, Work::BatchRead(batches))
            }
            Self::Mixed(hit_percent) => {
                let mut random = Random::new(seed);
                let sizes = std::iter::repeat_with(|| mixed_size(&mut random));
                let there = new_blobs(content, protocol, sizes.take(MIXED_COUNT));
                stored(
                    &there.clone(),
                    Work::Mixed {
                        there,
                        hit_percent,
                        seed,
                    },
                )
            }
            Self::Action(outputs) => {
                let outputs: Arc<[Blob]> = new(FOUND_BYTES, outputs as usize).into();
                Prepared::results(protocol, &outputs, new(ACTION_BYTES, RESULT_COUNT))
            }
            Self::FindAbsent(count) => {
                let missing = new(FOUND_BYTES, count as usize);
                let request = messages::blobs_request(instance, &missing);
                Prepared::at_once(Work::FindMissing { request, missing })
            }
            Self::Miss => Prepared::at_once(Work::Miss { size: 4096 }),
            Self::Write(size) => Prepared::at_once(Work::Write { size }),
            Self::ActionMiss => Prepared::at_once(Work::ResultMiss),
            Self::BatchUpdate(size) => Prepared::at_once(Work::BatchUpdate {
                count: batch_count(size),
                size,
            }),
            Self::Build(_) => Prepared::at_once(Work::Store(Vec::new())),
        }
    }
}

/// A scenario on its way.
pub(crate) struct Prepared {
    /// To be stored, one list after the other.
    pub(crate) fill: Vec<Vec<Filling>>,
    pub(crate) work: Work,
}

impl Prepared {
    fn results(protocol: Protocol, outputs: &Arc<[Blob]>, actions: Vec<Blob>) -> Self {
        let fill_results = actions.iter().map(|action| Filling::Result {
            action: action.clone(),
            outputs: outputs.clone(),
        });
        Self {
            // A result is refused by some servers while its outputs are not there.
            fill: vec![fillings(protocol, outputs), fill_results.collect()],
            work: Work::Results {
                actions,
                outputs: outputs.clone(),
            },
        }
    }

    fn at_once(work: Work) -> Self {
        let fill = Vec::new();
        Self { fill, work }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(size) => write!(formatter, "read:{}", size_text(*size)),
            Self::Miss => formatter.write_str("miss"),
            Self::Write(size) => write!(formatter, "write:{}", size_text(*size)),
            Self::Action(count) => write!(formatter, "action:{count}"),
            Self::ActionMiss => formatter.write_str("action-miss"),
            Self::Find(count) => write!(formatter, "find:{count}"),
            Self::FindAbsent(count) => write!(formatter, "find-absent:{count}"),
            Self::BatchRead(size) => write!(formatter, "batch-read:{}", size_text(*size)),
            Self::BatchUpdate(size) => write!(formatter, "batch-update:{}", size_text(*size)),
            Self::Mixed(percent) => write!(formatter, "mixed:{percent}"),
            Self::Build(Shape::Dxos) => formatter.write_str("dxos"),
            Self::Build(Shape::Buildbuddy) => formatter.write_str("buildbuddy"),
            Self::Build(Shape::Storm) => formatter.write_str("storm"),
        }
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("sizes are in B, KiB, MiB or GiB".to_owned()),
    };
    let size = digits
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(unit));
    size.filter(|size| (1..=ENTRY_BYTES_MAX).contains(size))
        .ok_or_else(|| "a size from 1 B to 1 GiB".to_owned())
}

fn size_text(size: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    units
        .into_iter()
        .find(|(bits, _)| size != 0 && size.trailing_zeros() >= *bits)
        .map_or_else(
            || format!("{size}B"),
            |(bits, unit)| format!("{}{unit}", size >> bits),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: [Protocol; 4] = [
        Protocol::Nx,
        Protocol::Reapi,
        Protocol::ReapiHttp,
        Protocol::Files,
    ];

    #[test]
    fn every_usual_scenario_suits_its_protocol_and_is_called_as_it_was_asked_for() {
        for protocol in PROTOCOLS {
            for scenario in Scenario::usual(protocol) {
                assert!(scenario.suits(protocol), "{scenario} {protocol:?}");
                assert_eq!(Scenario::parse(&scenario.to_string()).unwrap(), scenario);
            }
        }
        for name in ["read:1B", "write:1GiB", "find:1", "mixed:100", "read:1000B"] {
            assert_eq!(Scenario::parse(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn what_is_no_scenario_is_refused() {
        for name in [
            "",
            "reads",
            "read:0",
            "read:2GiB",
            "read:4kb",
            "miss:3",
            "find:0",
            "mixed:101",
        ] {
            assert!(Scenario::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn lanes_are_those_that_were_asked_for() {
        let mut load = Load::default();
        let seats = |load: &Load| Scenario::Read(4096).seats(Protocol::Reapi, load);
        assert_eq!(seats(&load).connections * seats(&load).streams, 32);
        load.connections = Some(3);
        load.streams = Some(5);
        assert_eq!(
            seats(&load),
            Seats {
                connections: 3,
                streams: 5
            }
        );
        assert_eq!(
            Scenario::Miss
                .seats(Protocol::Nx, &Load::default())
                .connections,
            32
        );
    }
}
