//! Larder: a self-hosted remote build cache that no pull request can poison.
//!
//! The program: reads the command line and the configuration, wires the crates together, listens,
//! and stops. What a request means is decided in `larder-protocols`, what a caller may do in
//! `larder-model`.
//!
//! Always true: a token's text reaches standard output once, when the token is made, and nothing
//! else ever.

#![forbid(unsafe_code)]

mod audit;
mod bucket;
mod cli;
mod clock;
mod commands;
mod config;
mod control_socket;
mod creep;
mod doors;
mod exposure;
mod front;
mod identity;
mod log_queue;
mod logging;
mod metrics;
mod net;
mod place;
mod pools;
mod roster;
mod serve;
mod signals;
mod start;
mod terminal;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use rustix::fs::Mode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Whatever is made is its owner's alone, also by libraries.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let outcome = commands::run(cli::Cli::parse_from(arguments()).command);
    log_queue::flush();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            terminal::note(&format!("larder: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The arguments. Bazel's `--credential_helper` takes a program and no arguments of ours, so a link called
/// `larder-credential-helper` is the command of that name.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    if program == Some(OsStr::new("larder-credential-helper")) {
        arguments.insert(1, "credential-helper".into());
    }
    arguments
}
