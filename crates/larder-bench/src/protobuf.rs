//! As much of the encoding of protocol buffers as the messages of a cache need: numbers, and bytes with their length.

use bytes::{Buf as _, Bytes};

use crate::error::BenchError;

const NUMBER: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// Appends a field that is a number; zero is left out, as the encoding has it.
pub(crate) fn put_number(message: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        put_varint(message, field << 3 | NUMBER);
        put_varint(message, value);
    }
}

/// Appends a field that is text, bytes or a message.
pub(crate) fn put_bytes(message: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_head(message, field, value.len());
    message.extend_from_slice(value);
}

/// Appends what stands in front of `length` bytes of a field, which the caller sends after it.
pub(crate) fn put_head(message: &mut Vec<u8>, field: u64, length: usize) {
    put_varint(message, field << 3 | BYTES);
    put_varint(message, length as u64);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// A field of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(u64),
    Bytes(Bytes),
}

impl Value {
    /// The bytes, or none for a number.
    pub(crate) fn bytes(self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) => Bytes::new(),
        }
    }

    /// The number, or zero for bytes.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => 0,
        }
    }
}

/// Takes the next field off a message. `None`: it is over.
pub(crate) fn next_field(message: &mut Bytes) -> Result<Option<(u64, Value)>, BenchError> {
    if message.is_empty() {
        return Ok(None);
    }
    let broken = || BenchError::Wrong("a message that is no protocol buffer".to_owned());
    let key = take_varint(message).ok_or_else(broken)?;
    let mut take = |length: u64| {
        let fits = length <= message.len() as u64;
        fits.then(|| message.split_to(length as usize))
            .ok_or_else(broken)
    };
    let value = match key & 7 {
        NUMBER => Value::Number(take_varint(message).ok_or_else(broken)?),
        FIXED_64 => Value::Bytes(take(8)?),
        FIXED_32 => Value::Bytes(take(4)?),
        BYTES => {
            let length = take_varint(message).ok_or_else(broken)?;
            let fits = length <= message.len() as u64;
            Value::Bytes(
                fits.then(|| message.split_to(length as usize))
                    .ok_or_else(broken)?,
            )
        }
        _ => return Err(broken()),
    };
    Ok(Some((key >> 3, value)))
}

fn take_varint(message: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        if message.is_empty() {
            return None;
        }
        let byte = message.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        let mut message = Vec::new();
        put_number(&mut message, 2, 300);
        put_number(&mut message, 3, 0);
        put_bytes(&mut message, 10, b"bytes");
        put_number(&mut message, 1, u64::MAX);
        assert_eq!(&message[..3], [0x10, 0xac, 0x02]);
        let mut message = Bytes::from(message);
        let mut fields = Vec::new();
        while let Some(field) = next_field(&mut message).unwrap() {
            fields.push(field);
        }
        let bytes = Value::Bytes(Bytes::from_static(b"bytes"));
        assert_eq!(
            fields,
            [
                (2, Value::Number(300)),
                (10, bytes),
                (1, Value::Number(u64::MAX))
            ]
        );
    }

    #[test]
    fn fields_of_other_kinds_are_stepped_over_and_what_is_cut_off_is_an_error() {
        let whole = [0x0d, 1, 2, 3, 4, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x18, 7];
        let mut message = Bytes::copy_from_slice(&whole);
        let mut last = 0;
        while let Some((field, value)) = next_field(&mut message).unwrap() {
            last = field * 10 + value.number();
        }
        assert_eq!(last, 37);
        for cut in [
            &whole[..3],
            &whole[..9],
            &[0x12, 5, 1],
            &[0x18],
            &[0x18, 0x80],
        ] {
            assert!(next_field(&mut Bytes::copy_from_slice(cut)).is_err() || cut.len() == 9);
        }
        assert!(next_field(&mut Bytes::from_static(&[0x0b])).is_err());
    }
}
