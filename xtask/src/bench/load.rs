//! wrk: one run of load against a server, and what it and the kernel say about it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::shell;

/// One kind of request in a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// `GET` or `PUT`.
    pub(crate) method: &'static str,
    /// How large the body is.
    pub(crate) body_bytes: usize,
    /// How many connections ask at the same time.
    pub(crate) connections: u32,
}

impl Load {
    /// As it is called in tables.
    pub(crate) fn name(&self) -> String {
        let size = match self.body_bytes {
            bytes if bytes < 1 << 20 => format!("{} KiB", bytes >> 10),
            bytes => format!("{} MiB", bytes >> 20),
        };
        format!("{} {size}", self.method)
    }
}

/// Where the load goes.
pub(crate) struct Target<'a> {
    /// The server's process; its children count as well.
    pub(crate) pid: u32,
    /// `http://ADDRESS/PREFIX`, to which a key is appended.
    pub(crate) url_prefix: String,
    /// An access token, if the server wants one.
    pub(crate) token: Option<&'a str>,
}

/// What came out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// Requests per second.
    pub(crate) requests_per_s: f64,
    /// Server CPU (user and system) per request, in microseconds.
    pub(crate) cpu_us_per_request: f64,
}

/// The object that GET asks for.
pub(crate) const GET_KEY: &str = "1";

/// Loads `target` from `core` for `seconds`. Any answer that is not 2xx is an error.
pub(crate) fn run(load: &Load, target: &Target<'_>, core: usize, seconds: u32) -> Result<Outcome> {
    let script_folder = tempfile::tempdir()?;
    let mut wrk = Command::new("taskset");
    wrk.args([
        "--cpu-list",
        &core.to_string(),
        "wrk",
        "--threads=1",
        "--timeout=30s",
    ]);
    wrk.arg(format!("--connections={}", load.connections))
        .arg(format!("--duration={seconds}s"));
    if let Some(token) = target.token {
        wrk.arg("--header")
            .arg(format!("Authorization: Bearer {token}"));
    }
    if load.method == "PUT" {
        let script = script_folder.path().join("put.lua");
        write_put_script(&script, target, load.body_bytes)?;
        wrk.arg("--script").arg(script);
    }
    wrk.arg(format!("{}{GET_KEY}", target.url_prefix));

    let cpu_before = cpu_ticks(target.pid)?;
    let printed = shell::read(&mut wrk)?;
    let cpu_ticks = cpu_ticks(target.pid)? - cpu_before;

    ensure!(
        !printed.contains("Non-2xx"),
        "the server refused requests: {printed}"
    );
    ensure!(
        !printed.contains("Socket errors"),
        "connections failed: {printed}"
    );
    let requests_per_s = number_after(&printed, "Requests/sec:")?;
    let requests = number_before(&printed, " requests in ")?;
    let ticks_per_s: f64 = shell::read(Command::new("getconf").arg("CLK_TCK"))?
        .trim()
        .parse()?;
    Ok(Outcome {
        requests_per_s,
        cpu_us_per_request: cpu_ticks as f64 / ticks_per_s * 1e6 / requests,
    })
}

/// Each PUT has a key of its own: twice the same would measure a refusal. A number in Lua counts exactly
/// only up to 2^53.
fn write_put_script(script: &Path, target: &Target<'_>, body_bytes: usize) -> Result<()> {
    let path = target
        .url_prefix
        .splitn(4, '/')
        .nth(3)
        .context("a URL without path")?;
    fs::write(
        script,
        format!(
            "local body = string.rep('larder! ', {})\n\
             local key = os.time() % 100000 * 10000000\n\
             request = function()\n\
             \x20 key = key + 1\n\
             \x20 return wrk.format('PUT', string.format('/{path}%d', key), nil, body)\n\
             end\n",
            body_bytes / 8
        ),
    )?;
    Ok(())
}

/// User and system time of a process and its children so far.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let mut ticks = 0;
    for process in fs::read_dir("/proc")? {
        let Ok(id) = process?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // A process that ended between the listing and the reading is none of ours.
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else {
            continue;
        };
        let (_, after_name) = stat.rsplit_once(") ").context("a process without name")?;
        let fields: Vec<&str> = after_name.split(' ').collect();
        if id == pid || fields[1].parse() == Ok(pid) {
            ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
    }
    Ok(ticks)
}

fn number_after(text: &str, label: &str) -> Result<f64> {
    let (_, rest) = text
        .split_once(label)
        .with_context(|| format!("no {label} in {text}"))?;
    Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
}

fn number_before(text: &str, label: &str) -> Result<f64> {
    let (rest, _) = text
        .split_once(label)
        .with_context(|| format!("no {label} in {text}"))?;
    Ok(rest.split_whitespace().last().unwrap_or_default().parse()?)
}
