//! The CI job that this process runs in, and the identity token that its CI system gives it.
//!
//! Each system has a way of its own. GitHub answers a request; Buildkite and CircleCI have a command; GitLab, and whatever else
//! puts an identity token into a variable, is asked to put it into `LARDER_ID_TOKEN`.

use std::ffi::OsString;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use larder_client::Client;

use super::percent;
use super::secret::Secret;

/// The variable with an identity token that was made for the server.
const ID_TOKEN_VARIABLE: &str = "LARDER_ID_TOKEN";
/// How long a CI system's command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether the command has ended.
const COMMAND_POLL: Duration = Duration::from_millis(20);
/// The most bytes that such a command prints: identity tokens have about 3 KiB, and 16 KiB are the most that is accepted.
const COMMAND_OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// Where the identity token of this job comes from.
pub(crate) enum Job {
    /// GitHub Actions, with `permissions: id-token: write`.
    GitHub {
        request_url: String,
        request_token: Secret,
    },
    /// A variable: GitLab's `id_tokens`, and others.
    Given(Secret),
    /// Buildkite's agent makes one.
    Buildkite,
    /// CircleCI's makes one.
    CircleCi,
}

impl Job {
    /// The job of this environment, if it is one that can say who it is.
    pub(crate) fn find(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let text = |name: &str| {
            let value = variable(name)?.into_string().ok()?;
            (!value.is_empty()).then_some(value)
        };
        if let Some(token) = text(ID_TOKEN_VARIABLE) {
            return Some(Self::Given(Secret::read(&token)?));
        }
        if let (Some(request_url), Some(token)) = (
            text("ACTIONS_ID_TOKEN_REQUEST_URL"),
            text("ACTIONS_ID_TOKEN_REQUEST_TOKEN"),
        ) {
            let request_token = Secret::read(&token)?;
            return Some(Self::GitHub {
                request_url,
                request_token,
            });
        }
        let is_set = |name: &str| text(name).is_some_and(|value| value == "true");
        if is_set("BUILDKITE") {
            Some(Self::Buildkite)
        } else if is_set("CIRCLECI") {
            Some(Self::CircleCi)
        } else {
            None
        }
    }

    /// A token that says who this job is, to the server that calls itself `audience`.
    pub(crate) async fn identity_token(
        &self,
        client: &Client,
        audience: &str,
    ) -> anyhow::Result<Secret> {
        let token = match self {
            Self::Given(token) => token.clone(),
            Self::GitHub {
                request_url,
                request_token,
            } => from_github(client, request_url, request_token, audience)
                .await
                .context("GitHub gave no identity token")?,
            // Without asking for the ids there would be names alone, which no rule takes.
            Self::Buildkite => printed(
                "buildkite-agent",
                &[
                    "oidc",
                    "request-token",
                    "--audience",
                    audience,
                    "--claim",
                    "organization_id,pipeline_id",
                ],
            )
            .context("Buildkite gave no identity token")?,
            Self::CircleCi => {
                let claims = serde_json::json!({ "aud": audience }).to_string();
                printed("circleci", &["run", "oidc", "get", "--claims", &claims])
                    .context("CircleCI gave no identity token")?
            }
        };
        ensure!(
            token.is_jwt(),
            "what the CI system gave is no identity token"
        );
        Ok(token)
    }
}

async fn from_github(
    client: &Client,
    request_url: &str,
    request_token: &Secret,
    audience: &str,
) -> anyhow::Result<Secret> {
    ensure!(
        request_url.starts_with("https://"),
        "ACTIONS_ID_TOKEN_REQUEST_URL is no https address"
    );
    let joint = if request_url.contains('?') { '&' } else { '?' };
    let request = http::Request::get(format!(
        "{request_url}{joint}audience={}",
        percent::encoded(audience)
    ))
    .header(AUTHORIZATION, format!("bearer {}", request_token.expose()))
    .body(Bytes::new())
    .context("ACTIONS_ID_TOKEN_REQUEST_URL is no address")?;
    let answer = client.send(request).await?;
    ensure!(
        answer.status() == http::StatusCode::OK,
        "it answered {}",
        answer.status()
    );
    let answer: serde_json::Value =
        serde_json::from_slice(answer.body()).context("its answer is no JSON")?;
    let token = answer.get("value").and_then(serde_json::Value::as_str);
    token
        .and_then(Secret::read)
        .context("its answer has no token")
}

/// What a command prints. The command is found in `PATH`; nothing secret is in its arguments.
fn printed(program: &str, arguments: &[&str]) -> anyhow::Result<Secret> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let output = child.stdout.take().context("its output is not a pipe")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let read = output
            .take(COMMAND_OUTPUT_BYTES_MAX)
            .read_to_string(&mut text);
        read.map(|_| text)
    });
    let end = Instant::now() + COMMAND_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            // It may have ended just now, which is as good.
            let _ = child.kill();
            let _ = child.wait();
            bail!("{program} did not end within {} s", COMMAND_LIMIT.as_secs());
        }
        std::thread::sleep(COMMAND_POLL);
    };
    ensure!(status.success(), "{program} failed: {status}");
    let text = reader.join().ok().context("its output was not read")??;
    Secret::read(&text).with_context(|| format!("{program} printed no token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Option<&'static str> {
        let job = Job::find(|name| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some((*value).into())
        });
        Some(match job? {
            Job::GitHub { .. } => "github",
            Job::Given(_) => "given",
            Job::Buildkite => "buildkite",
            Job::CircleCi => "circleci",
        })
    }

    #[test]
    fn a_job_is_known_by_what_its_system_sets_and_not_by_empty_variables() {
        let url = ("ACTIONS_ID_TOKEN_REQUEST_URL", "https://x.example");
        let token = ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t");
        assert_eq!(found(&[url, token]), Some("github"));
        assert_eq!(
            found(&[url, ("LARDER_ID_TOKEN", "a.b.c"), token]),
            Some("given")
        );
        assert_eq!(found(&[("BUILDKITE", "true")]), Some("buildkite"));
        assert_eq!(found(&[("CIRCLECI", "true")]), Some("circleci"));
        // A pull request of a fork: GitHub sets neither.
        assert_eq!(found(&[("GITHUB_ACTIONS", "true"), ("CI", "true")]), None);
        assert_eq!(found(&[url, ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")]), None);
        assert_eq!(found(&[("LARDER_ID_TOKEN", "")]), None);
        assert_eq!(found(&[("LARDER_ID_TOKEN", "two words")]), None);
    }

    #[test]
    fn a_commands_output_is_a_token_or_an_error() {
        assert_eq!(printed("echo", &["a.b.c"]).unwrap().expose(), "a.b.c");
        for (program, arguments) in [
            ("echo", &["two words"][..]),
            ("true", &[]),
            ("false", &[]),
            ("no-such-program-anywhere", &[]),
        ] {
            assert!(
                printed(program, arguments).is_err(),
                "{program} {arguments:?}"
            );
        }
    }
}
