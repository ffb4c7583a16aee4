//! `sluice status`.

use clap::Args;
use serde_json::json;

use super::{Common, output};

/// `sluice status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    common: Common,
}

impl Status {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let of = self
            .common
            .connect()
            .await?
            .admin()
            .describe_broker()
            .await?;
        let recovery = of.recovery.unwrap_or_default();
        let held_json: Vec<_> = of
            .held
            .iter()
            .map(|held| {
                json!({
                    "topic": held.topic,
                    "partition": held.partition,
                    "group": held.group,
                    "events": held.event_count,
                })
            })
            .collect();
        let full_json: Vec<_> = of
            .full
            .iter()
            .map(|full| {
                json!({
                    "topic": full.topic,
                    "group": full.group,
                    "detail": full.detail,
                    "abandoned": full.abandoned,
                })
            })
            .collect();
        let skipped_json: Vec<_> = recovery
            .skipped_damage
            .iter()
            .map(|skipped| {
                json!({
                    "begin_position": skipped.begin_position,
                    "end_position": skipped.end_position,
                })
            })
            .collect();
        if self.common.json {
            output::json(&json!({
                "version": of.version,
                "log_id": of.log_id,
                "log_epoch": of.log_epoch,
                "log_writer": of.log_writer,
                "started_at": output::timestamp(of.started_at),
                "log_failure": of.log_failure,
                "low_space": of.low_space,
                "log_bytes": of.log_bytes,
                "live_bytes": of.live_bytes,
                "reclaimed_bytes": of.reclaimed_bytes,
                "rewritten_bytes": of.rewritten_bytes,
                "held": held_json,
                "full": full_json,
                "backup": of.backup.map(|backup| json!({
                    "began_at": output::timestamp(backup.began_at),
                    "sent_bytes": backup.sent_bytes,
                    "total_bytes": backup.total_bytes,
                })),
                "topics": of.topic_count,
                "groups": of.group_count,
                "recovery": {
                    "clean": recovery.clean,
                    "replayed_bytes": recovery.replayed_bytes,
                    "cut_bytes": recovery.cut_bytes,
                    "view_rebuilt": recovery.view_rebuilt,
                    "skipped_damage": skipped_json,
                    "duration": output::duration(recovery.duration),
                },
            }))?;
            return Ok(());
        }
        let kept = format!(
            "{} bytes in full segments; since the start {} bytes given back, {} written again",
            of.live_bytes, of.reclaimed_bytes, of.rewritten_bytes
        );
        let writes = match of.log_failure.as_str() {
            "" if of.low_space.is_empty() => "taken".to_owned(),
            "" => format!("publishing REFUSED for now: {}", of.low_space),
            reason => format!("REFUSED until a restart: {reason}"),
        };
        let mut found = if of.log_epoch == 1 {
            "nothing, a new log".to_owned()
        } else if recovery.clean {
            "closed in order".to_owned()
        } else {
            "not closed in order".to_owned()
        };
        found.push_str(&format!(
            "; {} bytes read again, {} bytes of a torn write cut",
            recovery.replayed_bytes, recovery.cut_bytes
        ));
        if recovery.view_rebuilt {
            found.push_str("; the view was built again");
        }
        for skipped in &recovery.skipped_damage {
            found.push_str(&format!(
                "; DAMAGED, and not to be read, from {:#x} to {:#x}",
                skipped.begin_position, skipped.end_position
            ));
        }
        let backup = of.backup.map_or("none under way".to_owned(), |backup| {
            format!(
                "{} of about {} bytes since {}",
                backup.sent_bytes,
                backup.total_bytes,
                output::timestamp(backup.began_at)
            )
        });
        output::fields(&[
            ("version", of.version),
            ("started", output::timestamp(of.started_at)),
            (
                "log",
                format!(
                    "{}, epoch {}, {} writes",
                    of.log_id, of.log_epoch, of.log_writer
                ),
            ),
            ("log bytes", of.log_bytes.to_string()),
            ("kept", kept),
            ("writes", writes),
            ("backup", backup),
            ("topics", of.topic_count.to_string()),
            ("groups", of.group_count.to_string()),
            ("found at start", found),
        ])?;
        if !of.full.is_empty() {
            output::line("\ntopics that take nothing:")?;
            let rows = of.full.into_iter().map(|full| [full.topic, full.detail]);
            output::table(["topic", "because"], rows)?;
        }
        if !of.held.is_empty() {
            output::line("\nkept for groups that have not settled them:")?;
            let rows = of.held.into_iter().map(|held| {
                [
                    held.topic,
                    held.partition.to_string(),
                    held.group,
                    held.event_count.to_string(),
                ]
            });
            output::table(["topic", "partition", "group", "events"], rows)?;
        }
        Ok(())
    }
}
