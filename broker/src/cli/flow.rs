//! `sluice flow`: the chain of topics and groups, drawn.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use clap::Args;
use serde_json::{Value, json};
use sluice_client::pb;

use super::{Common, backlog, output};

/// `sluice flow`.
#[derive(Debug, Args)]
pub(super) struct Flow {
    /// Only this topic, and those around it by declared outputs [default: all].
    topic: Option<String>,
    /// How long rates are measured.
    #[arg(long, value_name = "DURATION", default_value = "1s",
          value_parser = output::parse_duration)]
    over: Duration,
    #[command(flatten)]
    common: Common,
}

impl Flow {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let before = admin.describe_flow(self.topic.as_deref()).await?;
        tokio::time::sleep(self.over).await;
        let now = admin.describe_flow(self.topic.as_deref()).await?;
        let drawing = Drawing::of(&before, &now);
        if self.common.json {
            output::json(&drawing.json())?;
            return Ok(());
        }
        for line in drawing.lines() {
            output::line(&output::plain(&line))?;
        }
        Ok(())
    }
}

/// What is drawn: topics, groups, and what happened in between.
struct Drawing<'a> {
    now: &'a pb::DescribeFlowResponse,
    seconds: f64,
    appended: BTreeMap<&'a str, i64>,
    settled: BTreeMap<(&'a str, &'a str), i64>,
}

impl<'a> Drawing<'a> {
    fn of(before: &'a pb::DescribeFlowResponse, now: &'a pb::DescribeFlowResponse) -> Self {
        let time =
            |of: &pb::DescribeFlowResponse| of.at.and_then(|at| SystemTime::try_from(at).ok());
        let between = time(now).zip(time(before));
        let between = between.and_then(|(now, before)| now.duration_since(before).ok());
        let topics = before.topics.iter();
        let groups = before.groups.iter();
        Self {
            now,
            seconds: between.unwrap_or_default().as_secs_f64().max(0.001),
            appended: topics
                .map(|of| (of.topic.as_str(), of.appended_count))
                .collect(),
            settled: groups
                .map(|of| ((of.topic.as_str(), of.group.as_str()), of.settled_count))
                .collect(),
        }
    }

    /// Events that were appended to a topic, per second.
    fn rate_in(&self, of: &pb::FlowTopic) -> f64 {
        let before = self.appended.get(of.topic.as_str());
        self.rate(of.appended_count, before)
    }

    /// Events that a group has settled, per second.
    fn rate_out(&self, of: &pb::FlowGroup) -> f64 {
        let before = self.settled.get(&(of.topic.as_str(), of.group.as_str()));
        self.rate(of.settled_count, before)
    }

    fn rate(&self, now: i64, before: Option<&i64>) -> f64 {
        let rate = before.map_or(0, |before| now - before) as f64 / self.seconds;
        (rate * 10.0).round() / 10.0
    }

