//! The messages of the Remote Execution API and of ByteStream that a cache's client sends and takes, written from their
//! specification (`build/bazel/remote/execution/v2`, `google/bytestream`).

use std::collections::HashMap;

use bytes::Bytes;

use crate::content::{Blob, Content};
use crate::error::BenchError;
use crate::protobuf::{next_field, put_bytes, put_head, put_number};

/// The gRPC methods.
pub(crate) mod method {
    pub(crate) const GET_RESULT: &str =
        "/build.bazel.remote.execution.v2.ActionCache/GetActionResult";
    pub(crate) const UPDATE_RESULT: &str =
        "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";
    pub(crate) const FIND_MISSING: &str =
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
    pub(crate) const BATCH_UPDATE: &str =
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
    pub(crate) const BATCH_READ: &str =
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs";
    pub(crate) const READ: &str = "/google.bytestream.ByteStream/Read";
    pub(crate) const WRITE: &str = "/google.bytestream.ByteStream/Write";
}

/// The field of the instance name in every request.
const INSTANCE: u64 = 1;

fn digest(blob: &Blob) -> Vec<u8> {
    let mut message = Vec::with_capacity(80);
    put_bytes(&mut message, 1, blob.name.as_bytes());
    put_number(&mut message, 2, blob.size);
    message
}

fn request(instance: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !instance.is_empty() {
        put_bytes(&mut message, INSTANCE, instance.as_bytes());
    }
    message
}

/// `FindMissingBlobsRequest`, and `BatchReadBlobsRequest`, which is encoded alike.
pub(crate) fn blobs_request(instance: &str, blobs: &[Blob]) -> Bytes {
    let mut message = request(instance);
    for blob in blobs {
        put_bytes(&mut message, 2, &digest(blob));
    }
    message.into()
}

/// `BatchUpdateBlobsRequest`.
pub(crate) fn batch_update(instance: &str, content: &Content, blobs: &[Blob]) -> Bytes {
    let mut message = request(instance);
    let bytes: u64 = blobs.iter().map(|blob| blob.size + 100).sum();
    message.reserve(bytes as usize);
    for blob in blobs {
        let digest = digest(blob);
        let mut head = Vec::with_capacity(digest.len() + 16);
        put_bytes(&mut head, 1, &digest);
        put_head(&mut head, 2, blob.size as usize);
        put_head(&mut message, 2, head.len() + blob.size as usize);
        message.extend_from_slice(&head);
        for piece in content.pieces(blob) {
            message.extend_from_slice(&piece);
        }
    }
    message.into()
}

/// `ActionResult` with these files as outputs.
pub(crate) fn action_result(outputs: &[Blob]) -> Vec<u8> {
    let mut message = Vec::with_capacity(outputs.len() * 130);
    for (number, output) in outputs.iter().enumerate() {
        let mut file = Vec::with_capacity(128);
        let path = format!("packages/application/dist/chunk-{number}.js");
        put_bytes(&mut file, 1, path.as_bytes());
        put_bytes(&mut file, 2, &digest(output));
        put_bytes(&mut message, 2, &file);
    }
    message
}

/// `GetActionResultRequest`.
pub(crate) fn get_result(instance: &str, action: &Blob) -> Bytes {
    let mut message = request(instance);
    put_bytes(&mut message, 2, &digest(action));
    message.into()
}

/// `UpdateActionResultRequest`.
pub(crate) fn update_result(instance: &str, action: &Blob, result: &[u8]) -> Bytes {
    let mut message = request(instance);
    put_bytes(&mut message, 2, &digest(action));
    put_bytes(&mut message, 3, result);
    message.into()
}

/// `ReadRequest` for a whole blob.
pub(crate) fn read(instance: &str, blob: &Blob) -> Bytes {
    let mut message = Vec::with_capacity(100);
    let name = format!("{}blobs/{}/{}", in_front(instance), blob.name, blob.size);
    put_bytes(&mut message, 1, name.as_bytes());
    message.into()
}

/// The resource name of an upload. No two uploads may have one id.
pub(crate) fn upload_name(instance: &str, upload: u64, blob: &Blob) -> String {
    let (high, low) = (upload >> 48, upload & 0xffff_ffff_ffff);
    format!(
        "{}uploads/1a4de200-0000-4000-{:04x}-{low:012x}/blobs/{}/{}",
        in_front(instance),
        0x8000 | (high & 0x3fff),
        blob.name,
        blob.size
    )
}

/// A `WriteRequest` up to its data, which is sent after it.
pub(crate) fn write_head(name: &str, offset: u64, length: usize, is_last: bool) -> Vec<u8> {
    let mut message = Vec::with_capacity(name.len() + 24);
    if offset == 0 {
        put_bytes(&mut message, 1, name.as_bytes());
    }
    put_number(&mut message, 2, offset);
    put_number(&mut message, 3, u64::from(is_last));
    put_head(&mut message, 10, length);
    message
}

