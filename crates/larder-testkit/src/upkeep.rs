//! A server of a test that is killed, frozen and started again, always at one address.

use std::fmt;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::process;

const START_LIMIT: Duration = Duration::from_mins(1);

/// How many ports to try: a free one can be taken by somebody else before the server takes it.
const PORTS: usize = 5;

/// See the module. The process is killed when this is dropped.
pub struct Upkeep {
    name: &'static str,
    command: Box<dyn Fn(SocketAddr) -> Command + Send + Sync>,
    address: SocketAddr,
    log: PathBuf,
    process: Option<Child>,
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upkeep")
            .field("name", &self.name)
            .field("address", &self.address)
            .field("process", &self.process.as_ref().map(Child::id))
            .finish_non_exhaustive()
    }
}

impl Upkeep {
    /// Starts what `command` makes for a free address, with a log in `home`, and waits until it listens there.
    pub fn start(
        name: &'static str,
        home: &Path,
        command: impl Fn(SocketAddr) -> Command + Send + Sync + 'static,
    ) -> Result<Self> {
        let mut upkeep = Self {
            name,
            command: Box::new(command),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log: home.join("log"),
            process: None,
        };
        let mut last = None;
        for _ in 0..PORTS {
            upkeep.address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            match upkeep.revive() {
                Ok(()) => return Ok(upkeep),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no port was tried")?)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it again after [`kill`](Self::kill), and waits until it listens.
    pub fn revive(&mut self) -> Result<()> {
        self.kill();
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = (self.command)(self.address)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let child = self.process.insert(child);
        let listens = process::wait_until(self.name, START_LIMIT, || {
            if let Some(status) = child.try_wait()? {
                bail!("it ended: {status}");
            }
            Ok(TcpStream::connect(self.address).ok())
        });
        if let Err(error) = listens {
            self.kill();
            let printed = fs::read_to_string(&self.log).unwrap_or_default();
            return Err(error.context(format!("{} printed: {printed}", self.name)));
        }
        Ok(())
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            process::kill_group(&mut child);
        }
    }

    /// It keeps its connections and does nothing, until [`thaw`](Self::thaw).
    pub fn freeze(&self) -> Result<()> {
        let child = self.signal(Signal::STOP)?;
        // A thread on another processor goes on for a while.
        let threads = format!("/proc/{child}/task");
        process::wait_until("every thread to stop", START_LIMIT, || {
            for thread in fs::read_dir(&threads)? {
                let stat = fs::read_to_string(thread?.path().join("stat"))?;
                let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
                if !state.is_some_and(|state| state.starts_with('T')) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// It goes on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT).map(|_| ())
    }

    /// All that it has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) -> Result<u32> {
        let Some(child) = &self.process else {
            bail!("{} does not run", self.name);
        };
        kill_process_group(Pid::from_child(child), signal)?;
        Ok(child.id())
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.kill();
    }
}
