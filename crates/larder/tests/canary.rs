//! Secrets through every door of the program, and then a search for them in everything that it has written, printed or answered.
//!
//! A secret is a token, a session, a JWT or a password that somebody took for one. Each is shown at every door in every way a client
//! could, also where it does not belong. Afterwards it must be nowhere: not in the log at its most talkative, the figures, the answers,
//! the ledger or any other file, neither plain nor in base64 or hexadecimal digits. Of good ones the ledger has the SHA-256.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use larder_auth::TokenSecret;
use larder_testkit::http::{Connection, Request};
use larder_testkit::issuer::Issuer;
use larder_testkit::{Access, Server, ServerOptions, larder_binary};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// What nobody may find again: the shape of what a client sends, and the part of it that is secret.
struct Canary {
    name: &'static str,
    text: String,
    secret: String,
    /// Whether the log can know it for a secret wherever it stands. A password looks like any word.
    has_shape: bool,
}

impl Canary {
    /// A token or a session: what follows its prefix is enough for a thief.
    fn token(name: &'static str, text: String) -> Self {
        let secret = text.rsplit('_').next().unwrap()[..40].to_owned();
        Self {
            name,
            text,
            secret,
            has_shape: true,
        }
    }

    /// A JWT: its signature is enough.
    fn jwt(name: &'static str, text: String) -> Self {
        let secret = text.rsplit('.').next().unwrap()[..60].to_owned();
        Self {
            name,
            text,
            secret,
            has_shape: true,
        }
    }

    fn password(name: &'static str, text: &str) -> Self {
        Self {
            name,
            text: text.to_owned(),
            secret: text.to_owned(),
            has_shape: false,
        }
    }

    /// The forms in which it must not be found.
    fn forms(&self) -> Vec<Vec<u8>> {
        let secret = self.secret.as_bytes();
        let digits = |hex: String, byte: &u8| hex + &format!("{byte:02x}");
        let hex = secret.iter().fold(String::new(), digits);
        let mut forms = vec![
            secret.to_vec(),
            hex.clone().into(),
            hex.to_uppercase().into(),
        ];
        // Behind a user's name of any length it begins at any bit of base64's.
        for before in 0..3 {
            let text = [&b"xx"[..before], secret].concat();
            for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                forms.push(encoded[4..encoded.len() - 4].into());
            }
        }
        forms
    }
}

/// A server with a rule for CI, and everything that it says to anybody.
struct House {
    server: Server,
    issuer: Issuer,
    said: Vec<(String, Vec<u8>)>,
}

const AUDIENCE: &str = "https://cache.test";

impl House {
    fn start(format: &str) -> Self {
        let issuer = Issuer::start().unwrap();
        let config = format!(
            "[log]\nlevel = \"trace\"\nformat = \"{format}\"\n[workspace.open]\npublic = true\n\
             [identity]\naudience = \"{AUDIENCE}\"\n\
             [issuer.local]\nurl = \"{}\"\nca_file = \"{}\"\n\
             [workspace.default.ci.web]\nprovider = \"github\"\nissuer = \"local\"\nrepository_id = 456789\n\
             repository_owner_id = \"123456\"\ntrusted_refs = [\"refs/heads/main\"]\n",
            issuer.url(),
            issuer.ca_file().display()
        );
        let options = ServerOptions {
            config: Some(config),
            ..ServerOptions::default()
        };
        let binary = larder_binary(env!("CARGO_BIN_EXE_larder"));
        let server = Server::start_with(binary, options).unwrap();
        server.wait_for_output("keys are known", SOON).unwrap();
        Self {
            server,
            issuer,
            said: Vec::new(),
        }
    }

    /// Sends a request and keeps whatever comes, if it is an answer at all; its status.
    fn send(&mut self, what: &str, request: &Request) -> Option<u16> {
        let mut connection = Connection::open(self.server.address()).unwrap();
        let answer = connection.exchange(request).ok()?;
        let mut all = answer.body.clone();
        for (name, value) in &answer.headers {
            all.extend_from_slice(format!("\n{name}: {value}").as_bytes());
        }
        self.said.push((what.to_owned(), all));
        Some(answer.status)
    }

