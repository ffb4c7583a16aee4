//! Many groups on one topic whose filters fix the type, source or subject: each
//! gets what its filter lets through, and counts the rest, whether it was led to
//! its events or had to look at each.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use sluice_proto::pb::{
    Ack, Channel, CreateTopicRequest, Event, GroupConfig, Latest, Ordering, PullRequest, ReadStart,
    SettleRequest, Settlement, TopicConfig, UpdateGroupRequest, read_start::At, settlement::Action,
};
use sluice_tests::{
    api::{Api, expect},
    broker::TestBroker,
    seed::seeded,
};

const TYPES: usize = 30;
const SOURCES: usize = 5;

/// What of an event the filters look at.
#[derive(Clone, Debug)]
struct Seen {
    kind: usize,
    source: usize,
    /// An event may have none.
    subject: Option<usize>,
    size: usize,
}

/// What a filter says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Yes,
    No,
    Fails,
}

type Judge = Box<dyn Fn(&Seen) -> Says>;

struct Group {
    name: String,
    judge: Judge,
    /// Events of the topic before it.
    start: usize,
    got: BTreeSet<usize>,
}

fn says(holds: bool) -> Says {
    if holds { Says::Yes } else { Says::No }
}

/// A filter by chance, and what it says.
fn filter(rng: &mut StdRng) -> (String, Judge) {
    let (a, b) = (rng.random_range(0..TYPES), rng.random_range(0..TYPES));
    let source = rng.random_range(0..SOURCES);
    match rng.random_range(0..7) {
        0 | 1 => (
            format!("event.type == 't{a}'"),
            Box::new(move |seen| says(seen.kind == a)),
        ),
        2 => (
            format!("event.type in ['t{a}', 't{b}', 1]"),
            Box::new(move |seen| says([a, b].contains(&seen.kind))),
        ),
        3 => (
            format!("event.data.size < 50 && 's{source}' == event.source"),
            Box::new(move |seen| says(seen.size < 50 && seen.source == source)),
        ),
        4 => (
            format!("event.subject == '{source}'"),
            Box::new(move |seen| match seen.subject {
                Some(subject) => says(subject == source),
                None => Says::Fails,
            }),
        ),
        5 => (
            format!(
                "(event.subject == '0' || event.subject == '1') && event.source == 's{source}'"
            ),
            Box::new(move |seen| match seen.subject {
                _ if seen.source != source => Says::No,
                Some(subject) => says(subject < 2),
                None => Says::Fails,
            }),
        ),
        _ => (
            format!("event.source.startsWith('s{source}')"),
            Box::new(move |seen| says(seen.source == source)),
        ),
    }
}

fn make(rng: &mut StdRng, number: usize) -> (Event, Seen) {
    let seen = Seen {
        kind: rng.random_range(0..TYPES),
        source: rng.random_range(0..SOURCES),
        subject: rng.random_bool(0.8).then(|| rng.random_range(0..SOURCES)),
        size: rng.random_range(0..100),
    };
    let event = Event {
        id: number.to_string(),
        source: format!("s{}", seen.source),
        r#type: format!("t{}", seen.kind),
        subject: seen.subject.map(|s| s.to_string()).unwrap_or_default(),
        data_content_type: "application/json".to_owned(),
        data: format!("{{\"size\": {}}}", seen.size).into(),
        ..Event::default()
    };
    (event, seen)
}

fn config(filter: &str) -> GroupConfig {
    GroupConfig {
        ordering: Ordering::None.into(),
        filter: filter.to_owned(),
        ..GroupConfig::default()
    }
}

/// Takes and acks what is there, without waiting for more.
async fn pull(api: &Api, group: &str) -> Vec<usize> {
    let request = PullRequest {
        topic: "in".to_owned(),
        group: group.to_owned(),
        max_events: 1000,
        wait: Some(prost_types::Duration {
            seconds: 0,
            nanos: 50_000_000,
        }),
        ..PullRequest::default()
    };
    let pulled = expect("a pull", api.broker.clone().pull(request)).await;
    let deliveries = pulled.unwrap().into_inner().deliveries;
    let ids = deliveries
        .iter()
        .map(|of| of.event.as_ref().unwrap().id.parse().unwrap());
    let ids = ids.collect();
    let request = SettleRequest {
        topic: "in".to_owned(),
        group: group.to_owned(),
        settlements: deliveries
            .into_iter()
            .map(|of| Settlement {
                lease: of.lease,
                action: Some(Action::Ack(Ack {})),
            })
            .collect(),
    };
    if !request.settlements.is_empty() {
        let settled = api.broker.clone().settle(request).await.unwrap();
        assert!(settled.into_inner().failures.is_empty());
    }
    ids
}

