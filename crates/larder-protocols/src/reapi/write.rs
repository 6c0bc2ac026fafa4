//! `ByteStream.Write` and `QueryWriteStatus`: a blob comes in, a piece at a time.
//!
//! An upload is its stream and nothing else: it begins at 0, is stored when its last message says so, and leaves nothing if it ends
//! before. A blob that is there already is answered for at once, whatever the client is still sending. How the bytes of messages fall into
//! pieces is no matter here: each goes to the cache as it arrives.

use bytes::Bytes;
use larder_cache::{BlobName, Encoding, PutStart, Upload};
use larder_grpc::{Deframer, Event};
use larder_model::Dialect;

use super::call::Call;
use super::fields::{Fields, Malformed, Value, put_varint};
use super::resource_name::ResourceName;
use super::status::{OutOfOrder, Refused};
use super::write_request::{Field, WriteReader};
use crate::intake::Intake;
use crate::writer::Writer;

/// The most bytes of a message of an upload. None of them is held, so this only tells a message from noise.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

const QUERY: &str = "QueryWriteStatusRequest";

/// Stores a blob and answers with `WriteResponse`.
pub(super) async fn answer<B>(
    call: &Call<'_>,
    intake: &mut Intake<'_, B>,
) -> Result<Vec<u8>, Refused>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let framing = Refused::framing(MESSAGE_BYTES_MAX);
    let mut deframer = Deframer::new(MESSAGE_BYTES_MAX);
    let mut writing = Writing::new(call);
    while let Some(bytes) = intake.next().await? {
        deframer.push(bytes);
        while let Some(event) = deframer.next_event().map_err(framing)? {
            writing.take(event).await?;
            if let Some(existing) = writing.existing() {
                return Ok(existing);
            }
        }
        if writing.over {
            break;
        }
    }
    deframer.finish().map_err(framing)?;
    if !writing.over {
        return Err(OutOfOrder::NoEnd.into());
    }
    // What is here already is part of the upload; what is not will not be waited for.
    if let Some(Ok(Some(_))) = intake.next_at_hand().await {
        return Err(OutOfOrder::AfterEnd.into());
    }
    writing.finish().await
}

/// An upload with a name and a place.
struct Begun<'a> {
    name: ResourceName,
    writer: Writer<'a>,
    /// `None`: there is nothing to upload, the blob exists.
    upload: Option<Upload>,
}

/// An upload as far as it has come.
struct Writing<'a> {
    call: &'a Call<'a>,
    reader: WriteReader,
    /// The resource name as it was sent.
    name: String,
    begun: Option<Begun<'a>>,
    received: u64,
    /// What had been received when the message began, and what the message says of that.
    before: u64,
    offset: i64,
    /// The message has `finish_write`.
    finish: bool,
    over: bool,
}

