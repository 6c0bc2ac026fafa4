//! A gateway over real pools in a directory of its own, and requests to it without a network.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use larder_auth::{Authenticator, TokenGrant, TokenSecret};
use larder_cache::{Cache, CacheLimits, CacheMetrics, PoolHandle, PoolPair};
use larder_ledger::Ledger;
use larder_model::Access;
use larder_protocols::{BodyLimits, Gateway, Journal, Origin, Peer, WorkspaceTable};
use larder_store::{Pool, PoolOptions, RealDisk};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::log;

const POOL_BYTES: u64 = 64 << 20;

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// `None`: the body broke off.
    pub(crate) body: Option<Bytes>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().expect("a whole body")).unwrap()
    }

    /// The status and the body, for comparisons.
    pub(crate) fn brief(&self) -> (u16, &[u8]) {
        (
            self.status.as_u16(),
            self.body.as_deref().expect("a whole body"),
        )
    }
}

/// How a request's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Broken,
    Never,
}

/// A request's body as a list of pieces, and how many of its bytes have been read.
pub(crate) struct Pieces {
    left: VecDeque<Bytes>,
    declared: Option<u64>,
    end: End,
    before_last: Option<Box<dyn FnOnce() + Send>>,
    read: Arc<AtomicUsize>,
}

impl Pieces {
    pub(crate) fn new(
        pieces: &[&[u8]],
        declared: Option<u64>,
        end: End,
    ) -> (Self, Arc<AtomicUsize>) {
        let pieces = pieces
            .iter()
            .map(|piece| Bytes::copy_from_slice(piece))
            .collect();
        let read = Arc::new(AtomicUsize::new(0));
        (
            Self {
                left: pieces,
                declared,
                end,
                before_last: None,
                read: read.clone(),
            },
            read,
        )
    }

    /// Does this before the last piece is sent.
    pub(crate) fn before_last(mut self, act: impl FnOnce() + Send + 'static) -> Self {
        self.before_last = Some(Box::new(act));
        self
    }

