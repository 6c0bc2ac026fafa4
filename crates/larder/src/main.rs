//! Larder: a self-hosted remote build cache that no pull request can poison.
//!
//! The program: reads the command line and the configuration, wires the crates together, listens,
//! and stops. What a request means is decided in `larder-protocols`, what a caller may do in
//! `larder-model`.
//!
//! Always true: a token's text reaches standard output once, when the token is made, and nothing
//! else ever.

#![forbid(unsafe_code)]

mod cli;
mod clock;
mod commands;
mod config;
mod control_socket;
mod exposure;
mod front;
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

use std::process::ExitCode;

use clap::Parser as _;
use rustix::fs::Mode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Whatever is made is its owner's alone, also by libraries.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let outcome = commands::run(cli::Cli::parse().command);
    log_queue::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::note(&format!("larder: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
