//! `sluice dump`.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use clap::Args;
use sluice_broker::{
    backup,
    commit::record::{Frame, Record},
    data_dir,
    log::{Inspection, Position, ReplayedFrame, Seen},
};

use super::{check::hex, output};

/// Prints the blocks and frames of a stopped broker's log, one a line.
///
/// Frames say what they change, by ids; `topic-created` and `group-created` tell
/// the names. What cannot be read is told where it is, and the rest printed.
#[derive(Debug, Args)]
pub(super) struct Dump {
    /// The data folder.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The position to begin at, decimal or with 0x.
    #[arg(long, value_name = "POSITION", value_parser = position, default_value = "0")]
    from: u64,
    /// The position to end before [default: the end of the log].
    #[arg(long, value_name = "POSITION", value_parser = position)]
    to: Option<u64>,
}

fn position(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "a position is a number, such as 4096 or 0x1000".to_owned())
}

impl Dump {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let _lock = data_dir::lock_to_read(&self.dir)?;
        backup::of(&self.dir)?;
        let log = Inspection::new(&self.dir.join("log"))?;
        let range = Position(self.from)..Position(self.to.unwrap_or(u64::MAX));
        let mut out = BufWriter::new(io::stdout().lock());
        let mut failed = None;
        let mut inside = false;
        let walked = log.walk((range.start, range.end), &mut |seen| {
            match &seen {
                Seen::Block(block) => inside = range.contains(&block.position),
                Seen::Segment(_) | Seen::Wrong(_) => inside = true,
                Seen::Frame(_) => {}
            }
            if inside && let Err(error) = print(&mut out, &seen) {
                let reason = error.to_string();
                failed = Some(error);
                return Err(reason);
            }
            Ok(())
        });
        // Whoever reads the output may have had enough of it.
        if let Some(error) = failed {
            return Err(error.into());
        }
        walked?;
        Ok(out.flush()?)
    }
}

fn print(out: &mut impl Write, seen: &Seen<'_>) -> io::Result<()> {
    match seen {
        Seen::Segment(s) => writeln!(
            out,
            "segment {} {}..{} log {} epoch {}{}",
            s.name,
            s.base,
            s.end,
            hex(&s.log_id),
            s.epoch,
            if s.recycled { " recycled" } else { "" }
        ),
        Seen::Block(b) => writeln!(
            out,
            "block {} {} {} bytes, {} frames, epoch {}, synced {}, after {:08x}, crc {:08x}",
            b.position, b.kind, b.payload_bytes, b.frames, b.epoch, b.synced_end, b.prev_crc, b.crc
        ),
        Seen::Frame(frame) => print_frame(out, frame),
        Seen::Wrong(wrong) if wrong.is_damage() => {
            writeln!(out, "DAMAGE {}", output::plain(&wrong.to_string()))
        }
        Seen::Wrong(wrong) => writeln!(out, "torn {}", output::plain(&wrong.to_string())),
    }
}

fn print_frame(out: &mut impl Write, frame: &ReplayedFrame<'_>) -> io::Result<()> {
    write!(out, "  frame {} {} bytes", frame.position, frame.length)?;
    let decoded = match Frame::decode(frame.payload.to_vec().into()) {
        Ok(decoded) => decoded,
        Err(error) => return writeln!(out, " DAMAGE {error}"),
    };
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(decoded.time_ms));
    write!(out, " {}", output::time(at))?;
    if let Some(p) = decoded.producer {
        write!(
            out,
            " producer {} epoch {} sequence {}",
            p.producer, p.epoch, p.sequence
        )?;
    }
    let mut separator = ":";
    for record in &decoded.records {
        write!(out, "{separator} {}", describe(record))?;
        separator = ";";
    }
    writeln!(out)
}

/// A record on one line; what comes from outside is escaped.
fn describe(record: &Record) -> String {
    match record {
        Record::Append(a) => {
            let end = a.first + a.events.len() as u64;
            let bytes = a.events.bytes();
            format!(
                "append topic {} partition {} offsets {}..{end} ({bytes} bytes)",
                a.topic, a.partition, a.first
            )
        }
        Record::Settle(s) => {
            let runs = s
                .runs
                .iter()
                .map(|(first, count)| format!(" {first}..{}", *first + *count));
            format!(
                "settle group {} topic {} partition {} offsets{}",
                s.group,
                s.source.topic,
                s.source.partition,
                runs.collect::<String>()
            )
        }
        Record::Relocated(r) => format!(
            "relocated topic {} partition {} offsets {}..{} ({} events)",
            r.topic,
            r.partition,
            r.first,
            r.end,
            r.events.len()
        ),
        Record::CheckpointBegun(c) => format!("checkpoint-begun of {}", Position(c.position)),
        Record::CheckpointChunk(c) => format!(
            "checkpoint-chunk of {} ({} entities)",
            Position(c.position),
            c.entities.len()
        ),
        Record::CheckpointEnded(c) => format!("checkpoint-ended of {}", Position(c.position)),
        Record::AttemptFailed(r) => format!("attempt-failed {r:?}"),
        Record::LeaseNoted(r) => format!("lease-noted {r:?}"),
        Record::TopicCreated(r) => format!("topic-created {r:?}"),
        Record::TopicDeleted(r) => format!("topic-deleted {r:?}"),
        Record::TopicUpdated(r) => format!("topic-updated {r:?}"),
        Record::GroupCreated(r) => format!("group-created {r:?}"),
        Record::GroupDeleted(r) => format!("group-deleted {r:?}"),
        Record::GroupChanged(r) => format!("group-changed {r:?}"),
        Record::ProducerOpened(r) => format!("producer-opened {r:?}"),
        Record::EpochStarted(r) => format!("epoch-started {r:?}"),
        Record::RetentionTime(r) => format!("retention-time {r:?}"),
        Record::Trimmed(r) => format!("trimmed {r:?}"),
    }
}
