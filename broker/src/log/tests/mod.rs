//! The log on a simulated disk: crashes at every operation, damage at every
//! byte, faults that poison.

#![allow(clippy::unwrap_used)] // A failed step is a failed test.

mod crashes;
mod damage;
mod faults;
mod pipeline;
mod reclaim;
mod room;
mod sim_disk;
mod snapshot;

use std::sync::Arc;

use self::sim_disk::SimDisk;
use super::{
    BlockBuilder, Found, FrameSlot, LogConfig, LogPoint, OpenError, Opened, PAGE_BYTES, Placed,
    Position, Prepared, When, WriteChoice, WriteError, Writer,
};

/// Small segments, so that a few blocks need several.
const CONFIG: LogConfig = LogConfig {
    segment_bytes: 8 * PAGE_BYTES,
    tail_cache_bytes: 0,
    write: WriteChoice::Auto,
    sync_delay: None,
    ahead_bytes_per_second: None,
    spares_max: 2,
    epoch_ahead: 0,
};

/// A frame as it was acked, or as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    position: Position,
    length: u32,
    payload: Vec<u8>,
}

/// Opens the log on `disk` and collects what it gives back.
fn open(disk: &SimDisk, from: Option<LogPoint>) -> Result<(Opened, Vec<Stored>), OpenError> {
    let mut frames = Vec::new();
    let found = Found::on(Arc::new(disk.clone()))?;
    let opened = found.open(CONFIG, from, &mut |frame| {
        frames.push(Stored {
            position: frame.position,
            length: frame.length,
            payload: frame.payload.to_vec(),
        });
        Ok(())
    })?;
    Ok((opened, frames))
}

/// Writes one block of these frames.
fn write(writer: &mut Writer, payloads: &[Vec<u8>]) -> Result<Vec<Stored>, WriteError> {
    let (block, slots) = gather(writer, payloads);
    let placed = writer.write(block)?;
    Ok(stored(placed, &slots, payloads))
}

/// Gives one block of these frames its place.
fn prepare(
    writer: &mut Writer,
    payloads: &[Vec<u8>],
    when: When,
) -> Result<(Prepared, Vec<Stored>), WriteError> {
    let (block, slots) = gather(writer, payloads);
    let prepared = writer.prepare(block, when)?;
    let stored = stored(prepared.placed(), &slots, payloads);
    Ok((prepared, stored))
}

fn gather(writer: &Writer, payloads: &[Vec<u8>]) -> (BlockBuilder, Vec<FrameSlot>) {
    let mut block = writer.block(0);
    let slots = payloads
        .iter()
        .map(|payload| block.frame(payload.len(), |out| out.extend_from_slice(payload)))
        .collect();
    (block, slots)
}

fn stored(placed: Placed, slots: &[FrameSlot], payloads: &[Vec<u8>]) -> Vec<Stored> {
    let stored = slots.iter().zip(payloads).map(|(slot, payload)| {
        let (position, length) = placed.frame(*slot);
        Stored {
            position,
            length,
            payload: payload.clone(),
        }
    });
    stored.collect()
}

/// A log of four blocks in two segments, not closed.
fn sample() -> (SimDisk, Vec<Stored>) {
    let disk = SimDisk::default();
    let (mut opened, _) = open(&disk, None).unwrap();
    let mut frames = Vec::new();
    for (fill, length) in [(1_u8, 30), (2, 5000), (3, 9000), (4, 6000)] {
        let payloads = [vec![fill; length], vec![fill; 3]];
        frames.extend(write(&mut opened.writer, &payloads).unwrap());
    }
    assert_eq!(disk.names().len(), 2);
    (disk, frames)
}
