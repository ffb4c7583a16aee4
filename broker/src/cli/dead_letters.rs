//! `sluice dlq`.

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_client::{cloudevents, pb};

use super::{Common, output};

/// `sluice dlq`.
#[derive(Debug, Subcommand)]
pub(super) enum Dlq {
    /// Lists a group's dead letters that are neither redriven nor purged.
    List(List),
    /// Shows one dead letter whole: its event, and what was tried.
    Show(Show),
    /// Gives dead letters back to their group, with attempts counted from zero.
    Redrive(Redrive),
    /// Gives dead letters up for good. Needs --yes.
    Purge(Purge),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    matching: Matching,
}

/// Which of the dead letters.
#[derive(Debug, Args)]
pub(super) struct Matching {
    /// Only those of whose event this CEL expression is true.
    #[arg(long)]
    filter: Option<String>,
    /// Only those whose reason has this text in it.
    #[arg(long)]
    reason: Option<String>,
    /// Only those with so many attempts or more.
    #[arg(long, value_name = "COUNT")]
    min_attempts: Option<i32>,
    /// Only those with so many attempts or fewer.
    #[arg(long, value_name = "COUNT")]
    max_attempts: Option<i32>,
}

impl Matching {
    /// What is asked for; `None` when nothing is.
    fn asked(self) -> Option<pb::DeadLetterMatch> {
        let any = self.filter.is_some()
            || self.reason.is_some()
            || self.min_attempts.is_some()
            || self.max_attempts.is_some();
        any.then(|| pb::DeadLetterMatch {
            filter: self.filter.unwrap_or_default(),
            reason_contains: self.reason.unwrap_or_default(),
            min_attempts: self.min_attempts.unwrap_or_default(),
            max_attempts: self.max_attempts.unwrap_or_default(),
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct Purge {
    #[command(flatten)]
    of: Of,
    /// Which, by their offsets in the list.
    offsets: Vec<i64>,
    /// All that there are now, or all of them that match.
    #[arg(long, conflicts_with = "offsets")]
    all: bool,
    #[command(flatten)]
    matching: Matching,
    /// Yes, they are not needed any more.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Of {
    /// The topic that the group reads.
    topic: String,
    /// The group.
    group: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    of: Of,
    /// Which, by its offset in the list.
    offset: i64,
}

#[derive(Debug, Args)]
pub(super) struct Redrive {
    #[command(flatten)]
    of: Of,
    /// Which, by their offsets in the list.
    offsets: Vec<i64>,
    /// All that there are now, or all of them that match.
    #[arg(long, conflicts_with = "offsets")]
    all: bool,
    #[command(flatten)]
    matching: Matching,
    /// Also those that were redriven as often as the group allows.
    #[arg(long)]
    force: bool,
}

impl Dlq {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(list) => list.run().await,
            Self::Show(show) => show.run().await,
            Self::Redrive(redrive) => redrive.run().await,
            Self::Purge(purge) => purge.run().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let of = self.of;
        let admin = of.common.connect().await?.admin();
        let letters = admin
            .matching_dead_letters(
                &of.topic,
                &of.group,
                self.matching.asked().unwrap_or_default(),
            )
            .await?;
        if of.common.json {
            for letter in &letters {
                output::json(&letter_json(letter))?;
            }
            return Ok(());
        }
        let rows = letters.into_iter().map(|letter| {
            let event = letter.event.unwrap_or_default();
            let history = letter.history.unwrap_or_default();
            [
                letter.dead_letter_offset.to_string(),
                event.id,
                event.r#type,
                format!("{}/{}", history.partition, history.offset),
                history.attempt_count.to_string(),
                output::timestamp(history.dead_lettered_at),
                history.reason,
            ]
        });
        output::table(
            [
                "offset", "event", "type", "from", "attempts", "since", "reason",
            ],
            rows,
        )?;
        Ok(())
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let Self { of, offset } = self;
        let admin = of.common.connect().await?.admin();
        let Some(letter) = admin.dead_letter(&of.topic, &of.group, offset).await? else {
            bail!(
                "group {} on {} has no dead letter at offset {offset}, or it was redriven; \
                 `sluice dlq list` tells which there are",
                of.group,
                of.topic
            );
        };
        if of.common.json {
            output::json(&letter_json(&letter))?;
            return Ok(());
        }
        let history = letter.history.clone().unwrap_or_default();
        output::fields(&[
            ("offset", letter.dead_letter_offset.to_string()),
            (
                "from",
                format!("{}/{}/{}", history.topic, history.partition, history.offset),
            ),
            ("since", output::timestamp(history.dead_lettered_at)),
            ("reason", history.reason),
            ("redriven before", history.redrives.to_string()),
        ])?;
        let rows = history.attempts.iter().map(|of| {
            [
                of.attempt.to_string(),
                output::timestamp(of.ended_at),
                of.member.clone(),
                how(of),
                of.reason.clone(),
            ]
        });
        output::table(["attempt", "ended", "member", "how", "reason"], rows)?;
        let event = cloudevents::to_json(&letter.event.unwrap_or_default());
        output::line(&serde_json::to_string_pretty(&event)?)?;
        Ok(())
    }
}

impl Redrive {
    async fn run(self) -> anyhow::Result<()> {
        let of = self.of;
        let chosen = chosen(self.all, self.offsets, self.matching)?;
        let admin = of.common.connect().await?.admin();
        let (topic, group) = (&of.topic, &of.group);
        let done = match chosen {
            Chosen::Matching(which) => {
                let force = self.force;
                admin.redrive_matching(topic, group, which, force).await?
            }
            Chosen::Offsets(offsets) => admin.redrive(topic, group, offsets, self.force).await?,
        };
        let (redriven, capped) = (done.redriven_count, done.capped_count);
        if of.common.json {
            output::json(&json!({"redriven": redriven, "capped": capped}))?;
            return Ok(());
        }
        output::line(&format!("{redriven} redriven to group {}", of.group))?;
        if capped > 0 {
            output::line(&format!(
                "{capped} were redriven too often before; --force redrives them too"
            ))?;
        }
        Ok(())
    }
}

impl Purge {
    async fn run(self) -> anyhow::Result<()> {
        let of = self.of;
        let chosen = chosen(self.all, self.offsets, self.matching)?;
        if !self.yes {
            bail!("nobody gets them back; --yes purges them");
        }
        let admin = of.common.connect().await?.admin();
        let (topic, group) = (&of.topic, &of.group);
        let purged = match chosen {
            Chosen::Matching(which) => admin.purge_matching(topic, group, which).await?,
            Chosen::Offsets(offsets) => admin.purge_dead_letters(topic, group, offsets).await?,
        };
        if of.common.json {
            output::json(&json!({"purged": purged}))?;
        } else {
            output::line(&format!("{purged} purged"))?;
        }
        Ok(())
    }
}

/// Which dead letters are meant.
enum Chosen {
    /// `None` for all.
    Offsets(Option<Vec<i64>>),
    /// All that match.
    Matching(pb::DeadLetterMatch),
}

fn chosen(all: bool, offsets: Vec<i64>, matching: Matching) -> anyhow::Result<Chosen> {
    match (all, offsets.is_empty(), matching.asked()) {
        (true, _, Some(matching)) => Ok(Chosen::Matching(matching)),
        (true, _, None) => Ok(Chosen::Offsets(None)),
        (false, false, None) => Ok(Chosen::Offsets(Some(offsets))),
        (false, _, Some(_)) => bail!("which of all match? that goes with --all"),
        (false, true, None) => bail!("which? give their offsets, or --all"),
    }
}

/// How an attempt ended. One that was not counted is followed by one of the same
/// number.
fn how(attempt: &pb::FailedAttempt) -> String {
    let how = end(attempt);
    if attempt.uncounted {
        format!("{how}, not counted")
    } else {
        how
    }
}

fn end(attempt: &pb::FailedAttempt) -> String {
    output::word(attempt.end().as_str_name(), "ATTEMPT_END_")
}

fn letter_json(letter: &pb::DeadLetter) -> Value {
    let history = letter.history.clone().unwrap_or_default();
    let attempts: Vec<_> = history
        .attempts
        .iter()
        .map(|of| {
            json!({
                "attempt": of.attempt,
                "ended_at": output::timestamp(of.ended_at),
                "member": of.member,
                "end": end(of),
                "reason": of.reason,
                "uncounted": of.uncounted,
            })
        })
        .collect();
    json!({
        "dead_letter_offset": letter.dead_letter_offset,
        "topic": history.topic,
        "group": history.group,
        "partition": history.partition,
        "offset": history.offset,
        "reason": history.reason,
        "attempt_count": history.attempt_count,
        "attempts": attempts,
        "dead_lettered_at": output::timestamp(history.dead_lettered_at),
        "redrives": history.redrives,
        "event": letter.event.as_ref().map(cloudevents::to_json),
    })
}
