//! A disk that fails once poisons the log for good.

use super::{open, sample, write};

/// Operations of one block that fits its segment.
const OPERATIONS_OF_A_BLOCK: u64 = 1;

#[test]
fn one_failed_write_or_sync_poisons_the_log_and_reading_goes_on() {
    // Also where the block needs a seal and a new segment.
    for (operation, length) in (0..OPERATIONS_OF_A_BLOCK)
        .map(|operation| (operation, 10))
        .chain((0..10).map(|operation| (operation, 30_000)))
    {
        let (disk, frames) = sample();
        let (mut opened, _) = open(&disk, None).unwrap();
        disk.fail_after(operation);
        let first = write(&mut opened.writer, &[vec![9; length]]);
        let Err(reason) = first else {
            assert!(
                operation >= 7,
                "operation {operation} of {length} bytes is acked"
            );
            continue;
        };
        assert!(reason.to_string().contains("the disk says no"), "{reason}");
        let operations = disk.operations();
        let again = write(&mut opened.writer, &[vec![9; 10]]).unwrap_err();
        assert_eq!(again.to_string(), reason.to_string());
        assert!(opened.writer.close().is_err());
        assert_eq!(disk.operations(), operations, "nothing is tried again");
        assert!(opened.reader.failure().is_some());
        for stored in &frames {
            let read = opened.reader.frame(stored.position, stored.length);
            assert_eq!(read.unwrap(), stored.payload);
        }
    }
}

#[test]
fn a_log_that_cannot_be_made_durable_does_not_open() {
    // The folder, and each of the two segments.
    for operation in 0..3 {
        let (disk, _) = sample();
        disk.fail_after(operation);
        let error = open(&disk, None).map(drop).unwrap_err().to_string();
        assert!(error.contains("the disk says no"), "{error}");
    }
}