impl<'a> Writing<'a> {
    fn new(call: &'a Call<'a>) -> Self {
        Self {
            call,
            reader: WriteReader::new(),
            name: String::new(),
            begun: None,
            received: 0,
            before: 0,
            offset: 0,
            finish: false,
            over: false,
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), Refused> {
        match event {
            Event::Start { .. } if self.over => Err(OutOfOrder::AfterEnd.into()),
            Event::Start { .. } => {
                (self.before, self.offset, self.finish) = (self.received, 0, false);
                Ok(())
            }
            Event::Bytes(mut bytes) => {
                while let Some(field) = self.reader.next(&mut bytes)? {
                    self.take_field(field).await?;
                }
                Ok(())
            }
            Event::End => {
                self.reader.end()?;
                if self.begun.is_none() {
                    return Err(OutOfOrder::NoName.into());
                }
                self.check_offset()?;
                self.over = self.finish;
                Ok(())
            }
        }
    }

    async fn take_field(&mut self, field: Field) -> Result<(), Refused> {
        match field {
            Field::ResourceName(name) if self.begun.is_none() => {
                self.begun = Some(self.begin(&name).await?);
                self.name = name;
            }
            Field::ResourceName(name) if name.is_empty() || name == self.name => {}
            Field::ResourceName(_) => return Err(OutOfOrder::OtherName.into()),
            Field::WriteOffset(offset) => {
                self.offset = offset;
                self.check_offset()?;
            }
            Field::FinishWrite(finish) => self.finish = finish,
            Field::Data(bytes) => {
                // Fields come in the order of their numbers from whoever writes messages.
                let begun = self.begun.as_mut().ok_or(OutOfOrder::NoName)?;
                self.received += bytes.len() as u64;
                if let Some(upload) = &mut begun.upload {
                    upload.write(bytes).await?;
                }
            }
        }
        Ok(())
    }

    fn check_offset(&self) -> Result<(), OutOfOrder> {
        let (sent, expected) = (self.offset, self.before);
        if u64::try_from(sent) == Ok(expected) {
            Ok(())
        } else {
            Err(OutOfOrder::Offset { sent, expected })
        }
    }

    async fn begin(&self, name: &str) -> Result<Begun<'a>, Refused> {
        if name.is_empty() {
            return Err(OutOfOrder::NoName.into());
        }
        let name = ResourceName::of_write(name)?;
        let writer = self.call.writer(&name.instance).await?;
        let (blob, encoding) = (BlobName::from(&name.digest), name.encoding);
        let body_bytes = (encoding == Encoding::Identity).then_some(name.digest.size());
        let cache = &self.call.gateway.cache;
        let start = cache.put_blob(&writer.grant, &blob, encoding, body_bytes);
        let upload = match start.await? {
            PutStart::Upload(upload) => Some(upload),
            PutStart::Exists => None,
        };
        Ok(Begun {
            name,
            writer,
            upload,
        })
    }

    /// The answer, if the blob existed when the upload began.
    fn existing(&self) -> Option<Vec<u8>> {
        let begun = self.begun.as_ref()?;
        if begun.upload.is_some() {
            return None;
        }
        Some(self.response(&begun.name, None))
    }

    async fn finish(self) -> Result<Vec<u8>, Refused> {
        let response = |name: &_| self.response(name, Some(self.received));
        let Some(begun) = &self.begun else {
            return Err(OutOfOrder::NoName.into());
        };
        let response = response(&begun.name);
        let Some(Begun {
            name,
            writer,
            upload: Some(upload),
        }) = self.begun
        else {
            return Ok(response);
        };
        let stored = writer.finish(upload).await?;
        let dialect = Dialect::Cas(name.digest.function());
        writer.note_stored(stored, dialect, None, self.received);
        self.call.note_stored(&writer.grant, &name.digest);
        Ok(response)
    }

    fn response(&self, name: &ResourceName, sent: Option<u64>) -> Vec<u8> {
        let client = &self.call.client;
        let committed = client.committed_size(name.encoding, name.digest.size(), sent);
        let mut response = Vec::with_capacity(11);
        put_number(1, committed, &mut response);
        response
    }
}

/// Answers with `QueryWriteStatusResponse`: all of a blob, or nothing of it. An upload that broke off begins again.
pub(super) async fn status(call: &Call<'_>, message: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut name = &b""[..];
    for field in Fields::of(message) {
        match field.map_err(|Malformed| Refused::Malformed(QUERY))? {
            (1, Value::Bytes(text)) => name = text,
            (1, _) => return Err(Refused::Malformed(QUERY)),
            _ => {}
        }
    }
    let name = std::str::from_utf8(name).map_err(|_| Refused::Malformed(QUERY))?;
    let name = ResourceName::of_write(name)?;
    let digest = name.digest;
    let exists = match call.reader(&name.instance) {
        Ok(grant) => {
            let missing = call.gateway.cache.find_missing(&grant, &[digest]).await;
            !missing.contains(&true)
        }
        Err(Refused::Absent(_)) => digest.is_empty(),
        Err(refused) => return Err(refused),
    };
    let mut response = Vec::with_capacity(13);
    if exists {
        put_number(1, digest.size().cast_signed(), &mut response);
        put_number(2, 1, &mut response);
    }
    Ok(response)
}

/// Appends a number, unless it is what no field is.
fn put_number(field: u64, number: i64, out: &mut Vec<u8>) {
    if number != 0 {
        put_varint(field << 3, out);
        put_varint(number.cast_unsigned(), out);
    }
}
