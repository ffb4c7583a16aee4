//! `sluice filter`, and the flags by which other commands take a filter.

use std::collections::BTreeMap;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_client::pb::{self, event_filter::Dialect as Pb};

use super::{Common, output};
use sluice_broker::filter::Dialect;

/// `sluice filter`.
#[derive(Debug, Subcommand)]
pub(super) enum Filter {
    /// Tries a filter on the newest events of a topic: how many match, and what
    /// each term drops.
    Test(Test),
    /// Tells why an event reached a group or did not, and where it stands.
    Why(Why),
}

/// A filter in another language than CEL.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub(super) struct Dialects {
    /// Filters of the CloudEvents Subscriptions API as JSON, of which every one
    /// must be true, for example '[{"prefix": {"type": "image."}}]'.
    #[arg(long, value_name = "JSON", conflicts_with = "filter")]
    filter_json: Option<String>,
    /// A CloudEvents SQL expression, for example "type LIKE 'image.%'".
    #[arg(long, value_name = "EXPR", conflicts_with = "filter")]
    cesql: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Test {
    /// A CEL expression, for example 'event.data.confidence < 0.8'.
    #[arg(value_name = "EXPR", default_value = "", hide_default_value = true)]
    filter: String,
    #[command(flatten)]
    dialects: Dialects,
    /// The topic.
    #[arg(long)]
    topic: String,
    /// How many of its newest events are tried, at most 100000.
    #[arg(long, default_value_t = 10_000)]
    last: i64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Why {
    /// Which event.
    #[arg(value_name = "TOPIC/PARTITION/OFFSET", value_parser = parse_place)]
    event: Place,
    /// The group.
    #[arg(long)]
    group: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Debug)]
struct Place {
    topic: String,
    partition: i32,
    offset: i64,
}

fn parse_place(text: &str) -> Result<Place, String> {
    let mut parts = text.split('/');
    let mut next = || parts.next();
    if let (Some(topic), Some(partition), Some(offset), None) = (next(), next(), next(), next())
        && let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse())
    {
        return Ok(Place {
            topic: topic.to_owned(),
            partition,
            offset,
        });
    }
    Err(format!("{text:?} is not as in uploads/0/4711"))
}

impl Dialects {
    /// The filters as a request has them; none without a flag.
    pub(super) fn filters(&self) -> anyhow::Result<Vec<pb::EventFilter>> {
        if let Some(source) = &self.cesql {
            return Ok(vec![pb_filter(Dialect::Sql(source.clone()))]);
        }
        let Some(json) = &self.filter_json else {
            return Ok(Vec::new());
        };
        let one_or_more: Value = serde_json::from_str(json).context("--filter-json")?;
        let list = match one_or_more {
            Value::Array(list) => list,
            one => vec![one],
        };
        let parse = |(at, filter)| {
            let filter: Dialect =
                serde_json::from_value(filter).with_context(|| format!("--filter-json: [{at}]"))?;
            Ok(pb_filter(filter))
        };
        list.into_iter().enumerate().map(parse).collect()
    }
}

fn pb_filter(filter: Dialect) -> pb::EventFilter {
    let attributes = |of: BTreeMap<String, String>| pb::AttributeFilter {
        attributes: of.into_iter().collect(),
    };
    let list = |of: Vec<Dialect>| pb::FilterList {
        filters: of.into_iter().map(pb_filter).collect(),
    };
    let dialect = match filter {
        Dialect::Exact(of) => Pb::Exact(attributes(of)),
        Dialect::Prefix(of) => Pb::Prefix(attributes(of)),
        Dialect::Suffix(of) => Pb::Suffix(attributes(of)),
        Dialect::All(of) => Pb::All(list(of)),
        Dialect::Any(of) => Pb::Any(list(of)),
        Dialect::Not(of) => Pb::Not(Box::new(pb_filter(*of))),
        Dialect::Sql(source) => Pb::Sql(source),
    };
    pb::EventFilter {
        dialect: Some(dialect),
    }
}

/// Filters in the specification's JSON.
pub(super) fn filters_json(filters: &[pb::EventFilter]) -> Value {
    filters.iter().map(filter_json).collect()
}

fn filter_json(filter: &pb::EventFilter) -> Value {
    match &filter.dialect {
        Some(Pb::Exact(of)) => json!({ "exact": of.attributes }),
        Some(Pb::Prefix(of)) => json!({ "prefix": of.attributes }),
        Some(Pb::Suffix(of)) => json!({ "suffix": of.attributes }),
        Some(Pb::All(of)) => json!({ "all": filters_json(&of.filters) }),
        Some(Pb::Any(of)) => json!({ "any": filters_json(&of.filters) }),
        Some(Pb::Not(of)) => json!({ "not": filter_json(of) }),
        Some(Pb::Sql(source)) => json!({ "sql": source }),
        None => json!({}),
    }
}

/// A group's filter, in whichever language it is.
pub(super) fn shown(config: &pb::GroupConfig) -> String {
    if config.filters.is_empty() {
        config.filter.clone()
    } else {
        filters_json(&config.filters).to_string()
    }
}

