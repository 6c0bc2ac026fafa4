//! Blobs for tests: their digests, encodings, and the calls that take them.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use larder_cache::{BlobBody, BlobName, BodyLost, Encoding, PutRefusal, PutStart, Stored, Upload};
use larder_model::{BlobHash, Digest, DigestFunction};

use crate::pools::{Setup, Who};

pub(crate) fn digest_by(function: DigestFunction, blob: &[u8]) -> Digest {
    let hash = match function {
        DigestFunction::Sha256 => digest(&SHA256, blob).as_ref().try_into().unwrap(),
        DigestFunction::Blake3 => *blake3::hash(blob).as_bytes(),
    };
    let size = (blob.len() as u64).cast_signed();
    Digest::new(function, BlobHash(hash), size).unwrap()
}

pub(crate) fn digest_of(blob: &[u8]) -> Digest {
    digest_by(DigestFunction::Sha256, blob)
}

/// The right hash with another size.
pub(crate) fn resized(digest: &Digest, size: u64) -> Digest {
    Digest::new(digest.function(), digest.hash(), size.cast_signed()).unwrap()
}

/// The name that HTTP has for a blob.
pub(crate) fn without_size(digest: &Digest) -> BlobName {
    BlobName {
        size: None,
        ..BlobName::from(digest)
    }
}

pub(crate) fn compress(plain: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    zstd_safe::compress(&mut frame, plain, 3).unwrap();
    frame
}

/// Several frames, one after the other, some of them empty or to be skipped.
pub(crate) fn compress_in_frames(plain: &[u8], frame_bytes: usize) -> Vec<u8> {
    let mut frames = compress(b"");
    for part in plain.chunks(frame_bytes) {
        frames.extend([0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        frames.extend(compress(part));
    }
    frames
}

pub(crate) fn decompress(frames: &[u8], size: usize) -> Vec<u8> {
    let mut plain = Vec::with_capacity(size + 1);
    zstd_safe::decompress(&mut plain, frames).unwrap();
    plain
}

pub(crate) fn encoded(blob: &[u8], encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Identity => blob.to_vec(),
        Encoding::Zstd => compress(blob),
    }
}

/// Everything of a body, or what was there before it was lost.
pub(crate) async fn drain(mut body: BlobBody) -> Result<Vec<u8>, BodyLost> {
    let mut read = Vec::new();
    while let Some(piece) = body.next().await {
        read.extend_from_slice(&piece?);
    }
    Ok(read)
}

impl Setup {
    pub(crate) async fn begin_blob(
        &self,
        who: &Who,
        name: &BlobName,
        encoding: Encoding,
        body_bytes: Option<u64>,
    ) -> Result<Option<Upload>, PutRefusal> {
        let grant = who.write();
        let start = self.cache.put_blob(&grant, name, encoding, body_bytes);
        match start.await? {
            PutStart::Upload(upload) => Ok(Some(upload)),
            PutStart::Exists => Ok(None),
        }
    }

    pub(crate) async fn send_blob(
        &self,
        who: &Who,
        name: &BlobName,
        encoding: Encoding,
        body_bytes: Option<u64>,
        sent: &[u8],
    ) -> Result<Stored, PutRefusal> {
        let upload = self.begin_blob(who, name, encoding, body_bytes).await?;
        let Some(mut upload) = upload else {
            return Ok(Stored::Exists);
        };
        for chunk in sent.chunks(70_001) {
            upload.write(Bytes::copy_from_slice(chunk)).await?;
        }
        upload.finish().await
    }

    pub(crate) async fn put_whole(
        &self,
        who: &Who,
        digest: &Digest,
        encoding: Encoding,
        sent: Bytes,
    ) -> Result<Stored, PutRefusal> {
        let grant = who.write();
        self.cache
            .put_whole_blob(&grant, digest, encoding, sent)
            .await
    }

    /// Stores a blob as it is, under its digest.
    pub(crate) async fn put_blob(&self, who: &Who, blob: &[u8]) -> Result<Stored, PutRefusal> {
        let (name, bytes) = (BlobName::from(&digest_of(blob)), Some(blob.len() as u64));
        self.send_blob(who, &name, Encoding::Identity, bytes, blob)
            .await
    }

    pub(crate) async fn read_blob(&self, who: &Who, name: &BlobName) -> Option<Vec<u8>> {
        let hit = self.cache.get_blob(&who.read(), name).await?;
        Some(drain(hit.read(Encoding::Identity, 0)).await.unwrap())
    }

    pub(crate) async fn missing(&self, who: &Who, digests: &[Digest]) -> Vec<bool> {
        self.cache.find_missing(&who.read(), digests).await
    }
}