    /// Runs a command of the operator's, however it ends.
    fn run(&mut self, arguments: &[&str]) {
        let finished = self.server.larder(arguments).unwrap();
        let all = format!("{}{}", finished.stdout, finished.stderr);
        self.said.push((format!("{arguments:?}"), all.into_bytes()));
    }

    fn token(&self, name: &'static str, access: Access, scope: Option<&str>) -> Canary {
        Canary::token(name, self.server.token(access, scope).unwrap())
    }

    fn jwt(&self, name: &'static str, more: &Value) -> Canary {
        let mut claims = json!({
            "repository_id": "456789", "repository_owner_id": "123456", "repository": "acme/web",
            "run_id": "4711", "run_attempt": "1", "sha": "0123456789abcdef0123456789abcdef01234567",
            "workflow": "ci", "actor": "somebody", "event_name": "push", "ref": "refs/heads/main",
            "ref_protected": "true", "aud": AUDIENCE,
        });
        let all = claims.as_object_mut().unwrap();
        all.extend(more.as_object().unwrap().clone());
        Canary::jwt(name, self.issuer.token(&claims).unwrap())
    }

    /// Credentials of every kind: good ones, some that end soon, bad ones, and what never was one.
    fn canaries(&mut self) -> Vec<Canary> {
        let for_exchange = self.jwt("exchanged JWT", &json!({ "jti": "exchanged" }));
        let session = self.session(&for_exchange.text);
        let mut stretched = self.server.token(Access::Reader, None).unwrap();
        stretched.push('x');
        let pull_request = json!({ "event_name": "pull_request", "ref": "refs/pull/7/merge" });
        let forged = format!(
            "{}.{}.{}",
            "eyJhbGciOiJub25lIn0",
            "e30",
            "QW5ub3VuY2VkU2VjcmV0".repeat(5)
        );
        vec![
            self.token("trusted token", Access::Trusted, None),
            self.token("isolated token", Access::Isolated, Some("pr/7")),
            self.token("reader token", Access::Reader, None),
            self.token("admin token", Access::Admin, None),
            Canary::token("malformed token", stretched),
            Canary::token("unknown token", format!("lrd_{}", "Ab1".repeat(17))),
            self.jwt("JWT of a pull request", &pull_request),
            self.jwt(
                "JWT for somebody else",
                &json!({ "aud": "https://other.test" }),
            ),
            self.jwt(
                "JWT of another repository",
                &json!({ "repository_id": "1" }),
            ),
            Canary::jwt("JWT without a signature", forged),
            for_exchange,
            Canary::token("session", session),
            Canary::password("password", "correct-horse-Battery-staple-0815"),
        ]
    }

    fn session(&self, jwt: &str) -> String {
        let request = Self::exchange(jwt);
        let mut connection = Connection::open(self.server.address()).unwrap();
        // The answer is for whoever asked, so it is not kept.
        let answer = connection.exchange(&request).unwrap();
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        json["access_token"].as_str().unwrap().to_owned()
    }

    fn exchange(jwt: &str) -> Request {
        let form = format!(
            "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={jwt}\
             &subject_token_type=urn:ietf:params:oauth:token-type:jwt"
        );
        let request = Request::new("POST", "/v1/oauth/token").body(form);
        request.header("Content-Type", "application/x-www-form-urlencoded")
    }

