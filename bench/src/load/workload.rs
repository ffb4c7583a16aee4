//! What a load consists of: named TOML files, some of which are built in.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// The workloads that come with the bench.
const BUILT_IN: [&str; 14] = [
    include_str!("../../workloads/throughput.toml"),
    include_str!("../../workloads/one-in-flight.toml"),
    include_str!("../../workloads/outstanding.toml"),
    include_str!("../../workloads/latency.toml"),
    include_str!("../../workloads/fan-out.toml"),
    include_str!("../../workloads/drain.toml"),
    include_str!("../../workloads/burst.toml"),
    include_str!("../../workloads/channels.toml"),
    include_str!("../../workloads/chain.toml"),
    include_str!("../../workloads/slow-consumer.toml"),
    include_str!("../../workloads/partitions.toml"),
    include_str!("../../workloads/topics.toml"),
    include_str!("../../workloads/filters.toml"),
    include_str!("../../workloads/recovery.toml"),
];

/// A file: settings, and the values in which its variants differ from them.
#[derive(Debug, Deserialize)]
struct File {
    name: String,
    /// What it shows.
    about: String,
    #[serde(flatten)]
    settings: toml::Table,
}

/// A named load in one or more variants.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) variants: Vec<Spec>,
}

/// One load.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Spec {
    /// What tells it from the other variants.
    pub(crate) variant: String,
    pub(crate) kind: Kind,
    /// Bytes of a payload; at least so many as tell when it was due, where
    /// somebody reads it.
    pub(crate) event_bytes: usize,
    pub(crate) payload: Payload,
    /// Of Sluice's topics; other brokers ack as their settings say.
    pub(crate) channel: Channel,
    /// Events of a batch.
    pub(crate) batch: usize,
    pub(crate) producers: usize,
    /// Batches of one producer that are not acked; with a rate, the most that
    /// may be, beyond which sending falls behind and that counts.
    pub(crate) outstanding: usize,
    /// Events a second of all producers; 0 for as many as go.
    pub(crate) rate: f64,
    /// Times the rate for the middle fifth of the time.
    pub(crate) burst: f64,
    /// With what the topics' names begin.
    pub(crate) topic_prefix: String,
    /// Topics to which batches go in turn, in `publish`.
    pub(crate) topics: usize,
    /// Partitions of each topic.
    pub(crate) partitions: u32,
    /// Keys in turn; 0 for none.
    pub(crate) keys: u64,
    /// Labels in turn, by which a filter can choose: the attribute `label` of an
    /// event and the field of a JSON payload, from "0"; 0 for none.
    pub(crate) labels: u64,
    /// What the groups take, in CEL; of every `labels` events it has to pass the
    /// one with the label "0". Everything, if it is empty.
    pub(crate) filter: String,
    /// Whether members take everything and leave out by themselves, by the field
    /// `label` of the payload, what the filter would; so it is with brokers that
    /// have no filters.
    pub(crate) filter_in_client: bool,
    pub(crate) groups: usize,
    /// Members of each group.
    pub(crate) members: usize,
    /// Stages of a chain. Each reads what the one before has published.
    pub(crate) stages: usize,
    /// Events that a member may have at once, where the broker has such a limit.
    pub(crate) window: usize,
    /// Microseconds that the first member of each group, or the last stage of a
    /// chain, takes for each event.
    pub(crate) slow_micros: f64,
    pub(crate) ack: Ack,
    /// Events that are there before the members come, in `drain` and `recovery`.
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    pub(crate) warmup_seconds: f64,
    /// Longest wait for what is still on its way when the time is over, and for
    /// all of a drain.
    pub(crate) patience_seconds: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Publishes, and nobody reads.
    Publish,
    /// Publishes while members work.
    EndToEnd,
    /// Members work off what was published before.
    Drain,
    /// As `drain`, but the server is killed before the members come.
    Recovery,
    /// Publishes to the first of several stages, each of which publishes to the
    /// next what it has got, and then acks it.
    Chain,
}

impl Kind {
    /// Whether events are published while the time is measured.
    pub(crate) fn publishes(self) -> bool {
        matches!(self, Self::Publish | Self::EndToEnd | Self::Chain)
    }

