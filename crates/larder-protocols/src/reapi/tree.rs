//! `ContentAddressableStorage.GetTree`: a directory and all below it.
//!
//! Breadth first, each directory once, a page at a time and only as fast as the client takes pages. Children that are missing are left
//! out, as the specification asks; a missing root is not found. Nothing else is: a tree that cannot be told whole ends with a status that
//! says so, behind the pages that could be sent. A page's token says how many directories were sent before it, so a client can go on
//! where it stopped without anything being kept here.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use larder_cache::{BlobName, Cache, Encoding};
use larder_grpc::{Code, Status};
use larder_model::{Digest, DigestFunction, ReadGrant};

use super::call::{Call, Common, digest};
use super::capabilities::BATCH_BYTES_MAX;
use super::fields::{Fields, Malformed, Value, put_block};
use super::status::{Absent, BadPageToken, Refused};

/// A page has no more than this, unless it is one directory that does.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// The most bytes of one directory. A page of it alone is below 4 MiB, the limit of clients.
const DIRECTORY_BYTES_MAX: u64 = BATCH_BYTES_MAX as u64;

/// The most directories of a tree.
const DIRECTORY_COUNT_MAX: usize = 100_000;

/// After so many directories other work has its turn.
const DIRECTORIES_AT_ONCE: usize = 64;

const REQUEST: &str = "GetTreeRequest";

/// Begins to answer with `GetTreeResponse` messages.
pub(super) async fn answer(call: &Call<'_>, message: &[u8]) -> Result<TreePages, Refused> {
    let common = Common::read(message, 5, REQUEST)?;
    let (mut root, mut page_size, mut token) = (&b""[..], 0_i64, &b""[..]);
    for field in Fields::of(message) {
        match field.map_err(|Malformed| Refused::Malformed(REQUEST))? {
            (2, Value::Bytes(digest)) => root = digest,
            (3, Value::Varint(size)) => page_size = size.cast_signed(),
            (4, Value::Bytes(bytes)) => token = bytes,
            (2..=4, _) => return Err(Refused::Malformed(REQUEST)),
            _ => {}
        }
    }
    let root = digest(common.function, root)?;
    let skip = offset(token).ok_or(Refused::PageToken(BadPageToken))?;
    let grant = call.reader(&common.instance)?;
    let mut walk = Walk {
        cache: Arc::clone(&call.gateway.cache),
        grant,
        function: common.function,
        page_count: usize::try_from(page_size).ok().filter(|size| *size > 0),
        seen: HashSet::from([root]),
        next: VecDeque::from([root]),
        visited: 0,
        sent: 0,
        found: None,
        broken: None,
    };
    walk.advance().await;
    if walk.found.is_none() && walk.broken.is_none() {
        return Err(Absent::Blob.into());
    }
    while walk.sent < skip && walk.broken.is_none() {
        if walk.found.is_none() {
            return Err(Refused::PageToken(BadPageToken));
        }
        walk.sent += 1;
        walk.advance().await;
    }
    Ok(TreePages(State::Idle(Box::new(walk))))
}

fn offset(token: &[u8]) -> Option<usize> {
    if token.is_empty() {
        return Some(0);
    }
    let text = std::str::from_utf8(token).ok()?;
    text.parse()
        .ok()
        .filter(|skip| *skip <= DIRECTORY_COUNT_MAX)
}

/// Why a tree cannot be told whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Broken {
    #[error("a directory of this tree has more than {DIRECTORY_BYTES_MAX} bytes")]
    LargeDirectory,
    #[error("this tree has more than {DIRECTORY_COUNT_MAX} directories")]
    TooMany,
    #[error("a blob that this tree names as a directory is none")]
    NoDirectory,
}

impl Broken {
    fn status(self) -> Status {
        let code = match self {
            Self::LargeDirectory | Self::TooMany => Code::ResourceExhausted,
            Self::NoDirectory => Code::InvalidArgument,
        };
        Status::new(code, self.to_string())
    }
}

/// Where a traversal stands.
struct Walk {
    cache: Arc<Cache>,
    grant: ReadGrant,
    function: DigestFunction,
    /// The most directories of a page, if the client says.
    page_count: Option<usize>,
    seen: HashSet<Digest>,
    next: VecDeque<Digest>,
    visited: usize,
    sent: usize,
    /// The directory to be sent next.
    found: Option<Bytes>,
    /// Why there is none.
    broken: Option<Broken>,
}

