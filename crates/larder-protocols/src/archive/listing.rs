//! What is in a tar archive, entry by entry, for those who compare this reader with others: the tests and the fuzzer.

use super::Limits;
use super::header::{BLOCK_BYTES, Header};
use super::walk::{Stop, Walk};

/// One entry: its name, its kind, where it leads if it is a symbolic link, where its contents begin, and how many there are.
pub(crate) type Listed = (Vec<u8>, u8, Vec<u8>, u64, u64);

/// The entries as this walk sees them.
pub(super) fn listed_here(tar: &[u8]) -> Result<Vec<Listed>, Stop> {
    let (mut walk, mut listed) = (Walk::new(Limits::default()), Vec::new());
    for (index, block) in tar.chunks(BLOCK_BYTES).enumerate() {
        walk.push(block)?;
        let (entries, name, target) = walk.latest_of();
        if entries as usize > listed.len() {
            let block: &[u8; BLOCK_BYTES] = block.try_into().expect("a whole block");
            let size = Header::read(block).expect("it was read").size;
            let offset = (index as u64 + 1) * 512;
            listed.push(one(name, block[156], target, offset, size));
        }
    }
    walk.finish()?;
    Ok(listed)
}

pub(super) fn one(name: &[u8], kind: u8, target: &[u8], offset: u64, size: u64) -> Listed {
    let kind = if kind == 0 { b'0' } else { kind };
    let target = if kind == b'2' { target } else { b"" };
    (name.to_vec(), kind, target.to_vec(), offset, size)
}