    /// Whether anybody reads.
    pub(crate) fn reads(self) -> bool {
        self != Self::Publish
    }
}

/// When Sluice acks an event.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Channel {
    /// When it is durable.
    Fsync,
    /// When it is written.
    Buffered,
    /// When it is in memory, where it stays.
    Memory,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Payload {
    /// Nothing that could be compressed.
    Random,
    /// A JSON object.
    Json,
    /// Zeros.
    Compressible,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ack {
    /// Each event by itself.
    Event,
    /// All of a batch at once, where the broker has that.
    Batch,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            variant: String::new(),
            kind: Kind::Publish,
            event_bytes: 1024,
            payload: Payload::Random,
            channel: Channel::Fsync,
            batch: 1,
            producers: 1,
            outstanding: 1,
            rate: 0.0,
            burst: 1.0,
            topic_prefix: "bench-".into(),
            topics: 1,
            partitions: 1,
            keys: 0,
            labels: 0,
            filter: String::new(),
            filter_in_client: false,
            groups: 0,
            members: 0,
            stages: 0,
            window: 4000,
            slow_micros: 0.0,
            ack: Ack::Event,
            events: 0,
            seconds: 2.0,
            warmup_seconds: 0.5,
            patience_seconds: 60.0,
        }
    }
}

impl Spec {
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.patience_seconds)
    }

    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_seconds)
    }

    /// The same for a longer or shorter time and more or fewer events. Warming up takes
    /// as long: a server touches its memory for the first time in it.
    pub(crate) fn scaled(&self, by: f64) -> Self {
        Self {
            seconds: self.seconds * by,
            events: (self.events as f64 * by).ceil() as u64,
            ..self.clone()
        }
    }

    /// The same for so many times the measured time.
    pub(crate) fn longer(&self, by: f64) -> Self {
        Self {
            seconds: self.seconds * by,
            ..self.clone()
        }
    }

    /// The topics that it publishes to and reads from.
    pub(crate) fn topic_names(&self) -> Vec<String> {
        let count = match self.kind {
            Kind::Chain => self.stages,
            _ => self.topics,
        };
        let prefix = &self.topic_prefix;
        (0..count).map(|topic| format!("{prefix}{topic}")).collect()
    }

    /// What a broker is to filter by; empty for nothing.
    pub(crate) fn filter_of_groups(&self) -> &str {
        if self.filter_in_client {
            ""
        } else {
            &self.filter
        }
    }

    /// Whether members are to have the event with this number.
    pub(crate) fn passes(&self, sequence: u64) -> bool {
        self.filter.is_empty() || sequence.is_multiple_of(self.labels.max(1))
    }

    /// How many of the first events members are to have.
    pub(crate) fn passing(&self, events: u64) -> u64 {
        if self.filter.is_empty() {
            events
        } else {
            events.div_ceil(self.labels.max(1))
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        let ints = [
            ("event_bytes", self.event_bytes as u64, 1, 8 << 20),
            ("batch", self.batch as u64, 1, 10_000),
            ("producers", self.producers as u64, 1, 1000),
            ("outstanding", self.outstanding as u64, 1, 1_000_000),
            ("topics", self.topics as u64, 1, 10_000),
            ("partitions", self.partitions.into(), 1, 10_000),
            ("labels", self.labels, 0, 1000),
            ("window", self.window as u64, 1, 100_000),
        ];
        for (name, value, min, max) in ints {
            ensure!(
                (min..=max).contains(&value),
                "{name} is {value}, not from {min} to {max}"
            );
        }
        let numbers = [
            ("rate", self.rate, 0.0, 1e7),
            ("burst", self.burst, 1.0, 100.0),
            ("slow_micros", self.slow_micros, 0.0, 1e7),
            ("seconds", self.seconds, 0.1, 3600.0),
            ("warmup_seconds", self.warmup_seconds, 0.0, 600.0),
            ("patience_seconds", self.patience_seconds, 0.1, 3600.0),
        ];
        for (name, value, min, max) in numbers {
            ensure!(
                (min..=max).contains(&value),
                "{name} is {value}, not from {min} to {max}"
            );
        }
        let stamp = self.payload.stamp_bytes();
        ensure!(
            !self.kind.reads() || self.event_bytes >= stamp,
            "event_bytes is {}, at least {stamp} are needed to tell when an event was due",
            self.event_bytes
        );
        ensure!(
            !self.kind.reads() || (self.groups >= 1 && self.members >= 1),
            "groups is {} and members is {}, and somebody has to read",
            self.groups,
            self.members
        );
        ensure!(
            self.topics == 1 || self.kind == Kind::Publish,
            "topics is {}, and only publish has more than one",
            self.topics
        );
        ensure!(
            self.kind != Kind::Chain
                || ((1..=100).contains(&self.stages) && self.groups == 1 && self.members == 1),
            "a chain has from 1 to 100 stages, each with one group of one member"
        );
        ensure!(
            self.filter.is_empty() || (self.labels >= 1 && self.kind == Kind::Drain),
            "a filter chooses by labels, of which there are {}, and only in a drain",
            self.labels
        );
        ensure!(
            !self.filter_in_client || (!self.filter.is_empty() && self.payload == Payload::Json),
            "filter_in_client is set, and members judge JSON by what a filter asks for"
        );
        ensure!(
            self.kind.publishes() || self.events >= 1,
            "events is 0, and there is nothing to work off"
        );
        Ok(())
    }
}