    /// Shows the credential where it belongs, in every form.
    fn show(&mut self, canary: &Canary) {
        let text = &canary.text;
        let basic = |user: &str, password: &str| {
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        };
        let headers = [
            format!("Bearer {text}"),
            format!("bearer  {text}"),
            format!("Bearer {text} {text}"),
            format!("Token {text}"),
            text.clone(),
            basic("user", text),
            basic("", text),
            basic(text, ""),
            basic(text, "x-oauth-basic"),
            format!("Basic {text}"),
        ];
        let json =
            format!(r#"{{"workspace":"{text}","scope":"{text}","key":"{text}","dry_run":true}}"#);
        for authorization in &headers {
            for request in [
                Request::get("/v1/cache/1"),
                Request::put("/v1/cache/2", "body"),
                Request::put("/scope/label/v1/cache/3", "body"),
                Request::get(&format!("/ac/{:064}", 1)),
                Request::put(&format!("/cas/{:064}", 1), "body"),
                Request::get("/status"),
                Request::get("/metrics"),
                Request::get("/v1/whoami"),
                Request::get("/v1/control/stats"),
                Request::get("/v1/control/audit"),
                Request::new("POST", "/v1/control/purge").body(json.clone()),
                Request::new("DELETE", "/v1/cache/1"),
                Request::get("/nowhere"),
                grpc("build.bazel.remote.execution.v2.Capabilities/GetCapabilities"),
                grpc("build.bazel.remote.execution.v2.ActionCache/GetActionResult"),
                grpc("google.bytestream.ByteStream/QueryWriteStatus"),
            ] {
                let request = request.header("Authorization", authorization);
                self.send(canary.name, &request);
            }
            let twice = Request::get("/v1/cache/1")
                .header("Authorization", authorization)
                .header("Authorization", authorization);
            self.send(canary.name, &twice);
        }
        let target = format!("http://user:{text}@larder.test/v1/cache/1");
        self.send(canary.name, &Request::get(&target));
        self.send(canary.name, &Self::exchange(text));
        let revoke = Request::new("POST", "/v1/oauth/revoke").body(format!("token={text}x"));
        let form = "application/x-www-form-urlencoded";
        self.send(canary.name, &revoke.header("Content-Type", form));
    }

    /// Shows the credential where it does not belong, and where the log can know it by its shape.
    fn misplace(&mut self, canary: &Canary) {
        let text = &canary.text;
        let encoded = text.replace('_', "%5F");
        for target in [
            format!("/v1/cache/{text}"),
            format!("/v1/cache/1?token={text}"),
            format!("/scope/{text}/v1/cache/1"),
            format!("/w/{text}/v1/cache/1"),
            format!("/{text}"),
            format!("/v1/cache/{encoded}"),
        ] {
            self.send(canary.name, &Request::get(&target));
            // Nobody may store it.
            self.send(canary.name, &Request::put(&target, "body"));
        }
        for header in ["Cookie", "X-Api-Key", "Proxy-Authorization", "User-Agent"] {
            let request = Request::get("/v1/cache/1").header(header, text);
            self.send(canary.name, &request);
        }
    }

    /// Everything the program has said, printed and kept.
    fn everything(&mut self) -> Vec<(String, Vec<u8>)> {
        for path in [
            "/metrics",
            "/status",
            "/openapi.json",
            "/healthz",
            "/readyz",
        ] {
            self.send(path, &Request::get(path));
        }
        for arguments in [
            &["token", "list"][..],
            &["token", "list", "--json"],
            &["workspace", "list"],
            &["stats"],
            &["stats", "--json"],
            &["audit"],
            &["audit", "--json"],
            &["config", "check"],
            &["config", "show"],
            &["purge", "--workspace", "default", "--dry-run"],
            &["verify"],
        ] {
            self.run(arguments);
        }
        // The log and the audit are written behind the answers, and whole when it has ended.
        assert!(
            self.server.stop().unwrap().success(),
            "{}",
            self.server.output()
        );
        let mut all = std::mem::take(&mut self.said);
        let output = self.server.output().into_bytes();
        assert!(!output.is_empty());
        all.push(("the log".to_owned(), output));
        files(&self.server.data_dir(), &mut all);
        all
    }
}

fn grpc(method: &str) -> Request {
    let request = Request::new("POST", &format!("/{method}")).body([0; 5]);
    let request = request.header("Content-Type", "application/grpc");
    request.header("TE", "trailers")
}

fn files(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.is_file() {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    let (first, rest) = wanted.split_first().unwrap();
    let mut from = bytes;
    while let Some(at) = from.iter().position(|byte| byte == first) {
        from = &from[at + 1..];
        if from.starts_with(rest) {
            return true;
        }
    }
    false
}

fn check_nothing_is_found(format: &str) {
    let mut house = House::start(format);
    let canaries = house.canaries();
    let reader = &canaries[2].text;
    for canary in &canaries {
        house.show(canary);
        if canary.has_shape {
            house.misplace(canary);
        }
    }
    // What is no secret is found where it should be, or the search would be worth nothing.
    let harmless = Request::put("/v1/cache/harmless-key", "harmless-body");
    assert_eq!(
        house.send("put", &harmless.bearer(&canaries[0].text)),
        Some(200)
    );
    // Once more with credentials that are over.
    house.server.larder(&["token", "revoke", "2"]).unwrap();
    let finished = house.server.larder(&["token", "revoke", reader]).unwrap();
    assert!(finished.status.success(), "{}", finished.stderr);
    let session = &canaries[11];
    assert_eq!(session.name, "session");
    let revoke = Request::new("POST", "/v1/oauth/revoke").body(format!("token={}", session.text));
    let form = "application/x-www-form-urlencoded";
    house.send("revocation", &revoke.header("Content-Type", form));
    for canary in &canaries {
        house.show(canary);
    }
    let everything = house.everything();
    assert!(everything.len() > 1000, "{}", everything.len());
    let in_place = |name: &str, wanted: &[u8]| {
        let places = everything.iter().filter(|(place, _)| place.contains(name));
        let mut found = places.filter(|(_, bytes)| contains(bytes, wanted));
        assert!(found.next().is_some(), "{name} has no {wanted:?}");
    };
    in_place("the log", b"harmless-key");
    in_place("trusted", b"harmless-body");
    for good in [&canaries[0], &canaries[1], &canaries[3]] {
        let token = TokenSecret::parse(&good.text).unwrap();
        in_place("ledger", &token.hash().0);
    }
    for canary in &canaries {
        for form in canary.forms() {
            for (place, bytes) in &everything {
                assert!(
                    !contains(bytes, &form),
                    "the {} is in {place}, as {}: {}",
                    canary.name,
                    String::from_utf8_lossy(&form),
                    excerpt(bytes, &form)
                );
            }
        }
    }
}

/// The line in which something was found.
fn excerpt(bytes: &[u8], form: &[u8]) -> String {
    let lines = bytes.split(|byte| *byte == b'\n');
    let line = lines.into_iter().find(|line| contains(line, form));
    let line = line.unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(1000)]).into_owned()
}

