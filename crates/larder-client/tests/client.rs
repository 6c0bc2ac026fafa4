//! The client against a real hyper server, plain and over TLS, that does what servers should not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use larder_client::{
    ANSWER_HEADER_BYTES_MAX, Client, ClientError, ClientOptions, ConnectProblem, OptionsError,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Longer than any exchange of these tests needs, and shorter than anybody would wait.
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: usize = 1000;

type Body = BoxBody<Bytes, Infallible>;

#[tokio::test]
async fn link_local_addresses_are_not_asked_however_they_are_written() {
    let client = Client::new(ClientOptions {
        timeout: PATIENCE,
        ..ClientOptions::default()
    });
    let client = client.unwrap();
    // The last two are names, which the system looks up as the address that they are.
    for host in [
        "169.254.169.254",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "0xa9fea9fe",
        "2852039166",
    ] {
        let request = Request::get(format!("http://{host}:1/latest/meta-data/"));
        let answer = client.send(request.body(Bytes::new()).unwrap()).await;
        let expected = ClientError::Connect {
            peer: format!("{host}:1"),
            problem: ConnectProblem::LinkLocal,
        };
        assert_eq!(answer.unwrap_err(), expected);
    }
}

/// A server in this process: which connections it has had, and where it is.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn plain() -> Self {
        Self::start(None).await
    }

    async fn start(tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let tls = tls.clone();
                tokio::spawn(async move {
                    let Some(tls) = tls else {
                        return talk(socket).await;
                    };
                    if let Ok(socket) = tls.accept(socket).await {
                        talk(socket).await;
                    }
                });
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn talk(socket: impl AsyncRead + AsyncWrite + Unpin + 'static) {
    // Whether the client stays to the end is what some of the tests are about.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(socket), service_fn(answer))
        .await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let sent = body.collect().await.map(Collected::to_bytes);
    let mut response = Response::new(full(b"hello"));
    match head.uri.path() {
        "/moved" => {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response
                .headers_mut()
                .insert("location", HeaderValue::from_static("/elsewhere"));
        }
        "/elsewhere" => panic!("the client followed a redirect"),
        "/never" => std::future::pending().await,
        "/stops" => *response.body_mut() = pieces(&[b"first"], After::Silence),
        "/exact" => *response.body_mut() = full(&[7; ANSWER_BYTES_MAX]),
        "/declared" => *response.body_mut() = full(&[7; ANSWER_BYTES_MAX + 1]),
        "/streamed" => {
            *response.body_mut() = pieces(&[&[7; ANSWER_BYTES_MAX], b"!"], After::Silence);
        }
        "/half-the-headers" | "/twice-the-headers" => {
            let limit = ANSWER_HEADER_BYTES_MAX as usize;
            let half = head.uri.path() == "/half-the-headers";
            let large = vec![b'a'; if half { limit / 2 } else { 2 * limit }];
            let large = HeaderValue::from_bytes(&large).unwrap();
            response.headers_mut().insert("x-large", large);
        }
        "/trailers" => *response.body_mut() = pieces(&[b"hello"], After::Trailers),
        "/echo" => {
            let mut said = format!("{:?} {} ", head.version, head.uri.path());
            said += head.headers["user-agent"].to_str().unwrap();
            said += " ";
            said += &String::from_utf8_lossy(&sent.unwrap());
            *response.body_mut() = full(said.as_bytes());
        }
        other => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            *response.body_mut() = full(other.as_bytes());
        }
    }
    Ok(response)
}

/// What comes after the pieces of a body.
#[derive(Clone, Copy)]
enum After {
    Silence,
    Trailers,
    End,
}

fn full(bytes: &[u8]) -> Body {
    Full::new(Bytes::copy_from_slice(bytes)).boxed()
}

fn pieces(pieces: &[&[u8]], after: After) -> Body {
    let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece));
    Pieces(pieces.collect(), after).boxed()
}

/// A body without a declared length.
struct Pieces(VecDeque<Bytes>, After);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match (self.0.pop_front(), self.1) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, After::Silence) => Poll::Pending,
            (None, After::End) => Poll::Ready(None),
            (None, After::Trailers) => {
                self.1 = After::End;
                let mut trailers = HeaderMap::new();
                trailers.insert("x-after", HeaderValue::from_static("all"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }
}

/// A certificate authority and what it issues.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server named `name` that asks for certificates of `clients`, if there is such an authority.
    fn server(&self, name: &str, clients: Option<&Self>) -> ServerConfig {
        let aws_lc_rs = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&aws_lc_rs))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.0.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), aws_lc_rs);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let (certificate, key) = self.issue(name);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

