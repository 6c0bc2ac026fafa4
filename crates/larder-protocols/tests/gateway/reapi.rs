//! A client of the Remote Execution API that speaks to the gateway without a network.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use larder_model::Access;
use larder_proto::{Message, bytestream, reapi};

use crate::house::{End, House, Pieces};

pub(crate) use larder_proto::bytestream::byte_stream::{QUERY_WRITE_STATUS, READ, WRITE};
pub(crate) use larder_proto::reapi::action_cache::{GET_ACTION_RESULT, UPDATE_ACTION_RESULT};
pub(crate) use larder_proto::reapi::capabilities::GET_CAPABILITIES;
pub(crate) use larder_proto::reapi::content_addressable_storage::{
    BATCH_READ_BLOBS, BATCH_UPDATE_BLOBS, FIND_MISSING_BLOBS, GET_TREE,
};

pub(crate) const OK: u8 = 0;
pub(crate) const INVALID_ARGUMENT: u8 = 3;
pub(crate) const NOT_FOUND: u8 = 5;
pub(crate) const PERMISSION_DENIED: u8 = 7;
pub(crate) const OUT_OF_RANGE: u8 = 11;
pub(crate) const UNIMPLEMENTED: u8 = 12;
pub(crate) const INTERNAL: u8 = 13;
pub(crate) const UNAUTHENTICATED: u8 = 16;

pub(crate) const ZSTD: i32 = 1;
pub(crate) const BLAKE3: i32 = 9;
pub(crate) const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A house with a token of each kind in `acme`, and `tenant` in `other`.
pub(crate) fn house() -> House {
    let mut house = House::new();
    house.token("trunk", "acme", Access::Trusted);
    house.token("laptop", "acme", Access::Reader);
    house.token("admin", "acme", Access::Admin);
    house.isolated("pr7", "acme", "pr/7");
    house.isolated("pr8", "acme", "pr/8");
    house.token("tenant", "other", Access::Trusted);
    house
}

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u8,
    pub(crate) text: String,
    pub(crate) messages: Vec<Bytes>,
}

impl Reply {
    /// The one message of an answer that is fine.
    pub(crate) fn message<M: Message + Default>(&self) -> M {
        assert_eq!((self.code, self.messages.len()), (OK, 1), "{self:?}");
        M::decode(self.messages[0].clone()).unwrap()
    }

    /// All messages of an answer that is fine.
    pub(crate) fn stream<M: Message + Default>(&self) -> Vec<M> {
        assert_eq!(self.code, OK, "{self:?}");
        let messages = self.messages.iter();
        messages
            .map(|bytes| M::decode(bytes.clone()).unwrap())
            .collect()
    }

    pub(crate) fn refused(&self, code: u8, text: &str) {
        assert_eq!((self.code, self.messages.len()), (code, 0), "{self:?}");
        assert!(self.text.contains(text), "{text:?} is not in {self:?}");
    }
}

/// A client with a token; an empty name is none, and `?…` stands for what is no token.
pub(crate) struct Client<'h> {
    pub(crate) house: &'h House,
    pub(crate) token: &'static str,
    pub(crate) instance: &'static str,
    pub(crate) headers: HeaderMap,
}

impl<'h> Client<'h> {
    pub(crate) fn new(house: &'h House, token: &'static str) -> Self {
        Self {
            house,
            token,
            instance: "main",
            headers: HeaderMap::new(),
        }
    }

    pub(crate) fn at(self, instance: &'static str) -> Self {
        Self { instance, ..self }
    }

