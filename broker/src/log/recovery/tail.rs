//! What follows the end of the chain: tells a torn tail from damage, and zeroes
//! the one. See "Recovery" and "Recycling" in `log/mod.rs`.

use std::io;

use super::{
    OpenError,
    find::{FoundSegment, Window},
    follow::Scan,
};
use crate::log::{PAGE_BYTES, Position, disk::Disk};

/// How much is zeroed at once.
const STEP: u64 = 1 << 20;

/// Refuses when anything after the end of the chain, which is in the segment
/// numbered `at`, vouches that there had been more; zeroes what is there
/// otherwise. Returns the bytes that were cut.
pub(super) fn cut(
    disk: &dyn Disk,
    segments: &[FoundSegment],
    scan: &Scan,
    at: usize,
) -> Result<u64, OpenError> {
    let (found, end) = (&segments[at], scan.point.position);
    let torn_bytes = torn(disk, segments, scan, at)?;
    if scan.sealed || (scan.clean && torn_bytes == 0) {
        return Ok(0);
    }
    zero_from(disk, found, &mut found.window(disk)?, end)?;
    Ok(torn_bytes)
}

/// Refuses as [`cut`] does. Returns the bytes that are to be cut.
pub(super) fn torn(
    disk: &dyn Disk,
    segments: &[FoundSegment],
    scan: &Scan,
    at: usize,
) -> Result<u64, OpenError> {
    let (found, end) = (&segments[at], scan.point.position);
    if scan.sealed {
        return Ok(0);
    }
    if segments.len() > at + 1 {
        return Err(scan.damaged(found, end));
    }
    let behind = look_behind(&mut found.window(disk)?, found, end);
    match behind.map_err(|error| found.io(error))? {
        Behind::Vouched => Err(scan.damaged(found, end)),
        Behind::Torn(bytes) => Ok(bytes),
    }
}

/// What is behind the end of a chain in the last segment.
pub(super) enum Behind {
    /// A valid block that knew the end of the chain to be durable.
    Vouched,
    /// Bytes of blocks that were under way. In a file that held nothing before,
    /// whatever is not zero; in a recycled one, what a header that is where it
    /// says to be claims.
    Torn(u64),
}

pub(super) fn look_behind(
    window: &mut Window,
    found: &FoundSegment,
    end: Position,
) -> io::Result<Behind> {
    let mut torn_bytes = 0;
    let mut claimed_end = end.0;
    let mut page = end.0;
    while page < found.header.end().0 {
        let position = Position(page);
        if let Some(header) = window.header_at(position)? {
            claimed_end = claimed_end.max(page + header.block_len());
            let valid = page > end.0 && header.synced_end > end;
            if valid && window.block_at(position)?.is_some() {
                return Ok(Behind::Vouched);
            }
        }
        let foreign = found.header.recycled && page >= claimed_end;
        let bytes = window.get(page - found.header.base.0, PAGE_BYTES)?;
        if !foreign && bytes.iter().any(|byte| *byte != 0) {
            torn_bytes += PAGE_BYTES;
        }
        page += PAGE_BYTES;
    }
    Ok(Behind::Torn(torn_bytes))
}

/// Zeroes what is not zero from `position` to the end of the segment.
fn zero_from(
    disk: &dyn Disk,
    found: &FoundSegment,
    window: &mut Window,
    position: Position,
) -> Result<(), OpenError> {
    let file = disk.open(&found.name).map_err(|error| found.io(error))?;
    let mut offset = position.0 - found.header.base.0;
    while offset < found.header.size {
        let step = STEP.min(found.header.size - offset);
        let bytes = window.get(offset, step).map_err(|error| found.io(error))?;
        if let Some(dirty) = dirty_pages(bytes) {
            let zeros = vec![0; dirty.len()];
            file.write_at(&zeros, offset + dirty.start as u64)
                .map_err(|error| found.io(error))?;
        }
        offset += step;
    }
    Ok(())
}

/// The range of pages from the first to the last that is not all zeros.
fn dirty_pages(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let page = PAGE_BYTES as usize;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    let last = bytes.iter().rposition(|byte| *byte != 0)?;
    Some(first / page * page..(last / page + 1) * page)
}
