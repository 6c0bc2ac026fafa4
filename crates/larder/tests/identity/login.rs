//! `larder login`, `logout` and `credential-helper`, in the environment of a CI job.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use larder_testkit::process::{self, Finished};
use larder_testkit::{larder_binary, repository_root};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::site::{AUDIENCE, SOON, Site, github, json_of};

/// A job on "GitHub" whose tokens say that it is pull request 5.
pub(super) struct Job {
    pub(super) site: Site,
    home: TempDir,
}

impl Job {
    pub(super) fn start() -> Self {
        let job = Self {
            site: Site::start(),
            home: tempfile::tempdir().unwrap(),
        };
        job.becomes("pull_request", "refs/pull/5/merge");
        job
    }

    /// From now on it is a job for this event and ref.
    pub(super) fn becomes(&self, event: &str, git_ref: &str) {
        let mut claims = github();
        claims["event_name"] = json!(event);
        claims["ref"] = json!(git_ref);
        claims["ref_protected"] = json!("true");
        self.site.issuer.set_job("request-token", claims);
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CI", "true")
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_ENV", self.github_env())
            .env(
                "ACTIONS_ID_TOKEN_REQUEST_URL",
                self.site.issuer.request_url(),
            )
            .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "request-token")
            .env("SSL_CERT_FILE", self.site.issuer.ca_file());
        command
    }

    fn larder(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
        let binary = larder_binary(env!("CARGO_BIN_EXE_larder"));
        let mut command = self.command(binary.to_str().unwrap());
        command.args(arguments).envs(variables.iter().copied());
        process::run(&mut command, SOON).unwrap()
    }

    pub(super) fn login(&self, more: &[&str]) -> Finished {
        let server = self.site.server.url();
        let mut arguments = vec!["login", "--server", &server, "--audience", AUDIENCE];
        arguments.extend(more);
        self.larder(&arguments, &[])
    }

    fn github_env(&self) -> std::path::PathBuf {
        self.home.path().join("github_env")
    }

    fn exported(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.github_env()).ok()?;
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        text.lines().find_map(value)
    }
}

/// The secret that the first line hides in GitHub's log, and the other lines.
fn masked(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("::add-mask::")?.split_once('\n')
}

#[test]
fn a_job_on_github_logs_in_for_its_later_steps_and_its_token_is_masked() {
    let job = Job::start();
    let ran = job.login(&["--for", "nx", "--github-env"]);
    assert!(ran.status.success(), "{}", ran.stderr);
    let token = job
        .exported("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN")
        .unwrap();
    assert_eq!(
        job.exported("NX_SELF_HOSTED_REMOTE_CACHE_SERVER"),
        Some(job.site.server.url())
    );
    let (jwt, rest) = masked(&ran.stderr).expect("the identity token is masked");
    assert_eq!(jwt.split('.').count(), 3, "{jwt}");
    let (session, rest) = masked(rest).expect("the session is masked");
    assert_eq!(session, token);
    let shown = rest.contains(&token) || rest.contains(jwt);
    assert!(!shown, "and they are shown nowhere else: {rest}");
    assert_eq!(ran.stdout, "");
    assert_eq!(
        json_of(&job.site.whoami(Some(&token)))["writes"],
        "ci.web/pr-5"
    );
    assert_eq!(job.site.put("1", &token, "x"), 200);

    let logout = job.larder(
        &["logout"],
        &[
            ("LARDER_SERVER", &job.site.server.url()),
            ("LARDER_TOKEN", &token),
        ],
    );
    assert!(logout.status.success(), "{}", logout.stderr);
    assert_eq!(job.site.get("1", &token), Err(404));
}

#[test]
fn what_login_prints_is_for_a_shell_or_a_script() {
    let job = Job::start();
    let sh = job.login(&["--for", "moon"]).success().unwrap();
    let grpc = job.site.server.url().replace("http://", "grpc://");
    assert!(
        sh.starts_with(&format!(
            "export MOON_REMOTE_HOST='{grpc}'\nexport LARDER_TOKEN='lrd_s_"
        )),
        "{sh}"
    );
    let json = job
        .login(&["--format", "json", "--read-only"])
        .success()
        .unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let token = json["LARDER_TOKEN"].as_str().unwrap();
    assert_eq!(
        json_of(&job.site.whoami(Some(token)))["writes"],
        json!(null)
    );
}

