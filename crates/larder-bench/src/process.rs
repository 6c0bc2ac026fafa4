//! What the operating system says of a server: processor time and memory of a process and its children.
//!
//! Linux alone; elsewhere, and of a process of another machine, there is nothing to read and the run says so.

use std::fs;
use std::io;

use crate::error::BenchError;

/// In `/proc`, time is in units of 10 ms on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// Seconds of processor time so far, in user and kernel mode, of a process and those that it started and that still run.
pub(crate) fn cpu_s(pid: u32) -> Result<f64, BenchError> {
    let ticks = family(pid).and_then(|family| family.iter().map(|pid| ticks(*pid)).sum());
    ticks.map_err(|source| BenchError::Process { pid, source })
}

/// The same for this process.
pub(crate) fn own_cpu_s() -> Option<f64> {
    ticks(std::process::id()).ok()
}

/// Bytes of memory that are resident now, in a process and those that it started.
pub(crate) fn rss_bytes(pid: u32) -> Result<u64, BenchError> {
    let bytes = family(pid).and_then(|family| family.iter().map(|pid| resident(*pid)).sum());
    bytes.map_err(|source| BenchError::Process { pid, source })
}

/// A process and its children; its threads are not children.
fn family(pid: u32) -> io::Result<Vec<u32>> {
    let mut family = vec![pid];
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = thread?.path().join("children");
        // A thread that has just ended has none.
        let children = fs::read_to_string(children).unwrap_or_default();
        family.extend(children.split_whitespace().flat_map(str::parse::<u32>));
    }
    Ok(family)
}

fn ticks(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
    let field = |at: usize| -> Option<u64> { fields.as_ref()?.get(at)?.parse().ok() };
    let (user, kernel) = (field(11), field(12));
    let ticks = user.zip(kernel).ok_or(io::ErrorKind::InvalidData)?;
    Ok((ticks.0 + ticks.1) as f64 / TICKS_PER_S)
}

fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    Ok(kib.ok_or(io::ErrorKind::InvalidData)? * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_seen_and_a_process_that_is_not_there_is_an_error() {
        let before = cpu_s(std::process::id()).unwrap();
        let mut sum = 0u64;
        while cpu_s(std::process::id()).unwrap() < before + 0.02 {
            sum = std::hint::black_box(sum.wrapping_mul(3).wrapping_add(1));
        }
        assert!(rss_bytes(std::process::id()).unwrap() > 100_000);
        assert!(own_cpu_s().unwrap() > before);
        // No Linux gives out a number as large.
        assert!(cpu_s(u32::MAX).is_err());
    }
}
