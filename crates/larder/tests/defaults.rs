//! What the program refuses unless somebody decides otherwise, and what it does when nobody has decided anything: the table that G9,
//! "secure by default", is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use larder_testkit::http::{Answer, Request, exchange};
use larder_testkit::process;
use larder_testkit::tls::Authority;
use larder_testkit::{Access, Server, ServerOptions, larder_binary};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);

/// A server that is ended with the value.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server in `home`; what it printed by the time it listened, or when it had refused to.
fn start(home: &Path, config: &str, arguments: &[&str]) -> Result<String, String> {
    let (file, printed) = (home.join("larder.toml"), home.join("printed"));
    fs::write(&file, config).unwrap();
    let log = File::create(&printed).unwrap();
    let mut command = Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LARDER_")) {
        command.env_remove(name);
    }
    command
        .current_dir(home)
        .args(["serve", "--config", "larder.toml", "--data-dir", "data"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut started = Started(command.spawn().unwrap());
    process::wait_until("a decision", SOON, || {
        let text = fs::read_to_string(&printed)?;
        if text.contains("listening on ") {
            return Ok(Some(Ok(text)));
        }
        let ended = started.0.try_wait()?;
        Ok(ended.map(|status| {
            assert!(!status.success(), "{text}");
            Err(fs::read_to_string(&printed).unwrap())
        }))
    })
    .unwrap()
}

const LOOPBACK: &[&str] = &["--listen", "127.0.0.1:0"];
const ANYWHERE: &[&str] = &["--listen", "0.0.0.0:0"];

#[track_caller]
fn refuses(config: &str, arguments: &[&str], texts: &[&str]) {
    let home = TempDir::new().unwrap();
    let printed = start(home.path(), config, arguments).expect_err("it must not start");
    for text in texts {
        assert!(printed.contains(text), "{text:?} is not in: {printed}");
    }
}

#[track_caller]
fn listens(config: &str, arguments: &[&str], text: &str) -> String {
    let home = TempDir::new().unwrap();
    let printed = start(home.path(), config, arguments).expect("it must start");
    assert!(printed.contains(text), "{text:?} is not in: {printed}");
    printed
}

#[test]
fn it_listens_to_this_machine_and_to_others_only_when_somebody_has_decided_so() {
    listens("", LOOPBACK, "listening on http://127.0.0.1:");
    listens("", &["--listen", "[::1]:0"], "listening on http://[::1]:");
    for address in ["0.0.0.0:0", "[::]:0"] {
        let told = ["refusing to listen", "--insecure-http", "[tls]"];
        refuses("", &["--listen", address], &told);
        refuses(
            "[http]\ninsecure_http = false\n",
            &["--listen", address],
            &told,
        );
    }
    let insecure = ["--listen", "0.0.0.0:0", "--insecure-http"];
    listens("", &insecure, "listening on http://0.0.0.0:");
    let insecure = "[http]\ninsecure_http = true\n";
    listens(insecure, ANYWHERE, "listening on http://0.0.0.0:");
}

#[test]
fn with_a_certificate_it_listens_to_other_machines_and_half_of_one_is_no_certificate() {
    let authority = Authority::create().unwrap();
    let identity = authority.server().unwrap();
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    let tls = format!(
        "[tls]\nlisten = \"0.0.0.0:0\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n"
    );
    listens(&tls, &["--listen", "off"], "https://0.0.0.0:");
    // Plain HTTP is another decision.
    refuses(&tls, ANYWHERE, &["refusing to listen", "--insecure-http"]);
    let half = format!("[tls]\ncertificate = \"{certificate}\"\n");
    refuses(&half, LOOPBACK, &["tls.certificate", "key"]);
    let none = "[tls]\nlisten = \"0.0.0.0:0\"\n";
    refuses(none, LOOPBACK, &["tls.listen", "certificate"]);
    let nobodys = format!("{tls}client_certificates = \"required\"\n");
    refuses(
        &nobodys,
        LOOPBACK,
        &["tls.client_certificates", "client_ca"],
    );
    refuses(
        "",
        &["--listen", "off"],
        &["http.listen", "nothing would listen"],
    );
}

#[test]
fn what_it_does_not_understand_it_does_not_guess() {
    for (config, texts) in [
        ("[http]\ninsecure = true\n", &["insecure"][..]),
        ("[workspace.acme]\npublik = true\n", &["publik"]),
        ("[sercurity]\nx = 1\n", &["sercurity"]),
        ("[http]\nmetrics = \"everyone\"\n", &["http.metrics"]),
        (
            "[http]\ntrusted_proxies = [\"anyone\"]\n",
            &["trusted_proxies"],
        ),
        ("[workspace.acme]\npublic = \"yes\"\n", &["public"]),
        (
            "[workspace.acme.ci.web]\nprovider = \"githug\"\n",
            &["provider"],
        ),
        (
            "[workspace.acme.ci.web]\nprovider = \"github\"\nrepository_id = 1\nrepository_owner_id = 2\n",
            &["identity.audience"],
        ),
        (
            "[identity]\naudience = \"https://c.example.com\"\n[workspace.acme.ci.web]\nprovider = \"github\"\n",
            &["repository_id"],
        ),
    ] {
        refuses(config, LOOPBACK, texts);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Every file and directory below `dir`, itself included.
fn below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn nobody_else_on_the_machine_can_read_what_it_keeps_or_open_its_control_socket() {
    let server = Server::start(larder_binary(env!("CARGO_BIN_EXE_larder"))).unwrap();
    let trusted = server.token(Access::Trusted, None).unwrap();
    put(&server, Some(&trusted));
    let files = below(&server.data_dir());
    assert!(files.len() > 5, "{files:?}");
    for path in &files {
        assert_eq!(mode(path) & 0o077, 0, "{} is open", path.display());
    }
    assert_eq!(mode(&server.data_dir().join("control.sock")), 0o600);
}

fn put(server: &Server, token: Option<&str>) -> u16 {
    let request = Request::put("/v1/cache/1", "0123456789");
    let request = match token {
        Some(token) => request.bearer(token),
        None => request,
    };
    process::wait_until("the pools", SOON, || {
        let answer = exchange(server.address(), &Request::get("/readyz"))?;
        Ok((answer.status == 200).then_some(()))
    })
    .unwrap();
    exchange(server.address(), &request).unwrap().status
}

fn get(server: &Server, request: &Request) -> Answer {
    exchange(server.address(), request).unwrap()
}

#[test]
fn who_has_no_credential_reads_nothing_and_writes_nothing_unless_a_workspace_is_public() {
    let binary = larder_binary(env!("CARGO_BIN_EXE_larder"));
    for (config, read) in [
        (None, 404),
        (Some("[workspace.default]\n"), 404),
        (Some("[workspace.default]\npublic = true\n"), 200),
    ] {
        let options = ServerOptions {
            config: config.map(str::to_owned),
            ..ServerOptions::default()
        };
        let server = Server::start_with(&binary, options).unwrap();
        let trusted = server.token(Access::Trusted, None).unwrap();
        assert_eq!(put(&server, Some(&trusted)), 200);
        assert_eq!(get(&server, &Request::get("/v1/cache/1")).status, read);
        let with_empty = Request::get("/v1/cache/1").header("Authorization", "Bearer ");
        assert_eq!(get(&server, &with_empty).status, read);
        assert_eq!(put(&server, None), 403);
        for path in ["stats", "purge", "audit", "entries", "quarantine"] {
            let path = format!("/v1/control/{path}");
            for token in [None, Some(&trusted)] {
                let request = Request::get(&path);
                let request = token.map_or(request.clone(), |token| request.bearer(token));
                let status = get(&server, &request).status;
                assert!((400..500).contains(&status), "{path}: {status}");
            }
        }
    }
}

#[test]
fn figures_are_for_this_machine_and_not_for_whom_a_proxy_forwards() {
    let binary = larder_binary(env!("CARGO_BIN_EXE_larder"));
    for (config, forwarded_status) in [(None, 403), (Some("[http]\nmetrics = \"open\"\n"), 200)] {
        let options = ServerOptions {
            config: config.map(str::to_owned),
            ..ServerOptions::default()
        };
        let server = Server::start_with(&binary, options).unwrap();
        let request = Request::get("/metrics");
        assert_eq!(get(&server, &request).status, 200);
        for header in ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"] {
            let forwarded = request.clone().header(header, "127.0.0.1");
            assert_eq!(
                get(&server, &forwarded).status,
                forwarded_status,
                "{header}"
            );
        }
    }
}
