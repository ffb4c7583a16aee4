//! `sluice topic update` and `sluice topic trim`: how long events are kept.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use sluice_client::pb::{self, read_start::At, trim_topic_request::Before};

use super::{Common, output};

/// The flags that say how long events are kept.
#[derive(Debug, Args)]
pub(super) struct Retain {
    /// Events that were appended longer ago go.
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    retain_age: Option<Duration>,
    /// Bytes of events in each partition, of which the oldest go.
    #[arg(long, value_name = "BYTES")]
    retain_bytes: Option<i64>,
    /// Events in each partition, of which the oldest go.
    #[arg(long, value_name = "COUNT")]
    retain_events: Option<i64>,
    /// Keep what a group has not settled all the same. A group that nobody reads
    /// any more can then fill the disk.
    #[arg(long)]
    hold_unread: bool,
    /// Keep only the last event of each key.
    #[arg(long)]
    compact: bool,
    /// With --compact, how long a key's last event stays when it has no data.
    /// Default 24h.
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration, requires = "compact")]
    tombstone_delay: Option<Duration>,
}

impl Retain {
    /// What the flags say; `None` when there are none.
    pub(super) fn asked(&self) -> Option<pb::Retention> {
        let duration = |of: Option<Duration>| of.and_then(|of| of.try_into().ok());
        let retention = pb::Retention {
            max_age: duration(self.retain_age),
            max_bytes: self.retain_bytes.unwrap_or(0),
            max_events: self.retain_events.unwrap_or(0),
            hold_unread: self.hold_unread,
            compact: self.compact,
            tombstone_delay: duration(self.tombstone_delay),
        };
        Some(retention).filter(|retention| *retention != pb::Retention::default())
    }
}

/// How long events are kept, in words.
pub(super) fn in_words(retention: Option<&pb::Retention>) -> String {
    let Some(of) = retention else {
        return "for ever".into();
    };
    let mut words = Vec::new();
    if of.max_age.is_some() {
        words.push(output::duration(of.max_age));
    }
    if of.max_bytes > 0 {
        words.push(format!("{} bytes a partition", of.max_bytes));
    }
    if of.max_events > 0 {
        words.push(format!("{} events a partition", of.max_events));
    }
    if of.compact {
        let delay = output::duration(of.tombstone_delay);
        words.push(format!("the last of each key, tombstones {delay}"));
    }
    if of.hold_unread {
        words.push("what groups have not settled".into());
    }
    words.join(", ")
}

/// The same for scripts; null for ever.
pub(super) fn in_json(retention: Option<&pb::Retention>) -> Value {
    retention.map_or(Value::Null, |of| {
        json!({
            "max_age": output::duration(of.max_age),
            "max_bytes": of.max_bytes,
            "max_events": of.max_events,
            "hold_unread": of.hold_unread,
            "compact": of.compact,
            "tombstone_delay": output::duration(of.tombstone_delay),
        })
    })
}

#[derive(Debug, Args)]
pub(super) struct Update {
    /// Its name.
    topic: String,
    #[command(flatten)]
    retain: Retain,
    #[command(flatten)]
    common: Common,
}

impl Update {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let retention = self.retain.asked();
        let words = in_words(retention.as_ref());
        let as_json = in_json(retention.as_ref());
        let retention = retention.unwrap_or_default();
        admin.update_topic(&self.topic, retention).await?;
        if self.common.json {
            output::json(&json!({"topic": self.topic, "retention": as_json}))?;
        } else {
            output::line(&format!("topic {} keeps events {words}", self.topic))?;
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Trim {
    /// Its name.
    topic: String,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// An offset, or a time as in 2026-01-31T12:00:00Z; what is before goes.
    #[arg(long, value_name = "OFFSET|TIME", value_parser = parse_before)]
    before: Before,
    #[command(flatten)]
    common: Common,
}

fn parse_before(text: &str) -> Result<Before, String> {
    match super::tail::parse_start(text)? {
        At::Offset(offset) => Ok(Before::Offset(offset)),
        At::Time(time) => Ok(Before::Time(time)),
        At::Earliest(_) | At::Latest(_) => Err(format!("{text:?} is no offset and no time")),
    }
}

impl Trim {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let partitions = admin
            .trim_topic(&self.topic, self.partition, self.before)
            .await?;
        if self.common.json {
            for of in partitions {
                output::json(&json!({
                    "topic": self.topic,
                    "partition": of.partition,
                    "start_offset": of.start_offset,
                    "visible_end": of.visible_end,
                }))?;
            }
            return Ok(());
        }
        let rows = partitions.into_iter().map(|of| {
            [
                of.partition.to_string(),
                of.start_offset.to_string(),
                of.visible_end.to_string(),
            ]
        });
        output::table(["partition", "start", "end"], rows)?;
        Ok(())
    }
}