impl Walk {
    /// Finds the next directory that is there.
    async fn advance(&mut self) {
        match self.find().await {
            Ok(found) => self.found = found,
            Err(broken) => (self.found, self.broken) = (None, Some(broken)),
        }
    }

    /// The next directory that is there. Its children come after all that are waiting.
    async fn find(&mut self) -> Result<Option<Bytes>, Broken> {
        while let Some(wanted) = self.next.pop_front() {
            self.visited += 1;
            if self.visited.is_multiple_of(DIRECTORIES_AT_ONCE) {
                tokio::task::yield_now().await;
            }
            let Some(directory) = self.read(&wanted).await? else {
                continue;
            };
            for child in children(self.function, &directory).map_err(|_| Broken::NoDirectory)? {
                if self.seen.insert(child) {
                    if self.seen.len() > DIRECTORY_COUNT_MAX {
                        return Err(Broken::TooMany);
                    }
                    self.next.push_back(child);
                }
            }
            return Ok(Some(directory));
        }
        Ok(None)
    }

    /// A directory; `None` if it is not there.
    async fn read(&self, wanted: &Digest) -> Result<Option<Bytes>, Broken> {
        let name = BlobName::from(wanted);
        let Some(hit) = self.cache.get_blob(&self.grant, &name).await else {
            return Ok(None);
        };
        if wanted.size() > DIRECTORY_BYTES_MAX {
            return Err(Broken::LargeDirectory);
        }
        let mut body = hit.read(Encoding::Identity, 0);
        if let Some(whole) = body.take_whole() {
            return Ok(Some(whole));
        }
        let mut whole = Vec::with_capacity(wanted.size() as usize);
        while let Some(piece) = body.next().await {
            let Ok(piece) = piece else {
                return Ok(None);
            };
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.into()))
    }

    /// The next `GetTreeResponse`, in its frame.
    async fn page(&mut self) -> Option<Bytes> {
        let (mut page, mut count) = (Vec::new(), 0);
        while let Some(directory) = &self.found {
            let is_full = page.len() + directory.len() > PAGE_BYTES_MAX;
            if count > 0 && (is_full || Some(count) == self.page_count) {
                break;
            }
            put_block(1, directory, &mut page);
            (count, self.sent) = (count + 1, self.sent + 1);
            self.advance().await;
        }
        if count == 0 {
            return None;
        }
        if self.found.is_some() {
            put_block(2, self.sent.to_string().as_bytes(), &mut page);
        }
        Some(larder_grpc::frame(&page))
    }
}

/// The digests of the directories in a directory.
fn children(function: DigestFunction, directory: &[u8]) -> Result<Vec<Digest>, Malformed> {
    let mut children = Vec::new();
    for field in Fields::of(directory) {
        let (2, Value::Bytes(node)) = field? else {
            continue;
        };
        for field in Fields::of(node) {
            if let (2, Value::Bytes(named)) = field? {
                children.push(digest(function, named).map_err(|_| Malformed)?);
            }
        }
    }
    Ok(children)
}

type NextPage = Pin<Box<dyn Future<Output = (Box<Walk>, Option<Bytes>)> + Send>>;

enum State {
    Idle(Box<Walk>),
    Busy(NextPage),
    Ended,
}

/// The pages of a tree, and the trailers behind them.
pub(crate) struct TreePages(State);

impl TreePages {
    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            match std::mem::replace(&mut self.0, State::Ended) {
                State::Ended => return Poll::Ready(None),
                State::Idle(mut walk) => {
                    self.0 = State::Busy(Box::pin(async move {
                        let page = walk.page().await;
                        (walk, page)
                    }));
                }
                State::Busy(mut next) => match next.as_mut().poll(context) {
                    Poll::Pending => {
                        self.0 = State::Busy(next);
                        return Poll::Pending;
                    }
                    Poll::Ready((walk, Some(page))) => {
                        self.0 = State::Idle(walk);
                        return Poll::Ready(Some(Frame::data(page)));
                    }
                    Poll::Ready((walk, None)) => {
                        let status = walk.broken.map_or(Status::OK, Broken::status);
                        return Poll::Ready(Some(Frame::trailers(status.trailers())));
                    }
                },
            }
        }
    }
}
