//! Blobs: entries that are named by their own hash.
//!
//! A blob is stored in the encoding it was sent in; an entry says in its metadata which that is
//! ([`crate::encoding::StoredForm`]), and in its check how many bytes the blob has uncompressed. Whoever
//! sends one, its bytes have its hash before it exists (G2).
//!
//! The blob of no bytes exists everywhere and is stored nowhere.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use larder_model::{
    BlobHash, Dialect, Digest, DigestFunction, ReadGrant, Scope, WorkspaceName, WriteGrant,
    WriterId,
};
use larder_store::Pool;

use crate::body::HitBody;
use crate::cache::{Cache, Doubt, Intent, NotAtHand};
use crate::encoding::{Encoding, StoredForm};
use crate::found::{Found, FoundBody};
use crate::key::StorageKey;
use crate::lanes::Lane;
use crate::metrics::KindSeries;
use crate::presence::{lease, size_check};
use crate::recode::{BlobBody, Recoder};
use crate::stream::{Keep, Proof};
use crate::upload::{
    CollectedBody, Collection, Draft, Promise, PutRefusal, PutStart, Sink, Stored, Upload,
};
use crate::verify::Verification;

/// What a blob is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobName {
    /// Whose hash it is.
    pub function: DigestFunction,
    /// The hash.
    pub hash: BlobHash,
    /// The blob's bytes, uncompressed; `None` where the protocol does not say.
    pub size: Option<u64>,
}

impl BlobName {
    /// Whether this is the blob of no bytes.
    fn is_empty_blob(&self) -> bool {
        self.hash == self.function.empty_hash() && self.size.is_none_or(|size| size == 0)
    }

    fn dialect(&self) -> Dialect {
        Dialect::Cas(self.function)
    }

    /// Whether an entry under the blob's hash is of this size.
    fn fits(&self, entry: &Found) -> bool {
        StoredForm::decode(&entry.metadata, entry.size)
            .is_some_and(|form| self.size.is_none_or(|size| size == form.size))
    }

    fn storage_key(&self, grant: &ReadGrant, scope: &Scope) -> StorageKey {
        StorageKey::of_blob(grant.workspace(), scope, self.function, self.hash)
    }
}

impl From<&Digest> for BlobName {
    fn from(digest: &Digest) -> Self {
        Self {
            function: digest.function(),
            hash: digest.hash(),
            size: Some(digest.size()),
        }
    }
}

/// A blob that was found.
pub struct BlobHit {
    /// The blob's bytes, uncompressed.
    pub size: u64,
    /// How it is stored.
    pub stored: Encoding,
    /// The bytes that are stored.
    pub stored_bytes: u64,
    /// When it was stored, in unix milliseconds.
    pub written_at_ms: u64,
    /// Who stored it.
    pub writer: WriterId,
    body: HitBody,
    workspace: WorkspaceName,
    lane: Arc<Lane>,
}

impl BlobHit {
    /// The blob from its byte `offset` on, encoded as wanted.
    pub fn read(self, wanted: Encoding, offset: u64) -> BlobBody {
        let encodings = (self.stored, wanted);
        let windows = || self.lane.windows(&self.workspace);
        let recoder = Recoder::new(encodings, self.size, offset, windows);
        BlobBody::new(self.body, recoder, self.size, offset, self.lane)
    }

    /// All bytes as they are stored, if they are at hand; once.
    pub fn whole(&mut self) -> Option<Bytes> {
        self.body.take_whole()
    }
}

impl Cache {
    /// Finds a blob: in `trusted` first, then in the caller's own scope. Every doubt is a miss, and so is
    /// another size than the name says.
    pub async fn get_blob(&self, grant: &ReadGrant, name: &BlobName) -> Option<BlobHit> {
        if name.is_empty_blob() {
            return Some(self.empty_blob(grant, name));
        }
        let started = Instant::now();
        let key = |scope: &Scope| name.storage_key(grant, scope);
        let fits = |entry: &Found| name.fits(entry);
        let found = self.find(grant, &key, 0, Doubt::IsPassed, fits).await;
        self.found_blob(found.map(|(entry, _)| entry), grant, name, started)
    }

    /// [`Cache::get_blob`] for an answer that is at hand; see [`Cache::get_at_hand`].
    pub fn get_blob_at_hand(
        &self,
        grant: &ReadGrant,
        name: &BlobName,
    ) -> Result<Option<BlobHit>, NotAtHand> {
        if name.is_empty_blob() {
            return Ok(Some(self.empty_blob(grant, name)));
        }
        let started = Instant::now();
        let key = |scope: &Scope| name.storage_key(grant, scope);
        let fits = |entry: &Found| name.fits(entry);
        let found = self.find_at_hand(grant, key, Doubt::IsPassed, fits)?;
        Ok(self.found_blob(found, grant, name, started))
    }

