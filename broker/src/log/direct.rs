//! Writes that go past the page cache, O_DIRECT, and are durable when they return, with
//! RWF_DSYNC, where the file system really has it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::{
    fs::{AtFlags, OFlags, StatxFlags, statx},
    io::{ReadWriteFlags, pwritev2},
};

use super::{PAGE_BYTES, buffer::BufferPool, segment::UNFINISHED_SUFFIX};

/// Opens an existing file for such writes.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path)
}

/// Memory, offset and length must be at multiples of a page.
pub(super) fn write_durably(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    write_all(file, bytes, offset, ReadWriteFlags::DSYNC)
}

/// The same, durable only after a sync of the file.
pub(super) fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    write_all(file, bytes, offset, ReadWriteFlags::empty())
}

fn write_all(file: &File, bytes: &[u8], offset: u64, flags: ReadWriteFlags) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = [IoSlice::new(&bytes[done..])];
        match pwritev2(file, &rest, offset + done as u64, flags) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether files in `folder` take such writes, with our alignment. That such a
/// file can be opened proves nothing, so one is written.
pub(super) fn is_possible(folder: &Path) -> bool {
    let path = folder.join(format!("probe{UNFINISHED_SUFFIX}"));
    let possible = try_one(&path).is_ok();
    // Also removed with other files in the making at the next start.
    let _ = fs::remove_file(&path);
    possible
}

fn try_one(path: &Path) -> io::Result<()> {
    let made = File::create(path)?;
    made.set_len(PAGE_BYTES)?;
    let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
    let told = statx(&made, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    // File systems that do not tell are only tried.
    if told.stx_mask & StatxFlags::DIOALIGN.bits() != 0 {
        let fits = |align: u32| align > 0 && PAGE_BYTES.is_multiple_of(align.into());
        if !fits(told.stx_dio_mem_align) || !fits(told.stx_dio_offset_align) {
            return Err(unsupported());
        }
    }
    let mut page = std::sync::Arc::<BufferPool>::default().take(PAGE_BYTES as usize);
    page.bytes().resize(PAGE_BYTES as usize, 0);
    write_durably(&open(path)?, page.as_ref(), 0)
}
