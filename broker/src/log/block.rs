//! A block: one write to the log, holding frames. See the tables in `log/mod.rs`.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    FRAME_BYTES_MAX, LogPoint, Position,
    buffer::{Buffer, BufferPool},
    padded,
};

pub(super) const HEADER_BYTES: usize = 64;
pub(super) const FRAME_HEADER_BYTES: usize = 8;
const MAGIC: u32 = u32::from_le_bytes(*b"SLbk");
const CRC_AT: usize = 44;

/// What a segment's blocks begin their CRCs with: random, and told to nobody, so
/// that no payload can look like a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt(pub(super) [u8; 8]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Seal,
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) frames: u32,
    pub(super) payload_len: u32,
    pub(super) epoch: u64,
    pub(super) position: Position,
    pub(super) synced_end: Position,
    pub(super) prev_crc: u32,
    pub(super) crc: u32,
}

impl Header {
    /// Reads a header that could stand at `position`, checking everything but
    /// the CRC, for which the payload is needed.
    pub(super) fn decode(mut bytes: &[u8], position: Position) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || bytes.get_u32_le() != MAGIC {
            return None;
        }
        let kind = match bytes.get_u8() {
            1 => Kind::Data,
            2 => Kind::Seal,
            3 => Kind::Close,
            _ => return None,
        };
        if bytes.copy_to_bytes(3).iter().any(|b| *b != 0) {
            return None;
        }
        let header = Self {
            kind,
            frames: bytes.get_u32_le(),
            payload_len: bytes.get_u32_le(),
            epoch: bytes.get_u64_le(),
            position: Position(bytes.get_u64_le()),
            synced_end: Position(bytes.get_u64_le()),
            prev_crc: bytes.get_u32_le(),
            crc: bytes.get_u32_le(),
        };
        (header.position == position).then_some(header)
    }

    fn encode(&self, mut out: &mut [u8]) {
        out.put_u32_le(MAGIC);
        out.put_u8(match self.kind {
            Kind::Data => 1,
            Kind::Seal => 2,
            Kind::Close => 3,
        });
        out.put_slice(&[0; 3]);
        out.put_u32_le(self.frames);
        out.put_u32_le(self.payload_len);
        out.put_u64_le(self.epoch);
        out.put_u64_le(self.position.0);
        out.put_u64_le(self.synced_end.0);
        out.put_u32_le(self.prev_crc);
        out.put_u32_le(self.crc);
    }

    /// Bytes that the block takes in the file.
    pub(super) fn block_len(&self) -> u64 {
        padded(HEADER_BYTES as u64 + u64::from(self.payload_len))
    }

    /// The place behind it.
    pub(super) fn point_after(&self) -> LogPoint {
        LogPoint {
            position: Position(self.position.0 + self.block_len()),
            epoch: self.epoch,
            block_crc: self.crc,
        }
    }
}

/// The CRC of a block that is `block`, header first, in a segment of this salt.
pub(super) fn block_crc(salt: Salt, block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.0);
    hasher.update(&block[..CRC_AT]);
    hasher.update(&[0; 4]);
    hasher.update(&block[CRC_AT + 4..]);
    hasher.finalize()
}

fn frame_crc(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

/// A frame's payload, if `bytes` begin with a whole frame whose CRC is right,
/// and the bytes that the frame takes.
pub(super) fn decode_frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    let right = frame_crc(*length, payload) == u32::from_le_bytes(*crc);
    right.then_some((payload, FRAME_HEADER_BYTES + payload.len()))
}

/// Where a frame is in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSlot {
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// Gathers frames into the one buffer that is then written.
#[derive(Debug)]
pub struct BlockBuilder {
    buffer: Buffer,
    frames: u32,
}

impl BlockBuilder {
    /// One that holds `payload_bytes` of frames without growing.
    pub(super) fn new(pool: &Arc<BufferPool>, payload_bytes: usize) -> Self {
        let mut buffer = pool.take(padded((HEADER_BYTES + payload_bytes) as u64) as usize);
        buffer.bytes().put_bytes(0, HEADER_BYTES);
        Self { buffer, frames: 0 }
    }

    /// Adds a frame. `encode` appends its payload, of `length` bytes.
    ///
    /// # Panics
    /// When the frame is larger than [`FRAME_BYTES_MAX`]; whoever takes
    /// proposals refuses such before.
    pub fn frame(&mut self, length: usize, encode: impl FnOnce(&mut BytesMut)) -> FrameSlot {
        let offset = self.buffer.len();
        let end = padded((offset + FRAME_HEADER_BYTES + length) as u64) as usize;
        if end > self.buffer.capacity() {
            self.buffer = self.buffer.grown(end);
        }
        let buffer = self.buffer.bytes();
        buffer.put_bytes(0, FRAME_HEADER_BYTES);
        encode(buffer);
        let (header, payload) = buffer[offset..].split_at_mut(FRAME_HEADER_BYTES);
        assert_eq!(
            payload.len(),
            length,
            "a frame is as long as it was said to be"
        );
        let length_bytes = (payload.len() as u32).to_le_bytes();
        header[..4].copy_from_slice(&length_bytes);
        header[4..].copy_from_slice(&frame_crc(length_bytes, payload).to_le_bytes());
        let length = buffer.len() - offset;
        assert!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
        self.frames += 1;
        FrameSlot {
            offset: offset as u32,
            length: length as u32,
        }
    }

    /// Bytes gathered so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether it has no frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Bytes that it will take in the file.
    pub(super) fn block_len(&self) -> u64 {
        padded(self.buffer.len() as u64)
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// Writes the header, and pads.
    pub(super) fn finish(mut self, place: Place) -> (Bytes, Header) {
        let buffer = self.buffer.bytes();
        let payload_len = (buffer.len() - HEADER_BYTES) as u32;
        let mut header = Header {
            kind: place.kind,
            frames: self.frames,
            payload_len,
            epoch: place.epoch,
            position: place.position,
            synced_end: place.synced_end,
            prev_crc: place.prev_crc,
            crc: 0,
        };
        header.encode(&mut buffer[..HEADER_BYTES]);
        header.crc = block_crc(place.salt, buffer);
        buffer[CRC_AT..CRC_AT + 4].copy_from_slice(&header.crc.to_le_bytes());
        buffer.resize(header.block_len() as usize, 0);
        (self.buffer.freeze(), header)
    }
}

/// What a block's header says besides what the block itself tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) salt: Salt,
    pub(super) kind: Kind,
    pub(super) epoch: u64,
    pub(super) position: Position,
    pub(super) synced_end: Position,
    pub(super) prev_crc: u32,
}
