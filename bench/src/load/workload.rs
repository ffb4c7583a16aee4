//! What a load consists of: named TOML files, some of which are built in.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// The workloads that come with the bench.
const BUILT_IN: [&str; 6] = [
    include_str!("../../workloads/throughput.toml"),
    include_str!("../../workloads/outstanding.toml"),
    include_str!("../../workloads/latency.toml"),
    include_str!("../../workloads/fan-out.toml"),
    include_str!("../../workloads/drain.toml"),
    include_str!("../../workloads/burst.toml"),
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
    /// Bytes of a payload, at least 16 where it tells when it was due.
    pub(crate) event_bytes: usize,
    pub(crate) payload: Payload,
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
    pub(crate) partitions: u32,
    /// Keys in turn; 0 for none.
    pub(crate) keys: u64,
    pub(crate) groups: usize,
    /// Members of each group.
    pub(crate) members: usize,
    pub(crate) ack: Ack,
    /// Events that are there before the members come, in `drain`.
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    pub(crate) warmup_seconds: f64,
    /// Longest wait for what is still on its way when the time is over, and for
    /// all of a drain.
    pub(crate) patience_seconds: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Publishes, and nobody reads.
    Publish,
    /// Publishes while members work.
    EndToEnd,
    /// Members work off what was published before.
    Drain,
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
            batch: 1,
            producers: 1,
            outstanding: 1,
            rate: 0.0,
            burst: 1.0,
            partitions: 1,
            keys: 0,
            groups: 0,
            members: 0,
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

    fn check(&self) -> anyhow::Result<()> {
        let reads = self.kind != Kind::Publish;
        ensure!(
            !reads || self.event_bytes >= 16,
            "event_bytes is {}, at least 16 are needed to tell when an event was due",
            self.event_bytes
        );
        ensure!(
            (1..=8 << 20).contains(&self.event_bytes),
            "event_bytes is {}",
            self.event_bytes
        );
        ensure!(
            (1..=10_000).contains(&self.batch),
            "batch is {}",
            self.batch
        );
        ensure!(
            (1..=1000).contains(&self.producers),
            "producers is {}",
            self.producers
        );
        ensure!(
            (1..=1_000_000).contains(&self.outstanding),
            "outstanding is {}",
            self.outstanding
        );
        ensure!(
            (0.0..=10_000_000.0).contains(&self.rate),
            "rate is {}",
            self.rate
        );
        ensure!(
            (1.0..=100.0).contains(&self.burst),
            "burst is {}",
            self.burst
        );
        ensure!(
            !reads || (self.groups >= 1 && self.members >= 1),
            "groups is {} and members is {}, and somebody has to read",
            self.groups,
            self.members
        );
        ensure!(
            self.kind != Kind::Drain || self.events >= 1,
            "events is 0, and there is nothing to work off"
        );
        ensure!(
            (0.1..=3600.0).contains(&self.patience_seconds),
            "patience_seconds is {}",
            self.patience_seconds
        );
        ensure!(
            (0.1..=3600.0).contains(&self.seconds) && (0.0..=600.0).contains(&self.warmup_seconds),
            "seconds is {} and warmup_seconds is {}",
            self.seconds,
            self.warmup_seconds
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