    fn found_blob(
        &self,
        entry: Option<Found>,
        grant: &ReadGrant,
        name: &BlobName,
        started: Instant,
    ) -> Option<BlobHit> {
        let hit = self.found(entry, grant, name.dialect(), started)?;
        let form = StoredForm::decode(&hit.metadata, hit.size)?;
        Some(BlobHit {
            size: form.size,
            stored: form.encoding,
            stored_bytes: hit.size,
            written_at_ms: hit.written_at_ms,
            writer: hit.writer,
            body: hit.body,
            workspace: grant.workspace().clone(),
            lane: self.lanes.of(grant.kind()).clone(),
        })
    }

    fn empty_blob(&self, grant: &ReadGrant, name: &BlobName) -> BlobHit {
        let lane = self.lanes.of(grant.kind());
        let series = self.blob_series(grant, name);
        let body = FoundBody::Stored(larder_store::Body::Whole(Bytes::new()));
        BlobHit {
            size: 0,
            stored: Encoding::Identity,
            stored_bytes: 0,
            written_at_ms: 0,
            writer: WriterId(0),
            body: HitBody::new(body, 0, lane.clone(), series),
            workspace: grant.workspace().clone(),
            lane: lane.clone(),
        }
    }

    fn blob_series(&self, grant: &ReadGrant, name: &BlobName) -> Arc<KindSeries> {
        let metrics = self.metrics();
        metrics.series(name.dialect(), grant.workspace(), grant.kind())
    }

    /// Begins to store a blob that is sent in this encoding, in `body_bytes` bytes if the sender says how many.
    /// A blob that the writer can see exists, and is leased; so it is if somebody else's turns out to be there when
    /// this one is finished. One that is stored by this call is not ([`Stored::New`]). What is sent as zstd is stored as it is, if the name
    /// says the blob's size; otherwise uncompressed.
    pub async fn put_blob(
        &self,
        grant: &WriteGrant,
        name: &BlobName,
        encoding: Encoding,
        body_bytes: Option<u64>,
    ) -> Result<PutStart, PutRefusal> {
        let series = self.blob_series(grant.visible(), name);
        let start = self
            .begin_blob(grant, name, encoding, body_bytes, &series)
            .await;
        series.count_start(&start);
        start
    }

    /// Stores a blob whose body, in this encoding, is at hand: at most a few MiB. Leases as [`Cache::put_blob`] does.
    pub async fn put_whole_blob(
        &self,
        grant: &WriteGrant,
        digest: &Digest,
        encoding: Encoding,
        body: Bytes,
    ) -> Result<Stored, PutRefusal> {
        let name = BlobName::from(digest);
        let series = self.blob_series(grant.visible(), &name);
        match self
            .begin_whole(grant, &name, encoding, body, &series)
            .await
        {
            Ok(Some(upload)) => upload.finish().await,
            Ok(None) => {
                series.exists();
                Ok(Stored::Exists)
            }
            Err(refusal) => {
                series.refused(refusal);
                Err(refusal)
            }
        }
    }

    /// Whether the writer can be told that the blob exists.
    async fn needs_no_blob(&self, grant: &WriteGrant, name: &BlobName) -> bool {
        name.is_empty_blob()
            || (self.sees_blob(grant.visible(), name).await
                && !self.awaits_bucket(grant, &name.storage_key(grant.visible(), grant.scope())))
    }

    async fn begin_blob(
        &self,
        grant: &WriteGrant,
        name: &BlobName,
        encoding: Encoding,
        body_bytes: Option<u64>,
        series: &Arc<KindSeries>,
    ) -> Result<PutStart, PutRefusal> {
        let started = Instant::now();
        if self.needs_no_blob(grant, name).await {
            return Ok(PutStart::Exists);
        }
        let limit = self.entry_bytes_max(grant.workspace());
        if name.size.max(body_bytes) > Some(limit) {
            return Err(PutRefusal::TooLarge { limit });
        }
        let handle = self.pair(grant.workspace()).of(grant.scope());
        let pool = handle.wait().await.ok_or(PutRefusal::Unavailable)?;
        let (size, declared, keep) = match encoding {
            Encoding::Identity => {
                let size = name.size.or(body_bytes);
                (size, size, Keep::AsSent)
            }
            Encoding::Zstd if name.size.is_some() => (name.size, body_bytes, Keep::AsSent),
            Encoding::Zstd => (None, body_bytes, Keep::Uncompressed),
        };
        if let (Encoding::Identity, Some(declared), Some(received)) =
            (encoding, name.size, body_bytes)
            && declared != received
        {
            return Err(PutRefusal::SizeMismatch { declared, received });
        }
        let most = most_sent(name, encoding);
        let limit = limit.min(most);
        if body_bytes > Some(limit) {
            return Err(PutRefusal::TooLarge { limit });
        }
        let draft = draft(grant, name, size, encoding, keep);
        let intent = Intent {
            promise: Some(promise(grant, pool, &draft)),
            draft,
            declared,
            limit,
            proof: Some(Proof {
                verification: self.verification(grant, name, size, encoding),
                keep,
            }),
            started,
        };
        self.admit(grant, pool, intent, series)
    }

