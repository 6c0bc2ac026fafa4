//! The connection to an object store: requests with deadlines, behind a circuit breaker, counted.
//!
//! The rest of the crate knows no `object_store`, no credentials and no retries of the network: it calls a [`Link`].
//! Names are relative to the place in the bucket that the configuration names, and begin with `v1/`.
//!
//! Always true:
//! - Every call ends: with an answer, or as [`LinkError::Unavailable`] after its deadline, or at once while the circuit
//!   is open.
//! - A write that ended as `Unavailable` may have happened.
//! - Each request that goes out is counted once, by operation and outcome.
//! - `NotFound` is said of an object only if its bucket is there.
//!
//! `address` and `options` say where and how, `transport` is the wire, `trouble` reads errors, `breaker` and `counts` are what they
//! are called, `exchange` puts one request through all of that; `folder` is the store that a shared folder is.

mod address;
mod breaker;
mod counts;
mod exchange;
#[cfg(any(test, feature = "sim"))]
pub mod faulty;
mod folder;
mod multipart;
mod options;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod trouble;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions,
    PutOptions, PutPayload,
};

pub use address::{BucketUrl, BucketUrlError};
pub use breaker::{FAILURES_TO_OPEN, OPEN_AT_FIRST, OPEN_LIMIT};
pub use counts::{Operation, Outcome};
pub use exchange::{Lane, LinkEvent};
pub use multipart::{Multipart, PART_BYTES};
pub use options::{Addressing, BucketOptions, Encryption, OpenError};
pub use stream::Stream;
pub use trouble::{LinkError, Trouble};

use exchange::Shared;

/// A listing comes in pages of this many names, as S3's do.
pub const LIST_NAMES_MAX: usize = 1000;
/// How many names one request deletes, as S3 takes at most.
pub const DELETE_NAMES_MAX: usize = 1000;

/// How long a request may take that moves no bytes to speak of: connecting, credentials and the answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// What moves bytes may take longer by what they take at this speed: a slow line, shared by some requests.
pub const BYTES_PER_SECOND_MIN: u64 = 256 * 1024;
/// Lists and deletes ask a store to do some work.
const WORK_LIMIT: Duration = Duration::from_secs(30);
/// A store copies gigabytes itself, and answers when it has.
const COPY_LIMIT: Duration = Duration::from_mins(2);

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, relative like all names here.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// When it was written, by the bucket's clock, unix milliseconds.
    pub modified_ms: u64,
}

/// Some of the objects under a prefix, in order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// At most [`LIST_NAMES_MAX`] of them.
    pub objects: Vec<Listed>,
    /// Ask for what comes after this name (it may be nothing); `None`: there is no more.
    pub after: Option<String>,
}

/// What a [`Link`] is told beside the store.
#[derive(Clone, Default)]
pub struct LinkOptions {
    /// What the names of all objects begin with in the store: empty or without `/` at either end.
    pub prefix: String,
    /// Is called when the circuit opens and closes and when a bucket refuses; must return at once.
    pub on_event: Option<Arc<dyn Fn(LinkEvent) + Send + Sync>>,
}

