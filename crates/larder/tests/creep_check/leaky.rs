//! A cache with one hole: what `creep-check` must find. Without a hole it keeps pull requests apart as it should.
//!
//! A real server over real sockets, for Nx over HTTP/1.1 and for the Remote Execution API over HTTP/2, that does wrong
//! exactly one thing that servers and the proxies in front of them have been known to do.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use larder_grpc::{Code, Status, frame, response};
use larder_proto::reapi::{
    ActionResult, BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest,
    BatchUpdateBlobsResponse, Digest, FindMissingBlobsRequest, FindMissingBlobsResponse,
    GetActionResultRequest, UpdateActionResultRequest, action_cache, batch_read_blobs_response,
    batch_update_blobs_response, content_addressable_storage as cas,
};
use larder_proto::{Message, bytestream, rpc};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// What the server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hole {
    None,
    /// Whoever was first keeps trunk from storing.
    FirstKeepsOut,
    /// A pull request's store replaces trunk's.
    Overwrites,
    /// A pull request deletes what is trunk's.
    Deletes,
    /// Other pull requests, readers and strangers read a pull request's entries.
    Siblings,
    /// Who has no credential stores as trunk.
    NobodyStores,
    /// The path may say where to write.
    Prefix,
    /// The rule is for the path as it came, the entry for the path made plain.
    DotSegments,
    /// A header replaces the path after the rule was applied.
    OriginalUrl,
    /// A header replaces the method after the rule was applied.
    MethodOverride,
    /// The user's name decides, and the password is anybody's.
    BasicUser,
    /// A header says whose build it is.
    Claims,
    /// A pull request's store replaces trunk's if trunk has not read it since.
    AtOnce,
    /// What a pull request stores becomes trunk's some time later.
    Late,
    /// What a pull request stores is accepted, and becomes trunk's after the check.
    AfterTheCheck,
    /// No hole, but trunk does not always find what is there.
    Misses,
    /// No hole, but what trunk has is evicted now and then.
    Evicts,
    /// The instance name may say where to write.
    InstanceName,
    /// The rule is for the hash as it came, the entry for the hash in small letters.
    Capitals,
    /// Over HTTP everybody reads everybody's results of actions.
    HttpReads,
    /// Over HTTP there are other entries than over gRPC, and all are everybody's.
    HttpSpace,
    /// Everybody is told of everybody's blobs.
    Presence,
    /// Blobs of this door are not verified.
    WrongBatch,
    WrongStream,
    WrongHttp,
}

/// Every so many reads of trunk's miss, with [`Hole::Misses`].
const MISS_INTERVAL: u64 = 37;

/// Every so many reads of trunk's evict, with [`Hole::Evicts`].
const EVICTION_INTERVAL: u64 = 41;

/// After how many requests [`Hole::Late`] shows.
const LATE_REQUESTS: u64 = 100;

const TRUSTED: &str = "trusted";

type Scope = &'static str;
type Body = BoxBody<Bytes, Infallible>;

/// Runs until it is dropped.
pub(crate) struct Leaky {
    address: SocketAddr,
    _runtime: Runtime,
}

struct Server {
    hole: Hole,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    requests: u64,
    trunk_reads: u64,
    entries: HashMap<(Scope, String), Bytes>,
    blobs: HashMap<(Scope, String), Bytes>,
    unread: Vec<String>,
    late: Vec<(u64, String, Bytes)>,
}

impl Leaky {
    pub(crate) fn start(hole: Hole) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Server {
            hole,
            state: Mutex::default(),
        });
        runtime.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    let answer = service_fn(move |request| Arc::clone(&server).answer(request));
                    // The client decides when it has had enough.
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), answer)
                        .await;
                });
            }
        });
        Self {
            address,
            _runtime: runtime,
        }
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }
}

/// The scope of a token, and whether it may write.
fn known(token: &str) -> Option<(Scope, bool)> {
    match token {
        "trunk" => Some((TRUSTED, true)),
        "pull-request" => Some(("pull-request", true)),
        "other-pull-request" => Some(("other-pull-request", true)),
        "reader" => Some((TRUSTED, false)),
        _ => None,
    }
}

fn token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("authorization")?.to_str().ok()?;
    if let Some(token) = value.strip_prefix("Bearer ") {
        return Some(token.to_owned());
    }
    let basic = BASE64_STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(basic).ok()?;
    Some(text.split_once(':')?.1.to_owned())
}