/// Pulls until the group has seen all events.
async fn drain(api: &Api, group: &mut Group, seen: usize) {
    loop {
        let ids = pull(api, &group.name).await;
        let described = api.describe_group("in", &group.name).await;
        let counters = described.filter_counters.unwrap();
        if ids.is_empty() && counters.seen_count >= seen as i64 {
            return;
        }
        for id in ids {
            assert!(group.got.insert(id), "{} got {id} twice", group.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_groups_gets_what_its_filter_fixes() {
    const GROUPS: usize = 40;
    const BATCHES: usize = 60;
    let mut rng = seeded();
    // So few that groups fall behind what is in the index.
    let broker = TestBroker::start_with(&["--limit", "filter_index_entries_max=1024"]);
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 3).await;

    let mut events: Vec<Seen> = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    for batch in 0..BATCHES {
        for _ in 0..if batch == 0 { GROUPS / 2 } else { 1 } {
            if groups.len() == GROUPS {
                break;
            }
            let (filter, judge) = filter(&mut rng);
            let name = format!("g{}", groups.len());
            let latest = rng.random_bool(0.5);
            let mut config = config(&filter);
            if latest {
                config.start = Some(ReadStart {
                    at: Some(At::Latest(Latest {})),
                    ..ReadStart::default()
                });
            }
            api.create_group("in", &name, config).await;
            groups.push(Group {
                name,
                judge,
                start: if latest { events.len() } else { 0 },
                got: BTreeSet::new(),
            });
        }
        let size = rng.random_range(1..400);
        let (made, seen): (Vec<_>, Vec<_>) = (0..size)
            .map(|at| make(&mut rng, events.len() + at))
            .unzip();
        api.publish("in", made).await.unwrap();
        events.extend(seen);
        let group = rng.random_range(0..groups.len());
        for id in pull(&api, &groups[group].name).await {
            assert!(groups[group].got.insert(id));
        }
    }
    for group in &mut groups {
        let after = &events[group.start..];
        drain(&api, group, after.len()).await;
        let of = |wanted: Says| {
            let all = after.iter().enumerate();
            let those = all.filter(|(_, seen)| (group.judge)(seen) == wanted);
            those
                .map(|(at, _)| group.start + at)
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(group.got, of(Says::Yes), "{}", group.name);
        let described = api.describe_group("in", &group.name).await;
        let counters = described.filter_counters.unwrap();
        assert_eq!(counters.seen_count, after.len() as i64);
        assert_eq!(counters.matched_count, group.got.len() as i64);
        assert_eq!(counters.error_count, of(Says::Fails).len() as i64);
        let dropped: i64 = counters.terms.iter().map(|term| term.dropped_count).sum();
        assert_eq!(dropped, of(Says::No).len() as i64);
        for partition in &described.partitions {
            assert_eq!(partition.lag, 0, "{}", group.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_replaced_leads_to_other_events() {
    let mut rng = seeded();
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_group("in", "g", config("event.type == 't0'"))
        .await;
    let mut all = Vec::new();
    let publish = async |all: &mut Vec<Seen>, rng: &mut StdRng| {
        let (made, seen): (Vec<_>, Vec<_>) = (0..500).map(|at| make(rng, all.len() + at)).unzip();
        api.publish("in", made).await.unwrap();
        all.extend(seen);
    };
    let expected = |all: &[Seen], from: usize, kind: usize| {
        let all = all.iter().enumerate().skip(from);
        let those = all.filter(|(_, seen)| seen.kind == kind);
        those.map(|(at, _)| at).collect::<BTreeSet<_>>()
    };
    let mut group = Group {
        name: "g".to_owned(),
        judge: Box::new(|_| Says::No),
        start: 0,
        got: BTreeSet::new(),
    };
    publish(&mut all, &mut rng).await;
    drain(&api, &mut group, 500).await;
    assert_eq!(group.got, expected(&all, 0, 0));

    // From now on, then from the beginning.
    for (kind, from, filter_from) in [(1, 500, None), (2, 0, Some(At::Offset(0)))] {
        let request = UpdateGroupRequest {
            topic: "in".to_owned(),
            group: "g".to_owned(),
            config: Some(config(&format!("event.type == 't{kind}'"))),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["filter".to_owned()],
            }),
            filter_from: filter_from.map(|at| ReadStart {
                at: Some(at),
                epoch: 0,
            }),
        };
        api.admin.clone().update_group(request).await.unwrap();
        group.got.clear();
        publish(&mut all, &mut rng).await;
        drain(&api, &mut group, all.len() - from).await;
        assert_eq!(group.got, expected(&all, from, kind));
    }
}

/// The ring of a memory topic drops events before a group has come to them.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_dropped_leave_the_index() {
    let mut rng = seeded();
    let broker = TestBroker::start_with(&["--limit", "memory_topic_bytes=1200000"]);
    let api = Api::connect(broker.url()).await;
    let request = CreateTopicRequest {
        topic: "in".to_owned(),
        config: Some(TopicConfig {
            partitions: 1,
            channel: Channel::Memory.into(),
            ..TopicConfig::default()
        }),
    };
    api.admin.clone().create_topic(request).await.unwrap();
    let source = *[0, 1, 2].choose(&mut rng).unwrap();
    let filter = format!("event.source == 's{source}'");
    api.create_group("in", "g", config(&filter)).await;
    let mut all: Vec<Seen> = Vec::new();
    let mut got = BTreeSet::new();
    for batch in 0..40 {
        let made: Vec<_> = (0..500).map(|at| make(&mut rng, all.len() + at)).collect();
        let (mut events, seen): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        for event in &mut events {
            event.subject = "x".repeat(200);
        }
        api.publish("in", events).await.unwrap();
        all.extend(seen);
        if batch % 10 == 9 {
            for id in pull(&api, "g").await {
                assert!(got.insert(id));
            }
        }
    }
    loop {
        let more = pull(&api, "g").await;
        if more.is_empty() {
            break;
        }
        for id in more {
            assert!(got.insert(id));
        }
    }
    let all = all.iter().enumerate();
    let wanted: BTreeSet<usize> = all
        .filter(|(_, seen)| seen.source == source)
        .map(|(at, _)| at)
        .collect();
    assert!(got.is_subset(&wanted));
    let described = api.describe_group("in", "g").await;
    let partition = &described.partitions[0];
    assert_eq!(partition.lag, 0);
    assert!(described.dropped_count > 0, "{described:?}");
    // Some were dropped after the filter had let them through.
    let matched = described.filter_counters.unwrap().matched_count as usize;
    assert!((got.len()..=wanted.len()).contains(&matched), "{matched}");
    let newest = wanted.last().unwrap();
    assert!(got.contains(newest), "the newest, {newest}, is missing");
}
