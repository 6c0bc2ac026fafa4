//! One header of a tar archive: the 512 bytes before each entry, as POSIX (ustar) and GNU tar have them.
//!
//! Read as strictly as it can be without refusing what real writers write: numbers in the one form that everybody reads alike,
//! nothing in places that only some formats know. Whatever else some reader might take for a header is
//! [`Fault::Ambiguous`], and only what nobody can take for one is none at all.

use super::Fault;

pub(super) const BLOCK_BYTES: usize = 512;

/// What an entry is, by its type flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// A file with holes in it, in GNU's form. The tar library of Nx writes one if the file system says that there are holes.
    SparseFile,
    Directory,
    SymbolicLink,
    HardLink,
    Device,
    /// The next entry's name, or its link's target, is the contents.
    LongName,
    LongTarget,
    /// The contents are records about the next entry.
    Extension,
}

/// The format, by the magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// From before there was one.
    Old,
    Ustar,
    Gnu,
}

/// A header whose checksum fits.
pub(super) struct Header<'b> {
    block: &'b [u8; BLOCK_BYTES],
    format: Format,
    pub(super) kind: Kind,
    /// How many bytes of contents are in the archive.
    pub(super) size: u64,
}

impl<'b> Header<'b> {
    pub(super) fn read(block: &'b [u8; BLOCK_BYTES]) -> Result<Self, Fault> {
        if octal(&block[148..156]) != Some(unsigned_sum(block)) {
            let is_lax = may_be_header(block) && !says_ustar(block);
            return Err(if is_lax {
                Fault::Ambiguous
            } else {
                Fault::Checksum
            });
        }
        let format = match &block[257..265] {
            b"ustar\x0000" => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            b"\0\0\0\0\0\0\0\0" => Format::Old,
            _ => return Err(Fault::Ambiguous),
        };
        let kind = match block[156] {
            0 | b'0' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::SymbolicLink,
            b'3' | b'4' | b'6' => Kind::Device,
            b'5' => Kind::Directory,
            b'L' => Kind::LongName,
            b'K' => Kind::LongTarget,
            b'x' => Kind::Extension,
            b'S' if format == Format::Gnu => Kind::SparseFile,
            // Some take records about all entries for an entry, and so for what the descriptions before it are about.
            b'g' => return Err(Fault::Ambiguous),
            _ => return Err(Fault::UnknownKind),
        };
        let header = Self {
            block,
            format,
            kind,
            size: number(&block[124..136]).ok_or(Fault::Number)?,
        };
        header.check_form().map(|()| header)
    }

    fn check_form(&self) -> Result<(), Fault> {
        let is_about_others = self.is_about_others();
        let has_contents = is_about_others || matches!(self.kind, Kind::File | Kind::SparseFile);
        // Where other formats have a prefix of the name, times, or a map, and readers do not always ask for the format.
        let unused: &[(usize, usize)] = match self.format {
            Format::Old => &[(257, 512)],
            Format::Ustar => &[(500, 512)],
            Format::Gnu if self.kind == Kind::SparseFile => &[(345, 386), (495, 512)],
            Format::Gnu => &[(345, 512)],
        };
        let mut unused = unused.iter().flat_map(|(from, to)| &self.block[*from..*to]);
        let names = matches!(
            self.kind,
            Kind::SymbolicLink | Kind::HardLink | Kind::Device
        );
        // Some readers skip the contents of what has none by its nature, and others read the next header there.
        let is_ambiguous = (self.size > 0 && !has_contents)
            || (is_about_others && (self.format == Format::Old || self.size == 0))
            || (!names && self.block[157] != 0)
            // A directory to readers of the oldest form.
            || (self.block[156] == 0 && self.size > 0 && self.name().ends_with(b"/"))
            || unused.any(|byte| *byte != 0);
        if is_ambiguous {
            return Err(Fault::Ambiguous);
        }
        Ok(())
    }

    /// Whether this is no entry, but says something about others.
    pub(super) fn is_about_others(&self) -> bool {
        matches!(
            self.kind,
            Kind::LongName | Kind::LongTarget | Kind::Extension
        )
    }

    /// The name in the header itself.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.block[..100]);
        let prefix = match self.format {
            Format::Ustar => until_nul(&self.block[345..500]),
            Format::Old | Format::Gnu => b"",
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    /// The target in the header itself.
    pub(super) fn target(&self) -> &'b [u8] {
        until_nul(&self.block[157..257])
    }

    /// The beginning of a sparse file's map, and whether it goes on in the next block.
    pub(super) fn map(&self) -> Result<(Map, bool), Fault> {
        let unpacked = number(&self.block[483..495]).ok_or(Fault::Number)?;
        let mut map = Map {
            packed: self.size,
            unpacked,
            at: 0,
            taken: 0,
            is_over: false,
        };
        let goes_on = map.add(&self.block[386..482], self.block[482])?;
        Ok((map, goes_on))
    }
}

/// Where the pieces of a sparse file go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map {
    packed: u64,
    pub(super) unpacked: u64,
    /// Where the next piece may begin.
    at: u64,
    /// How much of the contents the pieces have.
    taken: u64,
    is_over: bool,
}

