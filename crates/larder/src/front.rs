//! The program's own few routes, and everything else to the gateway.
//!
//! Nothing here asks for a credential. One that is sent to `/status` must be good, because that is where moon shows its user
//! that it is not. `/metrics`, which names every workspace, is for processes of
//! this machine unless the operator opens it to all; the other routes say whether the server
//! lives, and nothing of what it holds.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, WWW_AUTHENTICATE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version};
use larder_auth::BadCredential;
use larder_cache::PoolState;
use larder_protocols::{Answer, Body, Gateway, OPENAPI_JSON, Origin, Peer};
use prometheus_client::registry::Registry;

use crate::bucket::{self, Depot};
use crate::config::{HttpSettings, MetricsAudience};
use crate::exposure;
use crate::logging::chain;
use crate::net::Request;
use crate::pools::Pools;
use crate::roster::Roster;

/// Where a command that changed tokens says so, on the control socket. The server would notice by
/// itself, a little later.
pub(crate) const REREAD_TOKENS: &str = "/tokens/reread";

/// Where the control socket tells the names of the pools that the server has open.
pub(crate) const POOLS: &str = "/pools";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything an answer may need.
pub(crate) struct Front {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) pools: Arc<Pools>,
    pub(crate) depot: Option<Depot>,
    pub(crate) registry: Registry,
    pub(crate) settings: ArcSwap<HttpSettings>,
    pub(crate) started: Instant,
}

impl Front {
    /// Answers a request of a TCP port, from whoever is at the other end of its connection.
    pub(crate) fn answer(&self, mut request: Request, peer: &Arc<Peer>) -> Answer {
        if !has_one_host(&request) {
            return no_host().into();
        }
        let settings = self.settings.load();
        if let Some(inside) = below(request.uri(), &settings.base_path) {
            *request.uri_mut() = inside;
        }
        let local =
            || exposure::is_local(peer.address, request.headers(), &settings.trusted_proxies);
        let origin = exposure::origin(peer, request.headers(), &settings.trusted_proxies);
        let origin = Origin::Tcp(origin);
        match self.own_route(&request, &origin, local) {
            Some(answer) => answer,
            None => self.gateway.handle(request, origin),
        }
    }

