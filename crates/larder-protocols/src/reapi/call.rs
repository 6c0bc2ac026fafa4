//! One call: who makes it, what they may do, and its message.

use std::fmt::Display;

use bytes::Bytes;
use http::HeaderMap;
use larder_cache::Encoding;
use larder_grpc::{Deframer, Event};
use larder_model::{
    BlobHash, Caller, Digest, DigestError, DigestFunction, Policy, ReadGrant, WriteGrant,
};

use super::MESSAGE_BYTES_MAX;
use super::clients::Client;
use super::fields::{Fields, Malformed, Value};
use super::status::{Absent, Refused};
use crate::caller::{NoCaller, default_workspace};
use crate::gateway::{Gateway, Origin};
use crate::instance::Instance;
use crate::intake::{Intake, Room};
use crate::writer::Writer;

/// The most bytes of a hash that is none that are repeated to who sent it.
const HASH_TEXT_BYTES_MAX: usize = 200;

/// What every method needs to know of its call.
pub(super) struct Call<'a> {
    pub gateway: &'a Gateway,
    pub headers: &'a HeaderMap,
    pub origin: &'a Origin,
    pub client: Client,
}

/// A message, and the memory that it may occupy as long as this lives.
pub(super) struct Held {
    pub message: Bytes,
    _room: Option<Room>,
}

impl Call<'_> {
    /// Who calls, about the workspace that the instance name names.
    pub(super) fn caller(&self, instance: &Instance) -> Result<Caller, NoCaller> {
        let named = instance.workspace.as_ref();
        self.gateway.caller(self.headers, named, self.origin)
    }

    /// Who calls, whatever it is about. Whose credential is bad, which a health check does not mind, is nobody.
    pub(super) fn anybody(&self) -> Caller {
        let caller = self.gateway.caller(self.headers, None, self.origin);
        caller.unwrap_or_else(|_| Caller::Anonymous {
            workspace: default_workspace(),
            public: false,
        })
    }

    /// What the caller may read here; nothing is absence.
    pub(super) fn reader(&self, instance: &Instance) -> Result<ReadGrant, Refused> {
        match self.caller(instance) {
            Ok(caller) => Policy::read(&caller, instance.label.as_ref())
                .map_err(|refusal| Absent::Unseen(refusal).into()),
            Err(NoCaller::OtherWorkspace) => Err(Absent::OtherWorkspace.into()),
            Err(NoCaller::Expired) => Err(Absent::Expired.into()),
            Err(NoCaller::BadCredential(bad)) => Err(Refused::BadCredential(bad)),
        }
    }

    /// Where the caller may write.
    pub(super) async fn writer(&self, instance: &Instance) -> Result<Writer<'_>, Refused> {
        let (named, label) = (instance.workspace.as_ref(), instance.label.as_ref());
        Ok(self
            .gateway
            .writer(self.headers, named, label, self.origin)
            .await?)
    }

    /// Logs a write that was accepted.
    pub(super) fn note_stored(&self, grant: &WriteGrant, key: &dyn Display) {
        let (workspace, scope, writer) = (grant.workspace(), grant.scope(), grant.writer());
        let (tool, metadata) = (self.client.tool.name(), self.client.metadata());
        tracing::debug!(%workspace, %scope, %writer, %key, tool, %metadata, "a write was accepted");
    }

    /// The one message of a unary call.
    pub(super) async fn message<B>(&self, intake: &mut Intake<'_, B>) -> Result<Held, Refused>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
    {
        let caller = self.anybody();
        let framing = Refused::framing(MESSAGE_BYTES_MAX);
        let mut deframer = Deframer::new(MESSAGE_BYTES_MAX);
        let mut whole = Whole::default();
        let mut room = None;
        loop {
            while let Some(event) = deframer.next_event().map_err(framing)? {
                if let Event::Start { message_bytes } = event {
                    // One that is too many is refused below, and must not wait for what this call itself holds.
                    if room.is_none() {
                        let held = self
                            .gateway
                            .whole_bodies
                            .room(&caller, message_bytes as u64);
                        room = Some(held.await.ok_or(Refused::Busy)?);
                    }
                    if room.as_ref().is_some_and(Room::is_held) {
                        intake.hurry();
                    }
                }
                whole.take(event)?;
            }
            match intake.next().await? {
                Some(bytes) => deframer.push(bytes),
                None => break,
            }
        }
        deframer.finish().map_err(framing)?;
        let message = whole.message.ok_or(Refused::NotOneMessage)?;
        Ok(Held {
            message,
            _room: room,
        })
    }
}

