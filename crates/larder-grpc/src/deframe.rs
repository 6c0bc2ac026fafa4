//! Messages on their way in: from pieces of a body, cut anywhere, to events.
//!
//! Always true:
//! - The events are the same wherever the body was cut, but for where the bytes of a message are cut.
//! - A length is compared with the limit as soon as it has arrived, before any byte of its message is looked at, and nothing
//!   is allocated because of it. No byte is copied.
//! - After an error there are no more events, only the same error.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

use crate::{Code, PREFIX_BYTES, Status};

/// What a [`Deframer`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message of this many bytes begins.
    Start {
        /// How many bytes the [`Event::Bytes`] up to [`Event::End`] have together.
        message_bytes: usize,
    },
    /// The next bytes of the message, never empty: a slice of what was pushed.
    Bytes(Bytes),
    /// The message is complete.
    End,
}

/// Takes a request's body apart into messages, without any I/O: [`push`](Self::push) what arrives, then ask for
/// [`next_event`](Self::next_event) until there is none.
///
/// What is pushed and not yet asked for is kept, so push one piece at a time.
#[derive(Debug)]
pub struct Deframer {
    message_bytes_max: usize,
    pieces: VecDeque<Bytes>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between messages, or inside the prefix of one.
    Prefix {
        arrived: [u8; PREFIX_BYTES],
        count: usize,
    },
    Message {
        remaining: usize,
    },
    Failed(Status),
}

const BETWEEN_MESSAGES: State = State::Prefix {
    arrived: [0; PREFIX_BYTES],
    count: 0,
};

impl Deframer {
    /// For messages of at most `message_bytes_max` bytes each.
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            pieces: VecDeque::new(),
            state: BETWEEN_MESSAGES,
        }
    }

    /// Takes the next bytes of the body.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() && !matches!(self.state, State::Failed(_)) {
            self.pieces.push_back(piece);
        }
    }

    /// What comes next, or none until more is pushed.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` for a message beyond the limit, `UNIMPLEMENTED` for a compressed one, `INTERNAL` for what is no
    /// message at all.
    pub fn next_event(&mut self) -> Result<Option<Event>, Status> {
        match &mut self.state {
            State::Failed(status) => Err(status.clone()),
            State::Message { remaining: 0 } => {
                self.state = BETWEEN_MESSAGES;
                Ok(Some(Event::End))
            }
            State::Message { remaining } => {
                let Some(piece) = self.pieces.front_mut() else {
                    return Ok(None);
                };
                let bytes = piece.split_to(piece.len().min(*remaining));
                *remaining -= bytes.len();
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                Ok(Some(Event::Bytes(bytes)))
            }
            State::Prefix { arrived, count } => {
                while *count < PREFIX_BYTES {
                    let Some(piece) = self.pieces.front_mut() else {
                        return Ok(None);
                    };
                    let taken = piece.len().min(PREFIX_BYTES - *count);
                    piece.copy_to_slice(&mut arrived[*count..*count + taken]);
                    *count += taken;
                    if piece.is_empty() {
                        self.pieces.pop_front();
                    }
                }
                match message_bytes(*arrived, self.message_bytes_max) {
                    Ok(message_bytes) => {
                        self.state = State::Message {
                            remaining: message_bytes,
                        };
                        Ok(Some(Event::Start { message_bytes }))
                    }
                    Err(status) => {
                        self.pieces.clear();
                        self.state = State::Failed(status.clone());
                        Err(status)
                    }
                }
            }
        }
    }

    /// True if all that was pushed has been asked for and makes whole messages.
    pub fn is_between_messages(&self) -> bool {
        self.pieces.is_empty() && matches!(self.state, State::Prefix { count: 0, .. })
    }

    /// To be asked when the body has ended and there are no more events.
    ///
    /// # Errors
    /// `INTERNAL` if the body ended inside a message; the error that [`next_event`](Self::next_event) had, if it had one.
    pub fn finish(&self) -> Result<(), Status> {
        match &self.state {
            State::Failed(status) => Err(status.clone()),
            _ if self.is_between_messages() => Ok(()),
            _ => Err(Status::new(
                Code::Internal,
                "the request ended inside a message",
            )),
        }
    }
}