/// Reads a workload.
pub(crate) fn parse(text: &str) -> anyhow::Result<Workload> {
    let file: File = toml::from_str(text)?;
    let mut common = file.settings;
    let variants = match common.remove("variants") {
        None => vec![toml::Table::new()],
        Some(variants) => variants.try_into().context("variants")?,
    };
    let specs = variants.into_iter().map(|variant| {
        let mut all = common.clone();
        all.extend(variant);
        let spec: Spec = all.try_into()?;
        spec.check()
            .with_context(|| format!("variant {:?}", spec.variant))?;
        Ok(spec)
    });
    let specs: anyhow::Result<Vec<_>> = specs.collect();
    Ok(Workload {
        variants: specs.with_context(|| format!("workload {:?}", file.name))?,
        name: file.name,
        about: file.about,
    })
}

/// Every workload that is built in.
pub(crate) fn built_in() -> Vec<Workload> {
    let parsed = BUILT_IN.iter().map(|text| parse(text));
    // A test reads them all.
    parsed
        .map(|workload| workload.expect("the built-in workloads are right"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_workloads_are_right_and_have_names_of_their_own() {
        let all = built_in();
        let mut names: Vec<_> = all.iter().map(|workload| &workload.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), BUILT_IN.len());
        assert!(all.iter().all(|workload| !workload.variants.is_empty()));
    }

    #[test]
    fn a_variant_differs_in_what_it_says() {
        let text = "name = 'n'\nabout = 'a'\nbatch = 7\n\
                    [[variants]]\nvariant = 'x'\n[[variants]]\nvariant = 'y'\nbatch = 9";
        let workload = parse(text).expect("it is right");
        let batches: Vec<_> = workload.variants.iter().map(|v| v.batch).collect();
        assert_eq!(batches, [7, 9]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, named) in [
            ("batch = 0", "batch is 0"),
            ("filter = 'true'", "by labels"),
            ("filter_in_client = true", "filter_in_client is set"),
            (
                "topics = 2\nkind = 'drain'\ngroups = 1\nmembers = 1",
                "topics is 2",
            ),
            (
                "kind = 'chain'\ngroups = 1\nmembers = 1",
                "from 1 to 100 stages",
            ),
            ("bach = 1", "bach"),
            ("kind = 'end-to-end'", "somebody has to read"),
            (
                "kind = 'drain'\ngroups = 1\nmembers = 1",
                "nothing to work off",
            ),
            ("rate = -1.0", "rate is -1"),
        ] {
            let error = parse(&format!("name = 'n'\nabout = 'a'\n{line}")).expect_err(line);
            assert!(format!("{error:#}").contains(named), "{line}: {error:#}");
        }
    }
}
