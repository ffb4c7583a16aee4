//! Makes durable, soon, what was only promised to be written.

use std::{
    fmt, io,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use super::{Position, reader::Shared};

/// Who is told when something has become durable by the thread: nobody waits
/// for a block on whose account it syncs.
pub(super) struct Told(pub(super) Box<dyn Fn() + Send>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

/// Starts the thread. A written block waits `delay` for others that are then
/// synced with it. The thread ends when the writer is dropped or the log has failed.
pub(super) fn start(shared: Arc<Shared>, delay: Duration, told: Told) -> io::Result<()> {
    thread::Builder::new()
        .name("log-sync".into())
        .spawn(move || {
            while wait_for_unsynced(&shared) {
                thread::sleep(delay);
                if let Err(error) = sync(&shared) {
                    shared.poison(error.to_string());
                }
                (told.0)();
            }
        })?;
    Ok(())
}

/// False when there is nothing more to come.
fn wait_for_unsynced(shared: &Shared) -> bool {
    let mut flight = shared.flight();
    loop {
        if shared.closed.load(Ordering::Acquire) || shared.failure.get().is_some() {
            return false;
        }
        if flight.has_unsynced() {
            return true;
        }
        flight = shared.landing.wait(flight);
    }
}

fn sync(shared: &Shared) -> io::Result<()> {
    let mut flight = shared.flight();
    let end = flight.written_end();
    flight.want(end);
    let done = flight.durable_end() >= end;
    drop(flight);
    if done {
        return Ok(());
    }
    // What is not durable is in the last segment, which is never removed.
    let last = Position(end.0.saturating_sub(1));
    let pinned = shared.file_at(last).map_err(io::Error::other)?;
    shared.sync_what_is_due(&*pinned.file)
}
