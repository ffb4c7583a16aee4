//! Filters as users see them: what they let through, what they count, and why.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use sluice_proto::pb::{
    Ack, AttributeFilter, CreateGroupRequest, DescribeGroupRequest, Event, EventFilter, EventState,
    ExplainEventRequest, ExplainEventResponse, FilterCounters, FilterList, GroupConfig, Latest,
    Nack, Ordering, PullRequest, ReadStart, Reject, SettleRequest, Settlement, TestFilterRequest,
    event_filter::Dialect, read_start::At, settlement::Action,
};
use sluice_tests::{
    api::{Api, expect},
    broker::TestBroker,
    seed::seeded,
};

type Place = (i32, i64);

/// What a term says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Yes,
    No,
    Fails,
}

/// An event, and what each term of each group says of it.
struct Made {
    event: Event,
    cel: [Says; 3],
    dialects: [Says; 3],
}

const CEL: &str =
    "event.type == 'image.ready' && event.data.confidence < 0.8 && event.source.startsWith('/a')";

fn dialects() -> Vec<EventFilter> {
    let attribute = |name: &str, value: &str| AttributeFilter {
        attributes: HashMap::from([(name.to_owned(), value.to_owned())]),
    };
    let filters = [
        Dialect::Exact(attribute("type", "image.ready")),
        Dialect::Prefix(attribute("source", "/a")),
        Dialect::Sql("priority + 1 > 5".to_owned()),
    ];
    filters
        .map(|dialect| EventFilter {
            dialect: Some(dialect),
        })
        .into()
}

fn make(rng: &mut StdRng, number: usize) -> Made {
    let says = |holds: bool| if holds { Says::Yes } else { Says::No };
    let ready = rng.random_bool(0.5);
    let from_a = rng.random_bool(0.6);
    let mut event = Event {
        id: number.to_string(),
        source: if from_a { "/a/1" } else { "/b/1" }.to_owned(),
        r#type: if ready { "image.ready" } else { "image.lost" }.to_owned(),
        data_content_type: "application/json".to_owned(),
        ..Event::default()
    };
    let (data, confidence) = match rng.random_range(0..10) {
        0 => ("{\"other\": 1}".to_owned(), Says::Fails),
        1 => ("{\"confidence\": \"high\"}".to_owned(), Says::Fails),
        2 => ("{".to_owned(), Says::Fails),
        _ => {
            let confidence = f64::from(rng.random_range(0..100_u32)) / 100.0;
            let json = json!({ "confidence": confidence }).to_string();
            (json, says(confidence < 0.8))
        }
    };
    event.data = data.into();
    let priority = match rng.random_range(0..10) {
        0 => Says::Fails,
        1 => {
            event.attributes.insert("priority".into(), "high".into());
            Says::Fails
        }
        _ => {
            let priority = rng.random_range(0..10);
            event
                .attributes
                .insert("priority".into(), priority.to_string());
            says(priority + 1 > 5)
        }
    };
    Made {
        event,
        cel: [says(ready), confidence, says(from_a)],
        dialects: [says(ready), says(from_a), priority],
    }
}

/// Which term drops an event, if any, or whether it fails.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    seen: i64,
    matched: i64,
    dropped: Vec<i64>,
    errors: i64,
}

impl Expected {
    fn count(&mut self, terms: &[Says; 3]) {
        self.seen += 1;
        self.dropped.resize(3, 0);
        match terms.iter().position(|says| *says == Says::No) {
            Some(term) => self.dropped[term] += 1,
            None if terms.contains(&Says::Fails) => self.errors += 1,
            None => self.matched += 1,
        }
    }

    fn of(counters: &FilterCounters) -> Self {
        Self {
            seen: counters.seen_count,
            matched: counters.matched_count,
            dropped: counters.terms.iter().map(|of| of.dropped_count).collect(),
            errors: counters.error_count,
        }
    }
}

async fn counters(api: &Api, group: &str) -> FilterCounters {
    let request = DescribeGroupRequest {
        topic: "in".to_owned(),
        group: group.to_owned(),
        ..Default::default()
    };
    let described = api.admin.clone().describe_group(request).await.unwrap();
    described.into_inner().filter_counters.unwrap()
}

/// Takes and acks all that comes, until the group has seen so many events.
async fn drain(api: &Api, group: &str, seen: i64) -> Vec<Place> {
    let mut places = Vec::new();
    loop {
        let request = PullRequest {
            topic: "in".to_owned(),
            group: group.to_owned(),
            max_events: 1000,
            wait: Some(prost_types::Duration {
                seconds: 0,
                nanos: 200_000_000,
            }),
            ..PullRequest::default()
        };
        let pulled = expect("a pull", api.broker.clone().pull(request)).await;
        let pulled = pulled.unwrap().into_inner().deliveries;
        if pulled.is_empty() && counters(api, group).await.seen_count >= seen {
            return places;
        }
        let ack = |lease| Settlement {
            lease,
            action: Some(Action::Ack(Ack {})),
        };
        places.extend(pulled.iter().map(|of| (of.partition, of.offset)));
        let request = SettleRequest {
            topic: "in".to_owned(),
            group: group.to_owned(),
            settlements: pulled.into_iter().map(|of| ack(of.lease)).collect(),
        };
        let settled = api.broker.clone().settle(request).await.unwrap();
        assert!(settled.into_inner().failures.is_empty());
    }
}