    pub(crate) async fn send(&self, path: &str, body: Pieces) -> Reply {
        let mut request = Request::post(path).header(CONTENT_TYPE, "application/grpc");
        if let Some(nonsense) = self.token.strip_prefix('?') {
            request = request.header(AUTHORIZATION, format!("Bearer {nonsense}"));
        } else if !self.token.is_empty() {
            request = request.header(AUTHORIZATION, self.house.bearer(self.token));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(body).unwrap();
        let response = self
            .house
            .gateway
            .handle(request, crate::house::tcp())
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let (head, body) = response.into_parts();
        let bare = http_body::Body::is_end_stream(&body);
        let read = body
            .collect()
            .await
            .expect("a gRPC answer ends with a status");
        let trailers = if bare {
            head.headers
        } else {
            read.trailers().expect("trailers").clone()
        };
        let text = |name| {
            trailers
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        Reply {
            code: text("grpc-status").unwrap().parse().unwrap(),
            text: text("grpc-message").unwrap_or_default(),
            messages: unframed(read.to_bytes()),
        }
    }

    pub(crate) async fn call(&self, path: &str, request: &impl Message) -> Reply {
        let body = Pieces::whole(&larder_grpc::frame(&request.encode_to_vec()));
        self.send(path, body).await
    }

    /// Uploads these messages.
    pub(crate) async fn write(&self, messages: &[bytestream::WriteRequest]) -> Reply {
        let frames = messages.iter().map(Message::encode_to_vec);
        let frames: Vec<Bytes> = frames.map(|bytes| larder_grpc::frame(&bytes)).collect();
        let pieces: Vec<&[u8]> = frames.iter().map(|frame| &frame[..]).collect();
        self.send(WRITE, Pieces::new(&pieces, None, End::Clean).0)
            .await
    }

    /// Uploads a blob in one message.
    pub(crate) async fn upload(&self, name: &str, data: &[u8]) -> Reply {
        self.write(&[part(name, 0, data, true)]).await
    }

    pub(crate) async fn read(&self, name: &str, offset: i64, limit: i64) -> Reply {
        let request = bytestream::ReadRequest {
            resource_name: name.to_owned(),
            read_offset: offset,
            read_limit: limit,
        };
        self.call(READ, &request).await
    }

    /// What a read gives, put together.
    pub(crate) async fn bytes(&self, name: &str, offset: i64, limit: i64) -> Vec<u8> {
        let reply = self.read(name, offset, limit).await;
        let parts = reply.stream::<bytestream::ReadResponse>();
        assert!(parts.iter().all(|part| part.data.len() <= 1 << 20));
        parts.iter().flat_map(|part| part.data.to_vec()).collect()
    }

    pub(crate) async fn find_missing(&self, digests: &[reapi::Digest], function: i32) -> Reply {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: self.instance.to_owned(),
            blob_digests: digests.to_vec(),
            digest_function: function,
        };
        self.call(FIND_MISSING_BLOBS, &request).await
    }

    /// What is missing, in the order of [`sorted`].
    pub(crate) async fn missing(&self, digests: &[reapi::Digest]) -> Vec<reapi::Digest> {
        let reply = self.find_missing(digests, 0).await;
        let response = reply.message::<reapi::FindMissingBlobsResponse>();
        sorted(response.missing_blob_digests)
    }

    pub(crate) async fn batch_update(&self, items: &[(reapi::Digest, &[u8], i32)]) -> Reply {
        let request = |(digest, data, compressor): &(reapi::Digest, &[u8], i32)| {
            reapi::batch_update_blobs_request::Request {
                digest: Some(digest.clone()),
                data: Bytes::copy_from_slice(data),
                compressor: *compressor,
            }
        };
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: self.instance.to_owned(),
            requests: items.iter().map(request).collect(),
            ..Default::default()
        };
        self.call(BATCH_UPDATE_BLOBS, &request).await
    }

    /// Stores blobs, all of which are taken.
    pub(crate) async fn store(&self, blobs: &[&[u8]]) {
        let items: Vec<_> = blobs.iter().map(|blob| (digest(blob), *blob, 0)).collect();
        let response: reapi::BatchUpdateBlobsResponse = self.batch_update(&items).await.message();
        let codes = response
            .responses
            .iter()
            .map(|item| item.status.as_ref().unwrap().code);
        assert_eq!(codes.sum::<i32>(), 0, "{response:?}");
    }

