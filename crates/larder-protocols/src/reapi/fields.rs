//! The fields of a protobuf message, read in place.
//!
//! For the few messages where decoding into structs costs too much or loses the bytes as they were sent. It knows the wire format
//! and no message: what a field means is its reader's business. Unknown fields are seen and passed over; groups, which proto3
//! has not, are no message.

use bytes::Bytes;

/// The bytes are no message of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no valid message")]
pub(crate) struct Malformed;

/// A field's value, as the wire knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'m> {
    Varint(u64),
    /// A message, a text or bytes.
    Bytes(&'m [u8]),
    /// Four or eight bytes, which no message here uses.
    Fixed,
}

/// The fields of a message, their numbers and values, in the order they were sent. After an error there are no more.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'m>(&'m [u8]);

impl<'m> Fields<'m> {
    pub(crate) fn of(message: &'m [u8]) -> Self {
        Self(message)
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'m [u8] {
        self.0
    }

    fn field(&mut self) -> Result<(u32, Value<'m>), Malformed> {
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).map_err(|_| Malformed)?;
        if field == 0 {
            return Err(Malformed);
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed),
        };
        Ok((field, value))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly every key and length.
        if let [byte @ 0..=0x7f, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0;
        for (index, byte) in self.0.iter().enumerate().take(10) {
            if index == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// The rest, if it is one number and nothing else.
    pub(crate) fn only_varint(mut self) -> Option<u64> {
        self.varint().ok().filter(|_| self.0.is_empty())
    }

    fn take(&mut self, len: u64) -> Result<&'m [u8], Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = Result<(u32, Value<'m>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// The bytes of the message in field `wanted` of `message`, as they were sent; `None` if the field is absent. Sent more than
/// once, which no serialiser does, its parts are one after the other, and that is the merged message. Each byte is copied once then,
/// however many parts there are.
pub(crate) fn embedded(message: &Bytes, wanted: u32) -> Result<Option<Bytes>, Malformed> {
    let (mut first, mut joined): (Option<&[u8]>, _) = (None, Vec::new());
    for field in Fields::of(message) {
        let (field, Value::Bytes(block)) = field? else {
            continue;
        };
        if field != wanted {
            continue;
        }
        match first {
            None | Some([]) => first = Some(block),
            Some(_) if block.is_empty() => {}
            Some(before) => {
                if joined.is_empty() {
                    joined.extend_from_slice(before);
                }
                joined.extend_from_slice(block);
            }
        }
    }
    if joined.is_empty() {
        return Ok(first.map(|block| message.slice_ref(block)));
    }
    Ok(Some(joined.into()))
}

/// Appends a key and a varint, or a block's length.
pub(crate) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends field `field` with these bytes.
pub(crate) fn put_block(field: u32, block: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(field) << 3 | 2, out);
    put_varint(block.len() as u64, out);
    out.extend_from_slice(block);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
        Fields::of(message).collect()
    }

    #[test]
    fn fields_of_every_kind_are_read_in_order() {
        let message = b"\x08\x96\x01\x12\x02hi\x1d1234\x21\x31\x32\x33\x34\x35\x36\x37\x38\x12\x00";
        let expected = vec![
            (1, Value::Varint(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed),
            (4, Value::Fixed),
            (2, Value::Bytes(b"")),
        ];
        assert_eq!(all(message), Ok(expected));
        let negative = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(all(negative), Ok(vec![(1, Value::Varint(u64::MAX))]));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            &b"\x08"[..],
            b"\x12\x05hi",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0b\x0c",
            b"\x00\x01",
            b"\x1d123",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
        ] {
            assert_eq!(all(bytes), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn an_embedded_message_comes_out_as_it_was_sent() {
        let message = Bytes::from_static(b"\x0a\x01x\x1a\x03abc\x1a\x01d\x20\x01");
        assert_eq!(embedded(&message, 3), Ok(Some(Bytes::from_static(b"abcd"))));
        assert_eq!(embedded(&message, 1), Ok(Some(Bytes::from_static(b"x"))));
        assert_eq!(embedded(&message, 2), Ok(None));
        let nothing = Bytes::from_static(b"\x1a\x00\x1a\x00");
        assert_eq!(embedded(&nothing, 3), Ok(Some(Bytes::new())));
    }

    /// With a copy of all that came before for each part this would move 3 TB.
    #[test]
    fn a_field_in_a_hundred_thousand_parts_costs_what_its_bytes_cost() {
        let part = [7; 64];
        let mut message = Vec::new();
        for _ in 0..100_000 {
            put_block(3, &part, &mut message);
            put_block(3, b"", &mut message);
        }
        let found = embedded(&message.into(), 3);
        assert_eq!(found, Ok(Some(part.repeat(100_000).into())));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = all(&bytes);
        }

        #[test]
        fn what_was_put_reads_back(fields in proptest::collection::vec(
            (1..0x1fff_ffff_u32, proptest::collection::vec(any::<u8>(), 0..300)), 0..5,
        )) {
            let mut message = Vec::new();
            for (field, block) in &fields {
                put_block(*field, block, &mut message);
            }
            let expected = fields.iter().map(|(field, block)| (*field, Value::Bytes(block)));
            prop_assert_eq!(all(&message), Ok(expected.collect()));
        }
    }
}
