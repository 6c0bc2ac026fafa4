//! Runs the commands that README.md and docs/*.md show.
//!
//! A block whose fence says ```` ```sh test ```` is run as it stands. The blocks of one page run in order, in one shell, in an
//! empty folder; each command must succeed. ```` ```sh test server ```` marks the block that starts the server: it runs in the
//! background, and the page goes on when the server listens. `larder` and `cargo run --release --` are the program under test,
//! and `127.0.0.1:9092` and `127.0.0.1:9443` are free ports, so that a page can be tested beside a server that is in use.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use larder_testkit::{larder_binary, process, repository_root};

const PAGE_LIMIT: Duration = Duration::from_mins(2);
const DEFAULT_ADDRESS: &str = "127.0.0.1:9092";
const DEFAULT_TLS_ADDRESS: &str = "127.0.0.1:9443";

/// What the shell knows before the first block.
const PREAMBLE: &str = r#"set -euo pipefail
larder_pid=
trap 'if [ -n "$larder_pid" ]; then kill "$larder_pid"; wait "$larder_pid" || true; fi' EXIT
larder() {
  if [ "${1-}" = serve ]; then
    exec larder-under-test "$@" --listen ADDRESS
  else
    larder-under-test "$@"
  fi
}
cargo() {
  if [ "$1 $2 $3" != "run --release --" ]; then echo "unknown: cargo $*"; return 1; fi
  shift 3
  larder "$@"
}
await_server() {
  for _ in $(seq 300); do
    if grep -q 'listening on http://' server.log; then return 0; fi
    if ! kill -0 "$larder_pid" 2>/dev/null; then break; fi
    sleep 0.1
  done
  echo 'the server does not listen:'
  cat server.log
  return 1
}
"#;

struct Block {
    line: usize,
    starts_server: bool,
    commands: String,
}

#[test]
fn every_command_marked_as_tested_works() {
    let root = repository_root();
    let mut pages: Vec<PathBuf> = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    pages.insert(0, root.join("README.md"));

    let mut tested = 0;
    for page in pages {
        let blocks = tested_blocks(&fs::read_to_string(&page).unwrap());
        if !blocks.is_empty() {
            tested += 1;
            check(&page, &blocks);
        }
    }
    assert!(tested > 0, "no page has a block marked `sh test`");
}

fn check(page: &Path, blocks: &[Block]) {
    let folder = tempfile::tempdir().unwrap();
    let (programs, work) = (folder.path().join("bin"), folder.path().join("work"));
    fs::create_dir(&programs).unwrap();
    fs::create_dir(&work).unwrap();
    symlink(
        larder_binary(env!("CARGO_BIN_EXE_larder")),
        programs.join("larder-under-test"),
    )
    .unwrap();
    let script = folder.path().join("page.sh");
    fs::write(&script, shell_script(page, blocks)).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();

    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.arg(&script)
        .current_dir(&work)
        .env("PATH", path)
        .env("HOME", folder.path());
    let ran = process::run(&mut bash, PAGE_LIMIT).unwrap();
    let server = fs::read_to_string(work.join("server.log")).unwrap_or_default();
    assert!(
        ran.status.success(),
        "{}: {}\n{}{}\nserver: {server}",
        page.display(),
        ran.status,
        ran.stdout,
        ran.stderr
    );
}

fn shell_script(page: &Path, blocks: &[Block]) -> String {
    let [address, tls_address] = free_addresses();
    let mut script = PREAMBLE.replace("ADDRESS", &address);
    let page = page.file_name().unwrap().to_string_lossy();
    for Block {
        line,
        starts_server,
        commands,
    } in blocks
    {
        let commands = commands
            .replace(DEFAULT_ADDRESS, &address)
            .replace(DEFAULT_TLS_ADDRESS, &tls_address);
        writeln!(script, "echo '--- {page}:{line}'").unwrap();
        if *starts_server {
            writeln!(script, "{{\n{commands}}} >server.log 2>&1 &").unwrap();
            writeln!(script, "larder_pid=$!\nawait_server").unwrap();
        } else {
            script.push_str(&commands);
        }
    }
    script
}

/// Below the ports that the kernel gives to clients, so that none of them takes it before the server does.
fn free_addresses() -> [String; 2] {
    let start = 20_000 + std::process::id() % 10_000;
    let mut free = (start..32_000)
        .map(|port| format!("127.0.0.1:{port}"))
        .filter(|address| TcpListener::bind(address).is_ok());
    let mut next = || free.next().expect("two of two thousand ports are free");
    [next(), next()]
}

fn tested_blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let starts_server = match line.trim() {
            "```sh test" => false,
            "```sh test server" => true,
            _ => continue,
        };
        let commands = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| line.trim() != "```");
        let commands = commands.fold(String::new(), |text, line| text + line + "\n");
        blocks.push(Block {
            line: index + 1,
            starts_server,
            commands,
        });
    }
    blocks
}
