//! A client's side of `/v1/oauth` and `/v1/whoami`.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, Response, StatusCode};
use larder_client::Client;
use larder_protocols::identity::{OauthError, Rights, TokenResponse, WhoamiResponse};

use super::percent;
use super::secret::Secret;
use super::server_url::ServerUrl;

const FORM: &str = "application/x-www-form-urlencoded";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A session that the server gave.
pub(crate) struct Session {
    pub(crate) token: Secret,
    pub(crate) expires_in_secs: u64,
    pub(crate) rights: Rights,
}

/// Exchanges an identity token for a session.
pub(crate) async fn exchange(
    client: &Client,
    server: &ServerUrl,
    identity_token: &Secret,
    scope: Option<&str>,
) -> anyhow::Result<Session> {
    let mut parameters = vec![
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token_type", JWT),
        ("subject_token", identity_token.expose()),
    ];
    if let Some(scope) = scope {
        parameters.push(("scope", scope));
    }
    let answer = post(client, &server.at("/v1/oauth/token"), &parameters).await?;
    if answer.status() != StatusCode::OK {
        bail!("{server} gave no session: {}", reason(&answer));
    }
    let given: TokenResponse = serde_json::from_slice(answer.body())
        .ok()
        .with_context(|| format!("{server} does not answer as Larder does"))?;
    Ok(Session {
        token: Secret::read(&given.access_token).context("the session has no token")?,
        expires_in_secs: given.expires_in,
        rights: given.cache,
    })
}

/// Ends a session.
pub(crate) async fn revoke(
    client: &Client,
    server: &ServerUrl,
    token: &Secret,
) -> anyhow::Result<()> {
    let parameters = [("token", token.expose())];
    let answer = post(client, &server.at("/v1/oauth/revoke"), &parameters).await?;
    if answer.status() != StatusCode::OK {
        bail!("{server} did not end the session: {}", reason(&answer));
    }
    Ok(())
}

/// Asks who the holder of `token` is, or who somebody without any is.
pub(crate) async fn whoami(
    client: &Client,
    server: &ServerUrl,
    token: Option<&Secret>,
) -> anyhow::Result<WhoamiResponse> {
    let mut request = Request::get(server.at("/v1/whoami"));
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let answer = client.send(request.body(Bytes::new())?).await?;
    if answer.status() != StatusCode::OK {
        bail!("{server} says: {}", reason(&answer));
    }
    serde_json::from_slice(answer.body())
        .ok()
        .with_context(|| format!("{server} does not answer as Larder does"))
}

async fn post(
    client: &Client,
    url: &str,
    parameters: &[(&str, &str)],
) -> anyhow::Result<Response<Bytes>> {
    let request = Request::post(url)
        .header(CONTENT_TYPE, FORM)
        .body(Bytes::from(percent::form(parameters)))?;
    Ok(client.send(request).await?)
}

/// What a server says of its refusal, without what could command a terminal.
fn reason(answer: &Response<Bytes>) -> String {
    let status = answer.status();
    match serde_json::from_slice::<OauthError>(answer.body()) {
        Ok(error) => {
            let id = error.request_id.map(|id| format!(" (request {id})"));
            let text = format!(
                "{} ({}){}",
                error.error_description,
                error.error,
                id.unwrap_or_default()
            );
            text.chars()
                .flat_map(|c| crate::terminal::escaped(c).chars().collect::<Vec<_>>())
                .collect()
        }
        Err(_) => format!("status {status}"),
    }
}