    pub(crate) fn whole(body: &[u8]) -> Self {
        Self::new(&[body], Some(body.len() as u64), End::Clean).0
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left.len() == 1
            && let Some(act) = self.before_last.take()
        {
            act();
        }
        if let Some(piece) = self.left.pop_front() {
            self.read.fetch_add(piece.len(), Ordering::Relaxed);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.end {
            End::Clean => Poll::Ready(None),
            End::Broken => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            End::Never => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.declared
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub(crate) struct House {
    dir: TempDir,
    pub(crate) cache: Arc<Cache>,
    pub(crate) pair: PoolPair,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) ledger: Ledger,
    pub(crate) journal: Arc<Journal>,
    pub(crate) authenticator: Arc<Authenticator>,
    tokens: HashMap<String, TokenSecret>,
    grants: Vec<TokenGrant>,
}

impl House {
    /// A house with the workspaces `default` and `acme`, `open` that is public, and open pools.
    pub(crate) fn new() -> Self {
        let pair = PoolPair {
            trusted: PoolHandle::loading(),
            untrusted: PoolHandle::loading(),
        };
        let house = Self::over(pair.clone());
        house.open(&pair.trusted, "trusted");
        house.open(&pair.untrusted, "untrusted");
        house
    }

    pub(crate) fn over(pair: PoolPair) -> Self {
        log::listen();
        let limits = CacheLimits::default();
        let cache = Cache::new(pair.clone(), HashMap::new(), limits, CacheMetrics::new());
        let cache = Arc::new(cache);
        let authenticator = Arc::new(Authenticator::new());
        let workspaces = [("default", false), ("acme", false), ("open", true)]
            .map(|(name, public)| (name.parse().unwrap(), public));
        let dir = TempDir::new().unwrap();
        let ledger = open_ledger(&dir.path().join("ledger.sqlite"));
        let journal = Arc::new(Journal::new(now_ms));
        let gateway = Arc::new(Gateway::new(
            cache.clone(),
            authenticator.clone(),
            WorkspaceTable::new(workspaces),
            ledger.clone(),
            journal.clone(),
            BodyLimits::default(),
            now_ms,
        ));
        let (tokens, grants) = (HashMap::new(), Vec::new());
        Self {
            dir,
            cache,
            pair,
            gateway,
            ledger,
            journal,
            authenticator,
            tokens,
            grants,
        }
    }

    fn open(&self, handle: &PoolHandle, name: &str) {
        let options = PoolOptions {
            free_reserve_bytes: 0,
            ..PoolOptions::new(POOL_BYTES)
        };
        let dir = self.dir.path().join(name);
        handle.load(|| Pool::open(Arc::new(RealDisk), &dir, options));
    }

    /// Changes the ledger's file behind its back.
    pub(crate) async fn alter_ledger(&self, sql: &'static str) {
        let path = self.dir.path().join("ledger.sqlite");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }

    /// Adds a token that requests can name from now on.
    pub(crate) fn token(&mut self, name: &str, workspace: &str, access: Access) {
        let id = self.grants.len() as u64 + 1;
        self.token_of(name, id, workspace, access);
    }

    /// The same with a writer's id.
    pub(crate) fn token_of(&mut self, name: &str, id: u64, workspace: &str, access: Access) {
        let secret = TokenSecret::generate();
        self.grants.push(TokenGrant {
            id,
            hash: secret.hash(),
            workspace: workspace.parse().unwrap(),
            access,
            expires_at_ms: None,
            revoked: false,
        });
        self.tokens.insert(name.to_owned(), secret);
        self.authenticator.replace(self.grants.clone());
    }

    pub(crate) fn isolated(&mut self, name: &str, workspace: &str, scope: &str) {
        self.token(
            name,
            workspace,
            Access::Isolated {
                scope: scope.parse().unwrap(),
            },
        );
    }

    pub(crate) fn revoke(&mut self, name: &str) {
        let hash = self.tokens[name].hash();
        let revoked = self.grants.iter_mut().filter(|grant| grant.hash == hash);
        revoked.for_each(|grant| grant.revoked = true);
        self.authenticator.replace(self.grants.clone());
    }

    /// What changes the token's grant in this way when it is called.
    pub(crate) fn change(
        &self,
        name: &str,
        change: impl Fn(&mut TokenGrant) + Send + 'static,
    ) -> impl FnOnce() + Send + 'static {
        let hash = self.tokens[name].hash();
        let (authenticator, mut grants) = (self.authenticator.clone(), self.grants.clone());
        move || {
            let changed = grants.iter_mut().filter(|grant| grant.hash == hash);
            changed.for_each(change);
            authenticator.replace(grants);
        }
    }

    /// What a Prometheus server would get.
    pub(crate) fn metrics(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.cache.collector()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    /// The value of an `Authorization` header with this token.
    pub(crate) fn bearer(&self, token: &str) -> String {
        format!("Bearer {}", self.tokens[token].expose())
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.send("GET", path, &[self.bearer(token)], Pieces::whole(b""))
            .await
    }

    pub(crate) async fn put(&self, token: &str, path: &str, body: &[u8]) -> Answer {
        self.send("PUT", path, &[self.bearer(token)], Pieces::whole(body))
            .await
    }

    /// Sends a request with these `Authorization` headers.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        auth: &[String],
        body: Pieces,
    ) -> Answer {
        self.send_from(tcp(), method, path, auth, body).await
    }

    pub(crate) async fn send_from(
        &self,
        origin: Origin,
        method: &str,
        path: &str,
        auth: &[String],
        body: Pieces,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for value in auth {
            request = request.header(AUTHORIZATION, value);
        }
        self.exchange(origin, request.body(body).unwrap()).await
    }

    pub(crate) async fn exchange(&self, origin: Origin, request: Request<Pieces>) -> Answer {
        let response = self.gateway.handle(request, origin).await;
        let (head, body) = response.into_parts();
        let declared = http_body::Body::size_hint(&body).exact();
        let body = body
            .collect()
            .await
            .ok()
            .map(http_body_util::Collected::to_bytes);
        if let (Some(declared), Some(body)) = (declared, &body) {
            assert_eq!(
                declared,
                body.len() as u64,
                "the body's length is what it said"
            );
        }
        Answer {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    /// Flips a bit of the bytes `wanted` in a file of the pool `name`.
    pub(crate) fn rot(&self, name: &str, wanted: &[u8]) {
        for path in files(&self.dir.path().join(name)) {
            let content = std::fs::read(&path).unwrap();
            if let Some(at) = content
                .windows(wanted.len())
                .position(|bytes| bytes == wanted)
            {
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all_at(&[wanted[0] ^ 1], at as u64).unwrap();
                return;
            }
        }
        panic!("the bytes are in no file");
    }
}

thread_local! {
    static LATER_MS: Cell<u64> = const { Cell::new(0) };
}

/// The time by the clock of the houses of this thread.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.unwrap().as_millis() as u64 + LATER_MS.get()
}

/// Sets the clock of the houses of this thread forward.
pub(crate) fn later(ms: u64) {
    LATER_MS.set(LATER_MS.get() + ms);
}

/// A client's connection.
pub(crate) fn tcp() -> Origin {
    Origin::Tcp(Arc::new(Peer {
        address: "192.0.2.7".parse().unwrap(),
        encrypted: true,
        certificate: None,
    }))
}

/// Opens a ledger for a function that does not wait: on a runtime that all tests share.
fn open_ledger(path: &Path) -> Ledger {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| RUNTIME.block_on(Ledger::open(path)));
        opening.join().unwrap().unwrap()
    })
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at % 251) as u8 ^ (at >> 8) as u8 ^ seed)
        .collect()
}
