//! `larder bench`: reads the command line and the credentials, has the caches measured, prints the report.
//!
//! A run that cannot be believed (a wrong byte, an entry that is gone) ends with code 1 and no figures.

use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use larder_bench::{Load, Plan, Protocol, Scenario, Target, Token};

use super::creep_check::{is_plain_and_remote, progress_bar, read_file, read_token};
use crate::cli::BenchArgs;
use crate::terminal;

/// Blocks of each scenario: enough for a useful interval where servers are compared.
const COMPARED_BLOCKS: u32 = 5;

/// The most threads and lanes of a run: what one machine's ports and memory bear.
const LANE_COUNT_MAX: u64 = 65_536;

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let plan = plan(args, &mut io::stdin())?;
    let bar = progress_bar();
    let report = larder_bench::run(&plan, &|what| bar.set_message(what.to_owned()));
    bar.finish_and_clear();
    let report = report?;
    let text = if args.json {
        serde_json::to_string_pretty(&report).expect("a report is text, numbers and lists")
    } else {
        report.text()
    };
    terminal::print(&text).context("cannot print the report")?;
    Ok(ExitCode::SUCCESS)
}

fn plan(args: &BenchArgs, stdin: &mut dyn Read) -> anyhow::Result<Plan> {
    let ca_pem = args.ca_file.as_deref().map(read_file).transpose()?;
    let files = [&args.token_file, &args.compare_token_file];
    let from_stdin = files
        .iter()
        .filter(|file| file.as_deref() == Some(Path::new("-")));
    ensure!(
        from_stdin.count() <= 1,
        "only one token can come from standard input"
    );
    let protocol = args.protocol.map(Protocol::from);
    let first = Target::parse(&args.url, protocol, ca_pem.as_deref())?
        .with_token(read_token(
            args.token_file.as_deref(),
            "LARDER_BENCH_TOKEN",
            stdin,
            Token::parse,
        )?)
        .with_pid(args.pid);
    let mut targets = vec![first];
    if let Some(url) = &args.compare {
        let protocol = args.compare_protocol.map(Protocol::from);
        let file = args.compare_token_file.as_deref();
        let token = read_token(file, "LARDER_BENCH_COMPARE_TOKEN", stdin, Token::parse)?;
        let target = Target::parse(url, protocol, ca_pem.as_deref())?
            .with_token(token)
            .with_pid(args.compare_pid);
        targets.push(target);
    }
    for target in &targets {
        // The check knows http:// and https://; gRPC's schemes have the same meaning.
        let url = target.url().replacen("grpc", "http", 1);
        ensure!(
            args.insecure_http || !target.has_token() || !is_plain_and_remote(&url),
            "{} is another machine without TLS: the token would cross the network readable; use https:// or grpcs://, or \
             allow that with --insecure-http",
            target.url()
        );
    }
    let lanes = u64::from(args.connections.unwrap_or(1)) * u64::from(args.streams.unwrap_or(1));
    ensure!(
        lanes <= LANE_COUNT_MAX,
        "no more than {LANE_COUNT_MAX} requests at a time"
    );
    let scenarios = match &args.scenarios[..] {
        [] => {
            let usual = Scenario::usual(targets[0].protocol()).into_iter();
            let suits = |scenario: &Scenario| {
                targets
                    .iter()
                    .all(|target| scenario.suits(target.protocol()))
            };
            usual.filter(suits).collect()
        }
        asked => asked.to_vec(),
    };
    let compared = if args.compare.is_some() {
        COMPARED_BLOCKS
    } else {
        1
    };
    Ok(Plan {
        targets,
        scenarios,
        load: Load {
            rate: args.rate,
            connections: args.connections,
            streams: args.streams,
            threads: args.threads,
            warm_up: args.warm_up,
            duration: args.duration,
            write_bytes_max: args.write_limit,
        },
        blocks: args.blocks.unwrap_or(compared),
        seed: match args.seed {
            Some(seed) => seed,
            None => new_seed()?,
        },
    })
}

/// Small enough that every reader of JSON keeps all its digits.
fn new_seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    Ok(u64::from_le_bytes(bytes) >> 12)
}