/// The connection. Clones share it.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
    lane: Lane,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// A connection to a store, with nothing before the names and nobody told.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self::with(store, LinkOptions::default())
    }

    /// A connection to a store.
    pub fn with(store: Arc<dyn ObjectStore>, options: LinkOptions) -> Self {
        Self {
            shared: Arc::new(Shared::new(store, options)),
            lane: Lane::Trusted,
        }
    }

    /// A connection to the bucket at this address. Asks it nothing yet: see [`check`](Self::check).
    pub fn open(
        url: &BucketUrl,
        options: &BucketOptions,
        on_event: Option<Arc<dyn Fn(LinkEvent) + Send + Sync>>,
    ) -> Result<Self, OpenError> {
        let options_of_link = LinkOptions {
            prefix: url.prefix().to_owned(),
            on_event,
        };
        Ok(Self::with(options.connect(url)?, options_of_link))
    }

    /// This connection for calls of that lane: each has permits of its own, so neither waits for the other's.
    #[must_use]
    pub fn lane(&self, lane: Lane) -> Self {
        Self {
            lane,
            ..self.clone()
        }
    }

    /// Whether this is a bucket that can be used: writes an object of its own, finds that a second conditional create
    /// does not, reads and deletes it. A store that ignores the condition is `Unsupported`.
    pub async fn check(&self) -> Result<(), LinkError> {
        let mut unique = [0_u8; 16];
        getrandom::fill(&mut unique).map_err(|error| {
            LinkError::unavailable(Trouble::Failed, format!("no randomness: {error}"))
        })?;
        let name = format!("v1/check/{:032x}", u128::from_le_bytes(unique));
        let body = Bytes::from_static(b"larder: is this a bucket?");
        self.put_create(&name, vec![body.clone()]).await?;
        let checked = self.check_second_create(&name, &body).await;
        let deleted = self.delete(vec![name]).await;
        checked.and(deleted)
    }

    async fn check_second_create(&self, name: &str, body: &Bytes) -> Result<(), LinkError> {
        let wrong = |what| Err(LinkError::unavailable(Trouble::Unsupported, what));
        match self
            .put_create(name, vec![Bytes::from_static(b"a second one")])
            .await
        {
            Err(LinkError::AlreadyExists) => {}
            Ok(()) => return wrong("this store ignores the condition of a conditional create"),
            Err(error) => return Err(error),
        }
        if self.get(name, body.len() as u64).await? != *body {
            return wrong("this store does not give back what was written");
        }
        Ok(())
    }

    /// Writes an object of these parts, in place of any of the same name.
    pub async fn put(&self, name: &str, parts: Vec<Bytes>) -> Result<(), LinkError> {
        self.put_as(Operation::Put, name, parts, PutMode::Overwrite)
            .await
    }

    /// Writes an object of these parts unless there is one of that name.
    pub async fn put_create(&self, name: &str, parts: Vec<Bytes>) -> Result<(), LinkError> {
        self.put_as(Operation::Create, name, parts, PutMode::Create)
            .await
    }

    async fn put_as(
        &self,
        operation: Operation,
        name: &str,
        parts: Vec<Bytes>,
        mode: PutMode,
    ) -> Result<(), LinkError> {
        let path = self.path(name)?;
        let payload: PutPayload = parts.into_iter().collect();
        let limit = limit_of(payload.content_length() as u64);
        self.exchange(operation, limit, || {
            let (store, path, payload) = (self.store(), path.clone(), payload.clone());
            let options = PutOptions {
                mode: mode.clone(),
                ..PutOptions::default()
            };
            async move {
                let put = store.put_opts(&path, payload, options).await;
                put.map(|_| ()).map_err(|error| trouble::read(&error))
            }
        })
        .await
    }

    /// Begins an object of unknown length. It exists once [`Multipart::finish`] has returned; if that is never called it
    /// never does, and what was sent is given up.
    pub async fn put_multipart(&self, name: &str) -> Result<Multipart, LinkError> {
        let path = self.path(name)?;
        let upload = self
            .exchange(Operation::Multipart, ANSWER_LIMIT, || {
                let (store, path) = (self.store(), path.clone());
                let options =
                    PutMultipartOptions::default().with_retry_policy(multipart::retry_policy());
                async move {
                    let begun = store.put_multipart_opts(&path, options).await;
                    begun.map_err(|error| trouble::read(&error))
                }
            })
            .await?;
        Ok(Multipart::new(self.clone(), upload))
    }

    /// All of an object of at most `limit` bytes.
    pub async fn get(&self, name: &str, limit: u64) -> Result<Bytes, LinkError> {
        let path = self.path(name)?;
        self.exchange(Operation::Get, limit_of(limit), || {
            let (store, path) = (self.store(), path.clone());
            async move {
                let found = store.get_opts(&path, GetOptions::default()).await;
                let found = found.map_err(|error| trouble::read(&error))?;
                let bytes = found.meta.size;
                if bytes > limit {
                    return Err(LinkError::TooLarge { limit });
                }
                let body = found.bytes().await.map_err(|error| trouble::read(&error))?;
                whole(body, bytes)
            }
        })
        .await
    }

    /// These bytes of an object, all of them: an object that ends before is `NotFound`.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, LinkError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let path = self.path(name)?;
        let bytes = range.end - range.start;
        self.exchange(Operation::Get, limit_of(bytes), || {
            let (store, path, range) = (self.store(), path.clone(), range.clone());
            async move {
                let found = ranged(&*store, &path, range).await?;
                let body = found.bytes().await.map_err(|error| trouble::read(&error))?;
                whole(body, bytes)
            }
        })
        .await
    }

    /// These bytes of an object as they arrive.
    pub async fn get_stream(&self, name: &str, range: Range<u64>) -> Result<Stream, LinkError> {
        let path = self.path(name)?;
        let bytes = range.end.saturating_sub(range.start);
        if bytes == 0 {
            return Ok(Stream::empty());
        }
        let (found, ticket) = self
            .exchange_on(Operation::Get, ANSWER_LIMIT, || {
                let (store, path, range) = (self.store(), path.clone(), range.clone());
                async move { ranged(&*store, &path, range).await }
            })
            .await?;
        Ok(Stream::new(found.into_stream(), bytes, ticket))
    }

    /// Copies an object within the bucket.
    pub async fn copy(&self, from: &str, to: &str) -> Result<(), LinkError> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        self.exchange(Operation::Copy, COPY_LIMIT, || {
            let (store, from, to) = (self.store(), from.clone(), to.clone());
            async move {
                let copied = store.copy(&from, &to).await;
                copied.map_err(|error| trouble::read(&error))
            }
        })
        .await
    }

    /// Deletes objects; those that are not there count as deleted.
    pub async fn delete(&self, names: Vec<String>) -> Result<(), LinkError> {
        for names in names.chunks(DELETE_NAMES_MAX) {
            let paths: Vec<Path> = names
                .iter()
                .map(|name| self.path(name))
                .collect::<Result<_, _>>()?;
            self.exchange(Operation::Delete, WORK_LIMIT, || {
                let (store, paths) = (self.store(), paths.clone());
                async move {
                    let mut deleted =
                        store.delete_stream(futures_util::stream::iter(paths).map(Ok).boxed());
                    let mut trouble = Ok(());
                    while let Some(one) = deleted.next().await {
                        match one.map_err(|error| trouble::read(&error)) {
                            Ok(_) | Err(LinkError::NotFound) => {}
                            Err(error) => trouble = trouble.and(Err(error)),
                        }
                    }
                    trouble
                }
            })
            .await?;
        }
        Ok(())
    }

    /// A page of the objects under `prefix` (which ends with `/`).
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, LinkError> {
        let prefix = self.path(prefix.strip_suffix('/').unwrap_or(prefix))?;
        let after = after.map(|name| self.path(name)).transpose()?;
        self.exchange(Operation::List, WORK_LIMIT, || {
            let (store, prefix, after) = (self.store(), prefix.clone(), after.clone());
            async move { self.page(&*store, prefix, after).await }
        })
        .await
    }

    async fn page(
        &self,
        store: &dyn ObjectStore,
        prefix: Path,
        after: Option<Path>,
    ) -> Result<Page, LinkError> {
        let mut found = match &after {
            Some(after) => store.list_with_offset(Some(&prefix), after),
            None => store.list(Some(&prefix)),
        };
        let mut page = Page::default();
        while let Some(object) = found.next().await {
            let object = object.map_err(|error| trouble::read(&error))?;
            // Azurite knows no offset.
            if after
                .as_ref()
                .is_some_and(|after| object.location <= *after)
            {
                continue;
            }
            let modified = std::time::SystemTime::from(object.last_modified);
            let since_epoch = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            page.objects.push(Listed {
                name: self.shared.relative(&object.location),
                bytes: object.size,
                modified_ms: since_epoch.as_millis() as u64,
            });
            if page.objects.len() == LIST_NAMES_MAX {
                page.after = page.objects.last().map(|object| object.name.clone());
                break;
            }
        }
        Ok(page)
    }

    /// `None`: the circuit is closed. `Some`: it is open, for this long until the next probe.
    pub fn open_for(&self) -> Option<Duration> {
        self.shared.open_for()
    }

    /// How many requests went out, by operation and outcome; zeroes, too.
    pub fn requests(&self) -> Vec<(Operation, Outcome, u64)> {
        self.shared.requests()
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        self.shared.store()
    }

    fn path(&self, name: &str) -> Result<Path, LinkError> {
        if !is_plain_name(name) {
            let message = format!("{name:?} is no name that every store keeps as it is");
            return Err(LinkError::unavailable(Trouble::Unsupported, message));
        }
        Ok(self.shared.absolute(name))
    }
}

async fn ranged(
    store: &dyn ObjectStore,
    path: &Path,
    range: Range<u64>,
) -> Result<object_store::GetResult, LinkError> {
    let options = GetOptions {
        range: Some(GetRange::Bounded(range.clone())),
        ..GetOptions::default()
    };
    let found = store.get_opts(path, options).await;
    let found = found.map_err(|error| trouble::read(&error))?;
    if found.range == range {
        Ok(found)
    } else {
        Err(LinkError::NotFound)
    }
}

/// `body` if it has as many bytes as were announced.
fn whole(body: Bytes, bytes: u64) -> Result<Bytes, LinkError> {
    if body.len() as u64 == bytes {
        return Ok(body);
    }
    let message = format!("{} bytes arrived of {bytes}", body.len());
    Err(LinkError::unavailable(Trouble::Failed, message))
}

/// How long a request may take that moves this many bytes.
fn limit_of(bytes: u64) -> Duration {
    ANSWER_LIMIT + Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_SECOND_MIN)
}

/// Whether every store keeps this name as it is: letters, digits and `-_.=`, in parts between `/`.
pub(crate) fn is_plain_name(name: &str) -> bool {
    name.split('/').all(|part| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte))
    })
}
