//! The checksums of a body: one for each block, and one that the header keeps.
//!
//! A body of one block has no table of checksums, so its header has the block's own; otherwise the header has the
//! table's.

use crate::format::BLOCK_BYTES;

/// The checksums of a body as it comes in.
#[derive(Debug, Default)]
pub(crate) struct Checksums {
    crc: u32,
    in_block: u64,
    /// One CRC-32C for each full block.
    blocks: Vec<u8>,
}

impl Checksums {
    pub(crate) fn update(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            // A block is closed when the next one begins, so that a body of one block has no table.
            if self.in_block == BLOCK_BYTES {
                self.close_block();
            }
            let count = piece.len().min((BLOCK_BYTES - self.in_block) as usize);
            let (head, rest) = piece.split_at(count);
            self.crc = crc32c::crc32c_append(self.crc, head);
            self.in_block += count as u64;
            piece = rest;
        }
    }

    fn close_block(&mut self) {
        self.blocks.extend_from_slice(&self.crc.to_le_bytes());
        self.crc = 0;
        self.in_block = 0;
    }

    /// Returns the header's checksum and leaves the block table, if there is one, in `table`.
    pub(crate) fn finish(&mut self, table: &mut Vec<u8>) -> u32 {
        if self.blocks.is_empty() {
            return self.crc;
        }
        self.close_block();
        *table = std::mem::take(&mut self.blocks);
        crc32c::crc32c(table)
    }
}
