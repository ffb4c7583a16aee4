//! The log on a simulated disk: crashes at every operation, damage at every
//! byte, faults that poison.

#![allow(clippy::unwrap_used)] // A failed step is a failed test.

mod crashes;
mod damage;
mod faults;
mod reclaim;
mod sim_disk;

use std::sync::Arc;

use self::sim_disk::SimDisk;
use super::{
    Found, LogConfig, LogPoint, OpenError, Opened, PAGE_BYTES, Position, WriteError, Writer,
};

/// Small segments, so that a few blocks need several.
const CONFIG: LogConfig = LogConfig {
    segment_bytes: 8 * PAGE_BYTES,
    tail_cache_bytes: 0,
    spares_max: 2,
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
    let found = Found::on(Arc::new(disk.clone()), CONFIG)?;
    let opened = found.open(from, &mut |frame| {
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
    let mut block = writer.block();
    let slots: Vec<_> = payloads
        .iter()
        .map(|payload| block.frame(payload.len(), |out| out.extend_from_slice(payload)))
        .collect();
    let written = writer.write(block)?;
    let stored = slots.into_iter().zip(payloads).map(|(slot, payload)| {
        let (position, length) = written.frame(slot);
        Stored {
            position,
            length,
            payload: payload.clone(),
        }
    });
    Ok(stored.collect())
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
