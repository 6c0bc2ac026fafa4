//! `larder credential-helper`: credentials for Bazel, as its option `--credential_helper` asks for them.
//!
//! Bazel runs the program with the argument `get` and `{"uri": …}` on standard input, and takes `{"headers": …, "expires": …}`
//! (github.com/EngFlow/credential-helper-spec). It asks again when they have expired, so a build may outlast any session.
//!
//! Nothing is kept on disk: a CI job can always say anew who it is. Whatever goes wrong, the answer is "no credentials" and a
//! note: the build goes on, with misses.
//!
//! Always true: credentials go to the server that `LARDER_SERVER` names and to no other, whatever Bazel asks for; and not readably
//! over a network, unless that is allowed in so many words.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context as _, ensure};
use larder_auth::Claims;
use larder_client::{Client, ClientOptions};
use serde::{Deserialize, Serialize};

use super::policy::decoded_claims;
use crate::cli::CredentialHelperArgs;
use crate::identity::{Job, Secret, ServerUrl, session};
use crate::{clock, terminal};

/// A request is a URI.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// How long before its end a credential is not used any more: a request that begins now must be able to end.
const MARGIN_MS: u64 = 60_000;

#[derive(Deserialize)]
struct Request {
    uri: String,
}

#[derive(Default, Serialize)]
struct Answer {
    headers: BTreeMap<&'static str, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

pub(super) async fn run(args: CredentialHelperArgs) -> anyhow::Result<()> {
    ensure!(args.command == "get", "the only command is: get");
    let mut text = String::new();
    std::io::stdin()
        .take(REQUEST_BYTES_MAX)
        .read_to_string(&mut text)
        .context("cannot read the request")?;
    let request: Request =
        serde_json::from_str(&text).context("the request is not {\"uri\": …}")?;
    let answer = match credentials(&request.uri, args.audience, args.allow_http).await {
        Ok(answer) => answer,
        Err(error) => {
            terminal::note(&format!(
                "larder: no credentials, so this build gets no more than anybody: {error:#}"
            ));
            Answer::default()
        }
    };
    Ok(terminal::print(&serde_json::to_string(&answer)?)?)
}

async fn credentials(
    uri: &str,
    audience: Option<String>,
    allow_http: bool,
) -> anyhow::Result<Answer> {
    let server = std::env::var("LARDER_SERVER")
        .ok()
        .filter(|server| !server.is_empty())
        .context("LARDER_SERVER does not say which server to give credentials to")?;
    let server = ServerUrl::parse(&server).map_err(anyhow::Error::msg)?;
    let asked = uri.parse().context("the request's uri is no address")?;
    if !server.is_of(&asked) {
        return Ok(Answer::default());
    }
    ensure!(
        allow_http || !server.is_plain_and_remote(),
        "everybody between here and {server} could read them; give the server's https address, or pass --allow-http \
         (LARDER_ALLOW_HTTP=1)"
    );
    let token = std::env::var("LARDER_TOKEN").unwrap_or_default();
    if !token.is_empty() {
        let token = Secret::read(&token).context("LARDER_TOKEN is no token")?;
        return Ok(bearer(&token, None));
    }
    let job = Job::find(|name| std::env::var_os(name))
        .context("there is no LARDER_TOKEN, and this is no CI job that can say who it is")?;
    let client = Client::new(ClientOptions::default())?;
    let audience = audience.unwrap_or_else(|| server.to_string());
    let identity_token = job.identity_token(&client, &audience).await?;
    if let Job::Given(_) = job {
        // It can be exchanged once, and Bazel may ask more often. The server takes it as it is, until its time is over.
        let claims = decoded_claims(identity_token.expose().as_bytes())?;
        let expires_at_ms = expiry_ms(&claims).context("the identity token has no end")?;
        return Ok(bearer(&identity_token, Some(expires_at_ms)));
    }
    let given = session::exchange(&client, &server, &identity_token, None).await?;
    let expires_at_ms = clock::now_ms() + given.expires_in_secs * 1000;
    Ok(bearer(&given.token, Some(expires_at_ms)))
}

fn expiry_ms(claims: &Claims) -> Option<u64> {
    claims.whole_number("exp")?.checked_mul(1000)
}

fn bearer(token: &Secret, expires_at_ms: Option<u64>) -> Answer {
    let value = format!("Bearer {}", token.expose());
    let expires = expires_at_ms.map(|ms| clock::utc_text(ms.saturating_sub(MARGIN_MS)));
    Answer {
        headers: BTreeMap::from([("Authorization", vec![value])]),
        expires,
    }
}
