//! Gzip as its bytes come: RFC 1952, one member and its checksum.
//!
//! Behind the member nothing may come: some readers go on with a second one, some do not.
//!
//! flate2's own readers want something to read from; here the bytes are pushed. Nothing is kept of them but the window.

use flate2::{Crc, Decompress, FlushDecompress, Status};

/// Why the bytes cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoGzip {
    /// They do not begin like gzip.
    Foreign,
    /// They begin like gzip, and are damaged.
    Damaged,
    /// They begin like gzip, with flags that not all readers know.
    Unusual,
    /// They go on behind the member.
    Trailing,
}

const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

// The flags of a header. There is one for a checksum of it, too, which nobody writes and few look at.
const TEXT: u8 = 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const USUAL: u8 = TEXT | EXTRA | NAME | COMMENT;

enum State {
    /// In the ten bytes that each header has.
    Header {
        bytes: [u8; 10],
        len: usize,
    },
    /// In the parts that the header's flags announce.
    ExtraLength {
        low: Option<u8>,
    },
    Skip {
        left: u16,
    },
    Text,
    Deflated,
    /// In the checksum and the size.
    Trailer {
        bytes: [u8; 8],
        len: usize,
    },
    End,
}

/// Unpacks what is pushed.
pub(super) struct Gunzip {
    state: State,
    /// The parts of the header that are still to come.
    flags: u8,
    inflate: Box<Decompress>,
    crc: Crc,
    /// Whether all of the header's fixed part has come.
    has_begun: bool,
}

impl Gunzip {
    pub(super) fn new() -> Self {
        Self {
            state: header(),
            flags: 0,
            inflate: Box::new(Decompress::new(false)),
            crc: Crc::new(),
            has_begun: false,
        }
    }

    /// Whether it is certain that this is gzip.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Unpacks from the front of `sent` into `plain`, and says how many bytes came out: fewer than have room only if `sent` is
    /// used up, or at the end.
    pub(super) fn step(&mut self, sent: &mut &[u8], plain: &mut [u8]) -> Result<usize, NoGzip> {
        loop {
            if matches!(self.state, State::Deflated) {
                let made = self.inflate(sent, plain)?;
                if made > 0 || matches!(self.state, State::Deflated) {
                    return Ok(made);
                }
            }
            let Some((byte, rest)) = sent.split_first() else {
                return Ok(0);
            };
            *sent = rest;
            self.frame(*byte)?;
        }
    }

    /// Whether the bytes end where gzip may end. `None`: not even a header came.
    pub(super) fn ends_here(&self) -> Option<bool> {
        self.has_begun.then_some(matches!(self.state, State::End))
    }

    fn inflate(&mut self, sent: &mut &[u8], plain: &mut [u8]) -> Result<usize, NoGzip> {
        let (taken, made) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(sent, plain, FlushDecompress::None);
        let status = status.map_err(|_| NoGzip::Damaged)?;
        let taken = self.inflate.total_in() - taken;
        let made = (self.inflate.total_out() - made) as usize;
        if taken == 0 && made == 0 && status != Status::StreamEnd && !sent.is_empty() {
            return Err(NoGzip::Damaged);
        }
        *sent = &sent[taken as usize..];
        self.crc.update(&plain[..made]);
        match status {
            Status::StreamEnd => {
                let (bytes, len) = ([0; 8], 0);
                self.state = State::Trailer { bytes, len };
            }
            Status::Ok | Status::BufError => {}
        }
        Ok(made)
    }

