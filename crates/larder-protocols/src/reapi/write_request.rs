//! `google.bytestream.WriteRequest`, read as it arrives.
//!
//! A message of an upload can be many megabytes, and its bytes are to be in the store before its end is here. So the reader takes
//! the slices of a message in whatever pieces they come, keeps the few bytes of a number or a name that is cut in two, and
//! hands the blob's bytes on as the slices they are, never copied.
//!
//! It knows the fields and not the rules between messages; those are the upload's.

use bytes::{Buf, Bytes};

use super::fields::Malformed;
use super::resource_name::NAME_BYTES_MAX;

const RESOURCE_NAME: u64 = 1;
const WRITE_OFFSET: u64 = 2;
const FINISH_WRITE: u64 = 3;
const DATA: u64 = 10;

/// What stands in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    ResourceName(String),
    WriteOffset(i64),
    FinishWrite(bool),
    /// Some of the blob's bytes.
    Data(Bytes),
}

/// Where the reader is inside a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Key,
    Number { field: u64 },
    Length { field: u64 },
    Name { left: u64 },
    Data { left: u64 },
    Skip { left: u64 },
}

/// Reads the messages of one stream. After an error it is of no more use.
#[derive(Debug)]
pub(super) struct WriteReader {
    at: At,
    /// The part of a number that has been read, and its bits.
    number: u64,
    bits: u32,
    name: Vec<u8>,
}

impl WriteReader {
    pub(super) fn new() -> Self {
        Self {
            at: At::Key,
            number: 0,
            bits: 0,
            name: Vec::new(),
        }
    }

