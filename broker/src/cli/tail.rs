//! `sluice tail`.

use clap::Args;
use futures_util::StreamExt;
use serde_json::json;
use sluice_client::{Client, ReadBuilder, ReadEvent, cloudevents, pb::read_start::At};

use super::{Common, filter::Dialects, output};

/// `sluice tail`.
#[derive(Debug, Args)]
pub(super) struct Tail {
    /// The topic.
    topic: String,
    /// Where to begin: earliest, latest, an offset, or a time as in
    /// 2026-11-24T10:00:00Z.
    #[arg(long, default_value = "latest", value_parser = parse_start)]
    from: At,
    /// Only events for which this CEL expression is true.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
    #[command(flatten)]
    dialects: Dialects,
    /// Only this partition; may be repeated.
    #[arg(long = "partition")]
    partitions: Vec<i32>,
    /// End after so many events.
    #[arg(long, short = 'n', default_value_t = 0, hide_default_value = true)]
    max: i64,
    /// End where the topic ends now, instead of going on with new events.
    #[arg(long)]
    no_follow: bool,
    /// With --json: each event within an object that has its partition, offset
    /// and append time as well. Without it, each line is a CloudEvent in the JSON
    /// format, as `sluice publish` takes it.
    #[arg(long, requires = "json")]
    positions: bool,
    #[command(flatten)]
    common: Common,
}

/// Where to begin to read.
///
/// # Errors
/// When the text says no such place.
pub(super) fn parse_start(text: &str) -> Result<At, String> {
    match text {
        "earliest" => return Ok(At::Earliest(sluice_client::pb::Earliest {})),
        "latest" => return Ok(At::Latest(sluice_client::pb::Latest {})),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(At::Offset(offset));
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        format!("{text:?} is neither earliest, latest, an offset, nor a time (RFC 3339)")
    })?;
    let before_1970 = || format!("{text:?} is before 1970");
    Ok(At::Time(prost_types::Timestamp {
        seconds: u32::try_from(time.as_second())
            .map_err(|_| before_1970())?
            .into(),
        nanos: time.subsec_nanosecond(),
    }))
}

impl Tail {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.common.connect().await?;
        let mut events = self.reading(&client)?.events().await?;
        while let Some(event) = events.next().await {
            let event = event?;
            if self.common.json && self.positions {
                // Where it is goes beside the event, which stays as it is.
                output::json(&json!({
                    "partition": event.partition,
                    "offset": event.offset,
                    "append_time": output::time(event.append_time),
                    "event": cloudevents::to_json(event.event.as_message()),
                }))?;
            } else if self.common.json {
                output::json(&cloudevents::to_json(event.event.as_message()))?;
            } else {
                output::line(&in_one_line(&event))?;
            }
        }
        Ok(())
    }

    fn reading(&self, client: &Client) -> anyhow::Result<ReadBuilder> {
        let mut reading = client
            .read(&self.topic)
            .start(self.from)
            .filter(self.filter.as_str())
            .filters(self.dialects.filters()?)
            .partitions(self.partitions.iter().copied())
            .max_events(self.max);
        if !self.no_follow {
            reading = reading.follow();
        }
        Ok(reading)
    }
}

fn in_one_line(of: &ReadEvent) -> String {
    const PAYLOAD_MAX: usize = 120;
    let event = &of.event;
    let payload = match std::str::from_utf8(event.data()) {
        Ok(text) => {
            let shown = &text[..text.floor_char_boundary(PAYLOAD_MAX)];
            let more = if shown.len() < text.len() { "…" } else { "" };
            format!("{shown}{more}")
        }
        Err(_) => format!("{} bytes", event.data().len()),
    };
    let key = event
        .key()
        .map_or_else(String::new, |key| format!(" key={key}"));
    output::plain(&format!(
        "{} {}/{} {} {} {}{key} {payload}",
        output::time(of.append_time),
        of.partition,
        of.offset,
        event.event_type(),
        event.source(),
        event.id(),
    ))
}