impl Map {
    /// Takes a block that the map goes on in, and says whether it goes on behind it.
    pub(super) fn add_block(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<bool, Fault> {
        let has_first = block[0] != 0;
        if !has_first || block[505..].iter().any(|byte| *byte != 0) {
            return Err(Fault::Ambiguous);
        }
        self.add(&block[..504], block[504])
    }

    /// Takes a part of it. What is behind its last piece is empty, and only a part that is full is followed by another one: some
    /// readers stop at the first piece that is empty.
    fn add(&mut self, pieces: &[u8], goes_on: u8) -> Result<bool, Fault> {
        for piece in pieces.chunks_exact(24) {
            if piece.iter().all(|byte| *byte == 0) {
                self.is_over = true;
                continue;
            }
            let place = number(&piece[..12]).zip(number(&piece[12..]));
            let (offset, len) = place.ok_or(Fault::Ambiguous)?;
            let is_aligned = self.taken.is_multiple_of(BLOCK_BYTES as u64);
            if self.is_over || offset < self.at || !is_aligned {
                return Err(Fault::Ambiguous);
            }
            self.at = offset.checked_add(len).ok_or(Fault::Ambiguous)?;
            self.taken = self.taken.checked_add(len).ok_or(Fault::Ambiguous)?;
        }
        match goes_on {
            0 if self.at == self.unpacked && self.taken == self.packed => Ok(false),
            1 if !self.is_over => Ok(true),
            _ => Err(Fault::Ambiguous),
        }
    }
}

/// Whether any reader could take the block for a header: by the name of the format, or by a checksum that fits the bytes, with
/// or without their signs, if the field is read as laxly as can be.
pub(super) fn may_be_header(block: &[u8; BLOCK_BYTES]) -> bool {
    if says_ustar(block) {
        return true;
    }
    let unsigned = unsigned_sum(block);
    let high = block[..148].iter().chain(&block[156..]);
    let high = high.filter(|byte| !byte.is_ascii()).count() as u64;
    let signed = unsigned.wrapping_sub(256 * high);
    let fits = |said: u64| said == unsigned || said == signed;
    // Readers differ in where digits begin and end, and in what may be between them; some read on in the next field.
    let digits: Vec<u64> = block[148..157]
        .iter()
        .filter(|byte| (b'0'..=b'7').contains(*byte))
        .map(|byte| u64::from(byte - b'0'))
        .collect();
    let in_octal = (0..digits.len()).any(|from| {
        let mut said = 0;
        digits[from..].iter().any(|digit| {
            said = said * 8 + digit;
            fits(said)
        })
    });
    let binary = block[152..156].try_into().map_or(0, u32::from_be_bytes);
    let in_binary = !block[148].is_ascii() && fits(u64::from(binary));
    in_octal || in_binary || (matches!(block[148], b'+' | b'-') && fits(base64(&block[149..156])))
}

fn says_ustar(block: &[u8; BLOCK_BYTES]) -> bool {
    block[257..].starts_with(b"ustar")
}

/// A number as an old GNU tar wrote it.
fn base64(digits: &[u8]) -> u64 {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = digits.iter();
    let digits = digits.map_while(|it| DIGITS.iter().position(|digit| digit == it));
    digits.fold(0, |said, digit| said * 64 + digit as u64)
}

/// The sum of the bytes, with the checksum's own place as blanks.
fn unsigned_sum(block: &[u8; BLOCK_BYTES]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(&block[..148]) + sum(&block[156..]) + 8 * u64::from(b' ')
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// Larger numbers do not fit in octal digits, and only they are in binary.
const OCTAL_END: u64 = 8 << 30;

/// A number of 12 bytes in octal digits, or, behind a byte of 0x80, in binary.
fn number(field: &[u8]) -> Option<u64> {
    match field {
        [0x80, 0, 0, 0, bytes @ ..] => {
            let number = u64::from_be_bytes(bytes.try_into().ok()?);
            (number >= OCTAL_END).then_some(number)
        }
        digits => octal(digits),
    }
}

/// Digits, with blanks before them, and with blanks and NULs behind them.
fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|byte| *byte != b' ')?;
    let field = &field[start..];
    let is_digit = |byte: &u8| (b'0'..=b'7').contains(byte);
    let end = field.iter().position(|byte| !is_digit(byte));
    let (digits, rest) = field.split_at(end.unwrap_or(field.len()));
    if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        number.checked_mul(8)?.checked_add(u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary_and_nothing_else() {
        for (field, expected) in [
            (&b"00000000017\0"[..], Some(15)),
            (b"        17 \0", Some(15)),
            (b"777777777777", Some(0o7777_7777_7777)),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(2 << 32)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\0\x01\xff\xff\xff\xff", None),
            (b"\t0000000017\0", None),
            (b"0000017\x000000", None),
            (b"\x000000000017", None),
            (b"", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", None),
            (b"00000000018\0", None),
            (b"-0000000001\0", None),
            (b"+0000000001\0", None),
            (b"0x000000001\0", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