    /// Answers a request of the control socket: the operator's.
    pub(crate) async fn answer_operator(&self, request: Request) -> Response<Body> {
        if request.uri().path() == REREAD_TOKENS && *request.method() == Method::POST {
            return match self.roster.catch_up().await {
                Ok(()) => answer(StatusCode::OK, TEXT, Bytes::new()),
                Err(error) => {
                    tracing::error!(error = %chain(&error), "tokens were not read again");
                    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, Bytes::new())
                }
            };
        }
        if request.uri().path() == POOLS {
            let names: Vec<String> = self.pools.names().map(ToString::to_string).collect();
            return answer(
                StatusCode::OK,
                JSON,
                serde_json::json!(names).to_string().into(),
            );
        }
        let path = request.uri().path();
        if path.starts_with(bucket::ROUTES) {
            return bucket::answer(self.depot.as_ref(), request.method(), path).await;
        }
        let origin = Origin::ControlSocket;
        match self.own_route(&request, &origin, || true) {
            Some(answer) => answer.await,
            None => self.gateway.handle(request, origin).await,
        }
    }

    fn own_route(
        &self,
        request: &Request,
        origin: &Origin,
        local: impl Fn() -> bool,
    ) -> Option<Answer> {
        let route: &dyn Fn() -> Answer = match request.uri().path() {
            "/healthz" => &|| answer(StatusCode::OK, TEXT, "ok\n".into()).into(),
            "/readyz" => &|| self.readiness().into(),
            "/status" => &|| self.status(request.headers(), origin),
            "/metrics" => &|| self.metrics(local()).into(),
            "/openapi.json" => &|| {
                let document = Bytes::from_static(OPENAPI_JSON.as_bytes());
                answer(StatusCode::OK, JSON, document).into()
            },
            _ => return None,
        };
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return Some(route());
        }
        let text = "only GET and HEAD here\n";
        let mut refusal = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, text.into());
        let allowed = HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(ALLOW, allowed);
        Some(refusal.into())
    }

    fn readiness(&self) -> Response<Body> {
        if self.pools.ready() {
            return answer(StatusCode::OK, TEXT, "ready\n".into());
        }
        let failed = self
            .pools
            .states()
            .any(|(_, state)| state == PoolState::Failed);
        let text = if failed {
            "a pool cannot be opened; see the log\n"
        } else {
            "loading\n"
        };
        answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text.into())
    }

    fn status(&self, headers: &HeaderMap, origin: &Origin) -> Answer {
        let status = serde_json::json!({
            "name": "larder",
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": self.pools.ready(),
        });
        self.gateway
            .check_credential(headers, origin, move |checked| match checked {
                Ok(()) => answer(StatusCode::OK, JSON, format!("{status}\n").into()),
                Err(bad) => bad_credential(bad),
            })
    }

    fn metrics(&self, local: bool) -> Response<Body> {
        let allowed = match self.settings.load().metrics {
            MetricsAudience::Open => true,
            MetricsAudience::Local => local,
        };
        if !allowed {
            let text = "metrics are for local processes; see the key metrics of [http]\n";
            return answer(StatusCode::FORBIDDEN, TEXT, text.into());
        }
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => answer(StatusCode::OK, METRICS, text.into()),
            Err(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, Bytes::new()),
        }
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn bad_credential(bad: BadCredential) -> Response<Body> {
    let text = bad.to_string().into();
    let mut refusal = answer(StatusCode::UNAUTHORIZED, "text/plain", text);
    for scheme in ["Bearer", "Basic realm=\"larder\""] {
        let scheme = HeaderValue::from_static(scheme);
        refusal.headers_mut().append(WWW_AUTHENTICATE, scheme);
    }
    refusal
}

/// RFC 9112, section 3.2: a request of HTTP/1.1 names its host, once. Proxies that disagree about which host is meant can be
/// made to disagree about more.
fn has_one_host(request: &Request) -> bool {
    request.version() != Version::HTTP_11 || request.headers().get_all(HOST).iter().count() == 1
}

fn no_host() -> Response<Body> {
    let mut refusal = answer(
        StatusCode::BAD_REQUEST,
        TEXT,
        "a request names its host, once\n".into(),
    );
    let close = HeaderValue::from_static("close");
    refusal.headers_mut().insert(CONNECTION, close);
    refusal
}

/// The address without the base path, if it begins with it. Clients join their server's address
/// and their own path carelessly, so any number of slashes may come first.
fn below(uri: &Uri, base_path: &str) -> Option<Uri> {
    if base_path.is_empty() {
        return None;
    }
    let whole = uri.path_and_query()?.as_str();
    let trimmed = whole.trim_start_matches('/');
    let rest = trimmed.strip_prefix(&base_path[1..])?;
    let inside = match rest.as_bytes().first() {
        None => "/".to_owned(),
        Some(b'/') => rest.to_owned(),
        Some(b'?') => format!("/{rest}"),
        Some(_) => return None,
    };
    Some(Uri::from(inside.parse::<PathAndQuery>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_is_taken_off_whole_or_not_at_all() {
        for (uri, inside) in [
            ("/cache/v1/cache/1?x=2", Some("/v1/cache/1?x=2")),
            ("//cache/v1/cache/1", Some("/v1/cache/1")),
            ("http://host/cache/healthz", Some("/healthz")),
            ("/cache", Some("/")),
            ("/cache?x", Some("/?x")),
            ("/cached/v1", None),
            ("/v1/cache/1", None),
        ] {
            let found = below(&uri.parse().unwrap(), "/cache").map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), inside, "{uri}");
        }
        assert!(below(&"/v1".parse().unwrap(), "").is_none());
    }
}
