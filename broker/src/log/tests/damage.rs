//! Damage at every byte: told from a torn tail, refused where something vouches
//! for what is missing, and never taken for data.

use std::sync::Arc;

use super::{
    super::{
        BlockBuilder, Inspection, OpenError, PAGE_BYTES, Position, ReadError, Seen,
        block::{FRAME_HEADER_BYTES, HEADER_BYTES, Kind, Place, Salt},
    },
    SimDisk, Stored, open, sample, write,
};

const PAGE: usize = PAGE_BYTES as usize;
const FIRST: &str = "0000000000000000.seg";
const SECOND: &str = "0000000000008000.seg";

/// Where the header of a segment has its CRC.
const HEADER_CRC: std::ops::Range<usize> = 12..16;

/// Bytes of a file that are worth a try: all of headers, some of the rest.
fn places(file: &[u8]) -> Vec<usize> {
    let is_head = |at: usize| at % PAGE < 128;
    (0..file.len())
        .filter(|at| is_head(*at) || at % 13 == 0)
        .collect()
}

/// The bytes of a file that a block's CRC covers, with the number of frames
/// before that block and after it.
fn covered(
    disk: &SimDisk,
    name: &str,
    before: usize,
) -> Vec<(std::ops::Range<usize>, usize, usize)> {
    disk.with_file(name, |bytes| {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let (mut at, mut frames, mut blocks) = (PAGE, before, Vec::new());
        while bytes[at..].starts_with(b"SLbk") {
            let length = 64 + number(at + 12);
            blocks.push((at..at + length, frames, frames + number(at + 8)));
            frames += number(at + 8);
            at += length.next_multiple_of(PAGE);
            if at >= bytes.len() {
                break;
            }
        }
        blocks
    })
}

/// That the log on `disk` holds `frames`, and takes and keeps another one.
fn assert_usable(disk: &SimDisk, frames: &[Stored], context: &str) {
    let (mut opened, read) = open(disk, None).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(read, frames, "{context}");
    let new = write(&mut opened.writer, &[vec![7; 10]]).unwrap();
    let (_, read) = open(disk, None).unwrap();
    assert_eq!(read, [frames, &new].concat(), "{context}, with another");
}

#[test]
fn a_flipped_bit_is_damage_where_something_vouches_and_a_torn_tail_at_the_end() {
    let (disk, frames) = sample();
    let first = covered(&disk, FIRST, 0);
    let second = covered(&disk, SECOND, 6);
    // Three blocks and the seal; one block.
    assert_eq!((first.len(), second.len()), (4, 1));
    for (name, blocks) in [(FIRST, &first), (SECOND, &second)] {
        for at in disk.with_file(name, |bytes| places(bytes)) {
            let damaged = disk.copy();
            damaged.with_file(name, |bytes| bytes[at] ^= 1 << (at % 8));
            let context = format!("{name}, byte {at}");
            let block = blocks.iter().find(|(range, ..)| range.contains(&at));
            let looked = look(&damaged);
            assert_eq!(
                looked.damage,
                open(&damaged.copy(), None).is_err(),
                "{context}"
            );
            assert_eq!(looked.changes, 0, "{context}");
            match (name, block, open(&damaged, None)) {
                (_, None, Err(OpenError::Segment { .. })) if at < PAGE => {}
                (FIRST, Some((range, ..)), Err(OpenError::Damaged { offset, .. })) => {
                    assert_eq!(offset as usize, range.start, "{context}");
                }
                // Nothing follows that would tell.
                (SECOND, Some((_, before, _)), Ok((opened, read))) => {
                    assert_eq!(read, frames[..*before], "{context}");
                    assert!(opened.report.cut_bytes > 0, "{context}");
                }
                // Beyond the blocks, or between them.
                (_, None, Ok((_, read))) if at >= PAGE => assert_eq!(read, frames, "{context}"),
                (_, _, other) => panic!("{context}: {:?}", other.map(|(_, read)| read.len())),
            }
        }
    }
}

/// What looking at a log without opening it tells.
struct Looked {
    damage: bool,
    frames: usize,
    changes: u64,
}

fn look(disk: &SimDisk) -> Looked {
    let before = disk.operations();
    let inspection = Inspection::on(Arc::new(disk.clone())).unwrap();
    let (mut damage, mut frames) = (false, 0);
    let everything = (Position(0), Position(u64::MAX));
    inspection
        .walk(everything, &mut |seen| {
            match seen {
                Seen::Wrong(wrong) => damage |= wrong.is_damage(),
                Seen::Frame(_) => frames += 1,
                Seen::Segment(_) | Seen::Block(_) => {}
            }
            Ok(())
        })
        .unwrap();
    Looked {
        damage,
        frames,
        changes: disk.operations() - before,
    }
}

#[test]
fn what_is_behind_damage_is_looked_at_too() {
    let (disk, frames) = sample();
    assert_eq!(look(&disk).frames, frames.len());
    // The second block of the first segment.
    disk.with_file(FIRST, |bytes| bytes[2 * PAGE + 100] ^= 1);
    let looked = look(&disk);
    assert!(looked.damage);
    assert_eq!(looked.frames, frames.len() - 2);
}

