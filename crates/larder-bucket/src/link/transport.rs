//! How requests reach a store of the cloud: HTTP/1.1 over the connections of hyper, TLS by rustls.
//!
//! `object_store` brings the protocols and leaves the wire to an [`HttpConnector`]; with this one there is no second HTTP
//! client in the program. What its own client options say is not looked at: certificates are always verified, redirects are
//! answers, no proxy of the environment is used.
//!
//! An answer that `object_store` would make a text of is read here, while its status and the store's own code for what is
//! wrong can still be told: it becomes an error with a [`Refusal`] in it.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use larder_client::{ClientError, OptionsError, tls_configuration};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};

/// An address that does not answer, such as that of a cloud's credentials outside of it, is given up before the whole
/// request is, and the error says which it was.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Stores close idle connections after 5 (S3) to 240 seconds; a request that meets one which is closing is lost.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// What is read of the body of a refusal. They have a few hundred bytes.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// An answer that is neither success nor one of the few that `object_store` tells apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status.
    pub(crate) status: StatusCode,
    /// The store's code, such as `SlowDown`; empty if there was none.
    pub(crate) code: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " ({})", self.code)?;
        }
        if self.status.is_redirection() {
            f.write_str(": the bucket is in another region or at another endpoint")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Connections to stores, kept for the next request. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    pooled: Client<HttpsConnector<Tcp>, HttpRequestBody>,
}

impl Transport {
    /// Trusts the system's certificate authorities and these, each text one or more PEM certificates.
    pub(crate) fn new(extra_roots_pem: &[Vec<u8>]) -> Result<Self, OptionsError> {
        let tls = tls_configuration(&larder_client::ClientOptions {
            extra_roots_pem: extra_roots_pem.to_vec(),
            ..Default::default()
        })?;
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let pooled = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .build(https);
        Ok(Self { pooled })
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let peer = request
            .uri()
            .authority()
            .map_or_else(String::new, |authority| authority.host().to_owned());
        let is_head = request.method() == Method::HEAD;
        request
            .headers_mut()
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!(
                "larder/",
                env!("CARGO_PKG_VERSION")
            )));
        let answer = self.pooled.request(request).await.map_err(|error| {
            let kind = if error.is_connect() {
                HttpErrorKind::Connect
            } else {
                HttpErrorKind::Interrupted
            };
            HttpError::new(kind, ClientError::of_request(&peer, &error))
        })?;
        let (head, body) = answer.into_parts();
        if head.status.is_success() || head.status == StatusCode::NOT_MODIFIED || is_head {
            let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
            return Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)));
        }
        let body = Limited::new(body, REFUSAL_BYTES_MAX)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let refusal = Refusal {
            status: head.status,
            code: code(&head, &body),
        };
        if is_told_apart(&refusal) {
            let body = Full::new(body).map_err(|never| match never {});
            return Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)));
        }
        Err(HttpError::new(HttpErrorKind::Unknown, refusal))
    }
}

/// Whether `object_store` may see this answer, because what it makes of the status is right.
fn is_told_apart(refusal: &Refusal) -> bool {
    match refusal.status {
        // A bucket that is not there is not an object that is not there.
        StatusCode::NOT_FOUND => !matches!(
            refusal.code.as_str(),
            "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted" | "ResourceNotFound"
        ),
        // Of two conditional writes at a time, or beside a delete: nothing was written, and nothing is known to exist.
        StatusCode::CONFLICT => !matches!(
            refusal.code.as_str(),
            "ConditionalRequestConflict" | "OperationAborted"
        ),
        StatusCode::PRECONDITION_FAILED => true,
        // Those who fetch credentials ask another way when this is the answer.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => refusal.code.is_empty(),
        _ => false,
    }
}

/// The store's word for what is wrong: a header of Azure's, or `<Code>` of the XML that all of them answer with.
fn code(head: &http::response::Parts, body: &Bytes) -> String {
    const CODE_BYTES_MAX: usize = 64;
    let header = head
        .headers
        .get("x-ms-error-code")
        .and_then(|value| value.to_str().ok());
    let text = String::from_utf8_lossy(body);
    let element = text
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"))
        .map(|(code, _)| code);
    let code = header.or(element).unwrap_or_default();
    if code.len() <= CODE_BYTES_MAX && code.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        code.to_owned()
    } else {
        String::new()
    }
}

/// The refusal in an error's chain, if the error is one.
pub(crate) fn refusal<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refusal> {
    find(error)
}

/// The first error of this type in a chain.
pub(crate) fn find<'a, T: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // An `io::Error` hides what it wraps from `source`.
        link = match error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}
