//! Whole messages: of a stream, or the one of a unary call.
//!
//! A message that arrives in one piece is a slice of that piece. Any other is copied as it arrives into memory that grows
//! with what has arrived, never by what a prefix claims; so many tiny pieces cost no more than the message, and what they
//! were cut from is not held on to.

use bytes::{Bytes, BytesMut};

use crate::{Code, Deframer, Event, Status};

/// Collects the messages of a stream; for those that need not be streamed themselves.
#[derive(Debug)]
pub struct Messages {
    deframer: Deframer,
    message_bytes: usize,
    whole: Bytes,
    partial: BytesMut,
}

impl Messages {
    /// Of at most `message_bytes_max` bytes each.
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            deframer: Deframer::new(message_bytes_max),
            message_bytes: 0,
            whole: Bytes::new(),
            partial: BytesMut::new(),
        }
    }

    /// Takes the next bytes of the body.
    pub fn push(&mut self, piece: Bytes) {
        self.deframer.push(piece);
    }

    /// The next message, or none until more is pushed.
    ///
    /// # Errors
    /// Those of [`Deframer::next_event`].
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        while let Some(event) = self.deframer.next_event()? {
            match event {
                Event::Start { message_bytes } => self.message_bytes = message_bytes,
                Event::Bytes(bytes) if bytes.len() == self.message_bytes => self.whole = bytes,
                Event::Bytes(bytes) => self.partial.extend_from_slice(&bytes),
                Event::End if self.partial.is_empty() => {
                    return Ok(Some(std::mem::take(&mut self.whole)));
                }
                Event::End => return Ok(Some(std::mem::take(&mut self.partial).freeze())),
            }
        }
        Ok(None)
    }

    /// To be asked when the body has ended and there are no more messages.
    ///
    /// # Errors
    /// Those of [`Deframer::finish`].
    pub fn finish(&self) -> Result<(), Status> {
        self.deframer.finish()
    }
}

/// Collects the one message of a unary call.
#[derive(Debug)]
pub struct Unary {
    messages: Messages,
    message: Option<Bytes>,
    has_more: bool,
}

impl Unary {
    /// Of at most `message_bytes_max` bytes.
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            messages: Messages::new(message_bytes_max),
            message: None,
            has_more: false,
        }
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// Those of [`Deframer::next_event`]; `UNIMPLEMENTED` if there is a second message, as the specification wants it.
    pub fn push(&mut self, piece: Bytes) -> Result<(), Status> {
        self.messages.push(piece);
        while let Some(message) = self.messages.next_message()? {
            self.has_more = self.message.is_some();
            self.message = Some(message);
            if self.has_more {
                return Err(more_than_one());
            }
        }
        Ok(())
    }

    /// The message, when the body has ended.
    ///
    /// # Errors
    /// Those of [`push`](Self::push) and [`Deframer::finish`]; `UNIMPLEMENTED` if there was no message.
    pub fn finish(self) -> Result<Bytes, Status> {
        if self.has_more {
            return Err(more_than_one());
        }
        self.messages.finish()?;
        self.message.ok_or_else(|| {
            Status::new(
                Code::Unimplemented,
                "the method takes one message and got none",
            )
        })
    }
}

fn more_than_one() -> Status {
    Status::new(
        Code::Unimplemented,
        "the method takes one message and got more",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use proptest::prelude::*;

    const LIMIT: usize = 300;

    fn unary(pieces: &[&[u8]]) -> Result<Bytes, Status> {
        let mut request = Unary::new(LIMIT);
        for piece in pieces {
            request.push(Bytes::copy_from_slice(piece))?;
        }
        request.finish()
    }

    #[test]
    fn a_unary_call_has_exactly_one_whole_message() {
        let (one, empty) = (frame(b"one"), frame(b""));
        for (pieces, expected) in [
            (vec![&one[..]], Ok(&b"one"[..])),
            (vec![&empty[..]], Ok(&b""[..])),
            (vec![&one[..3], &one[3..6], &[], &one[6..]], Ok(&b"one"[..])),
            (vec![], Err(Code::Unimplemented)),
            (vec![&one[..7]], Err(Code::Internal)),
            (vec![&one[..], &one[..1]], Err(Code::Internal)),
            (vec![&one[..], &one[..]], Err(Code::Unimplemented)),
            (vec![&empty[..], &empty[..]], Err(Code::Unimplemented)),
        ] {
            let found = unary(&pieces);
            let found = found.as_deref().map_err(|status| status.code);
            assert_eq!(found, expected, "{pieces:?}");
        }
    }

    #[test]
    fn a_second_message_is_not_forgotten() {
        let mut request = Unary::new(LIMIT);
        request.push(frame(b"one")).unwrap();
        let refused = request.push(frame(b"two")).unwrap_err();
        assert_eq!(request.finish(), Err(refused));
    }

    #[test]
    fn a_message_that_comes_in_one_piece_is_not_copied() {
        let body: Bytes = [frame(b"one"), frame(b"two")].concat().into();
        let mut messages = Messages::new(LIMIT);
        messages.push(body.clone());
        for start in [5, 13] {
            let message = messages.next_message().unwrap().unwrap();
            assert_eq!(message.as_ptr(), body[start..].as_ptr());
        }
        assert_eq!(messages.next_message(), Ok(None));
        assert_eq!(messages.finish(), Ok(()));
    }

    proptest! {
        #[test]
        fn messages_come_back_whole_in_whatever_pieces_they_arrive(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..LIMIT), 0..6),
            piece_bytes in 1_usize..400,
        ) {
            let body: Vec<u8> = sent.iter().flat_map(|message| frame(message)).collect();
            let mut messages = Messages::new(LIMIT);
            let mut received = Vec::new();
            for piece in body.chunks(piece_bytes) {
                messages.push(Bytes::copy_from_slice(piece));
                while let Some(message) = messages.next_message().unwrap() {
                    received.push(message.to_vec());
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert_eq!(messages.finish(), Ok(()));
        }
    }
}
