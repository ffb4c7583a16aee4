//! No room for the next segment: the log waits, and goes on by itself.

use std::{thread, time::Duration};

use super::{SimDisk, open, write};

/// Larger than what is left of a segment after a block of it.
const LARGE: usize = 20_000;

#[test]
fn a_log_without_room_for_a_segment_waits_and_goes_on() {
    let disk = SimDisk::default();
    let (mut opened, _) = open(&disk, None).unwrap();
    let _end = opened.writer.wait_for_room();
    let first = write(&mut opened.writer, &[vec![1; LARGE]]).unwrap();
    disk.let_there_be_room(false);
    let (reader, mut writer) = (opened.reader, opened.writer);
    let waiting = thread::spawn(move || write(&mut writer, &[vec![2; LARGE]]).unwrap());
    while disk.refused() < 3 {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!waiting.is_finished());
    assert!(reader.failure().is_none());
    let read = reader.frame(first[0].position, first[0].length).unwrap();
    assert_eq!(read, first[0].payload);
    assert!(disk.names().iter().all(|name| !name.ends_with(".tmp")));
    disk.let_there_be_room(true);
    let second = waiting.join().unwrap();
    drop(reader);
    let (_, frames) = open(&disk, None).unwrap();
    assert_eq!(frames, [first, second].concat());
}

#[test]
fn a_log_that_is_to_stop_does_not_wait_for_room() {
    let disk = SimDisk::default();
    let (mut opened, _) = open(&disk, None).unwrap();
    let end = opened.writer.wait_for_room();
    let first = write(&mut opened.writer, &[vec![1; LARGE]]).unwrap();
    disk.let_there_be_room(false);
    let mut writer = opened.writer;
    let waiting = thread::spawn(move || {
        let refused = write(&mut writer, &[vec![2; LARGE]]).unwrap_err();
        disk.let_there_be_room(true);
        // It is a failure as any other, for good.
        assert!(write(&mut writer, &[vec![3; 10]]).is_err());
        drop(writer);
        (refused, disk)
    });
    end.come();
    let (refused, disk) = waiting.join().unwrap();
    assert!(refused.to_string().contains("no room"), "{refused}");
    let (mut opened, frames) = open(&disk, None).unwrap();
    assert_eq!(frames, first);
    write(&mut opened.writer, &[vec![4; LARGE]]).unwrap();
}

#[test]
fn a_log_that_is_being_opened_does_not_wait_for_room() {
    let disk = SimDisk::default();
    disk.let_there_be_room(false);
    let (mut opened, _) = open(&disk, None).unwrap();
    let refused = write(&mut opened.writer, &[vec![1; 10]]).unwrap_err();
    assert!(refused.to_string().contains("no room"), "{refused}");
}