fn options() -> ClientOptions {
    ClientOptions {
        system_roots: false,
        timeout: PATIENCE,
        answer_bytes_max: ANSWER_BYTES_MAX,
        ..ClientOptions::default()
    }
}

fn trusting(authority: &Authority) -> ClientOptions {
    ClientOptions {
        extra_roots_pem: vec![authority.pem()],
        ..options()
    }
}

async fn get(options: ClientOptions, url: &str) -> Result<Response<Bytes>, ClientError> {
    let client = Client::new(options).unwrap();
    let request = Request::get(url).body(Bytes::from_static(b"sent")).unwrap();
    client.send(request).await
}

async fn check_no_connection(options: ClientOptions, url: &str, expected: &ConnectProblem) {
    match get(options, url).await {
        Err(ClientError::Connect { problem, .. }) => assert_eq!(problem, *expected),
        other => panic!("{url}: {other:?} instead of {expected:?}"),
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let server = Server::plain().await;
    let answer = get(options(), &server.url("http", "/moved")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.headers()["location"], "/elsewhere");
}

#[tokio::test]
async fn a_path_is_sent_as_it_is_written() {
    let server = Server::plain().await;
    for path in ["//a/./b/../c", "/%2e%2e/%2Fa%41", "/a//"] {
        let answer = get(options(), &server.url("http", path)).await.unwrap();
        assert_eq!(answer.body(), path);
    }
}

#[tokio::test]
async fn it_speaks_the_protocol_that_was_asked_for_with_and_without_tls() {
    let authority = Authority::new("ours");
    let plain = Server::plain().await;
    let tls = Server::start(Some(authority.server("localhost", None))).await;
    for (http2_only, version) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
        for url in [plain.url("http", "/echo"), tls.url("https", "/echo")] {
            let options = ClientOptions {
                http2_only,
                ..trusting(&authority)
            };
            let answer = get(options, &url).await.unwrap();
            let expected = format!(
                "{version:?} /echo larder/{} sent",
                env!("CARGO_PKG_VERSION")
            );
            assert_eq!(answer.body(), &expected);
        }
    }
}

