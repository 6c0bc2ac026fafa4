//! Sending a request and collecting its answer, within limits.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::addresses::{Names, is_link_local_host};
use crate::error::{ClientError, ConnectProblem, OptionsError};
use crate::tls;

/// How many bytes of headers an answer may have. Servers send a few hundred; proxies in front of them add as much again.
/// HTTP/1.1 notices an excess only after the read that brings it.
pub const ANSWER_HEADER_BYTES_MAX: u32 = 64 * 1024;

/// How long a connection may be idle before it is closed: well under the minute after which most servers do it, so that
/// few requests meet a connection that is just ending.
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// How a [`Client`] behaves.
#[derive(Clone)]
pub struct ClientOptions {
    /// Whether the certificate authorities of the system (or of `SSL_CERT_FILE`) are trusted.
    pub system_roots: bool,
    /// Further certificate authorities to trust, each text one or more PEM certificates.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// With what the client shows who it is, if a server asks: a PEM private key and its certificates, leaf first.
    pub identity_pem: Option<Vec<u8>>,
    /// How long an exchange may take, from the name's look-up to the last byte of the answer.
    pub timeout: Duration,
    /// How many bytes the body of an answer may have.
    pub answer_bytes_max: usize,
    /// The header `User-Agent` of requests that have none.
    pub user_agent: String,
    /// Speak HTTP/2 alone: without TLS it is spoken at once ("prior knowledge"), with TLS it is the only protocol offered.
    /// Else HTTP/1.1 alone.
    pub http2_only: bool,
    /// Whether link-local addresses are asked, and those at which clouds answer their own machines.
    pub link_local: bool,
}

impl Default for ClientOptions {
    /// The system's roots, no identity, 30 seconds, 1 MiB, `larder/VERSION`, HTTP/1.1, no link-local addresses.
    fn default() -> Self {
        Self {
            system_roots: true,
            extra_roots_pem: Vec::new(),
            identity_pem: None,
            timeout: Duration::from_secs(30),
            answer_bytes_max: 1024 * 1024,
            user_agent: concat!("larder/", env!("CARGO_PKG_VERSION")).to_owned(),
            http2_only: false,
            link_local: false,
        }
    }
}

impl fmt::Debug for ClientOptions {
    /// Without the identity, which has a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("system_roots", &self.system_roots)
            .field("extra_roots_pem", &self.extra_roots_pem.len())
            .field("identity_pem", &self.identity_pem.is_some())
            .field("timeout", &self.timeout)
            .field("answer_bytes_max", &self.answer_bytes_max)
            .field("user_agent", &self.user_agent)
            .field("http2_only", &self.http2_only)
            .field("link_local", &self.link_local)
            .finish()
    }
}

/// Sends requests over connections that it keeps for the next. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    pooled: Pooled<HttpsConnector<HttpConnector<Names>>, Full<Bytes>>,
    link_local: bool,
    timeout: Duration,
    answer_bytes_max: usize,
    user_agent: HeaderValue,
}

impl Client {
    /// A client that has sent nothing yet. Reads the system's certificate authorities, if it is to trust them.
    pub fn new(options: ClientOptions) -> Result<Self, OptionsError> {
        let user_agent = HeaderValue::try_from(&options.user_agent)
            .map_err(|_| OptionsError::UserAgent(options.user_agent.clone()))?;
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls::configuration(&options)?)
            .https_or_http();
        let mut tcp = HttpConnector::new_with_resolver(Names::new(options.link_local));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = if options.http2_only {
            https.enable_http2().wrap_connector(tcp)
        } else {
            https.enable_http1().wrap_connector(tcp)
        };
        let pooled = Pooled::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .http1_max_buf_size(ANSWER_HEADER_BYTES_MAX as usize)
            .http2_max_header_list_size(ANSWER_HEADER_BYTES_MAX)
            .http2_only(options.http2_only)
            .build(connector);
        Ok(Self {
            pooled,
            link_local: options.link_local,
            timeout: options.timeout,
            answer_bytes_max: options.answer_bytes_max,
            user_agent,
        })
    }

    /// Sends `request`, whose URI is whole (`https://host/path`) and without a user's name, and collects the answer,
    /// whatever its status. The path is sent as it is written.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        self.send_for_trailers(request)
            .await
            .map(|(answer, _)| answer)
    }

    /// As [`send`](Self::send), and what followed the answer's body: empty if nothing did.
    pub async fn send_for_trailers(
        &self,
        mut request: Request<Bytes>,
    ) -> Result<(Response<Bytes>, HeaderMap), ClientError> {
        let peer = peer(request.uri())?;
        // An address is not looked up, so nobody else would look at it.
        let host = request.uri().host().unwrap_or_default();
        if !self.link_local && is_link_local_host(host) {
            return Err(ClientError::Connect {
                peer,
                problem: ConnectProblem::LinkLocal,
            });
        }
        request
            .headers_mut()
            .entry(USER_AGENT)
            .or_insert_with(|| self.user_agent.clone());
        tokio::time::timeout(self.timeout, self.exchange(&peer, request))
            .await
            .unwrap_or(Err(ClientError::TimedOut {
                peer,
                limit: self.timeout,
            }))
    }

    async fn exchange(
        &self,
        peer: &str,
        request: Request<Bytes>,
    ) -> Result<(Response<Bytes>, HeaderMap), ClientError> {
        let answer = self
            .pooled
            .request(request.map(Full::new))
            .await
            .map_err(|error| ClientError::of_request(peer, &error))?;
        let (head, body) = answer.into_parts();
        let (body, trailers) = self.collect(peer, body).await?;
        Ok((Response::from_parts(head, body), trailers))
    }

    async fn collect(
        &self,
        peer: &str,
        mut body: Incoming,
    ) -> Result<(Bytes, HeaderMap), ClientError> {
        let too_large = || ClientError::AnswerTooLarge {
            peer: peer.to_owned(),
            limit: self.answer_bytes_max,
        };
        if body.size_hint().lower() > self.answer_bytes_max as u64 {
            return Err(too_large());
        }
        let mut collected = BytesMut::new();
        let mut trailers = HeaderMap::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ClientError::broken_off(peer, &error))?;
            match frame.into_data() {
                Ok(piece) if collected.len() + piece.len() > self.answer_bytes_max => {
                    return Err(too_large());
                }
                Ok(piece) => collected.extend_from_slice(&piece),
                Err(frame) => {
                    if let Ok(followed) = frame.into_trailers() {
                        trailers = followed;
                    }
                }
            }
        }
        Ok((collected.freeze(), trailers))
    }
}

/// Whom a request goes to, as errors name it: `host:port`, or the host alone.
fn peer(uri: &Uri) -> Result<String, ClientError> {
    let authority = uri.authority().filter(|authority| {
        // A name and password in front of the host would end up in logs.
        !authority.as_str().contains('@') && !authority.host().is_empty()
    });
    match (uri.scheme_str(), authority) {
        (Some("http" | "https"), Some(authority)) => Ok(authority.as_str().to_owned()),
        _ => Err(ClientError::Url),
    }
}
