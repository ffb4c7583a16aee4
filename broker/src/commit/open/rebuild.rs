//! Makes state and view anew from the log alone.
//!
//! The state is that of the latest complete checkpoint in the log, or the empty
//! one if the log still has its beginning, and what the log says since. The index
//! is read from the segments that there are: of two copies of an event the one
//! with the higher position wins.

use std::{fs, ops::Range, path::Path};

use super::{NO_LOG, OpenError, Paths, Replayed, replay::Replay};
use crate::{
    commit::{
        CommitConfig,
        checkpoint::{self, FoundCheckpoint, Identity},
    },
    log::{self, Found, LogPoint, Position, SegmentInfo},
    view::View,
};

impl Replayed {
    /// Drops the view, and makes one from what the log says.
    pub(super) fn from_the_log_alone(
        paths: &Paths,
        config: CommitConfig,
        boot_id: [u8; 16],
    ) -> Result<Self, OpenError> {
        let view = empty_view(&paths.view)?;
        let found = Found::new(&paths.log, config.log.write)?;
        let segments: Vec<SegmentInfo> = found.segments().collect();
        let mut collected: Option<LogPoint> = None;
        let mut skipped = Vec::new();
        let (mut replay, from) = match checkpoint::find(&found)? {
            Some(FoundCheckpoint { point, entities }) => {
                let mut replay = Replay::load(entities)?;
                replay.save_state(&view, point, boot_id)?;
                skipped = index_below(&found, &segments, point, boot_id, &view, &mut replay)?;
                collected = Some(point);
                (replay, Some(point))
            }
            None => match segments.first() {
                Some(first) if first.base > Position(0) => {
                    return Err(OpenError::NoCheckpoint(first.base));
                }
                _ => (Replay::default(), None),
            },
        };
        // The log's identity is known only once it is open; checkpoints on the
        // way carry one that no log has, and the last one the real one.
        let unknown = Identity {
            log_id: NO_LOG,
            boot_id,
        };
        let opened = found.open(config.log, from, &mut |frame| {
            let since = *collected.get_or_insert(frame.block);
            let bytes = frame.block.position.0 - since.position.0;
            if bytes >= config.checkpoint_bytes {
                replay
                    .checkpoint(&view, unknown, since, frame.block, &segments)
                    .map_err(|e| e.to_string())?;
                tracing::info!(position = %frame.block.position, "building the view again");
                collected = Some(frame.block);
            }
            replay.apply(&frame)
        })?;
        let log_id = opened.report.log_id;
        let identity = Identity { log_id, boot_id };
        let end = opened.writer.end();
        let since = collected.unwrap_or(end);
        replay.checkpoint(&view, identity, since, end, &segments)?;
        Ok(Self {
            view,
            mirror: replay.mirror(),
            replay,
            collected_end: end,
            known_from: Position(0),
            identity,
            writer: opened.writer,
            reader: opened.reader,
            reclaimer: opened.reclaimer,
            report: opened.report,
            skipped,
        })
    }
}

fn empty_view(dir: &Path) -> Result<View, OpenError> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    Ok(View::open(dir)?)
}

/// Indexes the events below a checkpoint. What is damaged there is passed over, as
/// nobody needs to replay it: returns where, each to the end of its segment.
fn index_below(
    found: &Found,
    segments: &[SegmentInfo],
    point: LogPoint,
    boot_id: [u8; 16],
    view: &View,
    replay: &mut Replay,
) -> Result<Vec<Range<Position>>, log::OpenError> {
    let mut skipped = Vec::new();
    let below = segments.iter().filter(|s| s.base < point.position);
    let count = below.clone().count();
    for (at, segment) in below.enumerate() {
        tracing::info!(segment = at + 1, of = count, "building the view again");
        let whole_to = found.scan(segment.base, &mut |frame| {
            if frame.position < point.position {
                replay.index(&frame)?;
            }
            Ok(())
        })?;
        let needed_to = segment.end.min(point.position);
        if whole_to < needed_to {
            tracing::error!(from = %whole_to, to = %needed_to,
                "the log is damaged below its checkpoint; the events there cannot be read");
            skipped.push(whole_to..needed_to);
        }
        replay
            .save_index(view, point, boot_id, segments)
            .map_err(|error| log::OpenError::Refused(segment.base, error.to_string()))?;
    }
    Ok(skipped)
}
