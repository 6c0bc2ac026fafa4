//! A cache of the Remote Execution API, as its clients see it: results of actions, and blobs.
//!
//! An entry here is the result of an action that never ran: a command `creep-check` whose argument is the key. Its output is
//! in the message itself (`stdout_raw`), so that a result is complete without any blob. Command and action are stored first,
//! as the API demands of its clients.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use larder_grpc::Code;
use larder_proto::reapi::{
    ActionResult, BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest,
    BatchUpdateBlobsResponse, Digest, FindMissingBlobsRequest, FindMissingBlobsResponse,
    GetActionResultRequest, UpdateActionResultRequest, action_cache, batch_update_blobs_request,
    content_addressable_storage as cas,
};
use larder_proto::{Message as _, bytestream};

use super::exchange::{Exchange, Key, Loaded, Refusal, Stored, Unclear, hex, random_bytes, sha256};
use super::grpc::{self, Called};
use super::nx;
use super::people::{People, Who};
use super::tricks::ReapiTrick;

pub(super) struct ReapiCache {
    /// `http://host:port` or `https://host:port`.
    url: String,
    pub(super) instance: String,
}

/// An action and what it consists of.
struct Action {
    digest: Digest,
    blobs: Vec<Bytes>,
}

impl ReapiCache {
    pub(super) fn new(url: &str, instance: String) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            instance,
        }
    }

    /// The result of the action `key` with this output.
    fn result(text: &str) -> ActionResult {
        ActionResult {
            stdout_raw: Bytes::copy_from_slice(text.as_bytes()),
            ..ActionResult::default()
        }
    }

    pub(super) async fn store(
        &self,
        people: &People,
        who: Who,
        key: Key,
        text: &str,
        trick: Option<&ReapiTrick>,
    ) -> Exchange<Stored> {
        let action = action(key);
        let instance = match trick {
            Some(ReapiTrick::Instance(name)) => name,
            _ => &self.instance,
        };
        // Whether it was taken shows in what becomes of the result.
        let blobs = self.upload_all(people, who, instance, &action.blobs).await;
        if let Err(unclear) = blobs.meaning {
            return Exchange::new(blobs.asked, blobs.answered, Err(unclear));
        }
        let mut request = UpdateActionResultRequest {
            instance_name: instance.clone(),
            action_digest: Some(action.digest.clone()),
            action_result: Some(Self::result(text)),
            ..UpdateActionResultRequest::default()
        };
        let mut headers = HeaderMap::new();
        match trick {
            None | Some(ReapiTrick::Instance(_)) => {}
            Some(ReapiTrick::Headers(claims)) => {
                for (name, value) in claims {
                    headers.append(*name, HeaderValue::from_static(value));
                }
            }
            Some(ReapiTrick::Capitals) => {
                request.action_digest = Some(Digest {
                    hash: action.digest.hash.to_uppercase(),
                    ..action.digest
                });
            }
            Some(ReapiTrick::OtherSize) => {
                request.action_digest = Some(Digest {
                    size_bytes: action.digest.size_bytes + 1,
                    ..action.digest
                });
            }
            Some(ReapiTrick::Function(function)) => request.digest_function = *function as i32,
            Some(ReapiTrick::Http(prefix)) => {
                let path = format!("{prefix}/ac/{}", action.digest.hash);
                let body = Self::result(text).encode_to_vec().into();
                return self.put(people, who, &path, body).await;
            }
        }
        let path = action_cache::UPDATE_ACTION_RESULT;
        let called: Exchange<Called<ActionResult>> =
            grpc::call(people, who, &self.url, path, &request, headers).await;
        called
            .about(&describe(&request.instance_name, request.action_digest))
            .read(|called| Ok(stored(called)))
    }

    pub(super) async fn load(&self, people: &People, who: Who, key: Key) -> Exchange<Loaded> {
        let request = GetActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action(key).digest),
            inline_stdout: true,
            ..GetActionResultRequest::default()
        };
        let path = action_cache::GET_ACTION_RESULT;
        let called: Exchange<Called<ActionResult>> =
            grpc::call(people, who, &self.url, path, &request, HeaderMap::new()).await;
        let called = called.about(&describe(&self.instance, request.action_digest));
        called.read(|called| {
            Ok(match called {
                Called::Ok(result) => Loaded::Bytes(result.stdout_raw),
                Called::NotFound => Loaded::Nothing,
                Called::AlreadyExists => Loaded::Refused(Refusal::Forbidden),
                Called::Refused(refusal) => Loaded::Refused(refusal),
            })
        })
    }

    async fn upload_all(
        &self,
        people: &People,
        who: Who,
        instance: &str,
        blobs: &[Bytes],
    ) -> Exchange<Stored> {
        let named = |blob: &Bytes| (digest(blob), blob.clone());
        let blobs = blobs.iter().map(named).collect();
        self.batch_update(people, who, instance, blobs).await
    }

    /// Stores `bytes` as the blob `digest`, which they may not be, in one message with others of their kind.
    pub(super) async fn upload(
        &self,
        people: &People,
        who: Who,
        digest: &Digest,
        bytes: Bytes,
    ) -> Exchange<Stored> {
        let blobs = vec![(digest.clone(), bytes)];
        self.batch_update(people, who, &self.instance, blobs).await
    }

    async fn batch_update(
        &self,
        people: &People,
        who: Who,
        instance: &str,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Exchange<Stored> {
        let requests =
            blobs
                .into_iter()
                .map(|(digest, data)| batch_update_blobs_request::Request {
                    digest: Some(digest),
                    data,
                    ..batch_update_blobs_request::Request::default()
                });
        let request = BatchUpdateBlobsRequest {
            instance_name: instance.to_owned(),
            requests: requests.collect(),
            ..BatchUpdateBlobsRequest::default()
        };
        let path = cas::BATCH_UPDATE_BLOBS;
        let called: Exchange<Called<BatchUpdateBlobsResponse>> =
            grpc::call(people, who, &self.url, path, &request, HeaderMap::new()).await;
        called.read(|called| match called {
            Called::Ok(answer) => {
                let codes = answer.responses.iter().map(|blob| {
                    let code = blob.status.as_ref().map_or(0, |status| status.code);
                    grpc::code_of(code).unwrap_or(Code::Unknown)
                });
                match codes.max_by_key(|code| code.number()).map(grpc::of_code) {
                    Some(Some(called)) => Ok(stored(called)),
                    Some(None) => Err(Unclear("a blob was not stored".to_owned())),
                    None => Err(Unclear("the server answered no blob".to_owned())),
                }
            }
            other => Ok(stored(other)),
        })
    }

    /// As [`upload`](Self::upload), by `ByteStream.Write`.
    pub(super) async fn write(
        &self,
        people: &People,
        who: Who,
        digest: &Digest,
        bytes: Bytes,
    ) -> Exchange<Stored> {
        let request = bytestream::WriteRequest {
            resource_name: self.resource(&format!(
                "uploads/{}/blobs/{}/{}",
                uuid(),
                digest.hash,
                digest.size_bytes
            )),
            write_offset: 0,
            finish_write: true,
            data: bytes,
        };
        let path = bytestream::byte_stream::WRITE;
        let called: Exchange<Called<bytestream::WriteResponse>> =
            grpc::call(people, who, &self.url, path, &request, HeaderMap::new()).await;
        called.read(|called| Ok(stored(called)))
    }

    /// Where over HTTP results may be: at the root, and below the instance's name.
    pub(super) fn prefixes(&self) -> Vec<String> {
        let mut prefixes = vec![String::new()];
        if !self.instance.is_empty() {
            prefixes.push(format!("/{}", self.instance));
        }
        prefixes
    }

    /// `PUT` of `path`, as Bazel does it over HTTP.
    pub(super) async fn put(
        &self,
        people: &People,
        who: Who,
        path: &str,
        body: Bytes,
    ) -> Exchange<Stored> {
        let headers = HeaderMap::new();
        nx::exchange(&self.url, people, who, Method::PUT, path, headers, body)
            .await
            .read(|(status, _)| nx::stored(status))
    }

    /// The result of the action `key` by `GET` of `/ac/HASH` with `prefix` in front, as Bazel reads it over HTTP.
    pub(super) async fn get(
        &self,
        people: &People,
        who: Who,
        key: Key,
        prefix: &str,
    ) -> Exchange<Loaded> {
        let path = format!("{prefix}/ac/{}", action(key).digest.hash);
        let headers = HeaderMap::new();
        let got = nx::exchange(
            &self.url,
            people,
            who,
            Method::GET,
            &path,
            headers,
            Bytes::new(),
        );
        got.await.read(|(status, body)| {
            Ok(match nx::loaded(status, body)? {
                Loaded::Bytes(body) => Loaded::Bytes(match ActionResult::decode(body.clone()) {
                    Ok(result) => result.stdout_raw,
                    Err(_) => body,
                }),
                other => other,
            })
        })
    }

    /// True if the server says that it has the blob.
    pub(super) async fn has(&self, people: &People, who: Who, digest: &Digest) -> Exchange<bool> {
        let request = FindMissingBlobsRequest {
            instance_name: self.instance.clone(),
            blob_digests: vec![digest.clone()],
            ..FindMissingBlobsRequest::default()
        };
        let path = cas::FIND_MISSING_BLOBS;
        let called: Exchange<Called<FindMissingBlobsResponse>> =
            grpc::call(people, who, &self.url, path, &request, HeaderMap::new()).await;
        let mut exchange = called.read(|called| match called {
            Called::Ok(answer) => Ok(answer.missing_blob_digests.is_empty()),
            _ => Ok(false),
        });
        if let Ok(present) = exchange.meaning {
            exchange.answered += if present { ", present" } else { ", missing" };
        }
        exchange
    }

    /// Reads a blob, whatever its bytes are.
    pub(super) async fn read(
        &self,
        people: &People,
        who: Who,
        digest: &Digest,
    ) -> Exchange<Loaded> {
        let request = BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: vec![digest.clone()],
            ..BatchReadBlobsRequest::default()
        };
        let path = cas::BATCH_READ_BLOBS;
        let called: Exchange<Called<BatchReadBlobsResponse>> =
            grpc::call(people, who, &self.url, path, &request, HeaderMap::new()).await;
        called.read(|called| {
            let answer = match called {
                Called::Ok(answer) => answer,
                Called::Refused(refusal) => return Ok(Loaded::Refused(refusal)),
                Called::NotFound | Called::AlreadyExists => return Ok(Loaded::Nothing),
            };
            let Some(blob) = answer.responses.into_iter().next() else {
                return Ok(Loaded::Nothing);
            };
            let code = blob.status.map_or(0, |status| status.code);
            match grpc::code_of(code) {
                Some(Code::Ok) => Ok(Loaded::Bytes(blob.data)),
                _ => Ok(Loaded::Nothing),
            }
        })
    }

    /// `rest` behind the instance name.
    fn resource(&self, rest: &str) -> String {
        match &*self.instance {
            "" => rest.to_owned(),
            instance => format!("{instance}/{rest}"),
        }
    }
}

