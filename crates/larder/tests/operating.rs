//! The operator's commands, with a running server and without one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use larder_testkit::http::{Request, exchange};
use larder_testkit::process::{self, Finished};
use larder_testkit::{Access, Server, ServerOptions, larder_binary};

const SOON: Duration = Duration::from_secs(20);
/// What G6 promises.
const REVOCATION_MAX: Duration = Duration::from_secs(1);

fn start() -> Server {
    Server::start(larder_binary(env!("CARGO_BIN_EXE_larder"))).unwrap()
}

fn get(server: &Server, token: &str) -> u16 {
    exchange(server.address(), &Request::get("/v1/cache/1").bearer(token))
        .unwrap()
        .status
}

fn put(server: &Server, key: &str, token: &str) {
    let request = Request::put(&format!("/v1/cache/{key}"), "0123456789").bearer(token);
    process::wait_until("an upload that is stored", SOON, || {
        Ok((exchange(server.address(), &request)?.status == 200).then_some(()))
    })
    .unwrap();
}

fn done(server: &Server, arguments: &[&str]) -> String {
    server.larder(arguments).unwrap().success().unwrap()
}

fn refused(server: &Server, arguments: &[&str]) -> String {
    let finished = server.larder(arguments).unwrap();
    assert!(
        !finished.status.success(),
        "{arguments:?} should fail: {}",
        finished.stdout
    );
    finished.stderr
}

/// Waits for the answer to `token` to become `status`; how long that took.
fn wait_for(server: &Server, token: &str, status: u16) -> Duration {
    let since = Instant::now();
    process::wait_until("the change of a token", SOON, || {
        Ok((get(server, token) == status).then_some(()))
    })
    .unwrap();
    since.elapsed()
}

#[test]
fn tokens_come_into_force_and_are_revoked_before_the_command_ends() {
    let server = start();
    let token = server.token(Access::Reader, None).unwrap();
    assert_eq!(get(&server, &token), 404, "in force when the command ends");
    let list = done(&server, &["token", "list"]);
    assert!(
        list.contains("reader") && list.contains("in force"),
        "{list}"
    );
    assert!(!list.contains(&token), "{list}");
    let revoked = server.larder(&["token", "revoke", &token]).unwrap();
    assert!(
        revoked.stderr.contains("list of processes"),
        "{}",
        revoked.stderr
    );
    assert_eq!(get(&server, &token), 401, "revoked when the command ends");
    let list = done(&server, &["token", "list", "--json"]);
    assert!(list.contains("\"revoked\""), "{list}");
}

