//! A large body from the bucket: handed out while it is written into the pool.
//!
//! It is read from the bucket as fast as the pool takes it, whoever waits for it: the first reader gets its pieces as they
//! come; one that is slower than the disk goes on from the pool when the body is there, and so do all who came later. It is
//! stored also if nobody waits any more: it has been paid for, and whoever left will ask again.
//!
//! A body that the pool cannot take is handed out at its reader's pace and stored nowhere; then each reader has a fetch of
//! its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use larder_bucket::{BodyStream, BrokenOff, FetchedBody, Head, Rule, Unavailable};
use larder_model::WorkspaceName;
use larder_store::{Begin, Body, NewRecord, PIECE_BYTES_MAX, Pool, Put, Reader, Upload, Wait};
use tokio::sync::{SetOnce, mpsc};

use crate::bring::{Place, record_head};
use crate::lanes::{COLD_PIECE_WAIT_MAX, Lane, UPLOAD_WAIT_MAX, permits};
use crate::room::Room;
use crate::tier::{Tier, takes_place};

/// Pieces of 1 MiB that wait for a reader before it counts as slow.
const AHEAD_COUNT_MAX: usize = 8;

/// A body on its way into a pool.
pub(crate) struct Landing {
    /// For the first reader.
    pieces: Mutex<Option<mpsc::Receiver<Bytes>>>,
    /// Whether it is in the pool now.
    stored: SetOnce<bool>,
}

/// Ends a landing also when it panics.
struct Landed<'l>(&'l Landing);

impl Drop for Landed<'_> {
    fn drop(&mut self) {
        let _ = self.0.stored.set(false);
    }
}

impl Landing {
    /// A landing, and where its pieces go.
    pub(crate) fn new() -> (Self, mpsc::Sender<Bytes>) {
        let (sender, pieces) = mpsc::channel(AHEAD_COUNT_MAX);
        let landing = Self {
            pieces: Mutex::new(Some(pieces)),
            stored: SetOnce::new(),
        };
        (landing, sender)
    }

    fn take_pieces(&self) -> Option<mpsc::Receiver<Bytes>> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.take()
    }

    /// Writes the body into the pool, and shows it to the first reader.
    pub(crate) async fn store(
        &self,
        tier: &Arc<Tier>,
        place: &Place,
        head: &Head,
        mut stream: BodyStream,
        pieces: mpsc::Sender<Bytes>,
    ) {
        let landed = Landed(self);
        let mut upload = Storing::begin(place, head).await;
        let mut pieces = Some(pieces);
        let give_up = || {
            // Whoever waits for it need not wait for the first reader.
            let _ = self.stored.set(false);
        };
        if upload.is_none() {
            give_up();
        }
        loop {
            let piece = match stream.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(BrokenOff) => return,
            };
            if let Some(reader) = &pieces {
                let is_gone = match &upload {
                    Some(_) => reader.try_send(piece.clone()).is_err(),
                    None => reader.send(piece.clone()).await.is_err(),
                };
                if is_gone {
                    pieces = None;
                }
            }
            if let Some(storing) = upload.take() {
                upload = storing.write(piece, &place.lane).await;
                if upload.is_none() {
                    give_up();
                }
            }
            if upload.is_none() && pieces.is_none() {
                return;
            }
        }
        if let Some(storing) = upload {
            let is_stored = storing.finish(tier, place, head).await;
            let _ = self.stored.set(is_stored);
        }
        drop(landed);
    }
}

/// The way into the pool.
struct Storing {
    upload: Upload,
    room: Room,
}

impl Storing {
    /// `None`: the pool does not take it.
    async fn begin(place: &Place, head: &Head) -> Option<Self> {
        let workspace: WorkspaceName = place.realm.workspace().parse().ok()?;
        let (bytes, most) = (head.body_bytes, place.pool.body_bytes_max());
        let room = place.lane.rooms.hold(&workspace, bytes, most)?;
        let turn = permits(&place.lane.streamed_writes, 1, UPLOAD_WAIT_MAX).await?;
        let (place, head) = (place.clone(), head.clone());
        let begin = move || {
            let record = NewRecord {
                key: &place.key,
                metadata: &head.metadata,
                check: head.check,
                writer: head.writer,
                replace: head.rule != Rule::Content,
            };
            let begun = place.pool.begin(&record, Some(head.body_bytes));
            drop(turn);
            match begun {
                Ok(Begin::Upload(mut upload)) => {
                    upload.set_written_at(head.written_at_ms);
                    Some(Self { upload, room })
                }
                Ok(Begin::Exists) | Err(_) => None,
            }
        };
        tokio::task::spawn_blocking(begin).await.ok()?
    }

    /// `None`: the disk does not take more.
    async fn write(mut self, piece: Bytes, lane: &Lane) -> Option<Self> {
        let turn = permits(&lane.streamed_writes, 1, UPLOAD_WAIT_MAX).await?;
        let write = move || {
            let written = self.upload.write(&piece);
            drop(turn);
            written.is_ok().then_some(self)
        };
        tokio::task::spawn_blocking(write).await.ok()?
    }

