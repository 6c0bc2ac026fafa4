//! Chores of this repository, run as `cargo xtask CHORE`.
//!
//! Each chore says what it does before it does something slow, and does all of its own set-up. Whatever it installs goes below
//! `target/`, so `cargo clean` undoes it; only Bazel and nginx, and wrk for `bench http`, come from apt.

mod apt;
mod bench;
mod clients;
mod codegen;
mod docs;
mod lint;
mod mutants;
mod schemathesis;
mod shell;
mod test;
mod tool;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask test                  install the pinned clients, then run every test
cargo xtask lint                  rustfmt, codegen --check, clippy, cargo-deny
cargo xtask mutants [FILE]        break the policy and the authentication, line by line, and see the tests notice
cargo xtask clients               only install the pinned clients
cargo xtask codegen [--check]     write what larder-proto has of the .proto files, or compare it
cargo xtask docs --check|--write  compare docs/config.md with the program, or write it
cargo xtask bench store|http|reapi  measure, and write bench/runs/DATE-MACHINE/
cargo xtask bench peers [--profile PROFILE] [NAME=grpc://ADDRESS:PORT,PID]...
                                  Larder against other caches, those that are started by hand as well";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::say(&format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    std::env::set_current_dir(larder_testkit::repository_root())?;
    match words {
        ["test"] => test::run(),
        ["lint"] => lint::run(),
        ["mutants"] => mutants::run(None),
        ["mutants", file] => mutants::run(Some(file)),
        ["clients"] => clients::install_all().map(|_| ()),
        ["codegen"] => codegen::write(),
        ["codegen", "--check"] => codegen::check(),
        ["docs", "--check"] => docs::check(),
        ["docs", "--write"] => docs::write(),
        ["bench", "store"] => bench::program::run("store", "larder-store"),
        ["bench", "reapi"] => bench::program::run("reapi", "larder"),
        ["bench", "http"] => bench::http::run(),
        ["bench", "peers", rest @ ..] => bench::peers::run(rest),
        _ => bail!("unknown chore {:?}\n{USAGE}", words.join(" ")),
    }
}
