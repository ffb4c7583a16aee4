//! Makes segment files ahead of need, of real zeros: the first write into blocks
//! that were only allocated costs a commit of the file system's journal.
//!
//! It runs at a limited rate beside the log's own writes, begins when the open
//! segment is half full (2 MiB of the first one, which is small), and never where
//! space is low. Recycled files come first.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use super::{
    disk::{Disk, fill_with_zeros},
    reader::Shared,
    segment::UNFINISHED_SUFFIX,
    spares::Spare,
};

/// Room for so many segments stays free whatever is made ahead.
const FREE_SEGMENTS_MIN: u64 = 8;

/// Starts the thread. It ends when the writer is dropped or the log has failed.
pub(super) fn start(shared: Arc<Shared>, bytes_per_second: u64) -> io::Result<()> {
    thread::Builder::new()
        .name("log-ahead".into())
        .spawn(move || {
            while shared.spares.wait_for_need(|| shared.is_over()) {
                match make(&shared, bytes_per_second) {
                    Ok(Some(spare)) => shared.spares.add(spare),
                    // Closed meanwhile, or no room: segments are made when they
                    // are needed, and whether there is room for them shows then.
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "no segment can be made ahead of need");
                    }
                }
            }
        })?;
    Ok(())
}

/// A file of zeros, durable under its name.
fn make(shared: &Shared, bytes_per_second: u64) -> io::Result<Option<Spare>> {
    let disk = &*shared.disk;
    let size = shared.spares.size();
    if disk.free_bytes()? < FREE_SEGMENTS_MIN * size {
        return Ok(None);
    }
    let name = shared.spares.next_name();
    let unfinished = format!("{name}{UNFINISHED_SUFFIX}");
    let zeroed = zeroed_file(shared, &unfinished, size, bytes_per_second);
    if !matches!(zeroed, Ok(true)) {
        // If it stays, the next start removes it.
        let _ = disk.remove(&unfinished);
        return zeroed.map(|_| None);
    }
    disk.rename(&unfinished, &name)?;
    disk.sync_dir().inspect_err(|error| {
        // Nothing relies on a sync after one that failed.
        shared.poison(error.to_string());
    })?;
    Ok(Some(Spare {
        name,
        size,
        used: false,
    }))
}

/// False when the log was closed meanwhile.
fn zeroed_file(shared: &Shared, name: &str, size: u64, bytes_per_second: u64) -> io::Result<bool> {
    let file = Disk::create(&*shared.disk, name, size)?;
    let is_whole = fill_with_zeros(&*file, size, |step| {
        thread::sleep(Duration::from_secs_f64(
            step as f64 / bytes_per_second as f64,
        ));
        !shared.is_over()
    })?;
    if is_whole {
        file.sync()?;
    }
    Ok(is_whole)
}

impl Shared {
    fn is_over(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.failure.get().is_some()
    }
}
