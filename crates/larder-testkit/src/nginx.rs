//! Real nginx as the plainest shared cache there is: a folder that everybody reads and writes over HTTP.
//!
//! Many teams' caches of build results are this, or a bucket, which is the same. `cargo xtask test` installs it.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::process;

const START_LIMIT: Duration = Duration::from_secs(30);

/// How many ports to try: a free one can be taken by somebody else before nginx takes it.
const PORTS: usize = 5;

/// An nginx with an empty folder, on a port of its own. Killed when dropped.
#[derive(Debug)]
pub struct Nginx {
    process: Child,
    address: SocketAddr,
    _home: TempDir,
}

impl Nginx {
    /// Starts it and waits until it listens: `PUT` and `GET` of any path, for anybody.
    pub fn shared_folder() -> Result<Self> {
        let mut last = None;
        for _ in 0..PORTS {
            match Self::start() {
                Ok(nginx) => return Ok(nginx),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no port was tried")?)
    }

    fn start() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("larder-nginx-").tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        fs::create_dir(home.path().join("files"))?;
        let config = home.path().join("nginx.conf");
        fs::write(&config, configuration(home.path(), address))?;
        let log = home.path().join("log");
        let mut command = Command::new(program());
        let process = command
            .arg("-c")
            .arg(&config)
            .arg("-e")
            .arg(home.path().join("error.log"))
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .process_group(0)
            .spawn()
            .context("cannot start nginx")?;
        let mut nginx = Self {
            process,
            address,
            _home: home,
        };
        process::wait_until("nginx to listen", START_LIMIT, || {
            if let Some(status) = nginx.process.try_wait()? {
                bail!(
                    "nginx ended: {status}: {}",
                    fs::read_to_string(&log).unwrap_or_default()
                );
            }
            Ok(TcpStream::connect(address).ok())
        })?;
        Ok(nginx)
    }

    /// `http://ADDRESS:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        process::kill_group(&mut self.process);
    }
}

/// Users other than root often have no `/usr/sbin` among the places to look.
fn program() -> &'static Path {
    let system = Path::new("/usr/sbin/nginx");
    if system.is_file() {
        system
    } else {
        Path::new("nginx")
    }
}

fn configuration(home: &Path, address: SocketAddr) -> String {
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let home = home.display();
    format!(
        "daemon off;
{user}
worker_processes 1;
pid {home}/pid;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  server {{
    listen {address};
    root {home}/files;
    location / {{
      dav_methods PUT;
      create_full_put_path on;
    }}
  }}
}}
"
    )
}