fn stored<T>(called: Called<T>) -> Stored {
    match called {
        Called::Ok(_) => Stored::Accepted,
        Called::AlreadyExists => Stored::Exists,
        Called::NotFound => Stored::Refused(Refusal::Forbidden),
        Called::Refused(refusal) => Stored::Refused(refusal),
    }
}

/// Which action is meant, where.
fn describe(instance: &str, action: Option<Digest>) -> String {
    let hash: String = action.unwrap_or_default().hash.chars().take(12).collect();
    match instance {
        "" => hash,
        instance => format!("{hash} in {instance:?}"),
    }
}

pub(super) fn digest(blob: &[u8]) -> Digest {
    Digest {
        hash: sha256(blob),
        size_bytes: i64::try_from(blob.len()).expect("blobs here are small"),
    }
}

/// The action `creep-check KEY` without inputs.
fn action(key: Key) -> Action {
    let command = field(1, b"creep-check");
    let command = Bytes::from([command, field(1, key.0.to_string().as_bytes())].concat());
    let root = Bytes::new();
    // Of the messages Action and Command this program needs no more than to write these fields.
    let action = Bytes::from(
        [
            field(1, &digest(&command).encode_to_vec()),
            field(2, &digest(&root).encode_to_vec()),
        ]
        .concat(),
    );
    Action {
        digest: digest(&action),
        blobs: vec![command, root, action],
    }
}

/// A field of bytes in protobuf's wire format, of less than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a hash and a size have less than 128 bytes");
    let mut field = vec![(number << 3) | 2, length];
    field.extend_from_slice(bytes);
    field
}

/// A random UUID (version 4), as names of uploads have one.
fn uuid() -> String {
    let mut bytes: [u8; 16] = random_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let parts = [
        &bytes[..4],
        &bytes[4..6],
        &bytes[6..8],
        &bytes[8..10],
        &bytes[10..],
    ];
    parts.map(hex).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_its_key_and_names_its_command() {
        let first = action(Key(7));
        assert_eq!(first.digest, action(Key(7)).digest);
        assert_ne!(first.digest, action(Key(8)).digest);
        assert_eq!(first.blobs[0], &b"\x0a\x0bcreep-check\x0a\x017"[..]);
        let command = Digest::decode(&first.blobs[2][2..2 + usize::from(first.blobs[2][1])]);
        assert_eq!(command.unwrap(), digest(&first.blobs[0]));
    }

    #[test]
    fn uploads_have_uuids() {
        let uuid = uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert_eq!(
            uuid.split('-').map(str::len).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
    }
}