#[test]
fn a_login_that_fails_leaves_the_build_without_a_cache_and_green() {
    let job = Job::start();
    let off = "export NX_SELF_HOSTED_REMOTE_CACHE_SERVER=''\nexport NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=''\n";
    let check = |ran: &Finished| {
        assert!(ran.status.success(), "{}", ran.stderr);
        assert_eq!(ran.stdout, off);
        assert!(
            ran.stderr.contains("without the remote cache"),
            "{}",
            ran.stderr
        );
    };
    // Nobody there, no identity, and a server that does not believe it.
    check(&job.larder(
        &["login", "--server", "http://127.0.0.1:1", "--for", "nx"],
        &[],
    ));
    let server = job.site.server.url();
    let arguments = ["login", "--server", &server, "--for", "nx"];
    check(&job.larder(&arguments, &[("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")]));
    check(&job.larder(&arguments, &[("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "stolen")]));
    check(&job.larder(&arguments, &[]));
    // A fork has no variables, and whoever wrote this one mistyped.
    check(&job.larder(&["login", "--for", "nx"], &[]));
    check(&job.larder(&["login", "--server", "", "--for", "nx"], &[]));
    check(&job.larder(
        &["login", "--server", "http://c.example/?x", "--for", "nx"],
        &[],
    ));
    let unwritable = [("GITHUB_ENV", "")];
    let nowhere = job.larder(&["login", "--for", "nx", "--github-env"], &unwritable);
    assert!(nowhere.status.success(), "{}", nowhere.stderr);
    let strict = job.larder(&[&arguments[..], &["--strict"]].concat(), &[]);
    assert_eq!(strict.status.code(), Some(1));
    assert_eq!(strict.stdout, off);

    assert!(
        job.larder(&[&arguments[..], &["--github-env"]].concat(), &[])
            .status
            .success()
    );
    assert_eq!(
        job.exported("NX_SELF_HOSTED_REMOTE_CACHE_SERVER")
            .as_deref(),
        Some("")
    );
}

#[test]
fn a_token_in_a_variable_is_exchanged_as_well() {
    let job = Job::start();
    let jwt = job.site.pull_request(6);
    let arguments = [
        "login",
        "--server",
        &job.site.server.url(),
        "--format",
        "json",
    ];
    let ran = job
        .larder(&arguments, &[("LARDER_ID_TOKEN", &jwt)])
        .success()
        .unwrap();
    let token = serde_json::from_str::<Value>(&ran).unwrap()["LARDER_TOKEN"].clone();
    assert_eq!(
        json_of(&job.site.whoami(token.as_str()))["writes"],
        "ci.web/pr-6"
    );
}

/// What the credential helper answers to Bazel's question about `uri`.
fn helped(job: &Job, uri: &str, variables: &[(&str, &str)]) -> (Value, String) {
    // As Bazel runs it: a program of its own name, with one argument.
    let helper = job.home.path().join("larder-credential-helper");
    if !helper.exists() {
        symlink(larder_binary(env!("CARGO_BIN_EXE_larder")), &helper).unwrap();
    }
    let mut command = job.command(helper.to_str().unwrap());
    command
        .arg("get")
        .env("LARDER_AUDIENCE", AUDIENCE)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let question = json!({ "uri": uri }).to_string();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(question.as_bytes())
        .unwrap();
    let ran = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.success(), "{stderr}");
    (serde_json::from_slice(&ran.stdout).unwrap(), stderr)
}

#[test]
fn bazel_gets_credentials_for_the_server_and_for_no_other() {
    let job = Job::start();
    let server = job.site.server.url();
    let grpc = server.replace("http://", "grpc://");
    let uri = server.replace("http://", "https://") + "/google.bytestream.ByteStream";
    let (answer, _) = helped(&job, &uri, &[("LARDER_SERVER", &grpc)]);
    let header = answer["headers"]["Authorization"][0].as_str().unwrap();
    let token = header.strip_prefix("Bearer ").unwrap();
    assert_eq!(
        json_of(&job.site.whoami(Some(token)))["writes"],
        "ci.web/pr-5"
    );
    assert!(
        answer["expires"].as_str().unwrap().ends_with('Z'),
        "{answer}"
    );

    for uri in [
        "https://elsewhere.test/x",
        "https://127.0.0.1:1/x",
        "nonsense",
    ] {
        let (answer, _) = helped(&job, uri, &[("LARDER_SERVER", &server)]);
        assert_eq!(answer, json!({ "headers": {} }), "{uri}");
    }
    let jwt = job.site.pull_request(8);
    let (answer, _) = helped(
        &job,
        &uri,
        &[("LARDER_SERVER", &server), ("LARDER_ID_TOKEN", &jwt)],
    );
    assert_eq!(
        answer["headers"]["Authorization"][0],
        format!("Bearer {jwt}"),
        "it may be asked for again"
    );
    let (answer, _) = helped(
        &job,
        &uri,
        &[("LARDER_SERVER", &server), ("LARDER_TOKEN", "lrd_x")],
    );
    assert_eq!(
        answer,
        json!({ "headers": { "Authorization": ["Bearer lrd_x"] } })
    );
    let trouble = [
        ("LARDER_SERVER", server.as_str()),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "stolen"),
    ];
    let (answer, stderr) = helped(&job, &uri, &trouble);
    assert_eq!(
        answer,
        json!({ "headers": {} }),
        "trouble is no credentials, and no error"
    );
    assert!(stderr.contains("no credentials"), "{stderr}");
}

#[test]
fn bazel_gets_no_credentials_that_everybody_on_the_way_could_read() {
    let job = Job::start();
    let (server, uri) = ("http://cache.test:9092", "http://cache.test:9092/x");
    let variables = [("LARDER_SERVER", server), ("LARDER_TOKEN", "lrd_x")];
    let (answer, stderr) = helped(&job, uri, &variables);
    assert_eq!(answer, json!({ "headers": {} }));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("LARDER_ALLOW_HTTP"), "{stderr}");
    let refused = [&variables[..], &[("LARDER_ALLOW_HTTP", "0")]].concat();
    assert_eq!(helped(&job, uri, &refused).0, json!({ "headers": {} }));
    let allowed = [&variables[..], &[("LARDER_ALLOW_HTTP", "1")]].concat();
    let given = json!({ "headers": { "Authorization": ["Bearer lrd_x"] } });
    assert_eq!(helped(&job, uri, &allowed).0, given);
}

/// The commands of the composite action, as its `run` steps have them.
fn action_steps() -> Vec<String> {
    let action = repository_root().join("integrations/github-action/action.yml");
    let text = std::fs::read_to_string(action).unwrap();
    let mut steps = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(indent) = line.find("run: |") else {
            continue;
        };
        let mut step = String::new();
        let inside =
            |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() > indent;
        while let Some(line) = lines.next_if(inside) {
            step.push_str(line.get(indent + 2..).unwrap_or_default());
            step.push('\n');
        }
        steps.push(step);
    }
    steps
}