    /// `None`: it exists.
    async fn begin_whole(
        &self,
        grant: &WriteGrant,
        name: &BlobName,
        encoding: Encoding,
        body: Bytes,
        series: &Arc<KindSeries>,
    ) -> Result<Option<Upload>, PutRefusal> {
        let started = Instant::now();
        if self.needs_no_blob(grant, name).await {
            return Ok(None);
        }
        let (limit, received) = (self.entry_bytes_max(grant.workspace()), body.len() as u64);
        if name.size.max(Some(received)) > Some(limit) {
            return Err(PutRefusal::TooLarge { limit });
        }
        if let (Encoding::Identity, Some(declared)) = (encoding, name.size)
            && declared != received
        {
            return Err(PutRefusal::SizeMismatch { declared, received });
        }
        let limit = limit.min(most_sent(name, encoding));
        if received > limit {
            return Err(PutRefusal::TooLarge { limit });
        }
        let handle = self.pair(grant.workspace()).of(grant.scope());
        let pool = handle.wait().await.ok_or(PutRefusal::Unavailable)?;
        let draft = draft(grant, name, name.size, encoding, Keep::AsSent);
        let promise = promise(grant, pool, &draft);
        let offering = self.offering(grant, &draft);
        let verification = self.verification(grant, name, name.size, encoding);
        let sink = Sink::Collected(Box::new(Collection {
            draft,
            pool: pool.clone(),
            body: CollectedBody::Whole(body),
            verification: Some(verification),
            verified: 0,
        }));
        Ok(Some(Upload {
            sink,
            declared: None,
            received,
            limit,
            durability: pool.durability(),
            promise: Some(promise),
            offering,
            lane: self.lanes.of(grant.kind()).clone(),
            turn: None,
            series: series.clone(),
            started,
        }))
    }

    fn verification(
        &self,
        grant: &WriteGrant,
        name: &BlobName,
        size: Option<u64>,
        encoding: Encoding,
    ) -> Verification {
        let limit = self.entry_bytes_max(grant.workspace());
        let windows = || self.lanes.of(grant.kind()).windows(grant.workspace());
        Verification::new(name.function, name.hash, size, limit, encoding, windows)
    }
}

/// How much longer than the blob itself its compressed form may be, beside a part of its size ([`most_sent`]).
const COMPRESSED_EXCESS_BYTES_MAX: u64 = 64 << 10;

/// The most bytes that a blob may be sent in. Frames of nothing and frames to be skipped could make zstd of one byte
/// as long as any, and whoever reads the blob would decode them all. What does not compress becomes longer by three
/// bytes for each block of 128 KiB and twenty for each frame; 1/128 of the size allows for frames of 2 KiB and more.
fn most_sent(name: &BlobName, encoding: Encoding) -> u64 {
    match (encoding, name.size) {
        (Encoding::Zstd, Some(size)) => size
            .saturating_add(size / 128)
            .saturating_add(COMPRESSED_EXCESS_BYTES_MAX),
        // The size itself is the bound, or what is stored is not what is sent.
        (Encoding::Identity, _) | (Encoding::Zstd, None) => u64::MAX,
    }
}

/// The lease on somebody else's copy of the blob, if it turns out to be there.
fn promise(grant: &WriteGrant, pool: &Pool, draft: &Draft) -> Promise {
    Promise {
        pool: pool.clone(),
        key: draft.key.as_bytes().into(),
        lease: lease(grant.kind(), grant.scope()),
    }
}

/// The entry that a blob becomes.
fn draft(
    grant: &WriteGrant,
    name: &BlobName,
    size: Option<u64>,
    encoding: Encoding,
    keep: Keep,
) -> Draft {
    let encoding = match keep {
        Keep::AsSent => encoding,
        Keep::Uncompressed => Encoding::Identity,
    };
    let size = size.unwrap_or(0);
    Draft {
        key: name.storage_key(grant.visible(), grant.scope()),
        metadata: StoredForm { encoding, size }.metadata(),
        check: size_check(size),
        writer: grant.writer().0,
        dialect: name.dialect(),
        replace: false,
    }
}
