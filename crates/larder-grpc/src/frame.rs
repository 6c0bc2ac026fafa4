//! Messages on their way out: each behind five bytes, a flag that says "not compressed" and its length.

use bytes::{BufMut as _, Bytes, BytesMut};

/// How many bytes stand in front of each message.
pub const PREFIX_BYTES: usize = 5;

/// What stands in front of a message of `message_bytes` bytes that is not compressed. For whoever has the message in pieces,
/// or encodes it behind the prefix.
pub const fn prefix(message_bytes: u32) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = message_bytes.to_be_bytes();
    [0, a, b, c, d]
}

/// A message behind its prefix, in one piece; copies it.
///
/// # Panics
/// If the message is 4 GiB long or longer, which the format cannot say.
pub fn frame(message: &[u8]) -> Bytes {
    let message_bytes = u32::try_from(message.len()).expect("a gRPC message is shorter than 4 GiB");
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_slice(&prefix(message_bytes));
    framed.put_slice(message);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_zero_a_big_endian_length_and_the_message() {
        assert_eq!(prefix(0x0102_0304), [0, 1, 2, 3, 4]);
        assert_eq!(frame(b"hello"), &b"\0\0\0\0\x05hello"[..]);
        assert_eq!(frame(b""), &b"\0\0\0\0\0"[..]);
    }
}