    /// Takes one of the bytes around what is deflated.
    fn frame(&mut self, byte: u8) -> Result<(), NoGzip> {
        match &mut self.state {
            State::Header { bytes, len } => {
                bytes[*len] = byte;
                *len += 1;
                match len.checked_sub(1).and_then(|at| MAGIC.get(at)) {
                    Some(expected) if *expected != byte => return Err(NoGzip::Foreign),
                    None if *len == 4 && byte & !USUAL != 0 => return Err(NoGzip::Unusual),
                    Some(_) | None => {}
                }
                if *len == bytes.len() {
                    self.flags = bytes[3];
                    self.has_begun = true;
                    self.next_part();
                }
            }
            State::ExtraLength { low: low @ None } => *low = Some(byte),
            State::ExtraLength { low: Some(low) } => {
                let left = u16::from_le_bytes([*low, byte]);
                self.state = State::Skip { left };
                if left == 0 {
                    self.next_part();
                }
            }
            State::Skip { left } => {
                *left -= 1;
                if *left == 0 {
                    self.next_part();
                }
            }
            State::Text if byte == 0 => self.next_part(),
            State::Text => {}
            State::Trailer { bytes, len } => {
                bytes[*len] = byte;
                *len += 1;
                if *len == bytes.len() {
                    let [crc, size] = [&bytes[..4], &bytes[4..]]
                        .map(|it| u32::from_le_bytes(it.try_into().expect("four bytes")));
                    if (crc, size) != (self.crc.sum(), self.crc.amount()) {
                        return Err(NoGzip::Damaged);
                    }
                    self.state = State::End;
                }
            }
            State::End => return Err(NoGzip::Trailing),
            State::Deflated => unreachable!("what is deflated is not taken byte by byte"),
        }
        Ok(())
    }

    /// Goes to the next part of the header, or to what is deflated.
    fn next_part(&mut self) {
        for (flag, state) in [
            (EXTRA, State::ExtraLength { low: None }),
            (NAME, State::Text),
            (COMMENT, State::Text),
        ] {
            if self.flags & flag != 0 {
                self.flags &= !flag;
                self.state = state;
                return;
            }
        }
        self.state = State::Deflated;
    }
}

fn header() -> State {
    let (bytes, len) = ([0; 10], 0);
    State::Header { bytes, len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use flate2::{GzBuilder, read::GzDecoder};
    use std::io::{Read as _, Write as _};

    fn gunzip(sent: &[u8], cut: usize) -> Result<(Vec<u8>, Option<bool>), NoGzip> {
        let (mut gunzip, mut all, mut plain) = (Gunzip::new(), Vec::new(), [0; 100]);
        for mut piece in sent.chunks(cut) {
            loop {
                let made = gunzip.step(&mut piece, &mut plain)?;
                all.extend_from_slice(&plain[..made]);
                if made == 0 && piece.is_empty() {
                    break;
                }
            }
        }
        Ok((all, gunzip.ends_here()))
    }

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_member_is_unpacked_as_flate2_does_wherever_they_are_cut() {
        let text = "some text, and the same text again, and the same text again".repeat(50);
        let header = GzBuilder::new().extra("extra").filename("name");
        let mut odd = header
            .comment("comment")
            .write(Vec::new(), Compression::best());
        odd.write_all(text.as_bytes()).unwrap();
        let odd = odd.finish().unwrap();
        for sent in [odd, member(b"")] {
            let mut expected = Vec::new();
            GzDecoder::new(&sent[..])
                .read_to_end(&mut expected)
                .unwrap();
            for cut in [1, 2, 7, 1000] {
                assert_eq!(gunzip(&sent, cut), Ok((expected.clone(), Some(true))));
            }
        }
    }

    #[test]
    fn what_is_foreign_damaged_or_too_much_is_told_apart() {
        let whole = member(b"some text, and the same text again");
        assert_eq!(gunzip(b"PK\x03\x04", 1), Err(NoGzip::Foreign));
        assert_eq!(gunzip(b"", 1), Ok((Vec::new(), None)));
        assert_eq!(gunzip(&whole[..5], 1), Ok((Vec::new(), None)));
        for end in 10..whole.len() {
            let (_, ends) = gunzip(&whole[..end], 9).unwrap();
            assert_eq!(ends, Some(false), "{end}");
        }
        for at in whole.len() - 8..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(gunzip(&damaged, 9), Err(NoGzip::Damaged), "{at}");
        }
        for flag in [1 << 1, 1 << 5, 1 << 7] {
            let mut unusual = whole.clone();
            unusual[3] = flag;
            assert_eq!(gunzip(&unusual, 9), Err(NoGzip::Unusual));
        }
        for tail in [&b"x"[..], b"\0", &whole] {
            let sent = [&whole[..], tail].concat();
            assert_eq!(gunzip(&sent, 9), Err(NoGzip::Trailing), "{tail:?}");
        }
    }
}
