//! Takes segments out of the log whose contents nobody needs any more. Which
//! those are is the caller's to know.

use std::{io, sync::Arc};

use super::{
    Position,
    reader::{Segment, Shared, write},
    segment,
    spares::Spare,
};

/// Removes segments. There is one, and it may be used beside the writer and
/// any number of readers.
#[derive(Debug)]
pub struct Reclaimer {
    pub(super) shared: Arc<Shared>,
}

/// What became of segments that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Files that were kept to be written again.
    pub recycled: usize,
    /// Files that were deleted.
    pub deleted: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Why segments were not removed.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// There is none with this base.
    #[error("the log has no segment at {0}")]
    NotThere(Position),
    /// Blocks are appended to it.
    #[error("the segment at {0} is the one that is written")]
    Open(Position),
    /// It is being copied; it may go later.
    #[error("the segment at {0} is being copied")]
    Held(Position),
    /// The file system says so. The segments are gone for readers; what is left
    /// of their files is there again when the log is opened.
    #[error("the segments' files cannot be removed: {0}")]
    Io(#[from] io::Error),
    /// The log has failed before.
    #[error("the log has failed: {0}")]
    Failed(Arc<str>),
}

impl Reclaimer {
    /// Removes the segments with these bases, all or, if one of them cannot be
    /// removed, none. Reading what was in them answers
    /// [`ReadError::NotThere`](super::ReadError::NotThere) from now on; who is
    /// reading from one of them at this moment is not disturbed.
    ///
    /// When this returns the removal is durable. The next start must not replay
    /// from below or within them.
    ///
    /// # Errors
    /// When one is not there or is the open one, and when the file system fails,
    /// which poisons the log if the folder could not be synced.
    pub fn remove(&mut self, bases: &[Position]) -> Result<Reclaimed, ReclaimError> {
        if let Some(reason) = self.shared.failure.get() {
            return Err(ReclaimError::Failed(reason.clone()));
        }
        let mut spares = Vec::new();
        let mut reclaimed = Reclaimed::default();
        for (base, removed) in self.take_out(bases)? {
            let size = removed.end.0 - base.0;
            reclaimed.bytes += size;
            let name = segment::file_name(base);
            // Nobody can find the segment any more, so the last pin is the last
            // reader. A file that is still read from is not written over, but
            // lives on without a name until its readers are done.
            let read_from = Arc::into_inner(removed.pin).is_none();
            if !read_from && spares.len() < self.shared.spares.room(size) {
                let spare = Spare {
                    name: self.shared.spares.next_name(),
                    size,
                    used: true,
                };
                self.shared.disk.rename(&name, &spare.name)?;
                spares.push(spare);
                reclaimed.recycled += 1;
            } else {
                self.shared.disk.remove(&name)?;
                reclaimed.deleted += 1;
            }
        }
        if reclaimed == Reclaimed::default() {
            return Ok(reclaimed);
        }
        self.shared.disk.sync_dir().inspect_err(|error| {
            // Nothing tries a sync again, nor relies on a later one.
            self.shared.poison(error.to_string());
        })?;
        // Only now may they be written to: before, a crash could have brought
        // back the old names.
        for spare in spares {
            self.shared.spares.add(spare);
        }
        Ok(reclaimed)
    }

    fn take_out(&self, bases: &[Position]) -> Result<Vec<(Position, Segment)>, ReclaimError> {
        let mut segments = write(&self.shared.segments);
        let last = segments.last_key_value().map(|(base, _)| *base);
        for base in bases {
            if !segments.contains_key(base) {
                return Err(ReclaimError::NotThere(*base));
            }
            if Some(*base) == last {
                return Err(ReclaimError::Open(*base));
            }
            let held = self.shared.held();
            if held.as_ref().is_some_and(|held| held.contains(base)) {
                return Err(ReclaimError::Held(*base));
            }
        }
        // A base that is named twice is removed once.
        let removed = bases.iter().filter_map(|base| segments.remove_entry(base));
        Ok(removed.collect())
    }
}
