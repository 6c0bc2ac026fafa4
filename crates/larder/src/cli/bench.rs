//! `larder bench`: which server to measure, with what, for how long.
//!
//! No option takes a credential itself: other users of a machine can read command lines.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use larder_bench::{Protocol, Scenario};

use crate::config::{parse_duration, parse_size};

/// `larder bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The cache: http:// or https:// with what stands in front of its paths, grpc:// or grpcs://
    /// with the instance name behind the host
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Another cache to measure beside it, in turns, and to divide its figures by
    #[arg(long, value_name = "URL")]
    pub(crate) compare: Option<String>,
    /// What to speak at http:// and https:// [default: nx]
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<BenchProtocol>,
    /// What the other one speaks, if it is something else
    #[arg(long, value_enum, value_name = "PROTOCOL", requires = "compare")]
    pub(crate) compare_protocol: Option<BenchProtocol>,
    /// What to measure; can be given several times. read:4KiB, write:1MiB, miss, action:10,
    /// action-miss, find:1000, find-absent:1000, batch-read:4KiB, batch-update:4KiB, mixed:90, dxos,
    /// buildbuddy, storm [default: what the protocol has of these]
    #[arg(long = "scenario", value_name = "NAME", value_parser = scenario)]
    pub(crate) scenarios: Vec<Scenario>,
    /// A file with the token, or `-` for standard input; else LARDER_BENCH_TOKEN, else none
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with the other one's token, or `-`; else LARDER_BENCH_COMPARE_TOKEN, else none
    #[arg(long, value_name = "FILE", requires = "compare")]
    pub(crate) compare_token_file: Option<PathBuf>,
    /// The server's process on this machine, to measure its processor time and memory
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// The other one's process
    #[arg(long, value_name = "PID", requires = "compare")]
    pub(crate) compare_pid: Option<u32>,
    /// Begin so many requests in each second whatever the server does, and count latency from when
    /// each was due [default: an answer sends the next]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Connections [default: 2 to 128, by scenario]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) connections: Option<u32>,
    /// Calls at a time on each connection of gRPC [default: by scenario]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) streams: Option<u32>,
    /// Threads that ask
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,
    /// How long each block measures; a build takes as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// What is not counted at the beginning of each block
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// Blocks of each scenario and server [default: 1, or 5 to compare]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) blocks: Option<u32>,
    /// What a scenario may write to each server, builds apart
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_size)]
    pub(crate) write_limit: u64,
    /// What contents and choices come from; the same again on a server that has them measures
    /// something else [default: a new one]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Certificate authorities (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Send tokens over http:// or grpc:// to another machine, readable for everyone on the way
    #[arg(long)]
    pub(crate) insecure_http: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a cache speaks at http:// and https://.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchProtocol {
    /// `/v1/cache/KEY`
    Nx,
    /// gRPC, which grpc:// says as well
    Reapi,
    /// `/ac/HASH` and `/cas/HASH`
    ReapiHttp,
    /// A folder that takes GET and PUT
    Files,
}

impl From<BenchProtocol> for Protocol {
    fn from(protocol: BenchProtocol) -> Self {
        match protocol {
            BenchProtocol::Nx => Self::Nx,
            BenchProtocol::Reapi => Self::Reapi,
            BenchProtocol::ReapiHttp => Self::ReapiHttp,
            BenchProtocol::Files => Self::Files,
        }
    }
}

fn scenario(name: &str) -> Result<Scenario, String> {
    Scenario::parse(name).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    rate.filter(|rate: &f64| (0.01..=10_000_000.0).contains(rate))
        .ok_or_else(|| "a number from 0.01 to 10000000".to_owned())
}