#[tokio::test]
async fn a_connection_is_used_again_also_after_a_miss() {
    let authority = Authority::new("ours");
    let server = Server::start(Some(authority.server("localhost", None))).await;
    let client = Client::new(trusting(&authority)).unwrap();
    for path in ["/echo", "/missing", "/moved", "/echo"] {
        let request = Request::get(server.url("https", path));
        client
            .send(request.body(Bytes::new()).unwrap())
            .await
            .unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_server_that_cannot_prove_its_name_gets_nothing() {
    let authority = Authority::new("ours");
    let ours = Server::start(Some(authority.server("localhost", None))).await;
    let url = ours.url("https", "/echo");
    // An authority that only has the name of ours is as unknown as any other.
    for other in [Authority::new("another"), Authority::new("ours")] {
        check_no_connection(trusting(&other), &url, &ConnectProblem::UnknownIssuer).await;
    }
    check_no_connection(options(), &url, &ConnectProblem::UnknownIssuer).await;
    let system = ClientOptions::default();
    check_no_connection(system, &url, &ConnectProblem::UnknownIssuer).await;

    let wrong = Server::start(Some(authority.server("cache.example", None))).await;
    let url = wrong.url("https", "/echo");
    check_no_connection(trusting(&authority), &url, &ConnectProblem::WrongName).await;
}

#[tokio::test]
async fn what_keeps_a_connection_from_coming_about_is_told() {
    let authority = Authority::new("ours");
    let plain = Server::plain().await;
    let url = plain.url("https", "/echo");
    check_no_connection(trusting(&authority), &url, &ConnectProblem::NotTls).await;

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", free.local_addr().unwrap());
    drop(free);
    check_no_connection(options(), &url, &ConnectProblem::Refused).await;

    let url = "http://no-such-host.invalid/";
    check_no_connection(options(), url, &ConnectProblem::NoSuchName).await;
}

#[tokio::test]
async fn an_identity_is_shown_to_a_server_that_asks_for_one() {
    let (authority, people) = (Authority::new("ours"), Authority::new("people"));
    let server = Server::start(Some(authority.server("localhost", Some(&people)))).await;
    let url = server.url("https", "/echo");
    let (certificate, key) = people.issue("ci.example");
    let identified = ClientOptions {
        identity_pem: Some((key.serialize_pem() + &certificate.pem()).into_bytes()),
        ..trusting(&authority)
    };
    assert!(!format!("{identified:?}").contains("PRIVATE"));
    assert_eq!(
        get(identified, &url).await.unwrap().status(),
        StatusCode::OK
    );

    // In TLS 1.3 the client has finished before the server looks for the certificate.
    let error = get(trusting(&authority), &url).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_slow_is_waited_for_until_the_deadline_and_no_longer() {
    let server = Server::plain().await;
    for (path, http2_only) in [("/never", false), ("/stops", false), ("/stops", true)] {
        let options = ClientOptions {
            timeout: Duration::from_millis(300),
            http2_only,
            ..options()
        };
        let limit = options.timeout;
        let began = Instant::now();
        let error = get(options, &server.url("http", path)).await.unwrap_err();
        assert!(began.elapsed() < limit * 10);
        let peer = format!("localhost:{}", server.address.port());
        assert_eq!(error, ClientError::TimedOut { peer, limit });
    }
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_not_read_to_its_end() {
    let server = Server::plain().await;
    for http2_only in [false, true] {
        let options = ClientOptions {
            http2_only,
            ..options()
        };
        let exact = get(options.clone(), &server.url("http", "/exact")).await;
        assert_eq!(exact.unwrap().body().len(), ANSWER_BYTES_MAX);
        for path in ["/declared", "/streamed"] {
            let error = get(options.clone(), &server.url("http", path)).await;
            let error = error.unwrap_err();
            assert!(
                matches!(error, ClientError::AnswerTooLarge { .. }),
                "{error}"
            );
            assert!(error.to_string().contains("1000 bytes"), "{error}");
        }
        let half = get(options.clone(), &server.url("http", "/half-the-headers")).await;
        assert_eq!(half.unwrap().status(), StatusCode::OK);
        let answer = get(options, &server.url("http", "/twice-the-headers")).await;
        let error = answer.map(|answer| answer.status()).unwrap_err();
        assert!(matches!(error, ClientError::BrokenOff { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello";
        // Read first: a socket that is closed with bytes unread is reset.
        assert_ne!(socket.read(&mut [0; 4096]).await.unwrap(), 0);
        socket.write_all(answer).await.unwrap();
    });
    let error = get(options(), &format!("http://{address}/"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::BrokenOff { .. }), "{error}");
}

#[tokio::test]
async fn trailers_arrive() {
    let server = Server::plain().await;
    let client = Client::new(ClientOptions {
        http2_only: true,
        ..options()
    });
    let request = Request::post(server.url("http", "/trailers")).body(Bytes::new());
    let (answer, trailers) = client
        .unwrap()
        .send_for_trailers(request.unwrap())
        .await
        .unwrap();
    assert_eq!(answer.body(), "hello");
    assert_eq!(trailers["x-after"], "all");
}

#[tokio::test]
async fn what_is_no_place_to_send_to_is_refused_and_not_repeated() {
    for url in [
        "ftp://localhost/",
        "/path",
        "https://name:secret@localhost/",
    ] {
        let error = get(options(), url).await.unwrap_err();
        assert_eq!(error, ClientError::Url);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn options_that_are_not_what_they_should_be_are_refused() {
    let check = |options: ClientOptions| Client::new(options).map(drop).unwrap_err();
    for pem in [
        "",
        "nothing",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = check(ClientOptions {
            extra_roots_pem: vec![pem.into()],
            ..options()
        });
        assert!(matches!(error, OptionsError::Roots(_)), "{error}");
        let error = check(ClientOptions {
            identity_pem: Some(pem.into()),
            ..options()
        });
        assert!(matches!(error, OptionsError::Identity(_)), "{error}");
    }
    let error = check(ClientOptions {
        user_agent: "two\nlines".to_owned(),
        ..options()
    });
    assert!(matches!(error, OptionsError::UserAgent(_)), "{error}");
}
