//! A benchmark that is a program of this repository, run by `cargo bench` and kept as a run.
//!
//! The benchmark prints one JSON object per figure, on a line of its own: `name`, `value`, `unit` and, where the design names an
//! aim, `aim`. Every other line is for the person who waits.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Report;
use crate::shell;

/// Measures with the benchmark called `topic` of `package`, and writes the run.
pub(crate) fn run(topic: &'static str, package: &str) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--package", package, "--bench", topic]);
    let mut child = cargo.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("the benchmark has no output")?;
    let mut figures = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match serde_json::from_str::<Value>(&line) {
            Ok(figure) if figure.is_object() => figures.push(figure),
            _ => shell::say(&line),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the benchmark failed: {status}");
    }
    if figures.is_empty() {
        bail!("the benchmark printed no figure");
    }
    Report {
        topic,
        method: format!("See the head of the benchmark, below `crates/{package}/benches`."),
        summary: summary(&figures),
        raw: Value::Array(figures),
    }
    .write()
}

fn summary(figures: &[Value]) -> String {
    let head = "| figure | value | unit | aim |\n|---|---:|---|---|\n";
    let rows = figures.iter().map(|figure| {
        let cells = ["name", "value", "unit", "aim"].map(|key| match &figure[key] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        format!("| {} |\n", cells.join(" | "))
    });
    std::iter::once(head.to_owned()).chain(rows).collect()
}
