//! Reads segments of a log that is open again, whole.

use super::{OpenError, ReplayedFrame, find::find_segment, follow::Scan};
use crate::log::{Position, Reader};

impl Reader {
    /// Gives the frames of the sealed segment with this base to `visit`, in
    /// order, as far as its chain of blocks is whole, and returns where that is, as
    /// [`Found::scan`](super::Found::scan) does. Only whoever removes
    /// segments may call this, as nothing keeps the segment in the meantime.
    ///
    /// # Errors
    /// When there is no such segment, it cannot be read, or `visit` refuses a
    /// frame.
    pub fn scan(
        &self,
        base: Position,
        visit: &mut dyn FnMut(ReplayedFrame<'_>) -> Result<(), String>,
    ) -> Result<Position, OpenError> {
        let disk = &*self.shared.disk;
        Scan::one_segment(disk, &find_segment(disk, base)?, visit)
    }
}