    pub(crate) async fn batch_read(&self, digests: &[reapi::Digest], zstd: bool) -> Reply {
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.instance.to_owned(),
            digests: digests.to_vec(),
            acceptable_compressors: if zstd { vec![0, ZSTD] } else { vec![] },
            digest_function: 0,
        };
        self.call(BATCH_READ_BLOBS, &request).await
    }

    pub(crate) async fn get_action(&self, action: &reapi::Digest) -> Reply {
        self.get_inlined(action, false, &[]).await
    }

    pub(crate) async fn get_inlined(
        &self,
        action: &reapi::Digest,
        streams: bool,
        files: &[&str],
    ) -> Reply {
        let request = reapi::GetActionResultRequest {
            instance_name: self.instance.to_owned(),
            action_digest: Some(action.clone()),
            inline_stdout: streams,
            inline_stderr: streams,
            inline_output_files: files.iter().map(ToString::to_string).collect(),
            digest_function: 0,
        };
        self.call(GET_ACTION_RESULT, &request).await
    }

    pub(crate) async fn update_action(
        &self,
        action: &reapi::Digest,
        result: &reapi::ActionResult,
    ) -> Reply {
        let request = reapi::UpdateActionResultRequest {
            instance_name: self.instance.to_owned(),
            action_digest: Some(action.clone()),
            action_result: Some(result.clone()),
            ..Default::default()
        };
        self.call(UPDATE_ACTION_RESULT, &request).await
    }
}

fn unframed(mut bytes: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let prefix = bytes.split_to(larder_grpc::PREFIX_BYTES);
        assert_eq!(prefix[0], 0);
        let len = u32::from_be_bytes(prefix[1..].try_into().unwrap());
        messages.push(bytes.split_to(len as usize));
    }
    messages
}

/// Digests in an order of their own, where they have none.
pub(crate) fn sorted(mut digests: Vec<reapi::Digest>) -> Vec<reapi::Digest> {
    digests.sort_by(|a, b| (&a.hash, a.size_bytes).cmp(&(&b.hash, b.size_bytes)));
    digests
}

pub(crate) fn hash(blob: &[u8]) -> String {
    use std::fmt::Write;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, blob);
    hash.as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

pub(crate) fn digest(blob: &[u8]) -> reapi::Digest {
    reapi::Digest {
        hash: hash(blob),
        size_bytes: int(blob.len()),
    }
}

pub(crate) fn zstd(blob: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(blob.len()));
    zstd_safe::compress(&mut out, blob, 3).unwrap();
    out
}

pub(crate) fn unzstd(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + 1);
    let mut context = zstd_safe::DCtx::create();
    let mut input = zstd_safe::InBuffer::around(bytes);
    while input.pos() < bytes.len() {
        let before = (input.pos(), out.len());
        let position = out.len();
        let mut output = zstd_safe::OutBuffer::around_pos(&mut out, position);
        context.decompress_stream(&mut output, &mut input).unwrap();
        assert_ne!(before, (input.pos(), out.len()), "more than {size} bytes");
    }
    out
}

/// A length as the messages have it.
pub(crate) fn int(len: usize) -> i64 {
    i64::try_from(len).unwrap()
}

/// A message of an upload.
pub(crate) fn part(
    name: &str,
    offset: usize,
    data: &[u8],
    finish: bool,
) -> bytestream::WriteRequest {
    bytestream::WriteRequest {
        resource_name: name.to_owned(),
        write_offset: int(offset),
        finish_write: finish,
        data: Bytes::copy_from_slice(data),
    }
}

/// The resource name of an upload, and of the same blob for reading.
pub(crate) fn names(blob: &[u8], compressed: bool) -> (String, String) {
    let kind = if compressed {
        "compressed-blobs/zstd"
    } else {
        "blobs"
    };
    let name = format!("{kind}/{}/{}", hash(blob), blob.len());
    (
        format!("main/uploads/a-uuid/{name}"),
        format!("main/{name}"),
    )
}

/// How many entries each pool has.
pub(crate) fn entries(house: &House) -> (u64, u64) {
    let entries = |pool: &larder_cache::PoolHandle| pool.pool().unwrap().usage().entries;
    (entries(&house.pair.trusted), entries(&house.pair.untrusted))
}
