//! Any bytes as a compressed blob. It is stored if zstd's own decoder makes the blob of its name of them, else not; and comes
//! back as that blob from any place in it.

#![no_main]

use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use larder_cache::{
    BlobBody, BlobName, Cache, CacheLimits, CacheMetrics, Encoding, PoolHandle, PoolPair, PutStart,
};
use larder_model::{
    Access, BlobHash, Caller, Digest, DigestFunction, Policy, Principal, WriteGrant, WriterId,
};
use larder_store::sim::SimDisk;
use larder_store::{Disk, Pool, PoolOptions};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

/// The most bytes that are decompressed here. A blob may have more, but few inputs should spend their time on it.
const BLOB_BYTES_MAX: usize = 4 << 20;
const WINDOW_LOG_MAX: u32 = 27;

struct Setup {
    runtime: Runtime,
    cache: Cache,
    caller: Caller,
    grant: WriteGrant,
}

thread_local! {
    static SETUP: OnceCell<Setup> = const { OnceCell::new() };
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>, u16)| {
    let (bytes, cuts, offset) = input;
    SETUP.with(|setup| check(setup.get_or_init(set_up), &bytes, &cuts, offset));
});

fn set_up() -> Setup {
    let pair = PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    };
    for handle in [&pair.trusted, &pair.untrusted] {
        let options = PoolOptions {
            free_reserve_bytes: 0,
            ..PoolOptions::new(64 << 20)
        };
        let disk = SimDisk::new(1, 256 << 20) as Arc<dyn Disk>;
        handle.load(|| Pool::open(disk, Path::new("pool"), options));
    }
    let workspace = "acme".parse().expect("a name");
    let caller = Caller::Known(Principal::new(workspace, Access::Trusted, WriterId(1)));
    let limits = CacheLimits::default();
    Setup {
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime"),
        cache: Cache::new(pair, HashMap::new(), limits, CacheMetrics::new()),
        grant: Policy::write(&caller, None).expect("a grant"),
        caller,
    }
}

fn check(setup: &Setup, bytes: &[u8], cuts: &[u8], offset: u16) {
    let expected = decoded(bytes);
    let blob = expected.clone().unwrap_or_default();
    // What is no blob cannot have its name; any other must do.
    let hash = match &expected {
        Ok(blob) => *blake3::hash(blob).as_bytes(),
        Err(()) => [7; 32],
    };
    let size = if expected.is_ok() { blob.len() } else { 1000 };
    let Ok(digest) = Digest::new(DigestFunction::Blake3, BlobHash(hash), size as i64) else {
        return;
    };
    setup.runtime.block_on(async {
        let (cache, grant) = (&setup.cache, &setup.grant);
        let whole = Bytes::copy_from_slice(bytes);
        let stored = cache
            .put_whole_blob(grant, &digest, Encoding::Zstd, whole)
            .await;
        let streamed = stream(setup, &digest, bytes, cuts).await;
        if expected.is_err() || digest.is_empty() {
            assert!(expected.is_ok() || stored.is_err() && !streamed);
            return;
        }
        assert!(stored.is_ok() && streamed, "{stored:?} {streamed}");
        let read = Policy::read(&setup.caller, None).expect("a grant");
        let offset = usize::from(offset).min(blob.len());
        for (encoding, offset) in [(Encoding::Identity, offset), (Encoding::Zstd, 0)] {
            let hit = cache.get_blob(&read, &BlobName::from(&digest)).await;
            let body = hit.expect("what was stored").read(encoding, offset as u64);
            let sent = drain(body).await;
            let found = match encoding {
                Encoding::Identity => sent,
                Encoding::Zstd => decoded(&sent).expect("zstd"),
            };
            assert!(found == blob[offset..]);
        }
    });
}

/// Uploads the bytes in pieces under the same name, to be checked again unless the blob is there.
async fn stream(setup: &Setup, digest: &Digest, bytes: &[u8], cuts: &[u8]) -> bool {
    let name = BlobName {
        size: None,
        ..BlobName::from(digest)
    };
    let put = setup
        .cache
        .put_blob(&setup.grant, &name, Encoding::Zstd, None);
    let mut upload = match put.await {
        Ok(PutStart::Upload(upload)) => upload,
        Ok(PutStart::Exists) => return true,
        Err(_) => return false,
    };
    let mut rest = bytes;
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        if upload.write(Bytes::copy_from_slice(piece)).await.is_err() {
            return false;
        }
        rest = after;
    }
    upload.write(Bytes::copy_from_slice(rest)).await.is_ok() && upload.finish().await.is_ok()
}

async fn drain(mut body: BlobBody) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(piece) = body.next().await {
        whole.extend_from_slice(&piece.expect("a piece"));
    }
    whole
}

/// What zstd's decoder makes of the bytes: of one or more whole frames and nothing else.
fn decoded(bytes: &[u8]) -> Result<Vec<u8>, ()> {
    let mut context = zstd_safe::DCtx::create();
    let window = zstd_safe::DParameter::WindowLogMax(WINDOW_LOG_MAX);
    context.set_parameter(window).map_err(|_| ())?;
    let mut out = Vec::with_capacity(BLOB_BYTES_MAX);
    let mut input = zstd_safe::InBuffer::around(bytes);
    loop {
        let (taken, made) = (input.pos(), out.len());
        let mut output = zstd_safe::OutBuffer::around_pos(&mut out, made);
        let hint = context.decompress_stream(&mut output, &mut input);
        let hint = hint.map_err(|_| ())?;
        if hint == 0 && input.pos() == bytes.len() {
            return Ok(out);
        }
        if (taken, made) == (input.pos(), out.len()) {
            return Err(());
        }
    }
}
