//! A tar archive as its bytes come: from header to header, and past the contents.
//!
//! Of the contents nothing is kept but what describes other entries, and that is bounded.

use super::extension::Ahead;
use super::header::{BLOCK_BYTES, Header, Kind, Map, may_be_header};
use super::links::Links;
use super::{Fault, Limits};
use crate::paths::{BadPath, BadTarget, check_path, check_target, components};

/// The most bytes of a path. No system opens longer ones.
const NAME_BYTES_MAX: u64 = 4096;

/// The most bytes of the records about one entry: a name, a target, times, and some attributes.
const RECORDS_BYTES_MAX: u64 = 16 << 10;

/// What Nx puts behind the outputs: the task's exit code and its log. Of two of one name readers may take either.
const OF_NX: [&[u8]; 2] = [b"code", b"terminalOutput"];

/// Why the walk ends before the archive does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It never was a tar archive.
    Foreign,
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

enum State {
    /// In a block that is a header, or the end.
    Header,
    /// In contents that nobody needs.
    Skip { left: u64 },
    /// In contents that describe other entries.
    Collect {
        kind: Kind,
        contents: Vec<u8>,
        left: usize,
    },
    /// In a block of a sparse file's map.
    Map { map: Map, contents: u64 },
    /// In contents behind such a block, of which some readers take the end for headers: those who know no maps.
    Watch { left: u64 },
    /// In no archive, as it seems: some readers look for the first header in every block.
    Foreign,
    /// Behind the end, where only zeros may be.
    End,
}

/// Walks through what is pushed.
pub(super) struct Walk {
    limits: Limits,
    state: State,
    block: [u8; BLOCK_BYTES],
    block_len: usize,
    ahead: Ahead,
    links: Links,
    entries: u64,
    blocks: u64,
    /// Which of [`OF_NX`] have come.
    of_nx: [bool; OF_NX.len()],
    /// What holes will be, once they are unpacked.
    hole_bytes: u64,
    /// The path of the latest entry.
    latest: Vec<u8>,
    #[cfg(any(test, feature = "fuzzing"))]
    latest_target: Vec<u8>,
}

