//! Which segments nobody needs any more.

use sluice_proto::Offset;

use crate::{
    commit::{
        Catalog, Occupancy, Placed, Run, Store,
        record::{Frame, Source},
    },
    log::{Position, Reader, SegmentInfo},
};

/// What of a segment is still needed.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    pub(super) segment: SegmentInfo,
    /// Events that are nowhere later, and not gone.
    pub(super) live: Vec<(Source, Run)>,
}

impl Usage {
    /// Bytes of what is needed.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live.iter().map(|(_, run)| run.bytes).sum()
    }

    /// No event of it is needed.
    pub(super) fn is_dead(&self) -> bool {
        self.live.is_empty()
    }
}

/// How the sealed segments stand of which everything is known.
pub(super) fn usage(
    segments: &[SegmentInfo],
    known_end: Position,
    occupancy: &Occupancy,
    catalog: &Catalog,
) -> Vec<Usage> {
    let known = |segment: &&SegmentInfo| !segment.open && segment.end <= known_end;
    let usage = |segment: &SegmentInfo| Usage {
        segment: *segment,
        live: occupancy
            .runs(segment.base)
            .filter_map(|(source, run)| {
                let start = start_of(catalog, source)?;
                Some((source, run.from(start)?))
            })
            .collect(),
    };
    segments.iter().filter(known).map(usage).collect()
}

/// Where a partition begins; `None` when its topic is gone.
fn start_of(catalog: &Catalog, source: Source) -> Option<Offset> {
    let topic = catalog.topic_by_id(source.topic)?;
    Some(topic.partition(source.partition)?.start_offset())
}

/// Whether the log itself says that no event of a segment is needed: each is
/// below the start of its partition, of a topic that is gone, or there again in
/// a frame further on. Reads the whole segment.
pub(super) fn is_dead_by_the_log(
    segment: SegmentInfo,
    reader: &Reader,
    store: &Store,
    catalog: &Catalog,
) -> Result<(), String> {
    let check = |payload: &[u8]| -> Result<(), String> {
        let frame = Frame::decode(bytes::Bytes::copy_from_slice(payload))
            .map_err(|error| error.to_string())?;
        for record in &frame.records {
            let Some(placed) = Placed::by(record, frame.time_ms) else {
                continue;
            };
            let Some(topic) = catalog.topic_by_id(placed.source.topic) else {
                continue;
            };
            let Some(partition) = topic.partition(placed.source.partition) else {
                continue;
            };
            let end = placed.first + u64::from(placed.count);
            let mut at = placed.first.max(partition.start_offset());
            while at < end {
                let entries = store.locate(partition, at).map_err(|e| e.to_string())?;
                for entry in entries.iter().take_while(|entry| entry.first < end) {
                    if entry.position < segment.end {
                        return Err(format!(
                            "offset {at} of {:?} is in it and nowhere later",
                            placed.source
                        ));
                    }
                    store
                        .events(partition, *entry)
                        .map_err(|error| error.to_string())?;
                    at = entry.end();
                }
            }
        }
        Ok(())
    };
    let whole_to = reader
        .scan(segment.base, &mut |frame| check(frame.payload))
        .map_err(|error| error.to_string())?;
    if whole_to < segment.end {
        return Err(format!("it is damaged at {whole_to}"));
    }
    Ok(())
}