/// `WriteResponse.committed_size`.
pub(crate) fn committed_size(mut message: Bytes) -> Result<u64, BenchError> {
    let mut size = 0;
    while let Some((field, value)) = next_field(&mut message)? {
        if field == 1 {
            size = value.number();
        }
    }
    Ok(size)
}

fn in_front(instance: &str) -> String {
    match instance {
        "" => String::new(),
        instance => format!("{instance}/"),
    }
}

/// Whether an `ActionResult` has exactly these outputs, in this order. What a server adds of its own is not looked at.
pub(crate) fn has_outputs(mut result: Bytes, outputs: &[Blob]) -> Result<bool, BenchError> {
    let mut expected = outputs.iter();
    while let Some((field, value)) = next_field(&mut result)? {
        if field != 2 {
            continue;
        }
        let mut file = value.bytes();
        while let Some((field, value)) = next_field(&mut file)? {
            if field != 2 {
                continue;
            }
            let (hash, size) = hash_and_size(value.bytes())?;
            let is_next = expected
                .next()
                .is_some_and(|output| hash == output.name.as_bytes() && size == output.size);
            if !is_next {
                return Ok(false);
            }
        }
    }
    Ok(expected.next().is_none())
}

/// Whether a `FindMissingBlobsResponse` names exactly these, in any order.
pub(crate) fn names_missing(mut answer: Bytes, missing: &[Blob]) -> Result<bool, BenchError> {
    let (mut found, mut sum) = (0, 0u64);
    while let Some((field, value)) = next_field(&mut answer)? {
        if field == 2 {
            let (hash, size) = hash_and_size(value.bytes())?;
            found += 1;
            sum = sum.wrapping_add(fingerprint(&hash, size));
        }
    }
    let expected = missing.iter().fold(0u64, |sum, blob| {
        sum.wrapping_add(fingerprint(blob.name.as_bytes(), blob.size))
    });
    Ok(found == missing.len() && sum == expected)
}

/// Of a set the sum of these tells whether it is the same one: the hashes are uniformly distributed, and the run's own.
fn fingerprint(hash: &[u8], size: u64) -> u64 {
    let first = hash
        .first_chunk::<8>()
        .map_or(0, |first| u64::from_le_bytes(*first));
    let last = hash
        .last_chunk::<8>()
        .map_or(0, |last| u64::from_le_bytes(*last));
    crate::content::mixed(first.rotate_left(17) ^ last ^ size.rotate_left(40))
}

/// How many blobs of a `BatchUpdateBlobsResponse` were stored.
pub(crate) fn stored(mut answer: Bytes) -> Result<usize, BenchError> {
    let mut stored = 0;
    while let Some((field, value)) = next_field(&mut answer)? {
        if field == 1 {
            let mut response = value.bytes();
            let mut code = 0;
            while let Some((field, value)) = next_field(&mut response)? {
                if field == 2 {
                    code = status_code(value.bytes())?;
                }
            }
            stored += usize::from(code == 0);
        }
    }
    Ok(stored)
}

/// Compares a `BatchReadBlobsResponse` with what it must bring; how many of the blobs it says it does not have.
pub(crate) fn read_back(
    mut answer: Bytes,
    content: &Content,
    blobs: &[Blob],
) -> Result<usize, BenchError> {
    let (mut next, mut seen, mut gone) = (0, 0, 0);
    // Most servers answer in the order of the request; for the others there is a table, made when it is needed.
    let mut by_name: Option<HashMap<&[u8], &Blob>> = None;
    while let Some((field, value)) = next_field(&mut answer)? {
        if field != 1 {
            continue;
        }
        let (mut response, mut name, mut bytes, mut code) =
            (value.bytes(), Bytes::new(), Bytes::new(), 0);
        while let Some((field, value)) = next_field(&mut response)? {
            match field {
                1 => name = hash_and_size(value.bytes())?.0,
                2 => bytes = value.bytes(),
                3 => code = status_code(value.bytes())?,
                _ => {}
            }
        }
        let in_order = blobs.get(next).filter(|blob| blob.name.as_bytes() == name);
        let blob = in_order.or_else(|| {
            let table = by_name.get_or_insert_with(|| {
                let entries = blobs.iter().map(|blob| (blob.name.as_bytes(), blob));
                entries.collect()
            });
            table.get(name.as_ref()).copied()
        });
        let blob = blob.ok_or_else(|| {
            BenchError::Wrong(
                "an answer to BatchReadBlobs with a blob that was not asked for".to_owned(),
            )
        })?;
        (next, seen) = (next + 1, seen + 1);
        if code != 0 {
            gone += 1;
        } else if bytes.len() as u64 != blob.size || !content.is_right(blob, 0, &bytes) {
            let what = format!("other bytes than were stored as {}", blob.name);
            return Err(BenchError::Wrong(what));
        }
    }
    if seen != blobs.len() {
        let what = format!(
            "{seen} answers to BatchReadBlobs with {} blobs",
            blobs.len()
        );
        return Err(BenchError::Wrong(what));
    }
    Ok(gone)
}

