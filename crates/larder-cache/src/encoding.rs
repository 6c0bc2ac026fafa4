//! How a blob's bytes are stored and sent: as they are, or as zstd (RFC 8878, one or several frames).
//!
//! Nothing here allocates by what a frame claims of itself: decoding stops with the first byte beyond what
//! the caller allows, and the window that a frame asks for is taken from a bounded account ([`WindowMemory`])
//! before the decoder may fill it.
//!
//! What is encoded on the way out is a frame for each piece. So an answer that nobody takes holds no
//! encoder's memory.

use std::sync::Arc;

use bytes::Bytes;
use larder_model::WorkspaceName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zstd_safe::{CCtx, DCtx, DParameter, InBuffer, OutBuffer};

use crate::lanes::WINDOW_BYTES_MAX;
use crate::room::{Room, Rooms};

/// How bytes are sent or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// As zstd: one frame or several, one after the other.
    Zstd,
}

/// The largest window that is decoded, as a power of two: what `zstd --long` asks for, and no more.
const WINDOW_LOG_MAX: u32 = 27;

/// What a decoder costs beside its window, about.
const DECODER_BYTES: u64 = 256 << 10;

/// The most bytes that come out of one step of a decoder.
pub(crate) const STEP_BYTES_MAX: usize = 256 << 10;

/// The level for what is encoded on the way out: the network is slower than it on any machine.
const LEVEL: i32 = 1;

/// What a stored blob's metadata say of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredForm {
    pub(crate) encoding: Encoding,
    /// The blob's bytes, uncompressed.
    pub(crate) size: u64,
}

impl StoredForm {
    /// The first byte of the metadata of a body that is zstd; its uncompressed size follows, little-endian.
    const ZSTD: u8 = 1;

    /// The metadata. None for a body that is the blob as it is.
    pub(crate) fn metadata(self) -> Bytes {
        match self.encoding {
            Encoding::Identity => Bytes::new(),
            Encoding::Zstd => {
                let mut metadata = [Self::ZSTD; 9];
                metadata[1..].copy_from_slice(&self.size.to_le_bytes());
                Bytes::copy_from_slice(&metadata)
            }
        }
    }

    /// Reads an entry's metadata; `None` if no blob has such ones.
    pub(crate) fn decode(metadata: &[u8], body_bytes: u64) -> Option<Self> {
        match metadata {
            [] => Some(Self {
                encoding: Encoding::Identity,
                size: body_bytes,
            }),
            [Self::ZSTD, size @ ..] => Some(Self {
                encoding: Encoding::Zstd,
                size: u64::from_le_bytes(size.try_into().ok()?),
            }),
            _ => None,
        }
    }
}

/// Memory for the windows of a workspace's decoders. A decoder lives as long as its client likes, so nobody waits
/// for it: there is some, or there is none. A workspace has a quarter of what there is ([`Rooms`]).
#[derive(Debug, Clone)]
pub(crate) struct WindowMemory {
    /// In KiB.
    pub(crate) all: Arc<Semaphore>,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) workspace: WorkspaceName,
}

/// What a decoder has of it.
struct WindowHold {
    bytes: u64,
    room: Room,
    permit: OwnedSemaphorePermit,
}

impl WindowMemory {
    /// Sees to it that `held` is at least `bytes`.
    fn take(&self, bytes: u64, held: &mut Option<WindowHold>) -> Result<(), DecodeError> {
        let more = bytes.saturating_sub(held.as_ref().map_or(0, |held| held.bytes));
        if more == 0 {
            return Ok(());
        }
        let kib = u32::try_from(more.div_ceil(1 << 10)).map_err(|_| DecodeError::NoMemory)?;
        let permit = Arc::clone(&self.all).try_acquire_many_owned(kib);
        let permit = permit.map_err(|_| DecodeError::NoMemory)?;
        if let Some(held) = held {
            if !held.room.add(more) {
                return Err(DecodeError::NoMemory);
            }
            held.permit.merge(permit);
            held.bytes = bytes;
        } else {
            let room = self.rooms.hold(&self.workspace, more, WINDOW_BYTES_MAX);
            *held = Some(WindowHold {
                bytes,
                room: room.ok_or(DecodeError::NoMemory)?,
                permit,
            });
        }
        Ok(())
    }
}

/// Why zstd was not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// It is not zstd, is cut off, or asks for a larger window than [`WINDOW_LOG_MAX`].
    Undecodable,
    /// More bytes come out than are allowed.
    TooLong,
    /// There is no memory for its window at the moment.
    NoMemory,
}

/// Decodes frames, step by step.
pub(crate) struct Decoder {
    context: DCtx<'static>,
    /// The most bytes that may come out.
    most: u64,
    produced: u64,
    /// What of the next frame's first bytes is there: its window is known before zstd sees them.
    start: [u8; FRAME_START_BYTES],
    start_len: usize,
    in_frame: bool,
    has_begun: bool,
    /// More came out than the last step had room for.
    has_more: bool,
    memory: WindowMemory,
    held: Option<WindowHold>,
}

/// Magic number, descriptor and window descriptor. Every frame has more bytes than that.
const FRAME_START_BYTES: usize = 6;
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

impl Decoder {
    /// A decoder that lets out at most `most` bytes in all.
    pub(crate) fn new(most: u64, memory: WindowMemory) -> Self {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .expect("a window within zstd's bounds");
        Self {
            context,
            most,
            produced: 0,
            start: [0; FRAME_START_BYTES],
            start_len: 0,
            in_frame: false,
            has_begun: false,
            has_more: false,
            memory,
            held: None,
        }
    }