async fn explain(api: &Api, group: &str, (partition, offset): Place) -> ExplainEventResponse {
    let request = ExplainEventRequest {
        topic: "in".to_owned(),
        group: group.to_owned(),
        partition,
        offset,
    };
    let explained = api.admin.clone().explain_event(request).await;
    explained.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_add_up_and_explain_agrees_with_delivery() {
    const EVENTS: usize = 100_000;
    const BATCH: usize = 5_000;
    /// Of each of the two groups.
    const SAMPLE: usize = 500;
    let mut rng = seeded();
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 3).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    };
    let of_cel = GroupConfig {
        filter: CEL.to_owned(),
        ..config.clone()
    };
    let of_dialects = GroupConfig {
        filters: dialects(),
        ..config
    };
    api.create_group("in", "cel", of_cel).await;
    api.create_group("in", "dialects", of_dialects).await;

    let mut said: BTreeMap<Place, ([Says; 3], [Says; 3])> = BTreeMap::new();
    let (mut of_cel, mut of_dialects) = (Expected::default(), Expected::default());
    for batch in 0..EVENTS / BATCH {
        let made: Vec<_> = (0..BATCH)
            .map(|at| make(&mut rng, batch * BATCH + at))
            .collect();
        let events = made.iter().map(|of| of.event.clone()).collect();
        // Without keys, a batch goes to one partition, in order.
        let ranges = api.publish("in", events).await.unwrap();
        assert_eq!(ranges.len(), 1);
        for (at, made) in made.iter().enumerate() {
            let place = (ranges[0].partition, ranges[0].first_offset + at as i64);
            said.insert(place, (made.cel, made.dialects));
            of_cel.count(&made.cel);
            of_dialects.count(&made.dialects);
        }
    }
    let places: Vec<Place> = said.keys().copied().collect();
    for (group, expected) in [("cel", of_cel), ("dialects", of_dialects)] {
        let mut delivered = drain(&api, group, EVENTS as i64).await;
        delivered.sort_unstable();
        let is = counters(&api, group).await;
        assert_eq!(Expected::of(&is), expected, "{group}");
        let sum = expected.matched + expected.dropped.iter().sum::<i64>() + expected.errors;
        assert_eq!(sum, EVENTS as i64, "{group}");
        assert_eq!(delivered.len() as i64, expected.matched, "{group}");
        let terms = |place: &Place| {
            let (cel, dialects) = &said[place];
            if group == "cel" { cel } else { dialects }
        };
        let last = is.last_error.unwrap();
        assert!(terms(&(last.partition, last.offset)).contains(&Says::Fails));

        for place in places.sample(&mut rng, SAMPLE) {
            let was_delivered = delivered.binary_search(place).is_ok();
            let explained = explain(&api, group, *place).await;
            let state = if was_delivered {
                EventState::Settled
            } else {
                EventState::Filtered
            };
            let what = format!("{group} {place:?}: {explained:?}");
            assert_eq!(explained.matches, was_delivered, "{what}");
            assert_eq!(explained.state(), state, "{what}");
            assert_eq!(explained.terms.len(), 3, "{what}");
            for (term, says) in explained.terms.iter().zip(terms(place)) {
                let holds = match says {
                    Says::Yes => Some(true),
                    Says::No => Some(false),
                    Says::Fails => None,
                };
                assert_eq!(term.holds, holds, "{what}");
                assert_eq!(term.error.is_empty(), holds.is_some(), "{what}");
            }
        }
    }

    // A test of the same filter over all events says the same.
    let request = TestFilterRequest {
        topic: "in".to_owned(),
        filter: CEL.to_owned(),
        last: EVENTS as i64,
        ..TestFilterRequest::default()
    };
    let tested = api
        .admin
        .clone()
        .test_filter(request)
        .await
        .unwrap()
        .into_inner();
    if !tested.ended_early {
        let of_test = Expected::of(&tested.counters.unwrap());
        assert_eq!(of_test, Expected::of(&counters(&api, "cel").await));
    }
    for sample in &tested.matched {
        assert!(
            said[&(sample.partition, sample.offset)]
                .0
                .iter()
                .all(|says| *says == Says::Yes)
        );
    }
    for sample in &tested.dropped {
        let term = sample.term.unwrap() as usize;
        assert_ne!(said[&(sample.partition, sample.offset)].0[term], Says::Yes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_where_an_event_stands() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let event = |id: &str, r#type: &str| Event {
        id: id.to_owned(),
        source: "/test".to_owned(),
        r#type: r#type.to_owned(),
        data_content_type: "application/json".to_owned(),
        data: br#"{"confidence": 0.75}"#.as_slice().into(),
        ..Event::default()
    };
    api.publish("in", vec![event("0", "a")]).await.unwrap();
    let config = GroupConfig {
        filter: "event.type == 'a' && event.data.confidence < 0.8".to_owned(),
        max_in_flight: 1,
        start: Some(ReadStart {
            at: Some(At::Latest(Latest {})),
            ..ReadStart::default()
        }),
        ..GroupConfig::default()
    };
    api.create_group("in", "g", config).await;
    let more = vec![
        event("1", "b"),
        event("2", "a"),
        event("3", "a"),
        event("4", "a"),
        event("5", "a"),
    ];
    api.publish("in", more).await.unwrap();

    let state = async |offset| explain(&api, "g", (0, offset)).await.state();
    for (offset, action) in [
        (
            2,
            Action::Nack(Nack {
                delay: Some(prost_types::Duration {
                    seconds: 3600,
                    nanos: 0,
                }),
                reason: "not yet".to_owned(),
            }),
        ),
        (
            3,
            Action::Reject(Reject {
                reason: "never".to_owned(),
            }),
        ),
        (4, Action::Ack(Ack {})),
    ] {
        let request = PullRequest {
            topic: "in".to_owned(),
            group: "g".to_owned(),
            member: "worker-7".to_owned(),
            max_events: 1,
            wait: Some(prost_types::Duration {
                seconds: 30,
                nanos: 0,
            }),
            ..PullRequest::default()
        };
        let pulled = api.broker.clone().pull(request).await.unwrap().into_inner();
        let [delivery] = &pulled.deliveries[..] else {
            panic!("{pulled:?}");
        };
        assert_eq!(delivery.offset, offset);
        let explained = explain(&api, "g", (0, offset)).await;
        assert_eq!(explained.state(), EventState::InFlight);
        assert_eq!(explained.attempt, 1);
        assert_eq!(explained.member, "worker-7");
        assert_eq!(state(5).await, EventState::Waiting);
        let request = SettleRequest {
            topic: "in".to_owned(),
            group: "g".to_owned(),
            settlements: vec![Settlement {
                lease: delivery.lease,
                action: Some(action),
            }],
        };
        let settled = api
            .broker
            .clone()
            .settle(request)
            .await
            .unwrap()
            .into_inner();
        assert!(settled.failures.is_empty(), "{settled:?}");
    }
    assert_eq!(state(0).await, EventState::BeforeStart);
    assert_eq!(state(1).await, EventState::Filtered);
    let delayed = explain(&api, "g", (0, 2)).await;
    assert_eq!((delayed.state(), delayed.attempt), (EventState::Delayed, 2));
    let letter = explain(&api, "g", (0, 3)).await;
    assert_eq!(letter.state(), EventState::DeadLettered);
    assert_eq!(letter.dead_letter_offset, Some(0));
    assert_eq!(state(4).await, EventState::Settled);

    // Each term with what it saw.
    let values: Vec<_> = letter.terms.iter().flat_map(|term| &term.values).collect();
    let shown: Vec<_> = values
        .iter()
        .map(|of| (of.name.as_str(), of.value.as_deref()))
        .collect();
    assert_eq!(
        shown,
        [
            ("event.type", Some("\"a\"")),
            ("event.data.confidence", Some("0.75")),
        ]
    );
    let beyond = ExplainEventRequest {
        topic: "in".to_owned(),
        group: "g".to_owned(),
        partition: 0,
        offset: 6,
    };
    let refused = api.admin.clone().explain_event(beyond).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_filter_is_named() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let filter = |dialect| EventFilter {
        dialect: Some(dialect),
    };
    let nested = filter(Dialect::Any(FilterList {
        filters: vec![
            filter(Dialect::Sql("TRUE".to_owned())),
            filter(Dialect::Sql("type =".to_owned())),
        ],
    }));
    for (cel, filters, message) in [
        ("", vec![nested], "config.filters[0].any[1].sql: at byte 6"),
        (
            "true",
            dialects(),
            "config.filter and config.filters are both given",
        ),
        (
            "",
            vec![EventFilter { dialect: None }],
            "config.filters[0]: it has no dialect",
        ),
        (
            "event.type ==",
            vec![],
            "config.filter: the filter does not parse",
        ),
    ] {
        let request = CreateGroupRequest {
            topic: "in".to_owned(),
            group: "g".to_owned(),
            config: Some(GroupConfig {
                filter: cel.to_owned(),
                filters,
                ..GroupConfig::default()
            }),
        };
        let refused = api.admin.clone().create_group(request).await.unwrap_err();
        assert!(refused.message().contains(message), "{}", refused.message());
    }
    // What passes is there after a restart as it was given.
    let config = GroupConfig {
        filters: dialects(),
        ..GroupConfig::default()
    };
    api.create_group("in", "g", config).await;
    drop(api);
    broker.kill();
    broker.restart();
    let api = Api::connect(broker.url()).await;
    let request = DescribeGroupRequest {
        topic: "in".to_owned(),
        group: "g".to_owned(),
        ..Default::default()
    };
    let described = api.admin.clone().describe_group(request).await.unwrap();
    assert_eq!(described.into_inner().config.unwrap().filters, dialects());
}
