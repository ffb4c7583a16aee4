//! Readers that lag: what they read is not in memory any more.
//!
//! Few of them read at a time, in turn, so that neither threads nor the bytes
//! that are on their way grow with their number; and while publishing goes on,
//! all together read no more per second than `lagging_bytes_per_s`. After direct
//! writes nothing of the log is in the page cache, so what they read comes from
//! the disk that the log is written to. Readers at the head never come here.

mod pace;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::pace::Pace;
use crate::log::Reader;

/// How much may be read for those who lag.
#[derive(Clone, Copy, Debug)]
pub struct LaggingLimits {
    /// Pages that are read at a time.
    pub reads_max: usize,
    /// Bytes of the log's files per second while publishing goes on; `None` for
    /// no limit.
    pub bytes_per_second: Option<u64>,
}

/// Gives lagging readers their turns. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lagging(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Arc<Semaphore>,
    pace: Option<Mutex<Pace>>,
    published: Published,
    reader: Reader,
    started: Instant,
}

/// Bytes of what was published since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Published(Arc<AtomicU64>);

impl Published {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The right to read a page; dropping it ends the turn.
#[derive(Debug)]
#[must_use = "it is to be held while the page is read"]
pub struct Turn {
    _place: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// For what is read without the disk.
    pub(super) const AT_THE_HEAD: Self = Self { _place: None };
}

impl Lagging {
    pub(super) fn new(limits: LaggingLimits, published: Published, reader: Reader) -> Self {
        Self(Arc::new(Shared {
            places: Arc::new(Semaphore::new(limits.reads_max)),
            pace: limits
                .bytes_per_second
                .map(|rate| Mutex::new(Pace::new(rate))),
            published,
            reader,
            started: Instant::now(),
        }))
    }

    /// Waits for the next turn, in the order of asking.
    pub(super) async fn turn(&self) -> Turn {
        // It is never closed.
        let place = self.0.places.clone().acquire_owned().await.ok();
        if let Some(pace) = &self.0.pace {
            while let Some(wait) = self.0.wait(pace) {
                tokio::time::sleep(wait).await;
            }
        }
        Turn { _place: place }
    }
}

impl Shared {
    fn wait(&self, pace: &Mutex<Pace>) -> Option<Duration> {
        let read = self.reader.bytes_from_files();
        let published = self.published.0.load(Ordering::Relaxed);
        // Nothing that runs under this lock can leave it half changed.
        let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.wait(self.started.elapsed(), read, published)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::log::{self, LogConfig, Position, WriteChoice};

    const FRAME: usize = 64 << 10;
    const FRAMES: usize = 8;

    /// A log of a few frames that are in its file alone.
    struct Setting {
        reader: Reader,
        frames: Vec<(Position, u32)>,
        _dir: tempfile::TempDir,
    }

    impl Setting {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let config = LogConfig {
                segment_bytes: 64 << 20,
                tail_cache_bytes: 0,
                write: WriteChoice::Auto,
                sync_delay: None,
                ahead_bytes_per_second: None,
                spares_max: 0,
                epoch_ahead: 0,
            };
            let mut opened = log::open(dir.path(), config, None, &mut |_| Ok(())).unwrap();
            let mut frames = Vec::new();
            for _ in 0..FRAMES {
                let mut block = opened.writer.block(FRAME);
                let slot = block.frame(FRAME - 8, |out| out.resize(out.len() + FRAME - 8, 1));
                frames.push(opened.writer.write(block).unwrap().frame(slot));
            }
            Self {
                reader: opened.reader,
                frames,
                _dir: dir,
            }
        }

        fn lagging(&self, limits: LaggingLimits) -> (Lagging, Published) {
            let published = Published::default();
            let lagging = Lagging::new(limits, published.clone(), self.reader.clone());
            (lagging, published)
        }
    }

    #[tokio::test]
    async fn what_is_read_from_files_is_paid_for_while_publishing_goes_on() {
        let setting = Setting::new();
        let (lagging, published) = setting.lagging(LaggingLimits {
            reads_max: 4,
            bytes_per_second: Some(16 * FRAME as u64),
        });
        let look = || async {
            // However late a look comes, so much is enough for the time before it.
            published.add(1 << 40);
            tokio::time::sleep(Duration::from_millis(110)).await;
            lagging.turn().await
        };
        drop(look().await);
        let started = Instant::now();
        for (position, length) in &setting.frames {
            published.add(1 << 40);
            let turn = lagging.turn().await;
            setting.reader.frame(*position, *length).unwrap();
            drop(turn);
        }
        let paid = FRAMES as u32 - 1;
        assert!(started.elapsed() >= Duration::from_secs(1) * paid / 16);
    }

    #[tokio::test]
    async fn so_many_read_at_a_time_and_no_more() {
        let setting = Setting::new();
        let (lagging, _) = setting.lagging(LaggingLimits {
            reads_max: 2,
            bytes_per_second: None,
        });
        let turns = [lagging.turn().await, lagging.turn().await];
        let soon = Duration::from_millis(50);
        let third = tokio::time::timeout(soon, lagging.turn()).await;
        assert!(third.is_err(), "both places are taken");
        drop(turns);
        drop(lagging.turn().await);
    }
}
