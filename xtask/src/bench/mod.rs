//! Measurements that are kept: each run is a folder `bench/runs/DATE-MACHINE` with a README that says on what and how it was
//! measured, the raw figures, and a summary.

pub(crate) mod http;
mod load;
pub(crate) mod peers;
pub(crate) mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::shell;

/// What a benchmark found.
pub(crate) struct Report {
    /// `store`, `http`, `reapi` or `peers`.
    pub(crate) topic: &'static str,
    /// How it was measured, in Markdown.
    pub(crate) method: String,
    /// Every single figure.
    pub(crate) raw: Value,
    /// A table, in Markdown.
    pub(crate) summary: String,
}

impl Report {
    /// Writes the folder of this run and tells where.
    pub(crate) fn write(&self) -> Result<()> {
        let folder = self.folder()?;
        fs::create_dir_all(&folder)?;
        let machine = machine()?;
        let (topic, method) = (self.topic, &self.method);
        fs::write(
            folder.join("README.md"),
            format!("# `cargo xtask bench {topic}`\n\n{machine}\n## Method\n\n{method}\n"),
        )?;
        fs::write(folder.join("raw.json"), format!("{:#}\n", self.raw))?;
        fs::write(folder.join("summary.md"), &self.summary)?;
        shell::say(&format!("wrote {}\n{}", folder.display(), self.summary));
        Ok(())
    }

    fn folder(&self) -> Result<PathBuf> {
        let date = shell::read(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
        let words = cpu_model()?.to_ascii_lowercase();
        let slug: Vec<&str> = words
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .filter(|word| !["", "r", "tm", "cpu", "processor"].contains(word))
            .take(4)
            .collect();
        let name = format!("{}-{}-{}", date.trim(), self.topic, slug.join("-"));
        Ok(Path::new("bench/runs").join(name))
    }
}

fn machine() -> Result<String> {
    let first_line = |file: &str, key: &str| -> Result<String> {
        let text = fs::read_to_string(file)?;
        let line = text
            .lines()
            .find(|line| line.starts_with(key))
            .context("no such line")?;
        Ok(line
            .trim_start_matches(key)
            .trim_start_matches([':', '\t', ' '])
            .trim()
            .to_owned())
    };
    let lines = [
        ("processor", cpu_model()?),
        ("cores", std::thread::available_parallelism()?.to_string()),
        ("memory", first_line("/proc/meminfo", "MemTotal")?),
        ("kernel", shell::read(Command::new("uname").args(["-sr"]))?),
        (
            "file system of the data",
            shell::read(
                Command::new("stat")
                    .args(["--file-system", "--format=%T"])
                    .arg(std::env::temp_dir()),
            )?,
        ),
        (
            "compiler",
            shell::read(Command::new("rustc").arg("--version"))?,
        ),
        (
            "commit",
            shell::read(Command::new("git").args(["describe", "--always", "--dirty"]))
                .unwrap_or_else(|_| "before the first".to_owned()),
        ),
    ];
    Ok(lines
        .map(|(name, value)| format!("- {name}: {}\n", value.trim()))
        .concat())
}

fn cpu_model() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"));
    Ok(line
        .and_then(|line| line.split_once(": "))
        .map_or("unknown", |(_, name)| name)
        .to_owned())
}
