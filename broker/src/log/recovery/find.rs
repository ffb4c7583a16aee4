//! Finds the segments of a log and what their headers say of each other.

use std::{io, sync::Arc};

use super::{super::block, OpenError};
use crate::log::{
    LogPoint, PAGE_BYTES, Position,
    block::{HEADER_BYTES, Header},
    disk::{Disk, DiskFile},
    segment::{self, SegmentHeader},
};

/// A segment's file, not held open: there may be more than a process may open.
#[derive(Debug)]
pub(super) struct FoundSegment {
    pub(super) header: SegmentHeader,
    pub(super) name: String,
}

/// Removes files in the making.
pub(super) fn remove_unfinished(disk: &dyn Disk) -> Result<(), OpenError> {
    let folder = |error| OpenError::io("the log's folder", error);
    for name in disk.list().map_err(folder)? {
        if segment::is_unfinished(&name) {
            match disk.remove(&name) {
                // The thread that was making it, of a log just closed, was first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(folder)?,
            }
        }
    }
    Ok(())
}

/// Every segment, in order.
pub(super) fn find_segments(disk: &dyn Disk) -> Result<Vec<FoundSegment>, OpenError> {
    let mut segments: Vec<FoundSegment> = Vec::new();
    for base in find_bases(disk)? {
        let found = find_segment(disk, base)?;
        if let Some(before) = segments.last() {
            found.check_after(before)?;
        }
        segments.push(found);
    }
    Ok(segments)
}

/// The bases that the names of segments tell, in order.
pub(super) fn find_bases(disk: &dyn Disk) -> Result<Vec<Position>, OpenError> {
    let names = disk.list();
    let names = names.map_err(|error| OpenError::io("the log's folder", error))?;
    let bases = names.iter().filter_map(|name| segment::base_of(name));
    let mut bases: Vec<Position> = bases.collect();
    bases.sort_unstable();
    Ok(bases)
}

pub(super) fn find_segment(disk: &dyn Disk, base: Position) -> Result<FoundSegment, OpenError> {
    let name = segment::file_name(base);
    let unusable = |reason: String| OpenError::Segment {
        name: name.clone(),
        reason,
    };
    let io = |error| OpenError::io(&name, error);
    let file = disk.open(&name).map_err(io)?;
    let mut page = vec![0; PAGE_BYTES as usize];
    let size = file.size().map_err(io)?;
    if size < PAGE_BYTES {
        return Err(unusable("it is shorter than its header".into()));
    }
    file.read_at(&mut page, 0).map_err(io)?;
    let header = SegmentHeader::decode(&page).map_err(|e| unusable(e.to_string()))?;
    if header.base != base {
        return Err(unusable(format!("its header says base {}", header.base)));
    }
    if size != header.size {
        return Err(unusable(format!("it is not {} bytes long", header.size)));
    }
    Ok(FoundSegment { header, name })
}

/// That no segment is missing between these.
pub(super) fn check_contiguous(segments: &[FoundSegment]) -> Result<(), OpenError> {
    let pairs = segments.iter().zip(segments.iter().skip(1));
    match { pairs }.find(|(before, after)| before.header.end() != after.header.base) {
        None => Ok(()),
        Some((_, after)) => Err(after.unusable(MISSING)),
    }
}

pub(super) const MISSING: &str = "the segment before it is missing";

impl FoundSegment {
    /// That it can be a later segment of the same log.
    pub(super) fn check_after(&self, before: &Self) -> Result<(), OpenError> {
        if before.header.log_id != self.header.log_id {
            return Err(self.unusable("it belongs to another log"));
        }
        if before.header.end() > self.header.base {
            return Err(self.unusable("it overlaps the segment before it"));
        }
        Ok(())
    }

    pub(super) fn unusable(&self, reason: &str) -> OpenError {
        OpenError::Segment {
            name: self.name.clone(),
            reason: reason.into(),
        }
    }

    pub(super) fn io(&self, error: io::Error) -> OpenError {
        OpenError::io(&self.name, error)
    }

    /// Opens the file for reading it from the front.
    pub(super) fn window(&self, disk: &dyn Disk) -> Result<Window, OpenError> {
        let file = disk.open(&self.name).map_err(|error| self.io(error))?;
        Ok(Window {
            file,
            header: self.header,
            offset: 0,
            bytes: Vec::new(),
        })
    }
}

/// A segment's file that is read in large pieces.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    /// Where in the file `bytes` begin.
    offset: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// How much is read at once.
    const STEP: u64 = 1 << 20;

    /// These bytes of the file, which must be within it.
    pub(super) fn get(&mut self, offset: u64, length: u64) -> io::Result<&[u8]> {
        let inside =
            offset >= self.offset && offset + length <= self.offset + self.bytes.len() as u64;
        if !inside {
            let step = Self::STEP.max(length).min(self.header.size - offset);
            self.bytes.resize(step as usize, 0);
            self.file.read_at(&mut self.bytes, offset)?;
            self.offset = offset;
        }
        let at = (offset - self.offset) as usize;
        Ok(&self.bytes[at..at + length as usize])
    }

    /// The header of a block that is, or began to be, at `position`, and fits
    /// the segment.
    pub(super) fn header_at(&mut self, position: Position) -> io::Result<Option<Header>> {
        let end = self.header.end().0;
        if position.0 + PAGE_BYTES > end {
            return Ok(None);
        }
        let page = self.get(position.0 - self.header.base.0, PAGE_BYTES)?;
        let header = Header::decode(page, position);
        Ok(header.filter(|header| header.block_len() <= end - position.0))
    }

    /// The block at `position`, whole, if a valid one is there: its header, and
    /// all its bytes but the padding.
    pub(super) fn block_at(&mut self, position: Position) -> io::Result<Option<(Header, &[u8])>> {
        let Some(header) = self.header_at(position)? else {
            return Ok(None);
        };
        let length = HEADER_BYTES as u64 + u64::from(header.payload_len);
        let salt = self.header.salt;
        let bytes = self.get(position.0 - self.header.base.0, length)?;
        let valid = block::block_crc(salt, bytes) == header.crc;
        Ok(valid.then_some((header, bytes)))
    }

    /// The valid block at `point`, if one is there that follows what is before.
    pub(super) fn next_in_chain(
        &mut self,
        point: &LogPoint,
    ) -> io::Result<Option<(Header, &[u8])>> {
        let block = self.block_at(point.position)?;
        Ok(block.filter(|(header, _)| {
            header.prev_crc == point.block_crc && header.epoch >= point.epoch
        }))
    }

    /// Where the first valid block is at or above `position`, whatever it
    /// follows.
    pub(super) fn valid_block_from(
        &mut self,
        mut position: Position,
    ) -> io::Result<Option<Header>> {
        while position.0 + PAGE_BYTES <= self.header.end().0 {
            if let Some((header, _)) = self.block_at(position)? {
                return Ok(Some(header));
            }
            position.0 += PAGE_BYTES;
        }
        Ok(None)
    }
}