    /// Whether the pool has the entry now.
    async fn finish(self, tier: &Arc<Tier>, place: &Place, head: &Head) -> bool {
        let (tier, place, head) = (tier.clone(), place.clone(), head.clone());
        let finish = move || {
            let Self { upload, room } = self;
            let gate = tier.gate();
            if !gate.lets_in(&record_head(&place, &head)) {
                return false;
            }
            let turn = tier.replacing(&place.key);
            let there = place.pool.head(&place.key, Wait::Allowed).ok().flatten();
            let is_due = there.is_none_or(|there| {
                takes_place(
                    head.rule,
                    (head.written_at_ms, head.check),
                    (there.written_at_ms, there.check),
                )
            });
            let is_stored = is_due && matches!(upload.finish(), Ok(Put::Stored | Put::Exists));
            drop((turn, gate, room));
            is_stored
        };
        tokio::task::spawn_blocking(finish).await.unwrap_or(false)
    }
}

/// A body as one reader gets it.
pub(crate) struct Arrival {
    /// As they come; they may end early.
    pieces: Option<mpsc::Receiver<Bytes>>,
    /// What has come and was not taken yet.
    rest: Bytes,
    /// How many bytes are behind the reader, or left out by it.
    position: u64,
    /// How many bytes of pieces have come.
    received: u64,
    /// Where the rest is if they ended early.
    landing: Option<Arc<Landing>>,
    pool: Pool,
    key: Box<[u8]>,
    written_at_ms: u64,
    size: u64,
}

impl Arrival {
    /// Joins a landing: as its first reader, or as one who waits until it is over. One who waits in vain fetches for
    /// itself.
    pub(crate) async fn join(
        tier: &Arc<Tier>,
        place: &Place,
        head: &Head,
        landing: Arc<Landing>,
    ) -> Result<Self, Unavailable> {
        let mut pieces = landing.take_pieces();
        let is_first = pieces.is_some();
        let mut landing = Some(landing);
        if !is_first
            && let Some(over) = &landing
            && !*over.stored.wait().await
        {
            pieces = Some(fetch_again(tier, place, head).await?);
            landing = None;
        }
        Ok(Self {
            pieces,
            rest: Bytes::new(),
            position: 0,
            received: 0,
            landing,
            pool: place.pool.clone(),
            key: place.key.clone(),
            written_at_ms: head.written_at_ms,
            size: head.body_bytes,
        })
    }

    /// Leaves out the bytes before `position`. For a body that nobody has polled yet.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.position = position;
    }

    /// The next piece; `None`: no more come this way, and what is missing is in the pool if anywhere.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if !self.rest.is_empty() {
                let count = self.rest.len().min(PIECE_BYTES_MAX as usize);
                let piece = self.rest.split_to(count);
                self.position += piece.len() as u64;
                return Poll::Ready(Some(piece));
            }
            let Some(pieces) = &mut self.pieces else {
                return Poll::Ready(None);
            };
            match ready!(pieces.poll_recv(context)) {
                None => self.pieces = None,
                Some(mut piece) => {
                    let start = self.received;
                    self.received += piece.len() as u64;
                    let left_out = self.position.saturating_sub(start);
                    let left_out = left_out.min(piece.len() as u64);
                    self.rest = piece.split_off(left_out as usize);
                }
            }
        }
    }

    /// A reader of the rest from the pool, once it is there.
    pub(crate) async fn land(self, lane: Arc<Lane>) -> Option<Reader> {
        if !*self.landing.as_ref()?.stored.wait().await {
            return None;
        }
        let turn = permits(&lane.cold_reads, 1, COLD_PIECE_WAIT_MAX).await?;
        let open = move || {
            let entry = self.pool.get(&self.key, Wait::Allowed).ok().flatten();
            drop(turn);
            let entry = entry.filter(|entry| {
                entry.size == self.size && entry.written_at_ms == self.written_at_ms
            })?;
            match entry.body {
                Body::Stream(mut reader) => {
                    reader.seek(self.position);
                    Some(reader)
                }
                Body::Whole(_) => None,
            }
        };
        tokio::task::spawn_blocking(open).await.ok()?
    }
}

/// The body at its reader's pace, stored nowhere.
async fn fetch_again(
    tier: &Arc<Tier>,
    place: &Place,
    head: &Head,
) -> Result<mpsc::Receiver<Bytes>, Unavailable> {
    let fetched = tier.bucket.fetch(&place.realm, &place.key, place.trust);
    let fetched = fetched.await?.filter(|fetched| fetched.head == *head);
    let Some(FetchedBody::Stream(mut stream)) = fetched.map(|fetched| fetched.body) else {
        return Err(Unavailable);
    };
    let (sender, pieces) = mpsc::channel(AHEAD_COUNT_MAX);
    tokio::spawn(async move {
        while let Ok(Some(piece)) = stream.next().await {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    Ok(pieces)
}
