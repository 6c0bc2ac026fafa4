//! Child processes with deadlines.
//!
//! Output goes to files, never to pipes, so that a child which prints much cannot block. Each child leads a process group of its
//! own, and the whole group is killed when its time is over: `nx` starts processes that would otherwise live on.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const POLL: Duration = Duration::from_millis(5);

/// What a finished program left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed on its standard output.
    pub stdout: String,
    /// What it printed on its standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output, if the program succeeded; else an error with all that it printed.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            bail!(
                "{}\nstdout: {}\nstderr: {}",
                self.status,
                self.stdout,
                self.stderr
            );
        }
        Ok(self.stdout)
    }
}

/// Runs `command` to its end, or kills it and everything it started after `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let output = tempfile::tempdir()?;
    let (stdout, stderr) = (output.path().join("stdout"), output.path().join("stderr"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&stdout)?)
        .stderr(File::create(&stderr)?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let status = wait(&mut child, limit);
    let read = |path| -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
    };
    let (stdout, stderr) = (read(&stdout)?, read(&stderr)?);
    let Some(status) = status else {
        kill_group(&mut child);
        bail!("{command:?} did not end within {limit:?}\nstdout: {stdout}\nstderr: {stderr}");
    };
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// Asks `condition` again and again until it answers, at most for `limit`.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = condition()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(POLL);
    }
}

pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    wait_until("the end of a process", limit, || Ok(child.try_wait()?)).ok()
}

pub(crate) fn terminate(child: &Child) -> Result<()> {
    Ok(kill_process(pid(child), Signal::TERM)?)
}

pub(crate) fn hang_up(child: &Child) -> Result<()> {
    Ok(kill_process(pid(child), Signal::HUP)?)
}

pub(crate) fn kill_group(child: &mut Child) {
    // The group may be gone already, which is as good.
    let _ = kill_process_group(pid(child), Signal::KILL);
    let _ = child.wait();
}

/// Ends a process that is nobody's child any more.
pub(crate) fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may be gone already, which is as good.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}