    /// How many bytes have come out.
    pub(crate) fn produced(&self) -> u64 {
        self.produced
    }

    /// Whether a step without input would let something out.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Takes what it can from the front of `input`, and adds what comes out to `output` until that has no
    /// capacity left.
    pub(crate) fn step(
        &mut self,
        input: &mut &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        while output.len() < output.capacity() && (self.has_more || !input.is_empty()) {
            if self.in_frame {
                self.run(input, output)?;
            } else {
                self.begin_frame(input, output)?;
            }
        }
        Ok(())
    }

    /// Collects the first bytes of a frame, and has zstd begin when they are there.
    fn begin_frame(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Result<(), DecodeError> {
        let count = input.len().min(FRAME_START_BYTES - self.start_len);
        let (start, rest) = input.split_at(count);
        self.start[self.start_len..][..count].copy_from_slice(start);
        self.start_len += count;
        *input = rest;
        if self.start_len < FRAME_START_BYTES {
            return Ok(());
        }
        self.reserve()?;
        (self.in_frame, self.has_begun, self.start_len) = (true, true, 0);
        let start = self.start;
        let mut start = &start[..];
        while !start.is_empty() {
            self.run(&mut start, output)?;
        }
        Ok(())
    }

    fn run(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Result<(), DecodeError> {
        let before = output.len();
        let mut taken = InBuffer::around(input);
        let mut out = OutBuffer::around_pos(output, before);
        let hint = self.context.decompress_stream(&mut out, &mut taken);
        let (taken, made) = (taken.pos(), out.pos() - before);
        let hint = hint.map_err(|_| DecodeError::Undecodable)?;
        *input = &input[taken..];
        self.produced += made as u64;
        if self.produced > self.most {
            return Err(DecodeError::TooLong);
        }
        self.in_frame = hint != 0;
        self.has_more = self.in_frame && output.len() == output.capacity();
        Ok(())
    }

    /// Takes the memory that the frame which is about to begin may fill.
    fn reserve(&mut self) -> Result<(), DecodeError> {
        let window = match self.start {
            [a, b, c, d, descriptor, window] if [a, b, c, d] == MAGIC => {
                let single_segment = descriptor & 0x20 != 0;
                if single_segment {
                    self.most
                } else {
                    let base = 1_u64 << (10 + (window >> 3));
                    base + base / 8 * u64::from(window & 7)
                }
            }
            // A frame to be skipped, or none.
            _ => 0,
        };
        let needed = window.min(self.most).min(1 << WINDOW_LOG_MAX) + DECODER_BYTES;
        self.memory.take(needed, &mut self.held)
    }

    /// Whether the input may end here: after at least one frame, and in none.
    pub(crate) fn is_complete(&self) -> bool {
        self.has_begun && !self.in_frame && self.start_len == 0
    }
}

/// Encodes bytes as one frame.
pub(crate) fn encode_frame(plain: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    CCtx::create()
        .compress(&mut frame, plain, LEVEL)
        .expect("the room is what zstd asks for");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_metadata_on_disk_are_the_documented_ones() {
        let zstd = StoredForm {
            encoding: Encoding::Zstd,
            size: 0x0102_0304,
        };
        let metadata = zstd.metadata();
        assert_eq!(metadata, &[1, 4, 3, 2, 1, 0, 0, 0, 0][..]);
        assert_eq!(StoredForm::decode(&metadata, 7), Some(zstd));
        let identity = StoredForm {
            encoding: Encoding::Identity,
            size: 7,
        };
        assert_eq!(identity.metadata(), &[][..]);
        assert_eq!(StoredForm::decode(&[], 7), Some(identity));
        for unknown in [&[1][..], &[2, 0, 0, 0, 0, 0, 0, 0, 0], &[1; 10]] {
            assert_eq!(StoredForm::decode(unknown, 7), None);
        }
    }

    fn windows() -> WindowMemory {
        WindowMemory {
            all: Arc::new(Semaphore::new((WINDOW_BYTES_MAX >> 10) as usize)),
            rooms: Arc::default(),
            workspace: "acme".parse().unwrap(),
        }
    }

    proptest! {
        #[test]
        fn frames_decode_alike_however_they_are_cut_and_whatever_room_there_is(
            parts in proptest::collection::vec((0..3000_usize, any::<u8>()), 1..6),
            cuts in proptest::collection::vec(0..200_usize, 1..20),
            room in 1..2000_usize,
        ) {
            let parts: Vec<Vec<u8>> = parts.into_iter().map(|(len, byte)| vec![byte; len]).collect();
            let plain = parts.concat();
            let frames = parts.iter().map(|part| encode_frame(part)).collect::<Vec<_>>().concat();
            let mut decoder = Decoder::new(plain.len() as u64, windows());
            let (mut rest, mut decoded) = (&frames[..], Vec::new());
            for cut in cuts.iter().cycle() {
                let (mut piece, behind) = rest.split_at(rest.len().min(*cut));
                rest = behind;
                while decoder.has_more() || !piece.is_empty() {
                    let mut out = Vec::with_capacity(room);
                    let capacity = out.capacity();
                    prop_assert_eq!(decoder.step(&mut piece, &mut out), Ok(()));
                    prop_assert_eq!(out.capacity(), capacity);
                    decoded.extend(out);
                }
                if rest.is_empty() || cuts.iter().all(|cut| *cut == 0) {
                    break;
                }
                prop_assert!(!decoder.is_complete() || decoded.len() <= plain.len());
            }
            if rest.is_empty() {
                prop_assert!(decoder.is_complete());
                prop_assert_eq!(decoded, plain);
            }
        }
    }
}