impl Filter {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Test(test) => test.run().await,
            Self::Why(why) => why.run().await,
        }
    }
}

impl Test {
    async fn run(self) -> anyhow::Result<()> {
        let request = pb::TestFilterRequest {
            topic: self.topic,
            filter: self.filter,
            filters: self.dialects.filters()?,
            last: self.last,
        };
        let admin = self.common.connect().await?.admin();
        let tested = admin.test_filter(request).await?;
        let counters = tested.counters.unwrap_or_default();
        if self.common.json {
            output::json(&json!({
                "counters": counters_json(&counters),
                "matched": tested.matched.iter().map(sample_json).collect::<Vec<_>>(),
                "dropped": tested.dropped.iter().map(sample_json).collect::<Vec<_>>(),
                "ended_early": tested.ended_early,
            }))?;
            return Ok(());
        }
        counters_table(&counters)?;
        let places = |samples: &[pb::FilterSample]| {
            let place = |of: &pb::FilterSample| format!("{}/{}", of.partition, of.offset);
            samples.iter().map(place).collect::<Vec<_>>().join(" ")
        };
        output::line("")?;
        output::fields(&[
            ("matched, for example", places(&tested.matched)),
            ("dropped, for example", places(&tested.dropped)),
        ])?;
        if tested.ended_early {
            output::line("the time was up before all events were tried")?;
        }
        Ok(())
    }
}

/// What a filter did, term by term.
pub(super) fn counters_table(counters: &pb::FilterCounters) -> anyhow::Result<()> {
    let row =
        |what: &str, count: i64, more: &str| [what.to_owned(), count.to_string(), more.to_owned()];
    let error = counters.last_error.as_ref().map_or_else(String::new, |of| {
        format!("last at {}/{}: {}", of.partition, of.offset, of.message)
    });
    let mut rows = vec![
        row("seen", counters.seen_count, ""),
        row("matched", counters.matched_count, ""),
    ];
    let terms = counters.terms.iter();
    rows.extend(terms.map(|term| row("dropped", term.dropped_count, &term.term)));
    rows.push(row("errors", counters.error_count, &error));
    output::table(["filter", "events", "by"], rows)?;
    Ok(())
}

pub(super) fn counters_json(counters: &pb::FilterCounters) -> Value {
    let terms = counters.terms.iter();
    let terms = terms.map(|of| json!({"term": of.term, "dropped": of.dropped_count}));
    json!({
        "seen": counters.seen_count,
        "matched": counters.matched_count,
        "terms": terms.collect::<Vec<_>>(),
        "errors": counters.error_count,
        "last_error": counters.last_error.as_ref().map(|of| json!({
            "partition": of.partition,
            "offset": of.offset,
            "term": of.term,
            "message": of.message,
        })),
    })
}

fn sample_json(sample: &pb::FilterSample) -> Value {
    json!({
        "partition": sample.partition,
        "offset": sample.offset,
        "term": sample.term,
        "error": sample.error,
    })
}

impl Why {
    async fn run(self) -> anyhow::Result<()> {
        let Place {
            topic,
            partition,
            offset,
        } = self.event;
        let request = pb::ExplainEventRequest {
            topic,
            group: self.group,
            partition,
            offset,
        };
        let admin = self.common.connect().await?.admin();
        let of = admin.explain_event(request).await?;
        let state = output::word(of.state().as_str_name(), "EVENT_STATE_");
        if self.common.json {
            output::json(&json!({
                "state": state,
                "detail": of.detail,
                "matches": of.matches,
                "terms": of.terms.iter().map(term_json).collect::<Vec<_>>(),
                "attempt": of.attempt,
                "member": of.member,
                "dead_letter_offset": of.dead_letter_offset,
            }))?;
            return Ok(());
        }
        let mut fields = vec![
            ("state", format!("{state}: {}", of.detail)),
            (
                "filter",
                if of.matches {
                    "matches"
                } else {
                    "does not match"
                }
                .into(),
            ),
        ];
        if of.attempt > 0 {
            fields.push(("attempt", of.attempt.to_string()));
        }
        if !of.member.is_empty() {
            fields.push(("member", of.member.clone()));
        }
        output::fields(&fields)?;
        if of.terms.is_empty() {
            return Ok(());
        }
        output::line("")?;
        let rows = of.terms.iter().map(|term| {
            let holds = match term.holds {
                Some(true) => "true".to_owned(),
                Some(false) => "false".to_owned(),
                None => format!("error: {}", term.error),
            };
            let value = |seen: &pb::SeenValue| {
                let value = seen.value.as_deref().unwrap_or("absent");
                format!("{} = {value}", seen.name)
            };
            let values: Vec<_> = term.values.iter().map(value).collect();
            [term.term.clone(), holds, values.join(", ")]
        });
        output::table(["term", "holds", "values"], rows)?;
        Ok(())
    }
}

fn term_json(term: &pb::TermExplanation) -> Value {
    let values = term.values.iter();
    let values = values.map(|seen| json!({"name": seen.name, "value": seen.value}));
    json!({
        "term": term.term,
        "holds": term.holds,
        "error": term.error,
        "values": values.collect::<Vec<_>>(),
    })
}