#[test]
fn no_secret_is_in_the_json_log_or_anything_else_that_is_left_behind() {
    check_nothing_is_found("json");
}

#[test]
fn no_secret_is_in_the_log_for_people_or_anything_else_that_is_left_behind() {
    check_nothing_is_found("human");
}

#[test]
fn nothing_that_a_client_sends_ends_a_line_of_the_log_or_commands_a_terminal() {
    for format in ["json", "human"] {
        let mut house = House::start(format);
        let trusted = house.server.token(Access::Trusted, None).unwrap();
        let admin = house.server.token(Access::Admin, None).unwrap();
        let hostile = "%0aFORGED%0d%1b%5b2J%c2%9b31m%00%7f%e2%80%ae";
        let json = r#""\nFORGED\r\u001b[2J\u009b31m\u0000\u007f\u202e""#;
        for target in [
            format!("/v1/cache/{hostile}"),
            format!("/scope/{hostile}/v1/cache/1"),
            format!("/w/{hostile}/v1/cache/1"),
            format!("/{hostile}/ac/{:064}", 1),
            format!("/{hostile}"),
        ] {
            house.send("get", &Request::get(&target).bearer(&trusted));
            house.send("put", &Request::put(&target, "body").bearer(&trusted));
            house.send("put", &Request::put(&target, "body"));
        }
        for field in ["workspace", "scope", "key", "dialect", "reason"] {
            let body = format!(r#"{{"{field}":{json},"dry_run":true}}"#);
            for operation in ["purge", "quarantine"] {
                let request = Request::new("POST", &format!("/v1/control/{operation}"));
                house.send("control", &request.body(body.clone()).bearer(&admin));
            }
        }
        let agent = Request::get("/v1/cache/1").header("User-Agent", "x\u{9b}31m\ty");
        house.send("agent", &agent.bearer(&trusted));
        assert!(house.server.stop().unwrap().success());
        let output = house.server.output();
        let log = output.lines().filter(|line| !line.starts_with("lrd_"));
        let mut count = 0;
        for line in log {
            count += 1;
            assert!(!line.starts_with("FORGED"), "{line:?}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
            if format == "json" && line.starts_with('{') {
                let parsed = serde_json::from_str::<Value>(line);
                assert!(parsed.is_ok(), "{line:?}");
            }
        }
        assert!(count > 10, "{output}");
    }
}
