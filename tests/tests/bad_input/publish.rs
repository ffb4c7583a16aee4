//! Publish requests, of bad fields and of bad bytes.

use bytes::Bytes;
use prost::Message;
use rand::RngExt;
use sluice_proto::pb::{Event, ProducerSequence, PublishRequest, PublishResponse};
use sluice_tests::{
    api::event,
    raw::{self, Fields},
    seed::seeded,
};
use tonic::{Code, Status};

use crate::{
    bench::Bench,
    expected::{Expected, invalid, over_limit, refused},
};

pub(crate) fn publish(topic: &str, events: Vec<Event>) -> PublishRequest {
    PublishRequest {
        topic: topic.to_owned(),
        events,
        partition: None,
        producer: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_publish_is_refused_and_appends_nothing() {
    let mut bench = Bench::start().await;
    let limits = bench.limits;
    let topic = |name: &str| publish(name, vec![event("e")]);
    // The second of two, so that the first must not get in.
    let second = |change: fn(&mut Event)| {
        let mut bad = event("bad");
        change(&mut bad);
        publish("t", vec![event("first"), bad])
    };
    let sized = |bytes: i64| {
        let mut large = event("large");
        large.data = vec![b'x'; usize::try_from(bytes).unwrap()].into();
        large
    };
    let attribute = |event: &mut Event, name: &str, value: &str| {
        event.attributes.insert(name.to_owned(), value.to_owned());
    };
    let too_many = usize::try_from(limits.batch_events_max).unwrap() + 1;
    let large_events = limits.request_bytes_max / 500_000 + 1;

    let cases: Vec<(&str, PublishRequest, Expected)> = vec![
        (
            "unknown topic",
            topic("nowhere"),
            refused(Code::NotFound, "UNKNOWN_TOPIC").naming("nowhere"),
        ),
        ("no topic", topic(""), invalid("topic")),
        ("a name with a slash", topic("a/b"), invalid("topic")),
        (
            "a name that begins with a dot",
            topic(".a"),
            invalid("topic"),
        ),
        (
            "a name of the broker's",
            topic("_a"),
            refused(Code::PermissionDenied, "NOT_AUTHORIZED").naming("_a"),
        ),
        (
            "a name that is too long",
            topic(&"a".repeat(250)),
            over_limit("topic", 249),
        ),
        ("no events", publish("t", Vec::new()), invalid("events")),
        (
            "too many events",
            publish("t", vec![event("e"); too_many]),
            over_limit("events", limits.batch_events_max),
        ),
        (
            "no id",
            second(|event| event.id.clear()),
            invalid("events[1].id"),
        ),
        (
            "no source",
            second(|event| event.source.clear()),
            invalid("events[1].source"),
        ),
        (
            "no type",
            second(|event| event.r#type.clear()),
            invalid("events[1].type"),
        ),
        (
            "an id that is too long",
            second(|event| event.id = "i".repeat(1025)),
            over_limit("events[1].id", 1024),
        ),
        (
            "a subject that is too long",
            second(|event| event.subject = "s".repeat(1025)),
            over_limit("events[1].subject", 1024),
        ),
        (
            "an event over the limit",
            publish("t", vec![event("first"), sized(limits.event_bytes_max)]),
            over_limit("events[1]", limits.event_bytes_max),
        ),
        (
            "a request over the limit",
            publish(
                "t",
                vec![sized(500_000); usize::try_from(large_events).unwrap()],
            ),
            refused(Code::InvalidArgument, "LIMIT_EXCEEDED").naming(limits.request_bytes_max),
        ),
        (
            "a time that no timestamp can be",
            second(|event| {
                event.time = Some(prost_types::Timestamp {
                    seconds: 0,
                    nanos: -1,
                });
            }),
            invalid("events[1].time"),
        ),
        (
            "an attribute with a capital letter",
            {
                let mut bad = event("bad");
                attribute(&mut bad, "PartitionKey", "k");
                publish("t", vec![bad])
            },
            invalid("events[0].attributes[\"PartitionKey\"]"),
        ),
        (
            "an attribute with the name of a field",
            {
                let mut bad = event("bad");
                attribute(&mut bad, "source", "elsewhere");
                publish("t", vec![bad])
            },
            invalid("events[0].attributes[\"source\"]"),
        ),
        (
            "65 attributes",
            {
                let mut bad = event("bad");
                for number in 0..65 {
                    attribute(&mut bad, &format!("a{number}"), "");
                }
                publish("t", vec![bad])
            },
            over_limit("events[0].attributes", 64),
        ),
        (
            "a partition that is not there",
            PublishRequest {
                partition: Some(1),
                ..topic("t")
            },
            refused(Code::NotFound, "UNKNOWN_PARTITION").at("partition"),
        ),
        (
            "a negative partition",
            PublishRequest {
                partition: Some(-1),
                ..topic("t")
            },
            refused(Code::NotFound, "UNKNOWN_PARTITION").at("partition"),
        ),
        (
            "a sequence of 0",
            PublishRequest {
                producer: Some(ProducerSequence {
                    producer_id: 1,
                    producer_epoch: 1,
                    sequence: 0,
                }),
                ..topic("t")
            },
            invalid("producer.sequence"),
        ),
    ];
    for (case, request, expected) in cases {
        let answer = bench.api.broker.clone().publish(request).await;
        bench.check(case, answer, &expected).await;
    }
    bench.finish().await;
}

/// What no generated client would send.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_event_are_refused_and_append_nothing() {
    const ID: u32 = 1;
    const SOURCE: u32 = 2;
    const ATTRIBUTES: u32 = 8;
    let mut bench = Bench::start().await;
    let good = event("e").encode_to_vec();
    let raw = |bytes: &[u8]| Fields::new().raw(bytes);
    let entry = |key: &[u8], value: &[u8]| Fields::new().bytes(1, key).bytes(2, value);

    let cases: Vec<(&str, Fields, Expected)> = vec![
        (
            "an id that is not UTF-8",
            Fields::new()
                .bytes(ID, b"\xff\xfe")
                .bytes(SOURCE, "s")
                .bytes(3, "t"),
            invalid("events[1].id"),
        ),
        (
            "an attribute that is not UTF-8",
            raw(&good).bytes(ATTRIBUTES, entry(b"a", b"\xc3\x28")),
            invalid("events[1].attributes"),
        ),
        (
            "two ids",
            raw(&good).bytes(ID, "another"),
            invalid("events[1].id"),
        ),
        (
            "two sources",
            raw(&good).bytes(SOURCE, "another"),
            invalid("events[1].source"),
        ),
        (
            "one attribute twice",
            raw(&good)
                .bytes(ATTRIBUTES, entry(b"partitionkey", b"a"))
                .bytes(ATTRIBUTES, entry(b"partitionkey", b"b")),
            invalid("events[1].attributes[\"partitionkey\"]"),
        ),
        (
            "half an event",
            raw(&good[..good.len() - 1]),
            invalid("events[1]"),
        ),
        (
            "a length beyond the end",
            raw(b"\x0a\xff\xff\xff\xff\x0f"),
            invalid("events[1]"),
        ),
        (
            "a varint without an end",
            raw(&[0xff; 16]),
            invalid("events[1]"),
        ),
    ];
    for (case, bad, expected) in cases {
        let request = Fields::new().bytes(1, "t").bytes(2, &good).bytes(2, bad);
        let answer = publish_raw(&bench, request.build()).await;
        bench.check(case, answer, &expected).await;
    }

    let request = Fields::new().bytes(1, b"\xff").bytes(2, &good);
    let answer = publish_raw(&bench, request.build()).await;
    let expected = refused(Code::InvalidArgument, "INVALID_FIELD").naming("topic");
    bench
        .check("a topic that is not UTF-8", answer, &expected)
        .await;

    // Whatever the bytes are, it is the caller who is told.
    let mut random = seeded();
    let mut otherwise = Vec::new();
    for round in 0..200 {
        let mut bytes = vec![0; random.random_range(1..300)];
        random.fill(&mut bytes[..]);
        let request = match round % 2 {
            0 => Bytes::from(bytes),
            _ => Fields::new().bytes(1, "t").bytes(2, bytes).build(),
        };
        match publish_raw(&bench, request).await {
            Err(status) if status.code() == Code::InvalidArgument => {}
            // A topic's name, by chance.
            Err(status) if status.code() == Code::NotFound => {}
            answer => otherwise.push(answer),
        }
    }
    if let Some(answer) = otherwise.first() {
        let count = otherwise.len();
        bench
            .wrong
            .push(format!("{count} random requests: {answer:?}"));
    }
    bench.goes_on("random requests").await;
    bench.finish().await;
}

async fn publish_raw(bench: &Bench, request: Bytes) -> Result<PublishResponse, Status> {
    raw::call(&bench.api.channel, "Publish", request).await
}