/// A message put together, without a copy if it came in one piece. [`larder_grpc::Unary`] would do it as well, but tells nobody
/// how long a message will be, and there must be room before its bytes are kept.
#[derive(Default)]
struct Whole {
    len: usize,
    first: Bytes,
    joined: Vec<u8>,
    message: Option<Bytes>,
}

impl Whole {
    fn take(&mut self, event: Event) -> Result<(), Refused> {
        if self.message.is_some() {
            return Err(Refused::NotOneMessage);
        }
        match event {
            Event::Start { message_bytes } => self.len = message_bytes,
            Event::Bytes(bytes) => {
                if self.joined.is_empty() && self.first.is_empty() {
                    self.first = bytes;
                } else {
                    if self.joined.is_empty() {
                        self.joined.reserve_exact(self.len);
                        self.joined.extend_from_slice(&self.first);
                    }
                    self.joined.extend_from_slice(&bytes);
                }
            }
            Event::End => {
                self.message = Some(if self.joined.is_empty() {
                    std::mem::take(&mut self.first)
                } else {
                    std::mem::take(&mut self.joined).into()
                });
            }
        }
        Ok(())
    }
}

/// What the requests of the cache's unary methods have in common, and their other fields, still to be read.
pub(super) struct Common {
    pub instance: Instance,
    pub function: DigestFunction,
}

impl Common {
    /// Reads the instance name, field 1, and the digest function, whose field differs, of the message called `name`.
    pub(super) fn read(
        message: &[u8],
        function_field: u32,
        name: &'static str,
    ) -> Result<Self, Refused> {
        let malformed = |Malformed| Refused::Malformed(name);
        let (mut instance, mut function) = (&b""[..], 0);
        for field in Fields::of(message) {
            match field.map_err(malformed)? {
                (1, Value::Bytes(text)) => instance = text,
                (field, Value::Varint(number)) if field == function_field => function = number,
                (1, _) => return Err(Refused::Malformed(name)),
                _ => {}
            }
        }
        Ok(Self {
            instance: Instance::parse(instance)?,
            function: function_of(function)?,
        })
    }
}

/// The digest function with this number. 0 leaves it to the hash's length, and of those lengths SHA-256's alone is here.
pub(super) fn function_of(number: u64) -> Result<DigestFunction, Refused> {
    match number {
        0 | 1 => Ok(DigestFunction::Sha256),
        9 => Ok(DigestFunction::Blake3),
        other => Err(Refused::Function(other)),
    }
}

/// The encoding that this compressor makes.
pub(super) fn encoding_of(number: u64) -> Result<Encoding, Refused> {
    match number {
        0 => Ok(Encoding::Identity),
        1 => Ok(Encoding::Zstd),
        other => Err(Refused::Compressor(other)),
    }
}

/// Reads a `Digest` message. An absent one has no hash, which is none.
pub(super) fn digest(function: DigestFunction, message: &[u8]) -> Result<Digest, Refused> {
    // As every client writes it; what is not like this, or not right, is read with care below.
    if let [0x0a, 64, rest @ ..] = message
        && let Some((hash, [0x10, size @ ..])) = rest.split_at_checked(64)
        && let Some(size) = Fields::of(size).only_varint()
        && let Ok(hash) = BlobHash::from_hex(hash)
        && let Ok(digest) = Digest::new(function, hash, size.cast_signed())
    {
        return Ok(digest);
    }
    let (hash, size) = parts(message)?;
    let named = |why: DigestError| unusable(hash, size, why);
    let hash = BlobHash::from_hex(hash).map_err(named)?;
    Digest::new(function, hash, size).map_err(named)
}

/// Reads the digest of an action. Its size is the action's and says nothing of the result's; it must only be one.
pub(super) fn action_hash(function: DigestFunction, message: &[u8]) -> Result<BlobHash, Refused> {
    digest(function, message).map(|digest| digest.hash())
}

/// The hash as text and the size of a `Digest` message.
fn parts(message: &[u8]) -> Result<(&[u8], i64), Refused> {
    let (mut hash, mut size) = (&b""[..], 0_i64);
    for field in Fields::of(message) {
        match field.map_err(|Malformed| Refused::Malformed("Digest"))? {
            (1, Value::Bytes(text)) => hash = text,
            (2, Value::Varint(number)) => size = number.cast_signed(),
            (1 | 2, _) => return Err(Refused::Malformed("Digest")),
            _ => {}
        }
    }
    Ok((hash, size))
}

/// What is kept of a hash that is none: as much as anybody is shown of it.
fn unusable(hash: &[u8], size: i64, why: DigestError) -> Refused {
    let hash = &hash[..hash.len().min(HASH_TEXT_BYTES_MAX)];
    Refused::Digest {
        digest: format!("{}/{size}", String::from_utf8_lossy(hash)),
        why,
    }
}
