//! Any bytes as the body of a gRPC call, cut anywhere.

#![no_main]

use bytes::Bytes;
use larder_grpc::{Deframer, Event, Messages, Status, Unary};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, Vec<u8>, &[u8])| {
    let (message_bytes_max, piece_lengths, body) = input;
    let message_bytes_max = usize::from(message_bytes_max);
    let pieces = cut(body, &piece_lengths);
    let (messages, end) = by_events(message_bytes_max, &pieces);

    let uncut = [Bytes::copy_from_slice(body)];
    assert_eq!(
        by_events(message_bytes_max, &uncut),
        (messages.clone(), end.clone())
    );
    let (mut whole, whole_end) = by_messages(message_bytes_max, &pieces);
    assert_eq!(whole_end, end);
    // The events also have the beginning of a message that did not arrive whole.
    whole.extend(messages[whole.len()..].to_vec());
    assert_eq!(whole, messages);

    let unary = unary(message_bytes_max, &pieces);
    match (&messages[..], &end) {
        ([message], Ok(())) => assert_eq!(unary.as_deref(), Ok(&message[..])),
        _ => assert!(unary.is_err()),
    }
    assert!(
        messages
            .iter()
            .all(|message| message.len() <= message_bytes_max)
    );
    assert!(messages.concat().len() + 5 * messages.len() <= body.len());
});

/// The body in pieces of these lengths, the last one of what is left.
fn cut(body: &[u8], piece_lengths: &[u8]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(body);
    let mut pieces = Vec::new();
    for length in piece_lengths {
        pieces.push(rest.split_to(rest.len().min(usize::from(*length))));
    }
    pieces.push(rest);
    pieces
}

fn by_events(message_bytes_max: usize, pieces: &[Bytes]) -> (Vec<Vec<u8>>, Result<(), Status>) {
    let mut deframer = Deframer::new(message_bytes_max);
    let mut messages: Vec<Vec<u8>> = Vec::new();
    let mut expected_bytes = None;
    for piece in pieces {
        deframer.push(piece.clone());
        loop {
            match deframer.next_event() {
                Ok(Some(Event::Start { message_bytes })) => {
                    assert_eq!(expected_bytes.replace(message_bytes), None);
                    messages.push(Vec::new());
                }
                Ok(Some(Event::Bytes(bytes))) => {
                    assert!(!bytes.is_empty());
                    messages
                        .last_mut()
                        .expect("bytes have a start")
                        .extend(bytes);
                }
                Ok(Some(Event::End)) => {
                    assert_eq!(expected_bytes.take(), messages.last().map(Vec::len));
                }
                Ok(None) => break,
                Err(status) => {
                    assert_eq!(deframer.finish(), Err(status.clone()));
                    return (messages, Err(status));
                }
            }
        }
    }
    (messages, deframer.finish())
}

fn by_messages(message_bytes_max: usize, pieces: &[Bytes]) -> (Vec<Vec<u8>>, Result<(), Status>) {
    let mut reader = Messages::new(message_bytes_max);
    let mut messages = Vec::new();
    for piece in pieces {
        reader.push(piece.clone());
        loop {
            match reader.next_message() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break,
                Err(status) => return (messages, Err(status)),
            }
        }
    }
    (messages, reader.finish())
}

fn unary(message_bytes_max: usize, pieces: &[Bytes]) -> Result<Bytes, Status> {
    let mut request = Unary::new(message_bytes_max);
    for piece in pieces {
        request.push(piece.clone())?;
    }
    request.finish()
}
