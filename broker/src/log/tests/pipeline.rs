//! Blocks under way: in any order to the disk, in order to the caller.

use std::time::Duration;

use super::{
    super::{Found, When, WriteChoice},
    CONFIG, SimDisk, open, prepare, write,
};

#[test]
fn a_block_is_durable_when_all_before_it_are() {
    let disk = SimDisk::default();
    let (mut opened, _) = open(&disk, None).unwrap();
    write(&mut opened.writer, &[vec![0; 10]]).unwrap();
    let before = opened.reader.durable_end();
    let blocks: Vec<_> = (1..=3)
        .map(|fill| prepare(&mut opened.writer, &[vec![fill; 10]], When::Durable).unwrap())
        .collect();
    let ends: Vec<_> = blocks.iter().map(|(p, _)| p.placed().end()).collect();
    let mut prepared: Vec<_> = blocks.into_iter().map(|(p, _)| Some(p)).collect();
    let mut land = |at: usize| prepared[at].take().unwrap().write().unwrap();
    land(2);
    assert_eq!(opened.reader.durable_end(), before);
    land(0);
    assert_eq!(opened.reader.durable_end(), ends[0]);
    land(1);
    assert_eq!(opened.reader.durable_end(), ends[2]);
}

#[test]
fn nothing_counts_after_a_failed_write_and_nothing_is_written() {
    let disk = SimDisk::default();
    let (mut opened, _) = open(&disk, None).unwrap();
    write(&mut opened.writer, &[vec![0; 10]]).unwrap();
    let mut next = || {
        let (prepared, _) = prepare(&mut opened.writer, &[vec![1; 10]], When::Durable).unwrap();
        prepared
    };
    let (first, second, third) = (next(), next(), next());
    disk.fail_after(0);
    assert!(second.write().is_err());
    let operations = disk.operations();
    assert!(first.write().is_err());
    assert!(third.write().is_err());
    assert!(opened.writer.drain().is_err());
    assert_eq!(disk.operations(), operations, "nothing is tried again");
}

#[test]
fn a_block_that_is_not_written_poisons_the_log() {
    let disk = SimDisk::default();
    let (mut opened, _) = open(&disk, None).unwrap();
    write(&mut opened.writer, &[vec![0; 10]]).unwrap();
    drop(prepare(&mut opened.writer, &[vec![1; 10]], When::Durable));
    let error = write(&mut opened.writer, &[vec![2; 10]]).unwrap_err();
    assert_eq!(error.to_string(), "a block was not written");
}

#[test]
fn what_is_written_can_be_read_and_becomes_durable_by_itself() {
    let disk = SimDisk::default();
    let mut config = CONFIG;
    config.sync_delay = Some(Duration::ZERO);
    let found = Found::on(std::sync::Arc::new(disk.clone())).unwrap();
    let mut opened = found.open(config, None, &mut |_| Ok(())).unwrap();
    write(&mut opened.writer, &[vec![0; 10]]).unwrap();
    let (prepared, stored) = prepare(&mut opened.writer, &[vec![1; 10]], When::Written).unwrap();
    let end = prepared.placed().end();
    prepared.write().unwrap();
    assert_eq!(opened.reader.written_end(), end);
    let read = opened.reader.frame(stored[0].position, stored[0].length);
    assert_eq!(read.unwrap(), stored[0].payload);
    while opened.reader.durable_end() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn long_and_short_blocks_that_are_only_written_are_on_a_real_disk() {
    const KIB: usize = 1 << 10;
    let mut config = CONFIG;
    config.segment_bytes = 4096 * KIB as u64;
    for choice in [WriteChoice::Auto, WriteChoice::Buffered] {
        let dir = tempfile::tempdir().unwrap();
        let found = Found::new(dir.path(), choice).unwrap();
        let mut opened = found.open(config, None, &mut |_| Ok(())).unwrap();
        let mut frames = write(&mut opened.writer, &[vec![0; 10]]).unwrap();
        // From half a MiB on they go another way.
        for (fill, kib) in [
            (1, 1),
            (2, 700),
            (3, 3),
            (4, 512),
            (5, 511),
            (6, 1024),
            (7, 2),
        ] {
            let payloads = [vec![fill; kib * KIB]];
            let (prepared, stored) = prepare(&mut opened.writer, &payloads, When::Written).unwrap();
            prepared.write().unwrap();
            frames.extend(stored);
        }
        for frame in &frames {
            let read = opened.reader.frame(frame.position, frame.length);
            assert_eq!(read.unwrap(), frame.payload);
        }
        opened.writer.drain().unwrap();
        drop(opened);
        let mut read = Vec::new();
        let found = Found::new(dir.path(), choice).unwrap();
        let opened = found.open(config, None, &mut |frame| {
            read.push((frame.position, frame.payload.to_vec()));
            Ok(())
        });
        opened.unwrap();
        let written = frames.into_iter().map(|f| (f.position, f.payload));
        assert_eq!(read, written.collect::<Vec<_>>());
    }
}

#[test]
fn a_log_begins_with_a_small_segment_that_takes_any_block_and_goes_on_in_whole_ones() {
    const MIB: usize = 1 << 20;
    let mut config = CONFIG;
    config.segment_bytes = 24 * MIB as u64;
    // What is written, and how large the segments are then.
    for (payloads, sizes) in [
        (vec![10], vec![16]),
        (vec![9 * MIB, 9 * MIB], vec![16, 24]),
        (vec![16 * MIB - 100], vec![17]),
    ] {
        let disk = SimDisk::default();
        let found = Found::on(std::sync::Arc::new(disk.clone())).unwrap();
        let mut opened = found.open(config, None, &mut |_| Ok(())).unwrap();
        let mut frames = Vec::new();
        for bytes in payloads {
            frames.extend(write(&mut opened.writer, &[vec![7; bytes]]).unwrap());
        }
        let segments = opened.reader.segments().into_iter();
        let mib = |bytes: u64| bytes.div_ceil(MIB as u64);
        let found: Vec<_> = segments.map(|s| mib(s.end.0 - s.base.0)).collect();
        assert_eq!(found, sizes);
        drop(opened);
        disk.crash(&mut rand::rng());
        let (_, read) = open(&disk, None).unwrap();
        assert_eq!(read, frames);
    }
}

#[test]
fn the_next_segment_is_made_ahead_of_zeros_and_taken() {
    let disk = SimDisk::default();
    let mut config = CONFIG;
    config.ahead_bytes_per_second = Some(u64::MAX);
    let found = Found::on(std::sync::Arc::new(disk.clone())).unwrap();
    let mut opened = found.open(config, None, &mut |_| Ok(())).unwrap();
    let mut frames = write(&mut opened.writer, &[vec![1; 10]]).unwrap();
    assert_eq!(opened.reader.spare_bytes(), 0, "it is not needed yet");
    // Of eight pages, six are taken now.
    frames.extend(write(&mut opened.writer, &[vec![2; 14_000]]).unwrap());
    while opened.reader.spare_bytes() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let made = disk.created();
    // It does not fit any more, and takes less than half of the next segment, so
    // that no further one is made.
    frames.extend(write(&mut opened.writer, &[vec![3; 6_000]]).unwrap());
    assert_eq!(opened.reader.segments().len(), 2);
    assert_eq!(disk.created(), made);
    drop(opened);
    disk.crash(&mut rand::rng());
    let (_, read) = open(&disk, None).unwrap();
    assert_eq!(read, frames);
}
