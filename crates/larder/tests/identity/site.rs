//! A server with a rule for a CI system, and the issuer of its tokens.

use std::time::Duration;

use larder_testkit::http::{Answer, Request, exchange};
use larder_testkit::issuer::Issuer;
use larder_testkit::process::wait_until;
use larder_testkit::{Server, ServerOptions, larder_binary};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What the server calls itself.
pub(crate) const AUDIENCE: &str = "https://cache.test";
/// How long the server may take for what it does by itself.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Site {
    pub(crate) issuer: Issuer,
    pub(crate) server: Server,
}

impl Site {
    /// A server that knows the issuer's keys.
    pub(crate) fn start() -> Self {
        let site = Self::start_with("");
        site.wait_for_keys();
        site
    }

    /// A server, and `more` at the end of the table of the issuer.
    pub(crate) fn start_with(more: &str) -> Self {
        let issuer = Issuer::start().unwrap();
        let config = config(&issuer, more);
        Self::start_configured(issuer, config, Vec::new())
    }

    pub(crate) fn start_configured(
        issuer: Issuer,
        config: String,
        environment: Vec<(String, String)>,
    ) -> Self {
        let options = ServerOptions {
            config: Some(config),
            environment,
            ..ServerOptions::default()
        };
        let server =
            Server::start_with(larder_binary(env!("CARGO_BIN_EXE_larder")), options).unwrap();
        Self { issuer, server }
    }

    pub(crate) fn wait_for_keys(&self) {
        self.server.wait_for_output("keys are known", SOON).unwrap();
    }

    pub(crate) fn send(&self, request: &Request) -> Answer {
        exchange(self.server.address(), request).unwrap()
    }

    pub(crate) fn put(&self, key: &str, credential: &str, body: &str) -> u16 {
        let request = Request::put(&format!("/v1/cache/{key}"), body);
        self.send(&request.bearer(credential)).status
    }

    /// The entry; the status if there is none.
    pub(crate) fn get(&self, key: &str, credential: &str) -> Result<String, u16> {
        let request = Request::get(&format!("/v1/cache/{key}"));
        let answer = self.send(&request.bearer(credential));
        if answer.status == 200 {
            Ok(answer.text())
        } else {
            Err(answer.status)
        }
    }

    /// A token of GitHub's kind, for the server, with `more` claims.
    pub(crate) fn github(&self, more: &Value) -> String {
        self.token(&github(), more)
    }

    /// A push to trunk.
    pub(crate) fn push(&self) -> String {
        self.github(
            &json!({ "event_name": "push", "ref": "refs/heads/main", "ref_protected": "true" }),
        )
    }

    /// A pull request.
    pub(crate) fn pull_request(&self, number: u64) -> String {
        self.github(
            &json!({ "event_name": "pull_request", "ref": format!("refs/pull/{number}/merge") }),
        )
    }

    pub(crate) fn token(&self, claims: &Value, more: &Value) -> String {
        let mut claims = claims.clone();
        let all = claims.as_object_mut().unwrap();
        all.insert("aud".to_owned(), json!(AUDIENCE));
        all.extend(more.as_object().unwrap().clone());
        self.issuer.token(&claims).unwrap()
    }

    pub(crate) fn exchange(&self, jwt: &str) -> Answer {
        self.exchange_with(jwt, "")
    }

    /// The answer to an exchange whose form ends with `more`.
    pub(crate) fn exchange_with(&self, jwt: &str, more: &str) -> Answer {
        self.post(
            "/v1/oauth/token",
            &format!(
                "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={jwt}\
                 &subject_token_type=urn:ietf:params:oauth:token-type:jwt{more}"
            ),
        )
    }

    pub(crate) fn post(&self, path: &str, form: &str) -> Answer {
        let request = Request::new("POST", path).body(form);
        self.send(&request.header("Content-Type", "application/x-www-form-urlencoded"))
    }

    /// A session for a token that gets one.
    pub(crate) fn session(&self, jwt: &str) -> String {
        let answer = self.exchange(jwt);
        assert_eq!(
            answer.status,
            200,
            "{}\n{}",
            answer.text(),
            self.server.output()
        );
        json_of(&answer)["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn whoami(&self, credential: Option<&str>) -> Answer {
        let request = Request::get("/v1/whoami");
        self.send(&match credential {
            Some(credential) => request.bearer(credential),
            None => request,
        })
    }

    pub(crate) fn reload(&self, config: &str) {
        std::fs::write(self.server.config_path(), config).unwrap();
        let before = self
            .server
            .output()
            .matches("configuration reloaded")
            .count();
        let pid = i32::try_from(self.server.pid().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
        wait_until("the reload", SOON, || {
            let now = self
                .server
                .output()
                .matches("configuration reloaded")
                .count();
            Ok((now > before).then_some(()))
        })
        .unwrap();
    }
}

pub(crate) fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.text()))
}

/// What every token of the repository on "GitHub" says.
pub(crate) fn github() -> Value {
    json!({
        "repository_id": "456789", "repository_owner_id": "123456", "repository": "acme/web",
        "run_id": "4711", "run_attempt": "1", "sha": "0123456789abcdef0123456789abcdef01234567",
        "workflow": "ci", "actor": "somebody", "event_name": "push", "ref": "refs/heads/main",
    })
}

/// What every token of the project on "GitLab" says.
pub(crate) fn gitlab() -> Value {
    json!({
        "project_id": "77", "project_path": "acme/app", "pipeline_id": "900", "pipeline_source": "push",
        "ref": "main", "ref_path": "refs/heads/main", "ref_type": "branch", "ref_protected": "true",
    })
}

/// A rule for the repository on "GitHub", in the workspace `default`. `more` belongs to the issuer's table.
pub(crate) fn config(issuer: &Issuer, more: &str) -> String {
    let rule = "[workspace.default.ci.web]\nprovider = \"github\"\nissuer = \"local\"\nrepository_id = 456789\n\
                repository_owner_id = \"123456\"\nrepository = \"acme/web\"\ntrusted_refs = [\"refs/heads/main\"]\n";
    config_of(issuer, more, rule)
}

/// The same for the project on "GitLab".
pub(crate) fn config_gitlab(issuer: &Issuer) -> String {
    let rule = "[workspace.default.ci.app]\nprovider = \"gitlab\"\nissuer = \"local\"\nproject_id = 77\n\
                trusted_refs = [\"refs/heads/main\"]\n";
    config_of(issuer, "", rule)
}

fn config_of(issuer: &Issuer, more: &str, rule: &str) -> String {
    format!(
        "[identity]\naudience = \"{AUDIENCE}\"\n\
         [issuer.local]\nurl = \"{}\"\nca_file = \"{}\"\n{more}\n{rule}",
        issuer.url(),
        issuer.ca_file().display(),
    )
}