fn hash_and_size(mut digest: Bytes) -> Result<(Bytes, u64), BenchError> {
    let (mut hash, mut size) = (Bytes::new(), 0);
    while let Some((field, value)) = next_field(&mut digest)? {
        match field {
            1 => hash = value.bytes(),
            2 => size = value.number(),
            _ => {}
        }
    }
    Ok((hash, size))
}

fn status_code(mut status: Bytes) -> Result<u64, BenchError> {
    let mut code = 0;
    while let Some((field, value)) = next_field(&mut status)? {
        if field == 1 {
            code = value.number();
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(content: &Content, from: u64, count: u64) -> Vec<Blob> {
        (from..from + count)
            .map(|id| content.hashed(id, 100 + id))
            .collect()
    }

    /// A `BatchReadBlobsResponse`: what a server would say.
    fn answer(parts: &[(&Blob, &[u8], u64)]) -> Bytes {
        let mut answer = Vec::new();
        for (blob, bytes, code) in parts {
            let mut response = Vec::new();
            put_bytes(&mut response, 1, &digest(blob));
            put_bytes(&mut response, 2, bytes);
            let mut status = Vec::new();
            put_number(&mut status, 1, *code);
            put_bytes(&mut response, 3, &status);
            put_bytes(&mut answer, 1, &response);
        }
        answer.into()
    }

    #[test]
    fn a_batch_is_right_in_any_order_and_wrong_by_one_byte_or_one_blob() {
        let content = Content::new(1);
        let asked = blobs(&content, 0, 3);
        let bytes: Vec<Vec<u8>> = asked
            .iter()
            .map(|blob| content.pieces(blob).concat())
            .collect();
        let part = |at: usize| (&asked[at], bytes[at].as_slice(), 0);
        let check = |parts: &[(&Blob, &[u8], u64)]| read_back(answer(parts), &content, &asked);
        assert_eq!(check(&[part(0), part(1), part(2)]).unwrap(), 0);
        assert_eq!(check(&[part(2), part(0), part(1)]).unwrap(), 0);
        assert_eq!(check(&[part(0), part(1), (&asked[2], b"", 5)]).unwrap(), 1);
        assert!(check(&[part(0), part(1)]).is_err());
        assert!(check(&[part(0), part(1), (&asked[2], &bytes[1], 0)]).is_err());
        let other = content.hashed(99, 5);
        assert!(
            check(&[
                part(0),
                part(1),
                (&other, &content.pieces(&other).concat(), 0)
            ])
            .is_err()
        );
    }

    #[test]
    fn an_action_result_is_its_outputs_in_their_order_and_nothing_else() {
        let content = Content::new(1);
        let outputs = blobs(&content, 0, 3);
        let mut result = action_result(&outputs);
        // What a server adds: its name in the metadata.
        put_bytes(&mut result, 9, b"\x0a\x01x");
        let result = Bytes::from(result);
        assert!(has_outputs(result.clone(), &outputs).unwrap());
        assert!(!has_outputs(result.clone(), &outputs[..2]).unwrap());
        assert!(!has_outputs(result.clone(), &blobs(&content, 0, 4)).unwrap());
        assert!(!has_outputs(result, &blobs(&content, 1, 3)).unwrap());
    }

    #[test]
    fn missing_blobs_are_a_set() {
        let content = Content::new(1);
        let missing = blobs(&content, 0, 4);
        let response = |blobs: &[Blob]| blobs_request("", blobs);
        let backwards: Vec<Blob> = missing.iter().rev().cloned().collect();
        assert!(names_missing(response(&missing), &missing).unwrap());
        assert!(names_missing(response(&backwards), &missing).unwrap());
        assert!(!names_missing(response(&missing[..3]), &missing).unwrap());
        assert!(!names_missing(response(&blobs(&content, 1, 4)), &missing).unwrap());
        assert!(names_missing(Bytes::new(), &[]).unwrap());
    }

    #[test]
    fn resource_names_have_the_instance_in_front_and_a_uuid() {
        let blob = Blob {
            id: 0,
            size: 5,
            name: "ab".to_owned(),
        };
        let name = upload_name("main/x", 0xabcd, &blob);
        assert_eq!(
            name,
            "main/x/uploads/1a4de200-0000-4000-8000-00000000abcd/blobs/ab/5"
        );
        assert_eq!(&read("", &blob)[2..], b"blobs/ab/5");
    }
}
