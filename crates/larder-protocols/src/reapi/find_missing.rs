//! `ContentAddressableStorage.FindMissingBlobs`: which of these blobs must be uploaded.
//!
//! The barrier in front of every write of every client, with up to a hundred thousand digests a call: read in place, asked for at once,
//! and answered with the very bytes of the digests that were sent.

use larder_model::Digest;

use super::call::{Call, Common, digest};
use super::fields::{Fields, Malformed, Value, put_block};
use super::status::Refused;

const REQUEST: &str = "FindMissingBlobsRequest";

/// Answers with `FindMissingBlobsResponse`. To a caller that may read nothing everything is missing.
pub(super) async fn answer(call: &Call<'_>, message: &[u8]) -> Result<Vec<u8>, Refused> {
    let common = Common::read(message, 3, REQUEST)?;
    // 74 bytes are the least that a digest takes.
    let mut digests: Vec<Digest> = Vec::with_capacity(message.len() / 74);
    let mut sent: Vec<&[u8]> = Vec::with_capacity(message.len() / 74);
    for field in Fields::of(message) {
        match field.map_err(|Malformed| Refused::Malformed(REQUEST))? {
            (2, Value::Bytes(bytes)) => {
                digests.push(digest(common.function, bytes)?);
                sent.push(bytes);
            }
            (2, _) => return Err(Refused::Malformed(REQUEST)),
            _ => {}
        }
    }
    let missing = match call.reader(&common.instance) {
        Ok(grant) => call.gateway.cache.find_missing(&grant, &digests).await,
        Err(Refused::Absent(unseen)) => {
            tracing::debug!(%unseen, "blobs were asked for");
            digests.iter().map(|digest| !digest.is_empty()).collect()
        }
        Err(refused) => return Err(refused),
    };
    let told = once(&digests, missing);
    let bytes = told.iter().map(|position| sent[*position].len() + 2);
    let mut response = Vec::with_capacity(bytes.sum());
    for position in told {
        put_block(2, sent[position], &mut response);
    }
    Ok(response)
}

/// The positions of what is missing, in order, of equal digests the first.
fn once(digests: &[Digest], mut missing: Vec<bool>) -> Vec<usize> {
    let positions =
        |missing: &[bool]| -> Vec<usize> { (0..missing.len()).filter(|at| missing[*at]).collect() };
    // Sorting costs the same whatever digests a client makes up; a hash table would not.
    let mut sorted = positions(&missing);
    sorted.sort_unstable_by_key(|position| (digests[*position], *position));
    for pair in sorted.windows(2) {
        if digests[pair[0]] == digests[pair[1]] {
            missing[pair[1]] = false;
        }
    }
    positions(&missing)
}
