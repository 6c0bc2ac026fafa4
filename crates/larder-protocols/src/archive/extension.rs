//! What an archive says about an entry before its header: GNU's long names, and the records of POSIX (PAX).
//!
//! Right before its entry stands either one set of records, or a long name, a long target, or both: what the writers make. Readers
//! differ about everything else. Of the records three matter, `path`, `linkpath` and `size`, and there may be some that change
//! nothing of where an entry goes. Whatever could be taken for one of the three by another reader, or twice, is
//! [`Fault::Ambiguous`].

use super::Fault;

/// What is known about the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    long_name: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
    records: Option<Records>,
}

/// The records that matter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Records {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn add_long_name(&mut self, contents: Vec<u8>) -> Result<(), Fault> {
        self.check_no_records()?;
        set(&mut self.long_name, without_nul(contents))
    }

    pub(super) fn add_long_target(&mut self, contents: Vec<u8>) -> Result<(), Fault> {
        self.check_no_records()?;
        set(&mut self.long_target, without_nul(contents))
    }

    pub(super) fn add_records(&mut self, contents: &[u8]) -> Result<(), Fault> {
        if !self.is_empty() {
            return Err(Fault::Ambiguous);
        }
        self.records = Some(Records::read(contents)?);
        Ok(())
    }

    /// Whether there are records, which not all readers apply to entries of unusual kinds.
    pub(super) fn has_records(&self) -> bool {
        self.records.is_some()
    }

    fn check_no_records(&self) -> Result<(), Fault> {
        match &self.records {
            None => Ok(()),
            Some(_) => Err(Fault::Ambiguous),
        }
    }

    /// The name, if it is not the one in the header.
    pub(super) fn name(&mut self) -> Option<Vec<u8>> {
        let path = self.records.as_mut().and_then(|it| it.path.take());
        self.long_name.take().or(path)
    }

    /// The link's target, if it is not the one in the header.
    pub(super) fn target(&mut self) -> Option<Vec<u8>> {
        let linkpath = self.records.as_mut().and_then(|it| it.linkpath.take());
        self.long_target.take().or(linkpath)
    }

    /// The size, which must be the one in the header: readers differ in whose they believe, and so in where the next header is.
    pub(super) fn check_size(&self, in_header: u64) -> Result<(), Fault> {
        let said = self.records.as_ref().and_then(|it| it.size);
        match said {
            Some(size) if size != in_header => Err(Fault::Ambiguous),
            Some(_) | None => Ok(()),
        }
    }
}

/// Other records, as the writers make them: they say nothing about where an entry goes, or how long it is.
const HARMLESS: [&[u8]; 12] = [
    b"atime",
    b"comment",
    b"ctime",
    b"gid",
    b"gname",
    b"mtime",
    b"uid",
    b"uname",
    b"SCHILY.dev",
    b"SCHILY.ino",
    b"SCHILY.nlink",
    b"LIBARCHIVE.creationtime",
];

impl Records {
    fn read(mut rest: &[u8]) -> Result<Self, Fault> {
        let mut records = Self::default();
        while !rest.is_empty() {
            let (key, value) = record(&mut rest).ok_or(Fault::Ambiguous)?;
            match key {
                b"path" => set(&mut records.path, value.to_vec())?,
                b"linkpath" => set(&mut records.linkpath, value.to_vec())?,
                b"size" => set(&mut records.size, decimal(value).ok_or(Fault::Number)?)?,
                key if HARMLESS.contains(&key) => {}
                // Another form of sparse files with a name and a size of its own, other alphabets, or what is not known here.
                _ => return Err(Fault::Ambiguous),
            }
        }
        Ok(records)
    }
}

/// Takes `LENGTH KEY=VALUE\n` off the front. Some readers go by lines and some by lengths, so both must say the same.
fn record<'r>(rest: &mut &'r [u8]) -> Option<(&'r [u8], &'r [u8])> {
    let blank = rest.iter().position(|byte| *byte == b' ')?;
    if rest.first() == Some(&b'0') {
        return None;
    }
    let length = usize::try_from(decimal(&rest[..blank])?).ok()?;
    let (line, after) = rest.split_at_checked(length)?;
    *rest = after;
    let line = line.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&line[..equals], &line[equals + 1..]);
    (!line.contains(&b'\n') && !key.is_empty()).then_some((key, value))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| plain)?
        .parse()
        .ok()
}

fn set<T>(place: &mut Option<T>, value: T) -> Result<(), Fault> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Fault::Ambiguous),
    }
}

/// GNU ends a long name with a NUL, which is not part of it.
fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(contents: &str) -> Result<Records, Fault> {
        Records::read(contents.as_bytes())
    }

    #[test]
    fn records_are_read_by_line_and_length() {
        let records = read("12 path=a/b\n21 mtime=1.000000000\n14 linkpath=c\n9 size=7\n");
        let expected = Records {
            path: Some(b"a/b".to_vec()),
            linkpath: Some(b"c".to_vec()),
            size: Some(7),
        };
        assert_eq!(records, Ok(expected));
        for ambiguous in [
            "12 path=a/b\n12 path=a/c\n",
            "13 path=a/b\n",
            "11 path=a/b\n",
            "12 path=a/b",
            "x2 path=a/b\n",
            "+12 path=a/b\n",
            // A line in a value, which who goes by lines takes for a record.
            "27 comment=x\n13 path=../x\n\n",
            "25 GNU.sparse.name=../xy\n",
            "21 hdrcharset=BINARY\n",
            "012 path=a/b\n",
            "7 =a/b\n",
            "\n",
            "\0\0",
        ] {
            assert_eq!(read(ambiguous), Err(Fault::Ambiguous), "{ambiguous:?}");
        }
        assert_eq!(read("11 size=-7\n"), Err(Fault::Number));
    }

    #[test]
    fn what_is_said_twice_is_ambiguous() {
        let mut ahead = Ahead::default();
        ahead.add_long_name(b"a\0".to_vec()).unwrap();
        assert_eq!(ahead.add_long_name(b"b\0".to_vec()), Err(Fault::Ambiguous));
        let mut ahead = Ahead::default();
        ahead.add_long_target(b"a\0".to_vec()).unwrap();
        ahead.add_long_name(b"a\0".to_vec()).unwrap();
        assert_eq!(ahead.add_records(b"9 path=b\n"), Err(Fault::Ambiguous));
        let mut ahead = Ahead::default();
        ahead.add_records(b"9 size=7\n").unwrap();
        assert_eq!(ahead.check_size(7), Ok(()));
        assert_eq!(ahead.check_size(0), Err(Fault::Ambiguous));
        assert_eq!(ahead.add_records(b"9 path=b\n"), Err(Fault::Ambiguous));
        assert_eq!(ahead.add_long_name(b"b".to_vec()), Err(Fault::Ambiguous));
        assert_eq!(ahead.add_long_target(b"b".to_vec()), Err(Fault::Ambiguous));
    }
}
