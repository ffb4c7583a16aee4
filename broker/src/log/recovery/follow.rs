//! Follows the chain of blocks.

use super::{
    OpenError, ReplayedFrame,
    find::{FoundSegment, MISSING, check_contiguous},
};
use crate::log::{
    LogPoint, PAGE_BYTES, Position,
    block::{self, HEADER_BYTES, Header, Kind},
    disk::Disk,
};

pub(super) type Visit<'a> = dyn FnMut(ReplayedFrame<'_>) -> Result<(), String> + 'a;

pub(super) struct Scan {
    /// Where the chain goes on.
    pub(super) point: LogPoint,
    /// Which segment `point` is in; `None` when that one is not made yet.
    pub(super) segment: Option<usize>,
    /// The first segment that was looked into.
    pub(super) first_segment: usize,
    begun_at: Option<Position>,
    /// The last block was a seal, and the next segment is not made yet.
    pub(super) sealed: bool,
    /// The last block was a close.
    pub(super) clean: bool,
    pub(super) replayed_bytes: u64,
}

impl Scan {
    /// What replay begins at, and everything after, must be there; what is below
    /// may be missing.
    pub(super) fn begin(
        disk: &dyn Disk,
        segments: &[FoundSegment],
        from: Option<LogPoint>,
    ) -> Result<Self, OpenError> {
        let mut scan = Self {
            point: LogPoint {
                position: Position(0),
                epoch: 0,
                block_crc: 0,
            },
            segment: None,
            first_segment: 0,
            begun_at: from.map(|point| point.position),
            sealed: segments.is_empty(),
            clean: segments.is_empty(),
            replayed_bytes: 0,
        };
        match (segments.first(), from) {
            (None, None) => {}
            (None, Some(from)) => return Err(OpenError::NotFromHere(from.position)),
            (Some(first), None) => {
                if first.header.base != Position(0) {
                    return Err(first.unusable(MISSING));
                }
                scan.segment = Some(0);
                scan.point = LogPoint {
                    position: first.header.first_block(),
                    epoch: 0,
                    block_crc: first.header.prev_crc,
                };
            }
            (Some(_), Some(from)) => scan.begin_at(disk, segments, from)?,
        }
        check_contiguous(&segments[scan.first_segment..])?;
        Ok(scan)
    }

    fn begin_at(
        &mut self,
        disk: &dyn Disk,
        segments: &[FoundSegment],
        from: LogPoint,
    ) -> Result<(), OpenError> {
        let inside = |found: &FoundSegment| {
            from.position >= found.header.first_block()
                && from.position.0 + PAGE_BYTES <= found.header.end().0
        };
        self.point = from;
        self.segment = segments.iter().position(inside);
        let after_last = segments.last().map(|last| last.header.end().0 + PAGE_BYTES);
        self.sealed = after_last == Some(from.position.0);
        self.first_segment = self.segment.unwrap_or(segments.len() - 1);
        let on_page = from.position.0.is_multiple_of(PAGE_BYTES);
        if !on_page || (self.segment.is_none() && !self.sealed) {
            return Err(OpenError::NotFromHere(from.position));
        }
        // A close takes one page.
        if let Some(at) = self.segment
            && let before = Position(from.position.0 - PAGE_BYTES)
            && before >= segments[at].header.first_block()
        {
            let mut window = segments[at].window(disk)?;
            let block = window
                .block_at(before)
                .map_err(|error| segments[at].io(error))?;
            self.clean = block.is_some_and(|(header, _)| {
                header.kind == Kind::Close && header.crc == from.block_crc
            });
        }
        Ok(())
    }

    /// Gives the frames of all valid blocks to `visit`. Returns the segment in
    /// which the chain ends.
    pub(super) fn follow(
        &mut self,
        disk: &dyn Disk,
        segments: &[FoundSegment],
        mut at: usize,
        visit: &mut Visit<'_>,
    ) -> Result<usize, OpenError> {
        let mut window = segments[at].window(disk)?;
        loop {
            let found = &segments[at];
            let block = window
                .next_in_chain(&self.point)
                .map_err(|error| found.io(error))?;
            let Some((header, bytes)) = block else {
                return Ok(at);
            };
            visit_frames(self.point, &header, bytes, visit)?;
            self.replayed_bytes += header.block_len();
            self.clean = header.kind == Kind::Close;
            self.point = header.point_after();
            if header.kind == Kind::Seal {
                let Some(next) = segments.get(at + 1) else {
                    self.sealed = true;
                    self.point.position = Position(found.header.end().0 + PAGE_BYTES);
                    return Ok(at);
                };
                at += 1;
                window = next.window(disk)?;
                self.point.position = next.header.first_block();
                // The segment was made in that epoch, if nothing in it was
                // written.
                self.point.epoch = self.point.epoch.max(next.header.epoch);
                if next.header.prev_crc != header.crc {
                    return Err(self.damaged(found, header.position));
                }
            }
        }
    }

    /// Gives the frames of one segment alone, as far as its chain is whole. Returns
    /// where that is, which is beyond the segment when it ends with its seal.
    pub(super) fn one_segment(
        disk: &dyn Disk,
        found: &FoundSegment,
        visit: &mut Visit<'_>,
    ) -> Result<Position, OpenError> {
        let mut scan = Self {
            point: LogPoint {
                position: found.header.first_block(),
                epoch: found.header.epoch,
                block_crc: found.header.prev_crc,
            },
            segment: None,
            first_segment: 0,
            begun_at: None,
            sealed: false,
            clean: false,
            replayed_bytes: 0,
        };
        scan.follow(disk, std::slice::from_ref(found), 0, visit)?;
        Ok(scan.point.position)
    }

    pub(super) fn damaged(&self, found: &FoundSegment, position: Position) -> OpenError {
        if self.begun_at == Some(position) {
            return OpenError::NotFromHere(position);
        }
        OpenError::Damaged {
            name: found.name.clone(),
            offset: position.0 - found.header.base.0,
            position,
        }
    }
}

/// Gives the frames of the block at `point` to `visit`.
pub(super) fn visit_frames(
    point: LogPoint,
    header: &Header,
    block: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), OpenError> {
    let mut offset = HEADER_BYTES;
    for _ in 0..header.frames {
        let position = Position(header.position.0 + offset as u64);
        // The block's CRC is right, so a wrong frame was written wrongly.
        let (payload, length) = block::decode_frame(&block[offset..])
            .ok_or_else(|| OpenError::Refused(position, "its checksum is wrong".into()))?;
        visit(ReplayedFrame {
            position,
            length: length as u32,
            payload,
            block: point,
        })
        .map_err(|reason| OpenError::Refused(position, reason))?;
        offset += length;
    }
    Ok(())
}
