//! An object store that fails as a seed says, for tests: what real ones cannot be made to do when a test wants it.
//!
//! It stands before another store. Every request draws from one sequence, so the same seed and the same order of requests give the
//! same faults. It waits on tokio's clock: under a paused one that takes no time.
//!
//! What it does: refuses a request, does it and says that it failed (a lost acknowledgement), breaks a body off with an error or
//! in silence, waits. What it never does is to say that something succeeded which did not, or to change a byte: the format's own
//! tests do that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use parking_lot::Mutex;

use super::breaker::draw;

/// How many requests of a thousand meet which fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Are refused, and nothing is done.
    pub refused: u16,
    /// Are done, and then said to have failed.
    pub unacknowledged: u16,
    /// Have a body that ends with an error before its end.
    pub torn: u16,
    /// Have a body that ends before its end as if that were it.
    pub cut: u16,
    /// Wait before they are done, up to [`delay_ms_max`](Self::delay_ms_max).
    pub delayed: u16,
    /// In milliseconds of tokio's clock.
    pub delay_ms_max: u64,
}

/// See the module.
pub struct FaultyStore {
    store: Arc<dyn ObjectStore>,
    dice: Arc<Dice>,
}

struct Dice {
    faults: Mutex<Faults>,
    random: Mutex<u64>,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Refused,
    Unacknowledged,
    /// After so many thousandths of its bytes.
    Torn(u64),
    Cut(u64),
}

impl Dice {
    async fn fate(&self) -> Fate {
        let faults = *self.faults.lock();
        let (fate, delay) = {
            let mut random = self.random.lock();
            let delayed = draw(&mut random) % 1000 < u64::from(faults.delayed);
            let delay = draw(&mut random) % (faults.delay_ms_max + 1);
            let share = draw(&mut random) % 1000;
            let mut left = draw(&mut random) % 1000;
            let mut falls = |of_thousand: u16| {
                let falls = left < u64::from(of_thousand);
                left = left.wrapping_sub(u64::from(of_thousand));
                falls
            };
            let fate = if falls(faults.refused) {
                Fate::Refused
            } else if falls(faults.unacknowledged) {
                Fate::Unacknowledged
            } else if falls(faults.torn) {
                Fate::Torn(share)
            } else if falls(faults.cut) {
                Fate::Cut(share)
            } else {
                Fate::Done
            };
            (fate, delayed.then_some(delay))
        };
        if let Some(delay) = delay {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        fate
    }

    /// For what has no body: done, or not, or nobody knows.
    async fn apply<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match self.fate().await {
            Fate::Refused => Err(injected("refused")),
            Fate::Unacknowledged => {
                request.await?;
                Err(injected("unacknowledged"))
            }
            Fate::Done | Fate::Torn(_) | Fate::Cut(_) => request.await,
        }
    }
}

fn injected(what: &str) -> Error {
    Error::Generic {
        store: "FaultyStore",
        source: format!("injected: {what}").into(),
    }
}

impl FaultyStore {
    /// Puts these faults before a store.
    pub fn new(store: Arc<dyn ObjectStore>, seed: u64, faults: Faults) -> Self {
        let dice = Dice {
            faults: Mutex::new(faults),
            random: Mutex::new(seed),
        };
        Self {
            store,
            dice: Arc::new(dice),
        }
    }

    /// From now on these. The sequence goes on.
    pub fn set(&self, faults: Faults) {
        *self.dice.faults.lock() = faults;
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({:?})", self.store)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.dice
            .apply(self.store.put_opts(location, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begun = self.store.put_multipart_opts(location, options);
        let upload = self.dice.apply(begun).await?;
        Ok(Box::new(FaultyUpload {
            upload,
            dice: Arc::clone(&self.dice),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.dice.fate().await;
        if matches!(fate, Fate::Refused | Fate::Unacknowledged) {
            return Err(injected("refused"));
        }
        let mut found = self.store.get_opts(location, options).await?;
        let (Fate::Torn(share) | Fate::Cut(share)) = fate else {
            return Ok(found);
        };
        let (range, meta) = (found.range.clone(), found.meta.clone());
        let (attributes, extensions) = (
            std::mem::take(&mut found.attributes),
            std::mem::take(&mut found.extensions),
        );
        let bytes = (range.end - range.start) * share / 1000;
        let mut body = head_of(found.into_stream(), bytes);
        if matches!(fate, Fate::Torn(_)) {
            body = body.chain(stream::iter([Err(injected("torn"))])).boxed();
        }
        Ok(GetResult {
            payload: GetResultPayload::Stream(body),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (dice, store) = (Arc::clone(&self.dice), Arc::clone(&self.store));
        stream::once(async move {
            match dice.fate().await {
                Fate::Refused => stream::iter([Err(injected("refused"))]).boxed(),
                Fate::Unacknowledged => {
                    let lost = stream::iter([Err(injected("unacknowledged"))]);
                    store.delete_stream(locations).chain(lost).boxed()
                }
                Fate::Done | Fate::Torn(_) | Fate::Cut(_) => store.delete_stream(locations),
            }
        })
        .flatten()
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.store.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.store.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.dice
            .apply(self.store.list_with_delimiter(prefix))
            .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.dice
            .apply(self.store.copy_opts(from, to, options))
            .await
    }
}

impl FaultyStore {
    /// A listing, or an error in its place or after some of it; never one that is short in silence.
    fn listed(
        &self,
        names: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let dice = Arc::clone(&self.dice);
        stream::once(async move {
            match dice.fate().await {
                Fate::Refused | Fate::Unacknowledged => {
                    stream::iter([Err(injected("refused"))]).boxed()
                }
                Fate::Torn(share) => {
                    let torn = stream::iter([Err(injected("torn"))]);
                    names.take(share as usize).chain(torn).boxed()
                }
                Fate::Done | Fate::Cut(_) => names,
            }
        })
        .flatten()
        .boxed()
    }
}

fn head_of(
    body: BoxStream<'static, Result<Bytes>>,
    bytes: u64,
) -> BoxStream<'static, Result<Bytes>> {
    body.scan(bytes, |left, piece| {
        let piece = match piece {
            Ok(_) if *left == 0 => None,
            Ok(mut piece) => {
                piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= piece.len() as u64;
                Some(Ok(piece))
            }
            Err(error) => Some(Err(error)),
        };
        std::future::ready(piece)
    })
    .boxed()
}

struct FaultyUpload {
    upload: Box<dyn MultipartUpload>,
    dice: Arc<Dice>,
}

impl fmt::Debug for FaultyUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyUpload({:?})", self.upload)
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.upload.put_part(data);
        let dice = Arc::clone(&self.dice);
        Box::pin(async move { dice.apply(part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let dice = Arc::clone(&self.dice);
        dice.apply(self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let dice = Arc::clone(&self.dice);
        dice.apply(self.upload.abort()).await
    }
}