#[test]
fn a_token_can_be_revoked_from_standard_input_and_by_its_id() {
    let server = start();
    let token = server.token(Access::Reader, None).unwrap();
    wait_for(&server, &token, 404);
    let mut child = Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")))
        .args(["token", "revoke", "-", "--data-dir"])
        .arg(server.data_dir())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(format!("{token}\n").as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    wait_for(&server, &token, 401);

    let token = server.token(Access::Reader, None).unwrap();
    wait_for(&server, &token, 404);
    let list: serde_json::Value =
        serde_json::from_str(&done(&server, &["token", "list", "--json"])).unwrap();
    let id = list.as_array().unwrap().last().unwrap()["id"].to_string();
    done(&server, &["token", "revoke", &id]);
    wait_for(&server, &token, 401);
}

#[test]
fn tokens_and_workspaces_are_made_without_a_server_too() {
    let mut server = start();
    server.stop().unwrap();
    done(&server, &["workspace", "create", "acme"]);
    assert!(done(&server, &["workspace", "list"]).contains("acme"));
    let token = server.token_in("acme", Access::Trusted, None).unwrap();
    let gone = server.token_in("acme", Access::Trusted, None).unwrap();
    done(&server, &["token", "revoke", &gone]);
    let in_use = refused(&server, &["workspace", "delete", "acme"]);
    assert!(in_use.contains("not revoked"), "{in_use}");
    server.start_again().unwrap();
    assert_eq!(get(&server, &token), 404);
    assert_eq!(get(&server, &gone), 401);
    done(&server, &["token", "revoke", &token]);
    done(&server, &["workspace", "delete", "acme"]);
    assert!(!done(&server, &["workspace", "list"]).contains("acme"));
}

#[test]
fn a_token_expires() {
    let server = start();
    let expires = ["token", "create", "--access", "reader", "--expires", "3s"];
    let token = done(&server, &expires).trim().to_owned();
    assert_eq!(
        token.lines().count(),
        1,
        "the token alone is on standard output"
    );
    wait_for(&server, &token, 404);
    wait_for(&server, &token, 401);
    assert!(done(&server, &["token", "list"]).contains("expired"));
}

#[test]
fn mistakes_get_answers_that_help() {
    let server = start();
    for (arguments, hint) in [
        (
            &[
                "token",
                "create",
                "--access",
                "reader",
                "--workspace",
                "nope",
            ][..],
            "larder workspace create nope",
        ),
        (
            &["token", "create", "--access", "reader", "--scope", "pr/1"],
            "--scope is for isolated",
        ),
        (&["token", "revoke", "4711"], "larder token list"),
        (&["token", "revoke", "lrd_nonsense"], "larder token list"),
        (&["workspace", "create", "default"], "exists already"),
        (
            &[
                "token", "create", "--access", "isolated", "--scope", "token/1",
            ],
            "another first label",
        ),
        (
            &["token", "create", "--access", "reader", "--name", " "],
            "--name is empty",
        ),
        (
            &["token", "create", "--access", "reader", "--expires", "0s"],
            "never works",
        ),
        (&["workspace", "delete", "nope"], "there is no workspace"),
        (&["purge"], "--all"),
        (&["purge", "--all"], "--yes"),
        (&["purge", "--all", "--run", "1"], "cannot be used with"),
        (
            &["purge", "--all", "--scope", "pr/1"],
            "cannot be used with",
        ),
        (
            &["session", "revoke", "--all", "--run", "1"],
            "cannot be used with",
        ),
    ] {
        let said = refused(&server, arguments);
        assert!(said.contains(hint), "{arguments:?} said {said}");
        assert!(!said.contains("lrd_nonsense"), "{said}");
    }
    let nowhere = server
        .larder(&["token", "list"])
        .map(|_| ())
        .and(run(
            &["token", "list"],
            server.config_path().parent().unwrap(),
        ))
        .unwrap();
    assert!(
        nowhere.stderr.contains("no data directory at"),
        "{}",
        nowhere.stderr
    );
    assert!(
        nowhere.stderr.contains("larder serve"),
        "{}",
        nowhere.stderr
    );
}

fn run(arguments: &[&str], directory: &Path) -> anyhow::Result<Finished> {
    let mut command = Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
    process::run(command.args(arguments).current_dir(directory), SOON)
}

/// What is counted, removed and verified, by whoever has the store open.
fn check_purge_stats_verify(server: &Server) {
    let stats = done(server, &["stats"]);
    assert!(
        stats.contains("shared/trusted") && stats.contains("pr/7"),
        "{stats}"
    );
    assert!(
        done(server, &["verify"]).contains("verified"),
        "verify says what it did"
    );
    let dry = done(server, &["purge", "--scope", "pr/7", "--dry-run"]);
    assert!(dry.contains("would remove 2 entries"), "{dry}");
    let removed = done(server, &["purge", "--scope", "pr/7", "--key", "a", "--yes"]);
    assert!(removed.contains("removed 1 entry"), "{removed}");
    let rest = done(server, &["purge", "--workspace", "default", "--dry-run"]);
    assert!(rest.contains("would remove 3 entries"), "{rest}");
    let old = done(server, &["purge", "--older-than", "1h", "--yes"]);
    assert!(old.contains("removed 0 entries"), "{old}");
    let all = done(server, &["purge", "--all", "--yes"]);
    assert!(all.contains("removed 3 entries"), "{all}");
    assert!(done(server, &["stats"]).contains("no entries"));
}

fn filled() -> Server {
    let server = start();
    let trusted = server.token(Access::Trusted, None).unwrap();
    let isolated = server.token(Access::Isolated, Some("pr/7")).unwrap();
    for key in ["1", "2"] {
        put(&server, key, &trusted);
    }
    for key in ["a", "b"] {
        put(&server, key, &isolated);
    }
    server
}

#[test]
fn purge_stats_and_verify_go_through_a_running_server() {
    check_purge_stats_verify(&filled());
}

#[test]
fn purge_stats_and_verify_open_the_store_when_no_server_runs() {
    let mut server = filled();
    server.stop().unwrap();
    check_purge_stats_verify(&server);
}

#[test]
fn purge_stats_and_verify_work_after_a_server_was_killed() {
    let mut server = filled();
    server.kill().unwrap();
    check_purge_stats_verify(&server);
}

#[test]
fn the_control_socket_is_the_operators_alone() {
    let server = start();
    let socket = server.data_dir().join("control.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mode = std::fs::metadata(server.data_dir())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_data_directory_with_a_long_path_works() {
    let home = tempfile::tempdir().unwrap();
    let data_dir = home.path().join("d".repeat(120)).join("e".repeat(120));
    // A script stands for the program, so that the data directory is ours to choose.
    let binary = larder_binary(env!("CARGO_BIN_EXE_larder"));
    let data_dir_text = data_dir.to_str().unwrap();
    let script = home.path().join("larder");
    let text = format!(
        "#!/bin/sh\nmkdir -p \"{data_dir_text}\"\n\
         rm -rf data\nln -s \"{data_dir_text}\" data\n\
         exec \"{}\" serve --listen 127.0.0.1:0 --data-dir \"{data_dir_text}\"\n",
        binary.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    let server = Server::start_with(&script, ServerOptions::default()).unwrap();
    let stats = run(&["stats", "--data-dir", data_dir_text], home.path()).unwrap();
    assert!(stats.success().unwrap().contains("shared/trusted"));
    drop(server);
}

#[test]
fn config_check_reports_everything_or_what_the_file_means() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("larder.toml");
    std::fs::write(&file, "[store]\ntrustd = \"1GiB\"\nuntrusted = \"x\"\n").unwrap();
    let check = ["config", "check", "--config", "larder.toml"];
    let bad = run(&check, home.path()).unwrap();
    assert!(!bad.status.success());
    for expected in [
        "2 problems",
        "larder.toml:2",
        "store.trustd",
        "larder.toml:3",
        "store.untrusted",
    ] {
        assert!(bad.stderr.contains(expected), "{}", bad.stderr);
    }
    std::fs::write(
        &file,
        "[store]\ntrusted = \"16MiB\"\nuntrusted = \"16MiB\"\n",
    )
    .unwrap();
    let good = run(&check, home.path()).unwrap().success().unwrap();
    assert!(
        good.contains("shared/trusted") && good.contains("16.0 MiB"),
        "{good}"
    );
    std::fs::write(&file, "[http]\nlisten = \"0.0.0.0:80\"\n").unwrap();
    let exposed = run(&check, home.path()).unwrap();
    assert!(
        exposed.stderr.contains("--insecure-http"),
        "{}",
        exposed.stderr
    );
}

#[test]
fn a_revocation_is_followed_even_when_the_command_cannot_reach_the_server() {
    let server = start();
    let token = server.token(Access::Reader, None).unwrap();
    std::fs::remove_file(server.data_dir().join("control.sock")).unwrap();
    assert_eq!(get(&server, &token), 404);
    done(&server, &["token", "revoke", &token]);
    assert!(wait_for(&server, &token, 401) < REVOCATION_MAX);
}

/// A server on the directory of `server`, which has ended, with a configuration without workspaces.
fn commands_without_config(server: &Server, arguments: &[&str]) -> Finished {
    let data_dir = server.data_dir();
    let mut all = arguments.to_vec();
    all.extend(["--data-dir", data_dir.to_str().unwrap()]);
    run(&all, server.config_path().parent().unwrap()).unwrap()
}

const SMALL: &str = "[store]\ntrusted = \"256MiB\"\nuntrusted = \"32MiB\"\nlease = \"0s\"\n";
const ACME: &str = "[workspace.acme]\ntrusted = \"32MiB\"\nuntrusted = \"32MiB\"\n";

fn with_acme() -> (Server, String) {
    let options = ServerOptions {
        config: Some(format!("{SMALL}{ACME}")),
        ..ServerOptions::default()
    };
    let server = Server::start_with(larder_binary(env!("CARGO_BIN_EXE_larder")), options).unwrap();
    done(&server, &["workspace", "create", "acme"]);
    let token = server.token_in("acme", Access::Trusted, None).unwrap();
    put(&server, "poison", &token);
    (server, token)
}

#[test]
fn a_command_without_the_servers_configuration_reaches_every_pool_and_evicts_nothing() {
    let (mut server, _) = with_acme();
    let trusted = server.token(Access::Trusted, None).unwrap();
    let body = vec![b'x'; 2 << 20];
    for key in 0..50 {
        let request = Request::put(&format!("/v1/cache/k{key}"), body.clone()).bearer(&trusted);
        assert_eq!(exchange(server.address(), &request).unwrap().status, 200);
    }
    server.stop().unwrap();
    let stats = |server: &Server| {
        let json = commands_without_config(server, &["stats", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json.success().unwrap()).unwrap();
        let pools = json["pools"].as_array().unwrap();
        let of =
            |name: &str| pools.iter().find(|pool| pool["name"] == name).unwrap()["entries"].clone();
        (of("shared/trusted"), of("acme/trusted"))
    };
    assert_eq!(stats(&server), (50.into(), 1.into()));
    // A budget far below what is there, as a default on a small disk would be.
    let data_dir = server.data_dir();
    let mut command = Command::new(larder_binary(env!("CARGO_BIN_EXE_larder")));
    command.args(["verify", "--data-dir"]).arg(&data_dir);
    command.env("LARDER_STORE_TRUSTED", "16MiB");
    let verified = process::run(&mut command, SOON).unwrap().success().unwrap();
    assert!(verified.contains("verified 51 entries"), "{verified}");
    let purged = commands_without_config(&server, &["purge", "--workspace", "acme", "--yes"]);
    assert!(purged.success().unwrap().contains("removed 1 entry"));
    assert_eq!(stats(&server), (50.into(), 0.into()));
}

#[test]
fn a_purge_says_which_pools_the_server_does_not_have() {
    let (mut server, token) = with_acme();
    server.stop().unwrap();
    std::fs::write(server.config_path(), SMALL).unwrap();
    server.start_again().unwrap();
    server
        .wait_for_output("acme/untrusted, acme/trusted", SOON)
        .unwrap();
    for arguments in [
        &["purge", "--workspace", "acme", "--yes"][..],
        &["purge", "--key", "poison", "--dry-run"],
    ] {
        let said = refused(&server, arguments);
        assert!(
            said.contains("not reached:") && said.contains("acme/trusted"),
            "{said}"
        );
    }
    done(&server, &["purge", "--workspace", "default", "--yes"]);
    done(&server, &["token", "revoke", &token]);
    let said = refused(&server, &["workspace", "delete", "acme"]);
    assert!(said.contains("acme/trusted"), "{said}");
    server.stop().unwrap();
    done(&server, &["purge", "--workspace", "acme", "--yes"]);
}

/// A workspace of an old name is a new one, whoever deletes the old one's entries.
fn check_delete_and_create(server: &mut Server, running: bool) {
    let token = server.token_in("acme", Access::Trusted, None).unwrap();
    put(server, "secret", &token);
    done(server, &["token", "revoke", &token]);
    if !running {
        server.stop().unwrap();
    }
    let said = refused(server, &["workspace", "delete", "acme"]);
    assert!(said.contains("1 entry") && said.contains("--yes"), "{said}");
    done(server, &["workspace", "delete", "acme", "--yes"]);
    let said = refused(
        server,
        &[
            "token",
            "create",
            "--access",
            "reader",
            "--workspace",
            "acme",
        ],
    );
    assert!(said.contains("larder workspace create acme"), "{said}");
    done(server, &["workspace", "create", "acme"]);
    let token = server.token_in("acme", Access::Reader, None).unwrap();
    if !running {
        server.start_again().unwrap();
    }
    let request = Request::get("/v1/cache/secret").bearer(&token);
    assert_eq!(exchange(server.address(), &request).unwrap().status, 404);
    done(server, &["token", "revoke", &token]);
}

#[test]
fn a_workspace_made_again_finds_nothing_of_the_old_one() {
    let mut server = start();
    done(&server, &["workspace", "create", "acme"]);
    check_delete_and_create(&mut server, true);
    check_delete_and_create(&mut server, false);
}
