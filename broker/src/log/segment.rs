//! A segment file: its name and its header. See the tables in `log/mod.rs`.

use std::{io, sync::Arc};

use bytes::{Buf, BufMut};

use super::{
    PAGE_BYTES, Position,
    blank::Blank,
    block::Salt,
    disk::{Disk, DiskFile, fill_with_zeros},
    invalid,
};

const MAGIC: &[u8; 8] = b"SLUICEsg";
const FORMAT_VERSION: u32 = 2;
const KNOWN_REQUIRED_FEATURES: u64 = 0;
const CRC_AT: usize = 12;
const SUFFIX: &str = ".seg";
/// A file in the making; removed when the log is opened.
pub(super) const UNFINISHED_SUFFIX: &str = ".tmp";
/// Bit of the flags: the file held other blocks before.
const RECYCLED: u32 = 1;
/// So much of the first segment, which is small, is written when the next one is
/// begun to be made.
const FIRST_AHEAD_BYTES: u64 = 2 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) log_id: [u8; 16],
    pub(super) base: Position,
    pub(super) size: u64,
    pub(super) epoch: u64,
    pub(super) prev_crc: u32,
    pub(super) salt: Salt,
    /// The file held blocks of a segment that is gone. They carry other
    /// positions; see "Recycling" in `log/mod.rs`.
    pub(super) recycled: bool,
}

pub(super) fn file_name(base: Position) -> String {
    format!("{:016x}{SUFFIX}", base.0)
}

/// The base position that a file's name tells; `None` if it is no segment.
pub(super) fn base_of(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(SUFFIX)?;
    let base = u64::from_str_radix(digits, 16).ok()?;
    (digits.len() == 16).then_some(Position(base))
}

/// The name of the segment's file while it is made.
pub(super) fn unfinished_name(base: Position) -> String {
    file_name(base) + UNFINISHED_SUFFIX
}

pub(super) fn is_unfinished(name: &str) -> bool {
    name.ends_with(UNFINISHED_SUFFIX)
}

impl SegmentHeader {
    /// The first position after the segment.
    pub(super) fn end(&self) -> Position {
        Position(self.base.0 + self.size)
    }

    /// Where the first block is.
    pub(super) fn first_block(&self) -> Position {
        Position(self.base.0 + PAGE_BYTES)
    }

    /// How much of it is written when the next one is begun to be made ahead of
    /// need.
    pub(super) fn when_the_next_is_made(&self) -> u64 {
        let half = self.size / 2;
        if self.is_first() {
            half.min(FIRST_AHEAD_BYTES)
        } else {
            half
        }
    }

    /// Whether the log begins with it.
    fn is_first(&self) -> bool {
        self.base == Position(0)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PAGE_BYTES as usize);
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(0);
        out.put_u64_le(KNOWN_REQUIRED_FEATURES);
        out.put_u64_le(0);
        out.put_slice(&self.log_id);
        out.put_u64_le(self.base.0);
        out.put_u64_le(self.size);
        out.put_u64_le(self.epoch);
        out.put_u32_le(self.prev_crc);
        out.put_u32_le(if self.recycled { RECYCLED } else { 0 });
        out.put_slice(&self.salt.0);
        out.resize(PAGE_BYTES as usize, 0);
        let crc = crc32fast::hash(&out);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// # Errors
    /// When the bytes are no header, a damaged one, or one of a newer version;
    /// the message says which.
    pub(super) fn decode(page: &[u8]) -> io::Result<Self> {
        if page.len() != PAGE_BYTES as usize || !page.starts_with(MAGIC) {
            return Err(invalid("it is not a segment of a Sluice log"));
        }
        let mut fields = &page[8..];
        let version = fields.get_u32_le();
        if version > FORMAT_VERSION {
            return Err(invalid(format!(
                "it has format version {version}, this broker reads up to {FORMAT_VERSION}; \
                 start it with a newer broker"
            )));
        }
        if version < FORMAT_VERSION {
            return Err(invalid(format!(
                "it has format version {version}, of before the first release, which this \
                 broker does not read"
            )));
        }
        let crc = fields.get_u32_le();
        let mut zeroed = page.to_vec();
        zeroed[CRC_AT..CRC_AT + 4].fill(0);
        if crc32fast::hash(&zeroed) != crc {
            return Err(invalid("its header fails its checksum"));
        }
        let unknown = fields.get_u64_le() & !KNOWN_REQUIRED_FEATURES;
        if unknown != 0 {
            return Err(invalid(format!(
                "it needs features that this broker does not have (bits {unknown:#x}); \
                 start it with a newer broker"
            )));
        }
        fields.get_u64_le();
        let mut log_id = [0; 16];
        fields.copy_to_slice(&mut log_id);
        let base = Position(fields.get_u64_le());
        let size = fields.get_u64_le();
        let epoch = fields.get_u64_le();
        let prev_crc = fields.get_u32_le();
        let recycled = fields.get_u32_le() & RECYCLED != 0;
        let mut salt = [0; 8];
        fields.copy_to_slice(&mut salt);
        let header = Self {
            log_id,
            base,
            size,
            epoch,
            prev_crc,
            salt: Salt(salt),
            recycled,
        };
        let sound = header.size.is_multiple_of(PAGE_BYTES)
            && header.size >= 3 * PAGE_BYTES
            && header.base.0.is_multiple_of(PAGE_BYTES)
            && header.base.0.checked_add(header.size).is_some();
        if !sound {
            return Err(invalid("its header has impossible sizes"));
        }
        Ok(header)
    }

    /// Makes the segment's file of a blank one, whole and durable or not at all.
    pub(super) fn create(&self, disk: &dyn Disk, blank: Blank) -> io::Result<Arc<dyn DiskFile>> {
        let Blank { name, file, used } = blank;
        if self.is_first() && !used {
            fill_with_zeros(&*file, self.size, |_| true)?;
        }
        file.write_at(&self.encode(), 0)?;
        file.sync()?;
        disk.rename(&name, &file_name(self.base))?;
        disk.sync_dir()?;
        Ok(file)
    }
}