impl Walk {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Header,
            block: [0; BLOCK_BYTES],
            block_len: 0,
            ahead: Ahead::default(),
            links: Links::default(),
            entries: 0,
            blocks: 0,
            of_nx: [false; OF_NX.len()],
            hole_bytes: 0,
            latest: Vec::new(),
            #[cfg(any(test, feature = "fuzzing"))]
            latest_target: Vec::new(),
        }
    }

    /// Of bytes that are no archive, unless some reader could find a header in them.
    pub(super) fn foreign() -> Self {
        Self {
            state: State::Foreign,
            ..Self::new(Limits::default())
        }
    }

    /// How many bytes unpacking makes that are not in the archive.
    pub(super) fn hole_bytes(&self) -> u64 {
        self.hole_bytes
    }

    /// The path of the latest entry.
    pub(super) fn into_latest(self) -> Vec<u8> {
        self.latest
    }

    /// How many entries have been read, and the path of the latest.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn latest_of(&self) -> (u64, &[u8], &[u8]) {
        (self.entries, &self.latest, &self.latest_target)
    }

    /// The memory that what is remembered of all entries takes.
    pub(super) fn bytes(&self) -> u64 {
        self.links.bytes()
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header | State::Map { .. } | State::Watch { .. } | State::Foreign => {
                    let wanted = BLOCK_BYTES - self.block_len;
                    let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
                    self.block[self.block_len..][..taken.len()].copy_from_slice(taken);
                    self.block_len += taken.len();
                    bytes = rest;
                    if self.block_len == BLOCK_BYTES {
                        self.block_len = 0;
                        self.blocks += 1;
                        self.block()?;
                    }
                }
                State::Skip { left } => {
                    let taken = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::Collect { contents, left, .. } => {
                    let (taken, rest) = bytes.split_at(bytes.len().min(*left));
                    contents.extend_from_slice(taken);
                    *left -= taken.len();
                    bytes = rest;
                    if *left == 0 {
                        self.describe()?;
                    }
                }
                State::End => {
                    if bytes.iter().any(|byte| *byte != 0) {
                        return Err(Fault::Trailing.into());
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether the archive may end here. Some writers leave out the zeros at the end.
    pub(super) fn finish(&self) -> Result<(), Stop> {
        match self.state {
            State::Foreign => Err(Stop::Foreign),
            _ if self.blocks == 0 => Err(Stop::Foreign),
            State::End => Ok(()),
            State::Header if self.block_len == 0 && self.ahead.is_empty() => Ok(()),
            State::Header
            | State::Skip { .. }
            | State::Collect { .. }
            | State::Map { .. }
            | State::Watch { .. } => Err(Fault::Truncated.into()),
        }
    }

    /// Reads the block that is complete.
    fn block(&mut self) -> Result<(), Stop> {
        let block = self.block;
        if !matches!(self.state, State::Header) {
            return self.other_block(&block);
        }
        if block.iter().all(|byte| *byte == 0) {
            if !self.ahead.is_empty() {
                return Err(Fault::Truncated.into());
            }
            self.state = State::End;
            return Ok(());
        }
        if self.blocks == 1 && !may_be_header(&block) {
            self.state = State::Foreign;
            return Ok(());
        }
        let header = Header::read(&block)?;
        if header.is_about_others() {
            self.collect(&header)?;
        } else {
            self.entry(&header)?;
        }
        Ok(())
    }

    /// Reads a block that is no header to this reader, and may be none to any other.
    fn other_block(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<(), Stop> {
        if may_be_header(block) {
            return Err(Fault::Ambiguous.into());
        }
        match &mut self.state {
            State::Map { map, contents } => {
                if !map.add_block(block)? {
                    self.state = match contents.saturating_add(padding(*contents)) {
                        0 => State::Header,
                        left => State::Watch { left },
                    };
                }
            }
            State::Watch { left } => {
                *left = left.saturating_sub(BLOCK_BYTES as u64);
                if *left == 0 {
                    self.state = State::Header;
                }
            }
            State::Header
            | State::Skip { .. }
            | State::Collect { .. }
            | State::End
            | State::Foreign => {}
        }
        Ok(())
    }

    fn collect(&mut self, header: &Header<'_>) -> Result<(), Fault> {
        let (most, fault) = match header.kind {
            // The NUL at its end.
            Kind::LongName | Kind::LongTarget => (NAME_BYTES_MAX + 1, Fault::LongName),
            _ => (RECORDS_BYTES_MAX, Fault::LargeRecords),
        };
        if header.size > most {
            return Err(fault);
        }
        // A reader that does not know the kind makes a file of it.
        check_name(&header.name())?;
        let size = header.size as usize;
        self.state = State::Collect {
            kind: header.kind,
            contents: Vec::with_capacity(size),
            left: size,
        };
        Ok(())
    }

    /// Reads the description that is complete.
    fn describe(&mut self) -> Result<(), Fault> {
        let State::Collect { kind, contents, .. } =
            std::mem::replace(&mut self.state, State::Header)
        else {
            return Ok(());
        };
        let padding = padding(contents.len() as u64);
        match kind {
            Kind::LongName => self.ahead.add_long_name(contents)?,
            Kind::LongTarget => self.ahead.add_long_target(contents)?,
            _ => self.ahead.add_records(&contents)?,
        }
        if padding > 0 {
            self.state = State::Skip { left: padding };
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header<'_>) -> Result<(), Fault> {
        let mut ahead = std::mem::take(&mut self.ahead);
        let in_header = header.name();
        self.latest = ahead.name().unwrap_or_else(|| in_header.clone());
        ahead.check_size(header.size)?;
        self.entries += 1;
        if self.entries > self.limits.entry_count_max {
            return Err(Fault::TooManyEntries);
        }
        self.check_path(header.kind)?;
        // Who takes the name that is in the header must be as safe. One that is cut off may end in the middle of a component.
        if !self.latest.starts_with(&in_header) {
            check_name(&in_header)?;
        }
        let target = ahead.target();
        let contents = header.size;
        self.state = skip(contents);
        match header.kind {
            Kind::File => self.file(&in_header)?,
            Kind::SparseFile => {
                self.file(&in_header)?;
                let (map, goes_on) = header.map()?;
                let holes = map.unpacked.checked_sub(contents);
                let holes = holes
                    .filter(|_| !ahead.has_records())
                    .ok_or(Fault::Ambiguous)?;
                self.hole_bytes = self.hole_bytes.saturating_add(holes);
                if goes_on {
                    self.state = State::Map { map, contents };
                }
            }
            Kind::SymbolicLink => return self.link(header.target(), target),
            Kind::HardLink => return Err(Fault::HardLink),
            Kind::Device => return Err(Fault::Device),
            Kind::Directory | Kind::LongName | Kind::LongTarget | Kind::Extension => {}
        }
        if target.is_some() {
            return Err(Fault::Ambiguous);
        }
        Ok(())
    }

    fn link(&mut self, in_header: &[u8], named: Option<Vec<u8>>) -> Result<(), Fault> {
        let target = named.as_deref().unwrap_or(in_header);
        let is_utf8 = std::str::from_utf8(target).is_ok();
        if !is_utf8 {
            return Err(Fault::Ambiguous);
        }
        self.links
            .add(&self.latest, target, self.limits.link_count_max)?;
        // As with names.
        if !target.starts_with(in_header) {
            check_target(&self.latest, in_header).map_err(|why| match why {
                BadTarget::Empty => Fault::EmptyName,
                BadTarget::Nul => Fault::NulInName,
                BadTarget::Absolute | BadTarget::Outside => Fault::LinkLeavesRoot,
            })?;
        }
        #[cfg(any(test, feature = "fuzzing"))]
        target.clone_into(&mut self.latest_target);
        Ok(())
    }

    fn file(&mut self, in_header: &[u8]) -> Result<(), Fault> {
        // To some readers it is a directory then, without contents.
        let is_directory = |name: &[u8]| matches!(name.last(), Some(b'/' | b'\\'));
        if is_directory(&self.latest) || (is_directory(in_header) && in_header.len() < 99) {
            return Err(Fault::Ambiguous);
        }
        self.once()
    }

    fn check_path(&self, kind: Kind) -> Result<(), Fault> {
        let path = &self.latest;
        if path.len() as u64 > NAME_BYTES_MAX {
            return Err(Fault::LongName);
        }
        check_name(path)?;
        if std::str::from_utf8(path).is_err() {
            return Err(Fault::Ambiguous);
        }
        // Only a directory can be the root itself.
        if kind != Kind::Directory && components(path).next().is_none() {
            return Err(Fault::EmptyName);
        }
        if self.links.lead(path)? {
            return Err(Fault::ThroughLink);
        }
        Ok(())
    }

    /// A file that Nx looks for by its name may come once.
    fn once(&mut self) -> Result<(), Fault> {
        let mut components = components(&self.latest);
        let (Some(name), None) = (components.next(), components.next()) else {
            return Ok(());
        };
        for (wanted, came) in OF_NX.into_iter().zip(&mut self.of_nx) {
            if name == wanted && std::mem::replace(came, true) {
                return Err(Fault::Duplicate);
            }
        }
        Ok(())
    }
}

fn check_name(name: &[u8]) -> Result<(), Fault> {
    check_path(name).map_err(|why| match why {
        BadPath::Empty => Fault::EmptyName,
        BadPath::Absolute => Fault::AbsolutePath,
        BadPath::Parent => Fault::ParentPath,
        BadPath::Nul => Fault::NulInName,
    })
}

/// Past contents of this size, and what fills up their last block.
fn skip(contents: u64) -> State {
    match contents.saturating_add(padding(contents)) {
        0 => State::Header,
        left => State::Skip { left },
    }
}

fn padding(contents: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    (block - contents % block) % block
}