    fn groups_of(&self, topic: &'a str) -> impl Iterator<Item = &'a pb::FlowGroup> {
        let groups = self.now.groups.iter();
        groups.filter(move |group| group.topic == topic)
    }

    /// Chains from those topics to which no other leads; what is in a cycle alone
    /// comes last.
    fn lines(&self) -> Vec<String> {
        let outputs: BTreeSet<&str> = self
            .now
            .groups
            .iter()
            .flat_map(|group| {
                let others = group.outputs.iter().filter(|to| to.topic != group.topic);
                others.map(|to| to.topic.as_str())
            })
            .collect();
        let mut lines = Vec::new();
        let mut drawn = BTreeSet::new();
        let (ends, starts): (Vec<_>, Vec<_>) = self
            .now
            .topics
            .iter()
            .partition(|topic| outputs.contains(topic.topic.as_str()));
        for topic in starts.into_iter().chain(ends) {
            if !drawn.contains(topic.topic.as_str()) {
                self.draw_topic(topic, "", "", &mut drawn, &mut lines);
            }
        }
        if self.now.more {
            lines.push("there are more groups; name a topic".to_owned());
        }
        let slowed = self.who_slows_whom();
        if !slowed.is_empty() {
            lines.push(String::new());
            lines.extend(slowed);
        }
        lines
    }

    fn draw_topic(
        &self,
        topic: &'a pb::FlowTopic,
        branch: &str,
        below: &str,
        drawn: &mut BTreeSet<&'a str>,
        lines: &mut Vec<String>,
    ) {
        let name = topic.topic.as_str();
        if !drawn.insert(name) {
            lines.push(format!("{branch}{name} (above)"));
            return;
        }
        let mut line = format!("{branch}{name}  {}/s in", self.rate_in(topic));
        if topic.credit < 1.0 {
            line.push_str(&format!(", credit {:.0} %", topic.credit * 100.0));
        }
        if topic.waiting_count > 0 {
            line.push_str(&format!(", {} requests wait", topic.waiting_count));
        }
        if !topic.full_by.is_empty() {
            line.push_str(&format!(", FULL by {}", topic.full_by));
        }
        lines.push(line);
        let groups: Vec<_> = self.groups_of(name).collect();
        for (at, group) in groups.iter().enumerate() {
            let last = at + 1 == groups.len();
            let branch = format!("{below}{}", if last { "└─ " } else { "├─ " });
            let below = format!("{below}{}", if last { "   " } else { "│  " });
            lines.push(format!("{branch}{}", self.group_line(group)));
            self.draw_outputs(group, &below, drawn, lines);
        }
    }

    fn draw_outputs(
        &self,
        group: &'a pb::FlowGroup,
        below: &str,
        drawn: &mut BTreeSet<&'a str>,
        lines: &mut Vec<String>,
    ) {
        for (at, output) in group.outputs.iter().enumerate() {
            let last = at + 1 == group.outputs.len();
            let arrow = match (last, output.exempt) {
                (true, false) => "└─> ",
                (false, false) => "├─> ",
                (true, true) => "└┄> ",
                (false, true) => "├┄> ",
            };
            let branch = format!("{below}{arrow}");
            let below = format!("{below}{}", if last { "    " } else { "│   " });
            let topic = self.now.topics.iter().find(|of| of.topic == output.topic);
            match topic {
                Some(topic) => self.draw_topic(topic, &branch, &below, drawn, lines),
                None => lines.push(format!("{branch}{}", output.topic)),
            }
        }
    }

    fn group_line(&self, group: &pb::FlowGroup) -> String {
        let state = group.backlog.unwrap_or_default();
        let mut line = format!(
            "{}  {}/s done, {} to do",
            group.group,
            self.rate_out(group),
            state.events
        );
        let limit = backlog::shown(state.limit.as_ref());
        line.push_str(&format!(" ({limit}), {} in flight", group.in_flight));
        line.push_str(&format!(
            ", {} members, credit {}",
            group.member_count, group.credit_events
        ));
        if state.full {
            line.push_str(", FULL");
        }
        if state.abandoned {
            line.push_str(", nobody works for it");
        }
        if let Some(by) = group.outputs.iter().find(|output| output.holds_back) {
            line.push_str(&format!(", held back by {}", by.topic));
        }
        line
    }

    /// One line for each group that is in the way.
    fn who_slows_whom(&self) -> Vec<String> {
        let full = self.now.topics.iter().filter(|of| !of.full_by.is_empty());
        full.map(|topic| {
            let held_back = |group: &&pb::FlowGroup| {
                let mut outputs = group.outputs.iter();
                outputs.any(|output| output.holds_back && output.topic == topic.topic)
            };
            let mut slowed: Vec<String> = self
                .now
                .groups
                .iter()
                .filter(held_back)
                .map(|group| format!("{} on {}", group.group, group.topic))
                .collect();
            if topic.waiting_count > 0 {
                slowed.push(format!("{} requests of producers", topic.waiting_count));
            }
            if slowed.is_empty() {
                slowed.push("nobody yet".to_owned());
            }
            let (by, name) = (&topic.full_by, &topic.topic);
            format!("{by} on {name} slows down: {}", slowed.join(", "))
        })
        .collect()
    }

    fn json(&self) -> Value {
        let topics = self.now.topics.iter().map(|of| {
            json!({
                "topic": of.topic,
                "appended": of.appended_count,
                "rate": self.rate_in(of),
                "credit": of.credit,
                "waiting": of.waiting_count,
                "waiting_bytes": of.waiting_bytes,
                "full_by": of.full_by,
            })
        });
        let groups = self.now.groups.iter().map(|of| {
            let outputs = of.outputs.iter().map(|output| {
                json!({
                    "topic": output.topic,
                    "exempt": output.exempt,
                    "holds_back": output.holds_back,
                })
            });
            json!({
                "topic": of.topic,
                "group": of.group,
                "backlog": backlog::state_json(of.backlog.as_ref()),
                "settled": of.settled_count,
                "rate": self.rate_out(of),
                "in_flight": of.in_flight,
                "members": of.member_count,
                "credit_events": of.credit_events,
                "outputs": outputs.collect::<Vec<_>>(),
                "idle": output::word(of.idle().as_str_name(), "IDLE_REASON_"),
                "idle_detail": of.idle_detail,
            })
        });
        json!({
            "topics": topics.collect::<Vec<_>>(),
            "groups": groups.collect::<Vec<_>>(),
            "more": self.now.more,
        })
    }
}
