//! Removing segments and writing their files again: nothing old is ever taken
//! for new, and what replay needs must be there.

use super::{
    super::{OpenError, Position, ReadError, ReclaimError, Reclaimed},
    CONFIG, SimDisk, Stored, open, write,
};
use crate::log::{Found, LogPoint, Opened};

/// A log of several segments, of one block each, with a point before the last.
fn long() -> (SimDisk, Opened, Vec<Stored>, LogPoint) {
    let disk = SimDisk::default();
    let (mut opened, _) = open(&disk, None).unwrap();
    let mut frames = Vec::new();
    let mut point = opened.writer.end();
    for fill in 1..=5 {
        point = opened.writer.end();
        frames.extend(write(&mut opened.writer, &[vec![fill; 20_000]]).unwrap());
    }
    assert_eq!(opened.reader.segments().len(), 5);
    (disk, opened, frames, point)
}

fn bases(opened: &Opened) -> Vec<Position> {
    opened.reader.segments().iter().map(|s| s.base).collect()
}

#[test]
fn a_removed_segment_is_gone_and_its_file_becomes_a_new_one() {
    let (disk, mut opened, mut frames, point) = long();
    let all = bases(&opened);
    // Two are kept as spares, one is deleted.
    let removed = opened.reclaimer.remove(&all[..3]).unwrap();
    let bytes = 3 * CONFIG.segment_bytes;
    assert_eq!(
        removed,
        Reclaimed {
            recycled: 2,
            deleted: 1,
            bytes
        }
    );
    assert_eq!(opened.reader.stored_bytes(), 2 * CONFIG.segment_bytes);
    assert_eq!(opened.reader.spare_bytes(), 2 * CONFIG.segment_bytes);
    for gone in &frames[..3] {
        let read = opened.reader.frame(gone.position, gone.length);
        assert!(matches!(read, Err(ReadError::NotThere(_))), "{read:?}");
    }
    let made = disk.created();
    for fill in 6..=7 {
        frames.extend(write(&mut opened.writer, &[vec![fill; 20_000]]).unwrap());
    }
    assert_eq!(disk.created(), made, "spare files are used first");
    assert_eq!(opened.reader.spare_bytes(), 0);
    // The old blocks in the recycled file are not read, nor told as cut.
    write(&mut opened.writer, &[vec![8; 10]]).unwrap();
    let (reopened, read) = open(&disk, Some(point)).unwrap();
    assert_eq!(read[..2], frames[4..6]);
    assert_eq!(reopened.report.cut_bytes, 0);
    assert_eq!(bases(&reopened), bases(&opened));
}

#[test]
fn the_open_segment_and_what_is_no_segment_cannot_be_removed() {
    let (_, mut opened, frames, _) = long();
    let all = bases(&opened);
    let open = opened.reclaimer.remove(&[all[0], all[4]]);
    assert!(matches!(open, Err(ReclaimError::Open(at)) if at == all[4]));
    let unknown = opened.reclaimer.remove(&[all[0], Position(7)]);
    assert!(matches!(unknown, Err(ReclaimError::NotThere(Position(7)))));
    // All or nothing.
    let first = &frames[0];
    let read = opened.reader.frame(first.position, first.length).unwrap();
    assert_eq!(read, first.payload);
}

#[test]
fn a_file_that_is_read_from_is_not_written_over() {
    let (disk, mut opened, frames, _) = long();
    let all = bases(&opened);
    let pinned = opened.reader.pin(frames[0].position);
    let removed = opened.reclaimer.remove(&all[..2]).unwrap();
    assert_eq!((removed.recycled, removed.deleted), (1, 1));
    assert_eq!(
        disk.names()
            .iter()
            .filter(|n| n.ends_with(".spare"))
            .count(),
        1
    );
    drop(pinned);
    // A name that was removed may not be opened any more, but the file is whole.
    let again = opened.reader.frame(frames[0].position, frames[0].length);
    assert!(matches!(again, Err(ReadError::NotThere(_))));
}

#[test]
fn gaps_are_allowed_below_the_place_to_replay_from_and_nowhere_else() {
    for missing in 0..5 {
        let (disk, mut opened, frames, point) = long();
        let all = bases(&opened);
        drop(opened.writer.close());
        disk.remove_file(&format!("{:016x}.seg", all[missing].0));
        let from_the_beginning = open(&disk, None).map(drop);
        // A last segment that is gone leaves nothing that would tell.
        if missing < 4 {
            let error = from_the_beginning.unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("the segment before it is missing"),
                "{error}"
            );
            // The point is in the segment before the last, behind its block.
            if missing < 3 {
                let (_, read) = open(&disk, Some(point)).unwrap();
                assert_eq!(read, frames[4..], "without segment {missing}");
            }
        }
    }
}

#[test]
fn a_segment_that_replay_passes_must_be_there() {
    let (disk, opened, _, _) = long();
    let all = bases(&opened);
    let (_, point) = {
        let found = Found::on(std::sync::Arc::new(disk.clone())).unwrap();
        let mut blocks = Vec::new();
        found
            .scan(all[1], &mut |frame| {
                blocks.push(frame.block);
                Ok(())
            })
            .unwrap();
        (blocks.len(), blocks[0])
    };
    disk.remove_file(&format!("{:016x}.seg", all[0].0));
    assert!(
        open(&disk, Some(point)).is_ok(),
        "what is below may be missing"
    );
    disk.remove_file(&format!("{:016x}.seg", all[3].0));
    let error = open(&disk, Some(point)).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Segment { .. }), "{error}");
    disk.remove_file(&format!("{:016x}.seg", all[1].0));
    let error = open(&disk, Some(point)).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::NotFromHere(_)), "{error}");
}

#[test]
fn a_single_segment_can_be_scanned_before_the_log_is_open() {
    let (disk, opened, frames, _) = long();
    let found = Found::on(std::sync::Arc::new(disk.clone())).unwrap();
    let infos: Vec<_> = found.segments().collect();
    assert_eq!(infos, opened.reader.segments());
    for (at, info) in infos.iter().enumerate() {
        let mut read = Vec::new();
        found
            .scan(info.base, &mut |frame| {
                read.push(frame.payload.to_vec());
                Ok(())
            })
            .unwrap();
        assert_eq!(read, [frames[at].payload.clone()]);
    }
}

#[test]
fn a_removal_that_cannot_be_made_durable_poisons_the_log_and_its_files_stay_unwritten() {
    let (disk, mut opened, _, _) = long();
    let all = bases(&opened);
    // Two renames, then the sync of the folder.
    disk.fail_after(2);
    let removed = opened.reclaimer.remove(&all[..2]);
    assert!(matches!(removed, Err(ReclaimError::Io(_))), "{removed:?}");
    assert!(write(&mut opened.writer, &[vec![9; 10]]).is_err());
    assert_eq!(opened.reader.spare_bytes(), 0);
}