/// Runs the composite action's step with these programs before all others; it never fails.
fn action(job: &Job, programs: &Path, server: &str, tool: &str) -> String {
    let [login] = &action_steps()[..] else {
        panic!("the action has one step");
    };
    let _ = std::fs::remove_file(job.github_env());
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut bash = job.command("bash");
    bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", login])
        .env("PATH", &path)
        .env("CURL_CA_BUNDLE", job.site.issuer.ca_file())
        .env("INPUT_SERVER", server)
        .env("INPUT_AUDIENCE", AUDIENCE)
        .env("INPUT_TOOL", tool);
    let ran = process::run(&mut bash, SOON).unwrap();
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(ran.status.success(), "{server} {tool}: {said}");
    said
}

#[test]
fn the_github_action_logs_in_with_the_program_and_without_it() {
    let job = Job::start();
    let programs = job.home.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    for with in ["curl", "larder"] {
        if with == "larder" {
            let larder = larder_binary(env!("CARGO_BIN_EXE_larder"));
            symlink(larder, programs.join("larder")).unwrap();
        }
        let said = action(&job, &programs, &job.site.server.url(), "nx");
        let token = job
            .exported("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN")
            .unwrap_or_else(|| panic!("{with}: {said}"));
        assert_eq!(
            json_of(&job.site.whoami(Some(&token)))["writes"],
            "ci.web/pr-5",
            "{with}"
        );
        let (jwt, rest) = masked(&said).unwrap_or_else(|| panic!("{with}: {said}"));
        assert_eq!(jwt.split('.').count(), 3, "{with}: {said}");
        let (session, rest) = masked(rest).unwrap_or_else(|| panic!("{with}: {said}"));
        assert_eq!(session, token);
        assert!(
            !rest.contains(&token) && !rest.contains(jwt),
            "{with}: {said}"
        );
        let wrong = [
            "http://127.0.0.1:1",
            "",
            "http://127.0.0.1:1/?x",
            "http://127.0.0.1:1\nBASH_ENV=/tmp/x",
        ];
        for server in wrong {
            let said = action(&job, &programs, server, "nx");
            assert!(said.contains("without the remote cache"), "{with}: {said}");
            let off =
                "NX_SELF_HOSTED_REMOTE_CACHE_SERVER=\nNX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=\n";
            let exported = std::fs::read_to_string(job.github_env()).unwrap();
            assert_eq!(exported, off, "{with}: {server}");
        }
        let said = action(&job, &programs, &job.site.server.url(), "foo");
        assert!(said.contains("tool is none of"), "{with}: {said}");
    }
}