    /// The next field that `bytes` completes, or the next of the blob's bytes. `None`: all of `bytes` has been taken.
    pub(super) fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Field>, Malformed> {
        while !bytes.is_empty() {
            let found = match self.at {
                At::Key | At::Number { .. } | At::Length { .. } => match self.varint(bytes)? {
                    None => None,
                    Some(number) => self.numbered(number)?,
                },
                At::Name { left } => self.name(bytes, left)?,
                At::Data { left } => {
                    let piece = split(bytes, left);
                    self.at = after(left - piece.len() as u64, |left| At::Data { left });
                    Some(Field::Data(piece))
                }
                At::Skip { left } => {
                    let skipped = left.min(bytes.len() as u64);
                    bytes.advance(skipped as usize);
                    self.at = after(left - skipped, |left| At::Skip { left });
                    None
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The message ends here: is it whole?
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.at == At::Key && self.bits == 0 {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// What a whole number means where the reader is.
    fn numbered(&mut self, number: u64) -> Result<Option<Field>, Malformed> {
        let at = std::mem::replace(&mut self.at, At::Key);
        match at {
            At::Key => {
                self.at = opened(number)?;
                Ok(None)
            }
            At::Number { field } => Ok(match field {
                WRITE_OFFSET => Some(Field::WriteOffset(number.cast_signed())),
                FINISH_WRITE => Some(Field::FinishWrite(number != 0)),
                _ => None,
            }),
            At::Length { field: DATA } => {
                self.at = after(number, |left| At::Data { left });
                Ok(None)
            }
            At::Length {
                field: RESOURCE_NAME,
            } => {
                if number > NAME_BYTES_MAX as u64 {
                    return Err(Malformed);
                }
                self.name.clear();
                self.at = after(number, |left| At::Name { left });
                Ok(None)
            }
            At::Length { .. } => {
                self.at = after(number, |left| At::Skip { left });
                Ok(None)
            }
            At::Name { .. } | At::Data { .. } | At::Skip { .. } => {
                unreachable!("numbers are not read inside a block")
            }
        }
    }

    fn name(&mut self, bytes: &mut Bytes, left: u64) -> Result<Option<Field>, Malformed> {
        let piece = split(bytes, left);
        self.name.extend_from_slice(&piece);
        self.at = after(left - piece.len() as u64, |left| At::Name { left });
        if self.at != At::Key {
            return Ok(None);
        }
        let name = String::from_utf8(std::mem::take(&mut self.name)).map_err(|_| Malformed)?;
        Ok(Some(Field::ResourceName(name)))
    }

    /// Goes on with a number; `None` if its end is not here.
    fn varint(&mut self, bytes: &mut Bytes) -> Result<Option<u64>, Malformed> {
        while bytes.has_remaining() {
            let byte = bytes.get_u8();
            if self.bits > 63 {
                return Err(Malformed);
            }
            self.number |= u64::from(byte & 0x7f) << self.bits;
            self.bits += 7;
            if byte & 0x80 == 0 {
                self.bits = 0;
                return Ok(Some(std::mem::take(&mut self.number)));
            }
        }
        Ok(None)
    }
}

/// What follows a field's key.
fn opened(key: u64) -> Result<At, Malformed> {
    let field = key >> 3;
    match (field, key & 7) {
        (0, _) => Err(Malformed),
        (RESOURCE_NAME | DATA, kind) if kind != 2 => Err(Malformed),
        (WRITE_OFFSET | FINISH_WRITE, kind) if kind != 0 => Err(Malformed),
        (_, 0) => Ok(At::Number { field }),
        (_, 1) => Ok(At::Skip { left: 8 }),
        (_, 2) => Ok(At::Length { field }),
        (_, 5) => Ok(At::Skip { left: 4 }),
        _ => Err(Malformed),
    }
}

/// In the middle of a block of which so much is left, or behind it.
fn after(left: u64, inside: impl Fn(u64) -> At) -> At {
    if left == 0 { At::Key } else { inside(left) }
}

fn split(bytes: &mut Bytes, at_most: u64) -> Bytes {
    let len = at_most.min(bytes.len() as u64);
    bytes.split_to(len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reapi::fields::{put_block, put_varint};
    use proptest::prelude::*;

    /// The message of these fields, with some that nobody knows in between.
    fn message(fields: &[Field], unknown: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for field in fields {
            match field {
                Field::ResourceName(name) => put_block(1, name.as_bytes(), &mut out),
                Field::WriteOffset(offset) => {
                    put_varint(2 << 3, &mut out);
                    put_varint(offset.cast_unsigned(), &mut out);
                }
                Field::FinishWrite(finish) => {
                    put_varint(3 << 3, &mut out);
                    put_varint(u64::from(*finish), &mut out);
                }
                Field::Data(data) => put_block(10, data, &mut out),
            }
            if unknown {
                put_block(77, b"what", &mut out);
                out.extend_from_slice(b"\x3d1234\x3912345678\x38\x80\x01");
            }
        }
        out
    }

    /// Reads a message in these pieces; the blob's bytes are put together again.
    fn read(message: &[u8], pieces: &[usize]) -> Result<Vec<Field>, Malformed> {
        let (mut reader, mut seen) = (WriteReader::new(), Vec::new());
        let mut rest = Bytes::copy_from_slice(message);
        let mut cuts = pieces.iter().cycle();
        while !rest.is_empty() {
            let cut = cuts.next().map_or(rest.len(), |cut| (*cut).min(rest.len()));
            let mut piece = rest.split_to(cut);
            while let Some(field) = reader.next(&mut piece)? {
                match (seen.last_mut(), field) {
                    (Some(Field::Data(before)), Field::Data(data)) => {
                        *before = [&before[..], &data[..]].concat().into();
                    }
                    (_, field) => seen.push(field),
                }
            }
        }
        reader.end()?;
        Ok(seen)
    }

    #[test]
    fn a_message_in_one_piece_hands_its_bytes_on_uncopied() {
        let mut bytes = Bytes::from(message(&[Field::Data(Bytes::from_static(b"blob"))], false));
        let whole = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
        let Ok(Some(Field::Data(data))) = WriteReader::new().next(&mut bytes) else {
            panic!("there is data");
        };
        assert_eq!(&data[..], b"blob");
        assert!(whole.contains(&(data.as_ptr() as usize)));
    }

    #[test]
    fn bytes_of_a_blob_come_out_before_the_message_ends() {
        let mut begun = Bytes::from_static(b"\x52\x80\x80\x80\x08blob");
        let mut reader = WriteReader::new();
        let data = Field::Data(Bytes::from_static(b"blob"));
        assert_eq!(reader.next(&mut begun), Ok(Some(data)));
        assert_eq!(reader.next(&mut begun), Ok(None));
        assert_eq!(reader.end(), Err(Malformed));
    }

    #[test]
    fn what_is_no_write_request_is_refused() {
        for bytes in [
            &b"\x0a\x03ab"[..],
            b"\x0a\x02\xff\xfe",
            b"\x0a\x81\x10",
            b"\x08\x01",
            b"\x12\x01a",
            b"\x50\x01",
            b"\x0b",
            b"\x10",
            b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(read(bytes, &[1]), Err(Malformed), "{bytes:?}");
        }
    }

    fn field() -> impl Strategy<Value = Field> {
        prop_oneof![
            "[a-z/0-9]{0,40}".prop_map(Field::ResourceName),
            any::<i64>().prop_map(Field::WriteOffset),
            any::<bool>().prop_map(Field::FinishWrite),
            proptest::collection::vec(any::<u8>(), 1..200)
                .prop_map(|data| Field::Data(data.into())),
        ]
    }

    proptest! {
        #[test]
        fn however_a_message_is_cut_its_fields_are_the_same(
            fields in proptest::collection::vec(field(), 0..6),
            unknown in any::<bool>(),
            pieces in proptest::collection::vec(1..50_usize, 1..8),
        ) {
            let message = message(&fields, unknown);
            let (cut, whole) = (read(&message, &pieces), read(&message, &[]));
            prop_assert_eq!(&cut, &whole);
            // An empty name is the absence of one.
            let sent = fields.iter().filter(|field| **field != Field::ResourceName(String::new()));
            let sent: Vec<u8> = message_of(sent);
            prop_assert_eq!(message_of(whole.unwrap().iter()).len(), joined(&sent).len());
        }

        #[test]
        fn no_bytes_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            pieces in proptest::collection::vec(1..9_usize, 1..4),
        ) {
            let _ = read(&bytes, &pieces);
        }
    }

    fn message_of<'f>(fields: impl Iterator<Item = &'f Field>) -> Vec<u8> {
        message(&fields.cloned().collect::<Vec<_>>(), false)
    }

    /// The message again, with neighbouring bytes of the blob put together.
    fn joined(message: &[u8]) -> Vec<u8> {
        message_of(read(message, &[]).unwrap().iter())
    }
}
