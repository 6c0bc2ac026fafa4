//! How a blob's bytes are stored and sent: as they are, or as zstd (RFC 8878, one or several frames).
//!
//! Decoding stops with the first byte beyond what the caller allows, and a frame that claims more is refused before
//! zstd sees it. What the window of a frame may fill is taken from a bounded account ([`WindowMemory`]) first. zstd
//! sets aside address space by the window that a frame asks for, at most 128 MiB, and fills what is decoded.
//!
//! What is encoded on the way out is a frame for each piece. So an answer that nobody takes holds no
//! encoder's memory.

use std::time::Duration;

use bytes::Bytes;
use zstd_safe::{CCtx, DCtx, DParameter, InBuffer, OutBuffer};

use crate::windows::{WindowHold, WindowMemory};

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
    /// What of the next frame's header is there: it is looked at before zstd sees it.
    start: [u8; FRAME_START_BYTES_MAX],
    start_len: usize,
    in_frame: bool,
    has_begun: bool,
    /// More came out than the last step had room for.
    has_more: bool,
    /// What the frame that is about to begin needs, if there was no memory for it.
    wanted: Option<u64>,
    memory: WindowMemory,
    held: Option<WindowHold>,
}

/// The longest header: magic number, descriptor, dictionary and content size, or less and a window.
const FRAME_START_BYTES_MAX: usize = 18;
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

impl Decoder {
    /// A decoder that lets out at most `most` bytes in all.
    pub(crate) fn new(most: u64, memory: WindowMemory) -> Self {
        Self {
            context: new_context(),
            most,
            produced: 0,
            start: [0; FRAME_START_BYTES_MAX],
            start_len: 0,
            in_frame: false,
            has_begun: false,
            has_more: false,
            wanted: None,
            memory,
            held: None,
        }
    }

    /// The most bytes that may come out in all.
    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    /// How many bytes have come out.
    pub(crate) fn produced(&self) -> u64 {
        self.produced
    }

    /// Whether a step without input would let something out, or is still owed for want of memory.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more || self.wanted.is_some()
    }

    /// Takes what it can from the front of `input`, and adds what comes out to `output` until that has no
    /// capacity left. After [`DecodeError::NoMemory`], when nothing has come out, the step can be repeated.
    pub(crate) fn step(
        &mut self,
        input: &mut &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let before = output.len();
        while output.len() < output.capacity() && (self.has_more() || !input.is_empty()) {
            let stepped = if self.in_frame {
                self.run(input, output)
            } else {
                self.begin_frame(input, output)
            };
            match stepped {
                // The next step says it again.
                Err(DecodeError::NoMemory) if output.len() > before => return Ok(()),
                stepped => stepped?,
            }
        }
        Ok(())
    }

    /// After [`DecodeError::NoMemory`]: waits at most `wait_max` for what was missing, holding none meanwhile.
    /// False: there was none.
    pub(crate) async fn wait_for_memory(&mut self, wait_max: Duration) -> bool {
        if let Some(bytes) = self.wanted {
            self.held = self.memory.take(bytes, wait_max).await;
            return self.held.is_some();
        }
        true
    }

    /// Collects the header of a frame, and has zstd begin when it is there.
    fn begin_frame(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Result<(), DecodeError> {
        while self.start_len < self.start_bytes() {
            let count = input.len().min(self.start_bytes() - self.start_len);
            if count == 0 {
                return Ok(());
            }
            let (start, rest) = input.split_at(count);
            self.start[self.start_len..][..count].copy_from_slice(start);
            self.start_len += count;
            *input = rest;
        }
        self.reserve()?;
        let (start, start_len) = (self.start, self.start_len);
        (self.in_frame, self.has_begun, self.start_len) = (true, true, 0);
        let mut start = &start[..start_len];
        while !start.is_empty() {
            self.run(&mut start, output)?;
        }
        Ok(())
    }

    /// How long the header is, as far as its first bytes say. A frame has more bytes than that, whatever it is.
    fn start_bytes(&self) -> usize {
        let descriptor = usize::from(self.start[4]);
        if self.start_len < 5 || self.start[..4] != MAGIC {
            return 5;
        }
        5 + self.window_bytes() + [0, 1, 2, 4][descriptor & 3] + self.claim_bytes()
    }

    fn is_single_segment(&self) -> bool {
        self.start[4] & 0x20 != 0
    }

    fn window_bytes(&self) -> usize {
        usize::from(!self.is_single_segment())
    }

    /// How many bytes of the header are the frame's content size.
    fn claim_bytes(&self) -> usize {
        match self.start[4] >> 6 {
            0 => usize::from(self.is_single_segment()),
            flag => 1 << flag,
        }
    }

    /// How many bytes the frame says will come out, if it says so.
    fn claim(&self) -> Option<u64> {
        let count = self.claim_bytes();
        let mut claim = [0; 8];
        claim[..count].copy_from_slice(&self.start[self.start_len - count..self.start_len]);
        let claim = u64::from_le_bytes(claim);
        match count {
            0 => None,
            2 => Some(claim + 256),
            _ => Some(claim),
        }
    }

    /// Takes the memory that the frame which is about to begin may fill.
    fn reserve(&mut self) -> Result<(), DecodeError> {
        // A frame to be skipped, or none, has no window.
        let mut window = 0;
        if self.start[..4] == MAGIC {
            let claim = self.claim();
            if claim.is_some_and(|claim| claim > self.most.saturating_sub(self.produced)) {
                return Err(DecodeError::TooLong);
            }
            window = claim.unwrap_or(self.most);
            if !self.is_single_segment() {
                let descriptor = self.start[5];
                let base = 1_u64 << (10 + (descriptor >> 3));
                window = window.min(base + base / 8 * u64::from(descriptor & 7));
            }
        }
        let needed = window.min(self.most).min(1 << WINDOW_LOG_MAX) + DECODER_BYTES;
        if self.held.as_ref().is_none_or(|held| held.bytes() < needed) {
            if self.held.take().is_some() {
                // Between two frames it knows nothing, and is given back as well.
                self.context = new_context();
            }
            self.held = self.memory.try_take(needed);
        }
        self.wanted = self.held.is_none().then_some(needed);
        self.wanted.map_or(Ok(()), |_| Err(DecodeError::NoMemory))
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

    /// Whether the input may end here: after at least one frame, and in none.
    pub(crate) fn is_complete(&self) -> bool {
        self.has_begun && !self.in_frame && self.start_len == 0
    }
}

fn new_context() -> DCtx<'static> {
    let mut context = DCtx::create();
    context
        .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
        .expect("a window within zstd's bounds");
    context
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
    use std::sync::Arc;

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
            account: Arc::default(),
            workspace: "acme".parse().unwrap(),
        }
    }

    proptest! {
        #[test]
        fn frames_decode_alike_however_they_are_cut_and_whatever_room_there_is(
            parts in proptest::collection::vec((0..3000_usize, any::<u8>()), 1..6),
            cuts in proptest::collection::vec(1..200_usize, 1..20),
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
                prop_assert!(plain.starts_with(&decoded));
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(decoder.is_complete());
            prop_assert_eq!(decoded, plain);
        }
    }
}