#[test]
fn the_github_action_exports_nothing_that_a_server_puts_behind_its_token() {
    let job = Job::start();
    let programs = job.home.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    // What speaks for the server answers with a line of its own; the identity is genuine.
    let curl = programs.join("curl");
    let answer = r#"#!/bin/sh
case "$*" in
  */v1/oauth/token*) printf '{"access_token": "lrd_s_x\\nBASH_ENV=/tmp/x"}' ;;
  *) printf '{"value": "a.b.c"}' ;;
esac
"#;
    std::fs::write(&curl, answer).unwrap();
    std::fs::set_permissions(&curl, std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = action(&job, &programs, "https://cache.test", "env");
    assert!(said.contains("no session"), "{said}");
    let exported = std::fs::read_to_string(job.github_env()).unwrap();
    assert_eq!(exported, "LARDER_SERVER=\nLARDER_TOKEN=\n");
}

/// The lines of one of the jobs in the GitLab template.
fn gitlab_lines(section: &str) -> String {
    let template = repository_root().join("integrations/gitlab/larder.gitlab-ci.yml");
    let text = std::fs::read_to_string(template).unwrap();
    let job = text.split("\n.larder-session:").nth(1).unwrap();
    let lines = job.split(&format!("  {section}:\n")).nth(1).unwrap();
    let lines = lines.lines().map_while(|line| line.strip_prefix("    - "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_session_on_gitlab_ends_with_the_job_in_a_shell_of_its_own() {
    let job = Job::start();
    let programs = job.home.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    let larder = larder_binary(env!("CARGO_BIN_EXE_larder"));
    symlink(larder, programs.join("larder")).unwrap();
    let project = job.home.path().join("project");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let jwt = job.site.pull_request(11);
    let shell = |script: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-e", "-c", script]).env_clear().envs([
            ("PATH", path.as_str()),
            ("CI_PROJECT_DIR", project.to_str().unwrap()),
            ("LARDER_SERVER", &job.site.server.url()),
            ("LARDER_TOOL", "nx"),
            ("LARDER_ID_TOKEN", &jwt),
        ]);
        process::run(&mut sh, SOON).unwrap()
    };
    let show = "\necho \"$NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN\"";
    let token = shell(&(gitlab_lines("before_script") + show));
    let token = token.success().unwrap();
    let token = token.trim();
    assert_eq!(job.site.put("1", token, "x"), 200);
    let ended = shell(&gitlab_lines("after_script"));
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("the session is over"),
        "{}",
        ended.stderr
    );
    assert_eq!(job.site.put("2", token, "x"), 403);
    assert!(
        !project
            .with_extension("tmp")
            .join("larder-session")
            .exists()
    );
}