impl Server {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map_or(Bytes::new(), Collected::to_bytes);
        self.let_time_pass();
        let grpc = head
            .headers
            .get("content-type")
            .is_some_and(|kind| kind == "application/grpc");
        Ok(if grpc {
            self.call(head.uri.path(), &head.headers, &body)
        } else {
            self.http(&head, body)
        })
    }

    fn let_time_pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.requests += 1;
        let now = state.requests;
        for (due, key, body) in std::mem::take(&mut state.late) {
            if due > now {
                state.late.push((due, key, body));
            } else {
                state.entries.insert((TRUSTED, key), body);
            }
        }
    }

    /// Stores an entry by the rules, but for the hole.
    fn store(&self, who: Option<(Scope, bool)>, key: &str, body: Bytes) -> StatusCode {
        let scope = match who {
            Some((scope, true)) => scope,
            None if self.hole == Hole::NobodyStores => TRUSTED,
            Some((_, false)) | None => return StatusCode::FORBIDDEN,
        };
        let mut state = self.state.lock().unwrap();
        let has = |scope: Scope| state.entries.contains_key(&(scope, key.to_owned()));
        let replaces = match self.hole {
            Hole::Overwrites => scope == "pull-request" && has(TRUSTED),
            Hole::AtOnce => scope == "pull-request" && state.unread.iter().any(|k| k == key),
            _ => false,
        };
        if replaces || (who.is_none() && has(TRUSTED)) {
            state.entries.insert((TRUSTED, key.to_owned()), body);
            return StatusCode::OK;
        }
        let kept_out = self.hole == Hole::FirstKeepsOut && has("pull-request");
        if has(TRUSTED) || has(scope) || kept_out {
            return StatusCode::CONFLICT;
        }
        if scope == TRUSTED {
            state.unread.push(key.to_owned());
        }
        if self.hole == Hole::Late && scope != TRUSTED {
            let due = state.requests + LATE_REQUESTS;
            state.late.push((due, key.to_owned(), body.clone()));
        }
        if self.hole == Hole::AfterTheCheck && scope != TRUSTED {
            return StatusCode::CREATED;
        }
        state.entries.insert((scope, key.to_owned()), body);
        StatusCode::CREATED
    }

    fn load(&self, who: Option<(Scope, bool)>, key: &str) -> Option<Bytes> {
        let mut state = self.state.lock().unwrap();
        if who.is_some_and(|(scope, _)| scope == TRUSTED) {
            state.unread.retain(|unread| unread != key);
        }
        if who == Some((TRUSTED, true)) {
            state.trunk_reads += 1;
            let trusted = (TRUSTED, key.to_owned());
            let reads = state.trunk_reads;
            match self.hole {
                Hole::Misses if reads.is_multiple_of(MISS_INTERVAL) => return None,
                Hole::Evicts if reads.is_multiple_of(EVICTION_INTERVAL) => {
                    state.entries.remove(&trusted);
                }
                _ => {}
            }
        }
        let of = |scope: Scope| state.entries.get(&(scope, key.to_owned())).cloned();
        let own = who.and_then(|(scope, _)| of(TRUSTED).or_else(|| of(scope)));
        let sibling = self.hole == Hole::Siblings && who != Some((TRUSTED, true));
        own.or_else(|| of("pull-request").filter(|_| sibling))
    }

    fn http(&self, head: &http::request::Parts, body: Bytes) -> Response<Body> {
        let who = token(&head.headers).and_then(|token| known(&token));
        let (who, method, path) = self.read_wrongly(head, who);
        if let Some(hash) = path.strip_prefix("/cas/") {
            return bare(self.store_blob(who, hash, body, self.hole == Hole::WrongHttp));
        }
        if let (Some(hash), true) = (path.strip_prefix("/ac/"), who.is_some()) {
            return self.results(&method, hash, body);
        }
        let key = path.strip_prefix("/v1/cache/").unwrap_or_default();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_digit()) {
            return bare(StatusCode::NOT_FOUND);
        }
        match method {
            Method::PUT => bare(self.store(who, key, body)),
            Method::GET => match self.load(who, key) {
                Some(body) => Response::new(Full::new(body).boxed()),
                None => bare(StatusCode::NOT_FOUND),
            },
            Method::DELETE if self.hole == Hole::Deletes && who.is_some() => {
                let mut state = self.state.lock().unwrap();
                state.entries.remove(&(TRUSTED, key.to_owned()));
                bare(StatusCode::NO_CONTENT)
            }
            _ => bare(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn results(&self, method: &Method, hash: &str, body: Bytes) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        let shared = (TRUSTED, format!("over HTTP {hash}"));
        let found = match (self.hole, method) {
            (Hole::HttpSpace, &Method::PUT) => {
                state.entries.insert(shared, body);
                return bare(StatusCode::OK);
            }
            (Hole::HttpSpace, _) => state.entries.get(&shared),
            (Hole::HttpReads, &Method::GET) => {
                let mut entries = state.entries.iter();
                let of_hash = |((_, key), _): &(&(Scope, String), &Bytes)| key.contains(hash);
                entries.find(of_hash).map(|(_, body)| body)
            }
            _ => None,
        };
        match found {
            Some(body) => Response::new(Full::new(body.clone()).boxed()),
            None => bare(StatusCode::NOT_FOUND),
        }
    }

    /// Who asks for what, read as a server with this hole reads it.
    fn read_wrongly(
        &self,
        head: &http::request::Parts,
        who: Option<(Scope, bool)>,
    ) -> (Option<(Scope, bool)>, Method, String) {
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let header = |name: &str| Some(head.headers.get(name)?.to_str().unwrap().to_owned());
        let misread = match self.hole {
            Hole::Prefix => path
                .strip_prefix("/scope/trusted")
                .map(|path| (method.clone(), path.to_owned())),
            Hole::DotSegments if path.contains("..") => {
                let mut plain: Vec<&str> = Vec::new();
                for segment in path.split('/').skip(1) {
                    match segment {
                        ".." => drop(plain.pop()),
                        segment => plain.push(segment),
                    }
                }
                Some((method.clone(), format!("/{}", plain.join("/"))))
            }
            Hole::OriginalUrl => header("x-original-url").map(|path| (method.clone(), path)),
            Hole::MethodOverride if method == Method::POST => {
                header("x-http-method-override").map(|_| (Method::PUT, path.clone()))
            }
            Hole::Claims => header("x-branch")
                .filter(|branch| branch == "main")
                .map(|_| (method.clone(), path.clone())),
            Hole::BasicUser => header("authorization")
                .and_then(|value| BASE64_STANDARD.decode(value.strip_prefix("Basic ")?).ok())
                .filter(|basic| basic.starts_with(b"trunk:"))
                .map(|_| (method.clone(), path.clone())),
            _ => None,
        };
        match misread {
            // The holes are for writing: what is stored there is trunk's, whatever trunk had.
            Some((method, path)) if who.is_some() => {
                let mut state = self.state.lock().unwrap();
                if let Some(key) = path.strip_prefix("/v1/cache/") {
                    state.entries.remove(&(TRUSTED, key.to_owned()));
                }
                (Some((TRUSTED, true)), method, path)
            }
            _ => (who, method, path),
        }
    }

    fn store_blob(
        &self,
        who: Option<(Scope, bool)>,
        hash: &str,
        body: Bytes,
        unverified: bool,
    ) -> StatusCode {
        let Some((scope, true)) = who else {
            return StatusCode::FORBIDDEN;
        };
        let right = sha256(&body) == hash;
        let scope = match (right, unverified) {
            (true, _) => scope,
            (false, true) => TRUSTED,
            (false, false) => return StatusCode::BAD_REQUEST,
        };
        let mut state = self.state.lock().unwrap();
        state.blobs.insert((scope, hash.to_owned()), body);
        StatusCode::OK
    }

    fn load_blob(&self, who: Option<(Scope, bool)>, hash: &str) -> Option<Bytes> {
        let state = self.state.lock().unwrap();
        let of = |scope: Scope| state.blobs.get(&(scope, hash.to_owned())).cloned();
        who.and_then(|(scope, _)| of(TRUSTED).or_else(|| of(scope)))
    }

    fn call(&self, path: &str, headers: &HeaderMap, body: &Bytes) -> Response<Body> {
        let who = token(headers).and_then(|token| known(&token));
        let message = body.slice(5..);
        let answered = match path {
            cas::BATCH_UPDATE_BLOBS => Ok(self.batch_update(who, read(message))),
            cas::BATCH_READ_BLOBS => Ok(self.batch_read(who, read(message))),
            cas::FIND_MISSING_BLOBS => Ok(self.find_missing(who, read(message))),
            bytestream::byte_stream::WRITE => self.write(who, read(message)),
            action_cache::UPDATE_ACTION_RESULT => self.update_action_result(who, read(message)),
            action_cache::GET_ACTION_RESULT => self.get_action_result(who, read(message)),
            _ => Err(Code::Unimplemented),
        };
        match answered {
            Ok(message) => {
                let trailers = Status::OK.trailers();
                let body = Full::new(frame(&message));
                response(body.with_trailers(async { Some(Ok(trailers)) }).boxed())
            }
            Err(code) => Status::new(code, "").response(Full::default().boxed()),
        }
    }

    fn batch_update(
        &self,
        who: Option<(Scope, bool)>,
        request: BatchUpdateBlobsRequest,
    ) -> Vec<u8> {
        let responses = request.requests.into_iter().map(|blob| {
            let hash = blob.digest.clone().unwrap().hash;
            let unverified = self.hole == Hole::WrongBatch;
            let code = code(self.store_blob(who, &hash, blob.data, unverified));
            batch_update_blobs_response::Response {
                digest: blob.digest,
                status: Some(status(code.err().unwrap_or(Code::Ok))),
            }
        });
        let responses = responses.collect();
        BatchUpdateBlobsResponse { responses }.encode_to_vec()
    }

    fn batch_read(&self, who: Option<(Scope, bool)>, request: BatchReadBlobsRequest) -> Vec<u8> {
        let responses = request.digests.into_iter().map(|digest| {
            let found = self.load_blob(who, &digest.hash);
            batch_read_blobs_response::Response {
                digest: Some(digest),
                status: Some(status(found.as_ref().map_or(Code::NotFound, |_| Code::Ok))),
                data: found.unwrap_or_default(),
                ..Default::default()
            }
        });
        let responses = responses.collect();
        BatchReadBlobsResponse { responses }.encode_to_vec()
    }

    fn find_missing(
        &self,
        who: Option<(Scope, bool)>,
        request: FindMissingBlobsRequest,
    ) -> Vec<u8> {
        let anywhere = |digest: &Digest| {
            let state = self.state.lock().unwrap();
            self.hole == Hole::Presence && state.blobs.keys().any(|(_, hash)| *hash == digest.hash)
        };
        let missing = request
            .blob_digests
            .into_iter()
            .filter(|digest| self.load_blob(who, &digest.hash).is_none() && !anywhere(digest));
        let missing_blob_digests = missing.collect();
        FindMissingBlobsResponse {
            missing_blob_digests,
        }
        .encode_to_vec()
    }

    fn write(
        &self,
        who: Option<(Scope, bool)>,
        request: bytestream::WriteRequest,
    ) -> Result<Vec<u8>, Code> {
        let hash = request.resource_name.split('/').rev().nth(1).unwrap();
        let unverified = self.hole == Hole::WrongStream;
        code(self.store_blob(who, hash, request.data, unverified))?;
        Ok(bytestream::WriteResponse::default().encode_to_vec())
    }

    fn update_action_result(
        &self,
        who: Option<(Scope, bool)>,
        request: UpdateActionResultRequest,
    ) -> Result<Vec<u8>, Code> {
        let mut digest = request.action_digest.unwrap();
        let mut instance = request.instance_name;
        let misread = match self.hole {
            Hole::InstanceName => instance == "trusted",
            Hole::Capitals => digest.hash.bytes().any(|byte| byte.is_ascii_uppercase()),
            _ => false,
        };
        if misread {
            instance.clear();
            digest.hash = digest.hash.to_lowercase();
        }
        let key = format!("{instance} {} {}", digest.hash, digest.size_bytes);
        let who = if misread && who.is_some() {
            self.state
                .lock()
                .unwrap()
                .entries
                .remove(&(TRUSTED, key.clone()));
            Some((TRUSTED, true))
        } else {
            who
        };
        let result = request.action_result.unwrap();
        code(self.store(who, &key, result.encode_to_vec().into()))?;
        Ok(result.encode_to_vec())
    }

    fn get_action_result(
        &self,
        who: Option<(Scope, bool)>,
        request: GetActionResultRequest,
    ) -> Result<Vec<u8>, Code> {
        let digest = request.action_digest.unwrap();
        let key = format!(
            "{} {} {}",
            request.instance_name, digest.hash, digest.size_bytes
        );
        let found = self.load(who, &key).ok_or(Code::NotFound)?;
        assert!(ActionResult::decode(found.clone()).is_ok());
        Ok(found.to_vec())
    }
}

fn read<M: Message + Default>(message: Bytes) -> M {
    M::decode(message).unwrap()
}

fn code(status: StatusCode) -> Result<(), Code> {
    match status {
        StatusCode::OK | StatusCode::CREATED => Ok(()),
        StatusCode::CONFLICT => Err(Code::AlreadyExists),
        StatusCode::BAD_REQUEST => Err(Code::InvalidArgument),
        _ => Err(Code::PermissionDenied),
    }
}

fn status(code: Code) -> rpc::Status {
    rpc::Status {
        code: i32::from(code.number()),
        ..rpc::Status::default()
    }
}

fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = status;
    response
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
