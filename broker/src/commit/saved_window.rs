//! An ack window as bytes for the view: `committed_end` u64, then for each
//! settled run above it, first offset u64 and end u64. Little endian.

use bytes::{Buf, BufMut};
use sluice_proto::Offset;

use super::ack_window::AckWindow;

/// The window as bytes.
pub(super) fn encode(window: &AckWindow) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + 16 * window.run_count());
    out.put_u64_le(window.committed_end().0);
    for run in window.runs() {
        out.put_u64_le(run.start.0);
        out.put_u64_le(run.end.0);
    }
    out
}

/// The window again.
///
/// # Errors
/// When the bytes are not a window.
pub(super) fn decode(mut bytes: &[u8]) -> Result<AckWindow, String> {
    if bytes.len() < 8 || !(bytes.len() - 8).is_multiple_of(16) {
        return Err(format!("{} bytes are no window", bytes.len()));
    }
    let committed_end = Offset(bytes.get_u64_le());
    let mut runs = Vec::with_capacity(bytes.len() / 16);
    while bytes.has_remaining() {
        runs.push(Offset(bytes.get_u64_le())..Offset(bytes.get_u64_le()));
    }
    AckWindow::from_parts(committed_end, runs).map_err(|error| error.to_string())
}