#[test]
fn a_close_vouches_for_the_last_block() {
    let (disk, _) = sample();
    let (mut opened, _) = open(&disk, None).unwrap();
    opened.writer.close().unwrap();
    disk.with_file(SECOND, |bytes| bytes[PAGE + 100] ^= 1);
    let error = open(&disk, None).map(drop).unwrap_err();
    assert!(
        matches!(error, OpenError::Damaged { offset: 4096, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("byte 4096 of segment"),
        "{error}"
    );
}

#[test]
fn a_log_cut_at_any_byte_keeps_what_is_whole() {
    let disk = SimDisk::default();
    let (mut opened, _) = open(&disk, None).unwrap();
    let mut frames = Vec::new();
    for fill in 1..=3 {
        frames.extend(write(&mut opened.writer, &[vec![fill; 200 * fill as usize]]).unwrap());
    }
    for at in PAGE..4 * PAGE {
        let cut = disk.copy();
        let changed = cut.with_file(FIRST, |bytes| {
            let changed = bytes[at..].iter().any(|byte| *byte != 0);
            bytes[at..].fill(0);
            changed
        });
        let (opened, read) = open(&cut, None).unwrap();
        // The padding of a block can go without harm.
        let whole = frames
            .iter()
            .filter(|f| f.position.0 as usize + f.length as usize <= at);
        let whole: Vec<_> = whole.cloned().collect();
        assert_eq!(read, whole, "cut at {at}");
        assert!(opened.report.cut_bytes == 0 || changed, "cut at {at}");
        if at % 512 == 0 {
            assert_usable(&cut, &whole, &format!("cut at {at}"));
        }
    }
}

#[test]
fn leftovers_behind_a_cut_are_zeroed_before_anything_is_written() {
    let (disk, frames) = sample();
    // A torn block, and behind it pages that look like ours: the block before,
    // once more.
    disk.with_file(SECOND, |bytes| {
        bytes[PAGE + 200] ^= 1;
        let torn = bytes[PAGE..3 * PAGE].to_vec();
        bytes[4 * PAGE..6 * PAGE].copy_from_slice(&torn);
    });
    assert_usable(&disk, &frames[..6], "a torn block and leftovers");
}

#[test]
fn what_rots_after_it_was_opened_is_not_served() {
    let (disk, frames) = sample();
    let (opened, _) = open(&disk, None).unwrap();
    let stored = &frames[0];
    disk.with_file(FIRST, |bytes| bytes[stored.position.0 as usize + 20] ^= 1);
    let error = opened
        .reader
        .frame(stored.position, stored.length)
        .unwrap_err();
    assert!(matches!(error, ReadError::Damaged(at) if at == stored.position));
    let beyond = opened.reader.durable_end();
    let error = opened.reader.frame(beyond, 100).unwrap_err();
    assert!(matches!(error, ReadError::NotThere(_)), "{error}");
}

/// Whoever publishes may know all that a block says, but for the salt.
#[test]
fn a_payload_that_looks_like_a_block_vouches_for_nothing() {
    let disk = SimDisk::default();
    let (mut opened, _) = open(&disk, None).unwrap();
    let frames = write(&mut opened.writer, &[vec![1; 10]]).unwrap();
    let end = opened.writer.end();
    // On the second page of the next block there is one that knows that block to
    // be durable.
    let position = Position(end.position.0 + PAGE_BYTES);
    let mut buffers = BlockBuilder::new(&Arc::default(), 0);
    buffers.frame(5, |out| out.extend_from_slice(b"hello"));
    let (forged, _) = buffers.finish(Place {
        salt: Salt([0; 8]),
        kind: Kind::Data,
        epoch: end.epoch,
        position,
        synced_end: position,
        prev_crc: 0,
    });
    let mut payload = vec![0; PAGE - HEADER_BYTES - FRAME_HEADER_BYTES];
    payload.extend_from_slice(&forged);
    write(&mut opened.writer, &[payload]).unwrap();
    // The first page of that write did not reach the disk, its second one did.
    disk.with_file(FIRST, |bytes| {
        assert!(bytes[position.0 as usize..].starts_with(&forged));
        bytes[end.position.0 as usize..position.0 as usize].fill(0);
    });
    assert_usable(&disk, &frames, "a forged block");
}

/// Changes a segment's header and makes its CRC right again.
fn change_header(disk: &SimDisk, name: &str, change: impl FnOnce(&mut [u8])) {
    disk.with_file(name, |bytes| {
        change(&mut bytes[..PAGE]);
        bytes[HEADER_CRC].fill(0);
        let crc = crc32fast::hash(&bytes[..PAGE]);
        bytes[HEADER_CRC].copy_from_slice(&crc.to_le_bytes());
    });
}

#[test]
fn segments_that_do_not_belong_are_refused_with_the_reason() {
    type Change = fn(&SimDisk);
    let cases: [(&str, Change); 8] = [
        ("format version 3", |disk| {
            change_header(disk, SECOND, |page| page[8] = 3);
        }),
        ("before the first release", |disk| {
            change_header(disk, FIRST, |page| page[8] = 1);
        }),
        (
            "features that this broker does not have (bits 0x8)",
            |disk| {
                change_header(disk, FIRST, |page| page[16] = 8);
            },
        ),
        ("belongs to another log", |disk| {
            change_header(disk, SECOND, |page| page[32] ^= 1);
        }),
        ("impossible sizes", |disk| {
            change_header(disk, SECOND, |page| page[56] = 1);
        }),
        ("is not a segment", |disk| {
            disk.with_file(SECOND, |bytes| bytes[0] = b'x');
        }),
        ("is not 32768 bytes long", |disk| {
            disk.with_file(SECOND, |bytes| bytes.truncate(5 * PAGE));
        }),
        ("the segment before it is missing", |disk| {
            disk.remove_file(FIRST)
        }),
    ];
    for (expected, change) in cases {
        let (disk, _) = sample();
        change(&disk);
        let error = open(&disk, None).map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_optional_feature_of_a_later_version_is_no_hindrance() {
    let (disk, frames) = sample();
    change_header(&disk, FIRST, |page| page[24] = 0xff);
    assert_usable(&disk, &frames, "an optional feature");
}