/// What a prefix says, if it may.
fn message_bytes(prefix: [u8; PREFIX_BYTES], message_bytes_max: usize) -> Result<usize, Status> {
    let [flag, a, b, c, d] = prefix;
    match flag {
        0 => {}
        1 => {
            return Err(Status::new(
                Code::Unimplemented,
                "compressed messages are not supported; send them as they are",
            ));
        }
        other => {
            return Err(Status::new(
                Code::Internal,
                format!("a message begins with the flag {other}, which gRPC does not have"),
            ));
        }
    }
    let message_bytes = u32::from_be_bytes([a, b, c, d]);
    usize::try_from(message_bytes)
        .ok()
        .filter(|message_bytes| *message_bytes <= message_bytes_max)
        .ok_or_else(|| {
            Status::new(
                Code::ResourceExhausted,
                format!(
                    "a message of {message_bytes} bytes is larger than the limit of {message_bytes_max} bytes"
                ),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use proptest::prelude::*;

    const LIMIT: usize = 300;

    /// The events of a body that arrives in these pieces, neighbouring bytes joined, and how it ended.
    fn events(pieces: &[&[u8]]) -> (Vec<Event>, Result<(), Status>) {
        let mut deframer = Deframer::new(LIMIT);
        let mut events: Vec<Event> = Vec::new();
        for piece in pieces {
            deframer.push(Bytes::copy_from_slice(piece));
            loop {
                match (deframer.next_event(), events.last_mut()) {
                    (Ok(Some(Event::Bytes(bytes))), Some(Event::Bytes(joined))) => {
                        *joined = [&joined[..], &bytes].concat().into();
                    }
                    (Ok(Some(event)), _) => events.push(event),
                    (Ok(None), _) => break,
                    (Err(status), _) => {
                        assert_eq!(deframer.next_event(), Err(status.clone()));
                        assert_eq!(deframer.finish(), Err(status.clone()));
                        return (events, Err(status));
                    }
                }
            }
        }
        (events, deframer.finish())
    }

    /// `body` in pieces that end at `cuts`.
    fn cut<'a>(body: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        ends.extend([0, body.len()]);
        ends.sort_unstable();
        ends.windows(2)
            .map(|pair| &body[pair[0]..pair[1]])
            .collect()
    }

    fn expected(messages: &[Vec<u8>]) -> Vec<Event> {
        let mut events = Vec::new();
        for message in messages {
            events.push(Event::Start {
                message_bytes: message.len(),
            });
            if !message.is_empty() {
                events.push(Event::Bytes(message.clone().into()));
            }
            events.push(Event::End);
        }
        events
    }

    fn check_refused(body: &[u8], code: Code, words: &str) {
        let (events, end) = events(&[body]);
        assert_eq!(events, []);
        let status = end.unwrap_err();
        assert_eq!(status.code, code);
        assert!(status.message.contains(words), "{status}");
    }

    #[test]
    fn the_limit_is_exact_and_known_from_the_prefix_alone() {
        let (found, end) = events(&[&frame(&[7; LIMIT])]);
        assert_eq!((found, end), (expected(&[vec![7; LIMIT]]), Ok(())));
        let words = "301 bytes is larger than the limit of 300 bytes";
        check_refused(&[0, 0, 0, 1, 45], Code::ResourceExhausted, words);
        let words = "4294967295 bytes";
        check_refused(&[0, 255, 255, 255, 255], Code::ResourceExhausted, words);
    }

    #[test]
    fn compressed_messages_and_unknown_flags_are_refused_in_front_of_their_length() {
        check_refused(&[1, 255, 255, 255, 255], Code::Unimplemented, "compressed");
        check_refused(&[2, 0, 0, 0, 0], Code::Internal, "flag 2");
        check_refused(b"GET / HTTP/1.1", Code::Internal, "flag 71");
    }

    #[test]
    fn a_body_may_end_only_between_messages() {
        let body = frame(b"hello");
        for end in 0..=body.len() {
            let (_, result) = events(&[&body[..end]]);
            assert_eq!(result.is_ok(), end == 0 || end == body.len(), "{end}");
        }
        let mut unasked = Deframer::new(LIMIT);
        unasked.push(body);
        assert!(!unasked.is_between_messages() && unasked.finish().is_err());
    }

    #[test]
    fn the_bytes_of_a_message_are_those_that_were_pushed_and_no_copy() {
        let body = frame(b"hello");
        let mut deframer = Deframer::new(LIMIT);
        deframer.push(body.clone());
        deframer.next_event().unwrap();
        let Ok(Some(Event::Bytes(bytes))) = deframer.next_event() else {
            panic!("bytes follow the start of a message");
        };
        assert_eq!(bytes.as_ptr(), body[5..].as_ptr());
    }

    proptest! {
        #[test]
        fn any_cut_of_a_body_gives_the_same_events(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..LIMIT), 0..6),
            cuts: Vec<prop::sample::Index>,
        ) {
            let body: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
            prop_assert_eq!(events(&cut(&body, &cuts)), (expected(&messages), Ok(())));
        }

        #[test]
        fn garbage_gives_the_same_events_or_the_same_error_however_it_is_cut(
            garbage in prop::collection::vec(prop_oneof![4 => Just(0_u8), 1 => 0_u8..4, 1 => any::<u8>()], 0..200),
            cuts: Vec<prop::sample::Index>,
        ) {
            prop_assert_eq!(events(&cut(&garbage, &cuts)), events(&[&garbage]));
        }
    }
}
