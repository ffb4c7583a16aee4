//! `sluice publish`.

use std::io;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::{StreamExt, stream::FuturesOrdered};
use serde_json::{Value, json};
use sluice_client::{Event, Position, Producer, PublishReceipt, cloudevents};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{Common, output};

/// `sluice publish`.
///
/// Without --type, events are read from standard input, one JSON object a line:
/// each a CloudEvent in JSON (with `specversion`), or any other JSON value, which
/// becomes the data of an event with the source and type of the flags.
#[derive(Debug, Args)]
pub(super) struct Publish {
    /// The topic.
    topic: String,
    /// What happened, for example file_upload.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Where it comes from.
    #[arg(long, default_value = "/sluice/cli")]
    source: String,
    /// The event's id [default: a new UUID].
    #[arg(long)]
    id: Option<String>,
    /// What it happened to.
    #[arg(long)]
    subject: Option<String>,
    /// Its key: events of one key keep their order.
    #[arg(long)]
    key: Option<String>,
    /// Another attribute; may be repeated.
    #[arg(long = "attribute", value_name = "NAME=VALUE")]
    attributes: Vec<String>,
    /// The payload; JSON if it parses as such, otherwise text.
    #[arg(long)]
    data: Option<String>,
    /// The payload's media type [default: application/json or text/plain].
    #[arg(long)]
    content_type: Option<String>,
    /// Read events from standard input although --type is given, as the type of
    /// lines that are no CloudEvents.
    #[arg(long)]
    stdin: bool,
    #[command(flatten)]
    common: Common,
}

impl Publish {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.common.connect().await?;
        let producer = client.producer().await?;
        if self.event_type.is_some() && !self.stdin {
            let position = producer.publish(&self.topic, self.event()?).await?;
            return self.print(&position);
        }
        if self.data.is_some() || self.id.is_some() || self.content_type.is_some() {
            bail!("--data, --content-type and --id are for one event; say what it is with --type");
        }
        self.publish_lines(&producer).await
    }

    /// Ends at the first line that fails; what was published by then is told.
    async fn publish_lines(&self, producer: &Producer) -> anyhow::Result<()> {
        /// Lines whose outcome is awaited at once.
        const UNDER_WAY_MAX: usize = 10_000;
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut under_way = FuturesOrdered::new();
        let mut number = 0_u64;
        let mut published = 0_u64;
        let mut failed = None;
        let mut open = true;
        while open || !under_way.is_empty() {
            let step = tokio::select! {
                biased;
                Some((number, result)) = under_way.next() => {
                    let told = self.tell(result, &mut published);
                    told.with_context(|| format!("line {number}"))
                }
                line = lines.next_line(), if open && under_way.len() < UNDER_WAY_MAX => {
                    number += 1;
                    open = !matches!(line, Ok(None));
                    let sent = self.send_line(producer, line).await;
                    let outcome = |receipt: PublishReceipt| async move {
                        (number, receipt.durable().await)
                    };
                    sent.map(|receipt| under_way.extend(receipt.map(outcome)))
                        .with_context(|| format!("line {number}"))
                }
            };
            if let Err(error) = step {
                open = false;
                failed.get_or_insert(error);
            }
        }
        if !self.common.json {
            output::line(&format!("{published} events published to {}", self.topic))?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sends the event of a line; none at a blank line or at the end.
    async fn send_line(
        &self,
        producer: &Producer,
        line: io::Result<Option<String>>,
    ) -> anyhow::Result<Option<PublishReceipt>> {
        let Some(line) = line?.filter(|line| !line.trim().is_empty()) else {
            return Ok(None);
        };
        let event = self.event_of(&line)?;
        Ok(Some(producer.send(&self.topic, event).await?))
    }

    fn tell(
        &self,
        result: Result<Position, sluice_client::Error>,
        published: &mut u64,
    ) -> anyhow::Result<()> {
        let position = result?;
        *published += 1;
        if self.common.json {
            self.print(&position)?;
        }
        Ok(())
    }

    fn print(&self, position: &Position) -> anyhow::Result<()> {
        let Position {
            topic,
            partition,
            offset,
            ..
        } = position;
        if self.common.json {
            output::json(&json!({"topic": topic, "partition": partition, "offset": offset}))?;
        } else {
            output::line(&format!("published to {topic}/{partition}/{offset}"))?;
        }
        Ok(())
    }

    /// The event of a line.
    fn event_of(&self, line: &str) -> anyhow::Result<Event> {
        let json: Value = serde_json::from_str(line).context("it is no JSON")?;
        if json.get("specversion").is_some() {
            return Ok(cloudevents::from_json(&json)?.into());
        }
        let Some(event_type) = &self.event_type else {
            bail!("it is no CloudEvent (it has no specversion), and no --type is given for it");
        };
        let event = Event::new(&self.source, event_type).json(&json)?;
        self.with_flags(event)
    }

    /// The event of the flags.
    fn event(&self) -> anyhow::Result<Event> {
        let event_type = self.event_type.as_deref().unwrap_or_default();
        let mut event = Event::new(&self.source, event_type);
        if let Some(id) = &self.id {
            event = event.with_id(id);
        }
        if let Some(data) = &self.data {
            let guessed = match serde_json::from_str::<Value>(data) {
                Ok(_) => "application/json",
                Err(_) => "text/plain; charset=utf-8",
            };
            let content_type = self.content_type.as_deref().unwrap_or(guessed);
            event = event.bytes(content_type, data.clone().into_bytes());
        }
        self.with_flags(event)
    }

    fn with_flags(&self, mut event: Event) -> anyhow::Result<Event> {
        if let Some(subject) = &self.subject {
            event = event.with_subject(subject);
        }
        if let Some(key) = &self.key {
            event = event.with_key(key);
        }
        for attribute in &self.attributes {
            let Some((name, value)) = attribute.split_once('=') else {
                bail!("--attribute {attribute}: it must be NAME=VALUE");
            };
            event = event.attribute(name, value);
        }
        Ok(event)
    }
}
