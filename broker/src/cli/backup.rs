//! `sluice backup`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use sluice_broker::backup::{Manifest, Writing};
use sluice_client::pb::{self, backup_response::Message};

use super::{Common, output};

/// Copies the data of a running broker into a folder on this machine.
///
/// The copy has everything that was acked before it was begun, but for the events
/// of memory topics: topics, events, what groups have settled, dead letters,
/// producer sessions. `sluice check DIR` verifies it, and `sluice serve --data-dir`
/// starts a broker on a copy of it. That one has a log of its own, in a later
/// epoch: leases and positions that the first broker gives from then on are
/// refused by it.
///
/// A folder whose backup was interrupted is refused by every command; remove it.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The folder; it is made, or must be empty.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Takes at most so many bytes per second [default: what the broker's limit
    /// backup_bytes_per_s allows].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(i64).range(1..))]
    bytes_per_second: Option<i64>,
    #[command(flatten)]
    common: Common,
}

impl Backup {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let mut backup = admin.backup(self.bytes_per_second).await?;
        let Some(Message::Begun(begun)) = backup.next().await? else {
            bail!("the broker sent no backup");
        };
        let mut writing = Writing::begin(&self.dir, manifest(begun))?;
        let interrupted = "the backup is broken off, and the folder of no use";
        let whole = loop {
            let message = backup.next().await.context(interrupted)?;
            match message.context("its end is missing").context(interrupted)? {
                Message::Begun(_) => bail!("the broker begins a backup within a backup"),
                Message::File(file) => writing.file(&file.path, file.size as u64),
                Message::Data(data) => writing.bytes(&data),
                Message::FileEnd(of) => writing.file_end((of.data_bytes as u64, of.crc32)),
                Message::Ended(ended) => break writing.finish(ended.file_count as u64),
            }
            .context(interrupted)?;
        };
        print(&whole.context(interrupted)?, self.common.json)
    }
}

fn manifest(begun: pb::BackupBegun) -> Manifest {
    Manifest {
        broker_version: begun.version,
        taken_at: output::timestamp(begun.began_at),
        log_id: begun.log_id,
        source_log_id: begun.source_log_id,
        source_log_epoch: begun.source_log_epoch,
        end_position: begun.end_position,
        ..Manifest::default()
    }
}

fn print(whole: &Manifest, as_json: bool) -> anyhow::Result<()> {
    let bytes: u64 = whole.files.iter().map(|file| file.data_bytes).sum();
    if as_json {
        output::json(&json!({
            "taken_at": whole.taken_at,
            "log_id": whole.log_id,
            "source_log_id": whole.source_log_id,
            "source_log_epoch": whole.source_log_epoch,
            "end_position": whole.end_position,
            "files": whole.files.len(),
            "bytes": bytes,
        }))?;
        return Ok(());
    }
    output::fields(&[
        ("taken", whole.taken_at.clone()),
        (
            "of",
            format!("{}, epoch {}", whole.source_log_id, whole.source_log_epoch),
        ),
        ("identity", whole.log_id.clone()),
        (
            "copied",
            format!("{bytes} bytes in {} files", whole.files.len()),
        ),
    ])?;
    Ok(())
}
