//! Copies of a log that is written, and of which segments go, meanwhile.

use std::{convert::Infallible, ops::Range, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    super::{CopyError, LogPoint, Opened, Piece, Position, ReclaimError, Snapshot},
    SimDisk, Stored, When, open, prepare, write,
};
use crate::log::disk::{Disk, DiskFile};

/// A copy that is being written.
#[derive(Default)]
struct Copy {
    disk: SimDisk,
    file: Option<(Arc<dyn DiskFile>, u64)>,
}

impl Copy {
    fn take(&mut self, piece: &Piece<'_>) {
        match piece {
            Piece::File { name, size } => {
                let file = self.disk.create(name, *size).unwrap();
                self.file = Some((file, 0));
            }
            Piece::Bytes(bytes) => {
                let (file, at) = self.file.as_mut().unwrap();
                file.write_at(bytes, *at).unwrap();
                *at += bytes.len() as u64;
            }
            Piece::FileEnd => {
                let (file, _) = self.file.take().unwrap();
                file.sync().unwrap();
            }
        }
    }
}

fn copied(snapshot: &Snapshot, mut between: impl FnMut()) -> SimDisk {
    let mut copy = Copy::default();
    let taken = snapshot.copy::<Infallible>(&mut |piece| {
        copy.take(&piece);
        between();
        Ok(())
    });
    taken.unwrap();
    copy.disk.sync_dir().unwrap();
    copy.disk
}

/// A log that goes on by chance.
struct Life {
    rng: StdRng,
    opened: Opened,
    frames: Vec<Stored>,
    /// A place from which the log can be replayed whatever was removed.
    point: LogPoint,
}

impl Life {
    fn step(&mut self) {
        let fill = self.rng.random::<u8>();
        let payload = vec![fill; self.rng.random_range(0..12_000)];
        if self.rng.random_bool(0.3) {
            // Written, and not durable until something follows.
            let (block, frames) =
                prepare(&mut self.opened.writer, &[payload], When::Written).unwrap();
            block.write().unwrap();
            self.frames.extend(frames);
        } else {
            self.point = self.opened.writer.end();
            self.frames
                .extend(write(&mut self.opened.writer, &[payload]).unwrap());
        }
        if self.rng.random_bool(0.2) {
            self.remove_one();
        }
    }

    fn remove_one(&mut self) {
        let segments = self.opened.reader.segments();
        let removable = segments.iter().filter(|s| s.end <= self.point.position);
        let removable: Vec<Range<Position>> = removable.map(|s| s.base..s.end).collect();
        if removable.is_empty() {
            return;
        }
        let gone = removable[self.rng.random_range(0..removable.len())].clone();
        let held = self.opened.reader.is_held(gone.start);
        match self.opened.reclaimer.remove(&[gone.start]) {
            Ok(_) => assert!(!held, "what is to be copied stays"),
            Err(ReclaimError::Held(_)) => assert!(held),
            Err(error) => panic!("{error}"),
        }
        if !held {
            self.frames.retain(|frame| !gone.contains(&frame.position));
        }
    }
}

fn copy_of_a_life(seed: u64) {
    let mut life = Life {
        rng: StdRng::seed_from_u64(seed),
        opened: open(&SimDisk::default(), None).unwrap().0,
        frames: Vec::new(),
        point: LogPoint {
            position: Position(0),
            epoch: 0,
            block_crc: 0,
        },
    };
    for _ in 0..life.rng.random_range(1..25) {
        life.step();
    }
    let snapshot = life.opened.reader.snapshot().unwrap();
    let (reader, end) = (life.opened.reader.clone(), snapshot.end());
    assert!(reader.snapshot().is_err(), "one at a time");
    let (frames, point) = (life.frames.clone(), life.point);
    assert_eq!(end, life.opened.writer.end().position, "all is copied");
    let disk = copied(&snapshot, || {
        if life.rng.random_bool(0.3) {
            life.step();
        }
    });
    assert!(!reader.is_held(Position(0)));
    drop(snapshot);
    drop(reader.snapshot().unwrap());

    let from = (point.position > Position(0)).then_some(point);
    let (copy, _) = open(&disk, from).unwrap();
    assert_ne!(copy.report.log_id, life.opened.report.log_id);
    assert_eq!(copy.report.cut_bytes, 0);
    assert_eq!(copy.writer.end().position, end);
    for frame in &frames {
        let read = copy.reader.frame(frame.position, frame.length).unwrap();
        assert_eq!(read, frame.payload, "at {}", frame.position);
    }
}

#[test]
fn a_copy_has_all_that_was_written_when_it_was_begun_and_nothing_later() {
    for seed in 0..300 {
        println!("seed {seed}");
        copy_of_a_life(seed);
    }
}

#[test]
fn damage_is_not_copied_in_silence() {
    let (disk, frames) = super::sample();
    let (opened, _) = open(&disk, None).unwrap();
    let damaged = frames[2].position;
    let name = &disk.names()[0];
    disk.with_file(name, |bytes| bytes[damaged.0 as usize + 20] ^= 1);
    let snapshot = opened.reader.snapshot().unwrap();
    let error = snapshot
        .copy::<Infallible>(&mut |_| Ok(()))
        .expect_err("it is damaged");
    assert!(matches!(error, CopyError::Log(_)), "{error:?}");
    assert!(error.to_string().contains(name), "{error}");
}
