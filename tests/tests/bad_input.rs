//! What is wrong is refused with a status that names the field and the limit,
//! and the broker goes on: each table below publishes between its cases, and
//! reads everything back at its end.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rand::RngExt;
use sluice_proto::pb::{
    CommitRequest, ConsumeRequest, CreateGroupRequest, CreateTopicRequest, DescribeBrokerRequest,
    Event, Grant, GroupConfig, Heartbeat, Join, LeaseToken, Limits, OpenProducerRequest,
    ProducerSequence, PublishBatch, PublishOpen, PublishRequest, PublishResponse,
    PublishStreamRequest, ReadRequest, SettleBatch, SettleRequest, TopicConfig,
    consume_request::Message as Request, publish_stream_request::Message as PublishMessage,
    publish_stream_response::Message as PublishAnswer,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
    member::{Member, ack, commit, join},
    raw::{self, Fields},
    seed::seeded,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Status};

/// What a refusal has to say.
struct Expected {
    code: Code,
    reason: &'static str,
    /// The whole path.
    field: Option<&'static str>,
    /// What the message names, such as a limit.
    names: Vec<String>,
}

fn invalid(field: &'static str) -> Expected {
    refused(Code::InvalidArgument, "INVALID_FIELD").at(field)
}

fn over_limit(field: &'static str, limit: impl ToString) -> Expected {
    refused(Code::InvalidArgument, "LIMIT_EXCEEDED")
        .at(field)
        .naming(limit)
}

fn refused(code: Code, reason: &'static str) -> Expected {
    Expected {
        code,
        reason,
        field: None,
        names: Vec::new(),
    }
}

impl Expected {
    fn at(self, field: &'static str) -> Self {
        // The message names the field, too, for those who read only that.
        let last = field.rsplit('.').next().unwrap().to_owned();
        Self {
            field: Some(field),
            ..self.naming(last)
        }
    }

    fn naming(mut self, what: impl ToString) -> Self {
        self.names.push(what.to_string());
        self
    }

    /// What is wrong with the refusal.
    fn differs(&self, refusal: &Refusal) -> Option<String> {
        let same = refusal.code == self.code
            && refusal.reason == self.reason
            && (self.field.is_none() || refusal.field.as_deref() == self.field)
            && self.names.iter().all(|name| refusal.message.contains(name));
        let Self {
            code,
            reason,
            field,
            names,
        } = self;
        let wanted = format!("{code:?} {reason}, field {field:?}, message with {names:?}");
        (!same).then(|| format!("wanted {wanted}, got {refusal:?}"))
    }
}

/// A broker with the topic `t`, and the events that were published there between
/// bad requests.
struct Bench {
    broker: TestBroker,
    api: Api,
    limits: Limits,
    good: Vec<String>,
    wrong: Vec<String>,
}

impl Bench {
    async fn start() -> Self {
        let broker = TestBroker::start();
        let api = Api::connect(broker.url()).await;
        api.create_topic("t", 1).await;
        let description = api
            .admin
            .clone()
            .describe_broker(DescribeBrokerRequest {})
            .await;
        let limits = description.unwrap().into_inner().limits.unwrap();
        Self {
            broker,
            api,
            limits,
            good: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// Notes whether a request was refused as it should be, and that the broker
    /// goes on.
    async fn check<T: std::fmt::Debug>(
        &mut self,
        case: &str,
        answer: Result<T, impl Into<Answered>>,
        expected: &Expected,
    ) {
        match answer {
            Ok(answer) => self.wrong.push(format!("{case}: taken, {answer:?}")),
            Err(refusal) => {
                let Answered(refusal) = refusal.into();
                if let Some(differs) = expected.differs(&refusal) {
                    self.wrong.push(format!("{case}: {differs}"));
                }
            }
        }
        self.goes_on(case).await;
    }

    async fn goes_on(&mut self, case: &str) {
        let id = format!("after {case}");
        // A connection of its own, as the one that was used may be spoilt.
        let api = Api::connect(self.broker.url()).await;
        let published = api.publish("t", vec![event(&id)]).await;
        published.unwrap_or_else(|status| panic!("after {case}: {status}"));
        self.good.push(id);
    }

    /// Everything that was published is there, and nothing of what was refused,
    /// also after a crash.
    async fn finish(mut self) {
        let found = self.read().await;
        assert_eq!(found, self.good);
        self.broker.kill();
        self.broker.restart();
        self.api = Api::connect(self.broker.url()).await;
        assert_eq!(self.read().await, self.good);
        assert!(self.wrong.is_empty(), "\n{}", self.wrong.join("\n"));
    }

    async fn read(&self) -> Vec<String> {
        let all = self.api.read_all("t").await;
        all.into_iter().map(|(event, _)| event.id).collect()
    }
}

/// A refusal, as a status or within a message of a stream.
struct Answered(Refusal);

impl From<Status> for Answered {
    fn from(status: Status) -> Self {
        Self(Refusal::from(&status))
    }
}

impl From<Refusal> for Answered {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

fn publish(topic: &str, events: Vec<Event>) -> PublishRequest {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_topic_group_or_filter_is_refused() {
    let mut bench = Bench::start().await;
    let limits = bench.limits;
    let mut admin = bench.api.admin.clone();

    let topic = |topic: &str, partitions| CreateTopicRequest {
        topic: topic.to_owned(),
        config: Some(TopicConfig { partitions }),
    };
    let topics = [
        ("a bad name of a topic", topic("a b", 1), invalid("topic")),
        (
            "a reserved name of a topic",
            topic("_dead", 1),
            refused(Code::PermissionDenied, "NOT_AUTHORIZED").naming("_dead"),
        ),
        (
            "negative partitions",
            topic("n", -1),
            invalid("config.partitions"),
        ),
        (
            "too many partitions",
            topic("n", limits.partitions_max + 1),
            over_limit("config.partitions", limits.partitions_max),
        ),
        (
            "another configuration",
            topic("t", 2),
            refused(Code::AlreadyExists, "TOPIC_EXISTS"),
        ),
    ];
    for (case, request, expected) in topics {
        let answer = admin.create_topic(request).await;
        bench.check(case, answer, &expected).await;
    }

    let group = |config: GroupConfig| CreateGroupRequest {
        topic: "t".to_owned(),
        group: "g".to_owned(),
        config: Some(config),
    };
    let filter = |filter: &str| GroupConfig {
        filter: filter.to_owned(),
        ..GroupConfig::default()
    };
    let lease = |seconds, nanos| GroupConfig {
        lease_duration: Some(prost_types::Duration { seconds, nanos }),
        ..GroupConfig::default()
    };
    let bad_filter = || refused(Code::InvalidArgument, "INVALID_FILTER").at("config.filter");
    let too_long = format!(
        "event.id == \"{}\"",
        "x".repeat(usize::try_from(limits.filter_bytes_max).unwrap())
    );
    let groups = [
        (
            "a bad name of a group",
            CreateGroupRequest {
                group: "g/h".to_owned(),
                ..group(GroupConfig::default())
            },
            invalid("group"),
        ),
        (
            "a group on no topic",
            CreateGroupRequest {
                topic: "nowhere".to_owned(),
                ..group(GroupConfig::default())
            },
            refused(Code::NotFound, "UNKNOWN_TOPIC").naming("nowhere"),
        ),
        (
            "a filter that does not parse",
            group(filter("event.type == ")),
            bad_filter(),
        ),
        (
            "a filter that is too long",
            group(filter(&too_long)),
            bad_filter().naming(limits.filter_bytes_max),
        ),
        (
            "a filter that is too deep",
            group(filter(&format!(
                "{}true{}",
                "(".repeat(900),
                ")".repeat(900)
            ))),
            bad_filter(),
        ),
        (
            "a lease that is too short",
            group(lease(0, 99_000_000)),
            over_limit("config.lease_duration", "100 ms"),
        ),
        (
            "a negative lease",
            group(lease(-1, 0)),
            invalid("config.lease_duration"),
        ),
        (
            "a negative cap",
            group(GroupConfig {
                max_in_flight: -1,
                ..GroupConfig::default()
            }),
            invalid("config.max_in_flight"),
        ),
    ];
    for (case, request, expected) in groups {
        let answer = admin.create_group(request).await;
        bench.check(case, answer, &expected).await;
    }

    let read = |topic: &str, filter: &str| ReadRequest {
        topic: topic.to_owned(),
        filter: filter.to_owned(),
        ..ReadRequest::default()
    };
    let reads = [
        (
            "a read of no topic",
            read("nowhere", ""),
            refused(Code::NotFound, "UNKNOWN_TOPIC").naming("nowhere"),
        ),
        (
            "a read with a bad filter",
            read("t", "event."),
            refused(Code::InvalidArgument, "INVALID_FILTER").at("filter"),
        ),
        (
            "a read of a partition that is not there",
            ReadRequest {
                partitions: vec![7],
                ..read("t", "")
            },
            refused(Code::NotFound, "UNKNOWN_PARTITION").at("partitions[0]"),
        ),
        (
            "a read of no number of events",
            ReadRequest {
                max_events: -1,
                ..read("t", "")
            },
            invalid("max_events"),
        ),
    ];
    for (case, request, expected) in reads {
        let answer = match bench.api.broker.clone().read(request).await {
            Ok(stream) => stream.into_inner().message().await,
            Err(status) => Err(status),
        };
        bench.check(case, answer, &expected).await;
    }
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consume_stream_that_breaks_the_rules_is_ended_with_the_reason() {
    let mut bench = Bench::start().await;
    bench
        .api
        .create_group("t", "g", GroupConfig::default())
        .await;
    let grant = |max_events, max_bytes| Grant {
        max_events,
        max_bytes,
    };
    let granting = |grant: Grant| Join {
        grant: Some(grant),
        ..join("t", "g", 0)
    };
    let state = || refused(Code::FailedPrecondition, "STREAM_STATE");

    let joins = [
        (
            "a join of no topic",
            join("nowhere", "g", 1),
            refused(Code::NotFound, "UNKNOWN_TOPIC").naming("nowhere"),
        ),
        (
            "a join of no group",
            join("t", "nobody", 1),
            refused(Code::NotFound, "UNKNOWN_GROUP").naming("nobody"),
        ),
        (
            "a first grant of negative events",
            granting(grant(-1, 0)),
            invalid("join.grant.max_events"),
        ),
        (
            "a first grant of negative bytes",
            granting(grant(1, -1)),
            invalid("join.grant.max_bytes"),
        ),
        (
            "a member's name that is too long",
            Join {
                member: "m".repeat(257),
                ..join("t", "g", 1)
            },
            over_limit("join.member", 256),
        ),
        (
            "a negative size of messages",
            Join {
                max_message_bytes: -1,
                ..join("t", "g", 1)
            },
            invalid("join.max_message_bytes"),
        ),
    ];
    for (case, join, expected) in joins {
        let answer = Member::join(&bench.api, join).await;
        bench.check(case, answer, &expected).await;
    }

    let later = [
        (
            "a second join",
            Request::Join(join("t", "g", 1)),
            state().naming("join"),
        ),
        (
            "a grant of negative events",
            Request::Grant(grant(-1, 100)),
            invalid("grant.max_events"),
        ),
        (
            "a grant of negative bytes",
            Request::Grant(grant(10, -1)),
            invalid("grant.max_bytes"),
        ),
        (
            "a grant of fewer events",
            Request::Grant(grant(9, 100)),
            invalid("grant.max_events").naming(10).naming(9),
        ),
        (
            "a grant of fewer bytes",
            Request::Grant(grant(10, 99)),
            invalid("grant.max_bytes").naming(100).naming(99),
        ),
        (
            "a heartbeat with fewer events",
            Request::Heartbeat(Heartbeat {
                grant: Some(grant(9, 100)),
            }),
            invalid("heartbeat.grant.max_events"),
        ),
    ];
    for (case, message, expected) in later {
        let member = Member::join(&bench.api, granting(grant(10, 100))).await;
        let mut member = member.unwrap();
        member.send(message).await;
        let answer = end_of(&mut member).await;
        bench.check(case, answer, &expected).await;
    }

    // A repeated grant, and one that lifts the bound on bytes, are no mistakes.
    let mut member = Member::join(&bench.api, granting(grant(10, 100)))
        .await
        .unwrap();
    member.send(Request::Grant(grant(10, 100))).await;
    member.send(Request::Grant(grant(10, 0))).await;
    member.settle(Vec::new()).await.unwrap();
    member.send(Request::Grant(grant(10, 200))).await;
    let answer = end_of(&mut member).await;
    let expected = invalid("grant.max_bytes");
    bench
        .check("a bound on bytes after none", answer, &expected)
        .await;

    let firsts = [
        ("a grant before the join", Request::Grant(grant(1, 0))),
        (
            "a settlement before the join",
            Request::Settle(SettleBatch::default()),
        ),
        (
            "a heartbeat before the join",
            Request::Heartbeat(Heartbeat::default()),
        ),
    ];
    for (case, message) in firsts {
        let message = Some(message);
        let only = tokio_stream::iter([ConsumeRequest { message }]);
        let answer = match bench.api.broker.clone().consume(only).await {
            Ok(stream) => stream.into_inner().message().await,
            Err(status) => Err(status),
        };
        bench.check(case, answer, &state().naming("join")).await;
    }
    bench.finish().await;
}

/// How the broker ends a member's stream.
async fn end_of(member: &mut Member) -> Result<(), Status> {
    expect("the end of the stream", async {
        while member.response().await?.is_some() {}
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_never_given_is_refused_and_the_stream_goes_on() {
    let mut bench = Bench::start().await;
    bench
        .api
        .create_group("t", "g", GroupConfig::default())
        .await;
    let lost = || refused(Code::FailedPrecondition, "LEASE_LOST").naming("lease");
    let never_given = LeaseToken {
        epoch: 1,
        counter: 4711,
    };

    let mut member = Member::join(&bench.api, join("t", "g", 1)).await.unwrap();
    let failures = member.settle(vec![ack(never_given)]).await.unwrap();
    let answer = first_failure(failures);
    bench
        .check("a settlement on a stream", answer, &lost())
        .await;
    // The stream goes on.
    let delivery = member.delivery().await.unwrap();
    let lease = delivery.lease.unwrap();
    assert_eq!(member.settle(vec![ack(lease)]).await.unwrap(), []);
    let answer = first_failure(member.settle(vec![ack(lease)]).await.unwrap());
    bench.check("a second ack", answer, &lost()).await;

    let mut broker = bench.api.broker.clone();
    let settle = |lease| SettleRequest {
        topic: "t".to_owned(),
        group: "g".to_owned(),
        settlements: vec![ack(lease)],
    };
    let response = broker.settle(settle(never_given)).await.unwrap();
    let answer = first_failure(response.into_inner().failures);
    bench.check("a unary settlement", answer, &lost()).await;

    let request = commit(("t", "g"), never_given, "t", event("output"));
    let answer = broker.commit(request).await;
    bench.check("a commit", answer, &lost()).await;

    let answer = broker.commit(CommitRequest::default()).await;
    let expected = refused(Code::InvalidArgument, "INVALID_FIELD");
    bench.check("an empty commit", answer, &expected).await;

    let negative = LeaseToken {
        epoch: -1,
        counter: -1,
    };
    let answer = match broker.settle(settle(negative)).await {
        Ok(response) => first_failure(response.into_inner().failures),
        Err(status) => Err(Refusal::from(&status)),
    };
    if let Ok(()) = answer {
        bench.wrong.push("a negative lease: taken".to_owned());
    }
    bench.goes_on("a negative lease").await;
    bench.finish().await;
}

fn first_failure(failures: Vec<sluice_proto::pb::SettlementFailure>) -> Result<(), Refusal> {
    match failures.first() {
        Some(failure) => Err(Refusal::from(failure.error.as_ref().unwrap())),
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_session_of_another_epoch_is_refused() {
    let mut bench = Bench::start().await;
    let mut broker = bench.api.broker.clone();
    let open = OpenProducerRequest {
        name: "p".to_owned(),
    };
    let old = broker.open_producer(open.clone()).await.unwrap();
    let old = old.into_inner();
    let sequenced = |producer_id, producer_epoch, sequence| PublishRequest {
        producer: Some(ProducerSequence {
            producer_id,
            producer_epoch,
            sequence,
        }),
        ..publish("t", vec![event("e1")])
    };
    let first = sequenced(old.producer_id, old.producer_epoch, 1);
    broker.publish(first.clone()).await.unwrap();
    bench.good.push("e1".to_owned());
    let new = broker.open_producer(open).await.unwrap().into_inner();
    assert_eq!(new.producer_id, old.producer_id);
    assert!(new.producer_epoch > old.producer_epoch);

    let session = |epoch, sequence| sequenced(new.producer_id, epoch, sequence);
    let fenced = || refused(Code::FailedPrecondition, "PRODUCER_FENCED");
    let too_new = i64::from(new.max_in_flight) + 2;
    let cases = [
        ("an older session", session(old.producer_epoch, 2), fenced()),
        ("an older session's retry", first, fenced()),
        (
            "a session that was never opened",
            sequenced(new.producer_id + 1000, 1, 1),
            refused(Code::FailedPrecondition, "UNKNOWN_PRODUCER"),
        ),
        (
            "a sequence that is far ahead",
            session(new.producer_epoch, too_new),
            refused(Code::FailedPrecondition, "SEQUENCE_TOO_NEW").naming(new.max_in_flight),
        ),
        (
            "a negative sequence",
            session(new.producer_epoch, -1),
            invalid("producer.sequence"),
        ),
        (
            "a negative epoch",
            session(-1, 1),
            invalid("producer.producer_epoch"),
        ),
        (
            "a negative producer",
            sequenced(-1, 1, 1),
            invalid("producer.producer_id"),
        ),
    ];
    for (case, request, expected) in cases {
        let answer = broker.publish(request).await;
        bench.check(case, answer, &expected).await;
    }
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_stream_says_no_to_a_batch_and_goes_on() {
    let mut bench = Bench::start().await;
    let open = PublishMessage::Open(PublishOpen::default());
    let batch = |request_id, topic: &str, events| {
        PublishMessage::Batch(PublishBatch {
            request_id,
            topic: topic.to_owned(),
            events,
            ..PublishBatch::default()
        })
    };
    let messages = [
        open.clone(),
        batch(1, "nowhere", vec![event("e")]),
        batch(2, "t", vec![Event::default()]),
        batch(3, "t", vec![event("good")]),
    ];
    let messages = messages.map(|message| PublishStreamRequest {
        message: Some(message),
    });
    let call = bench.api.broker.clone();
    let mut call = call;
    let answers = call.publish_stream(tokio_stream::iter(messages)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut refusals = std::collections::BTreeMap::new();
    let mut acked = Vec::new();
    while let Some(answer) = expect("an answer", answers.message()).await.unwrap() {
        match answer.message {
            Some(PublishAnswer::Refused(refused)) => {
                let refusal = Refusal::from(refused.error.as_ref().unwrap());
                refusals.insert(refused.request_id, refusal);
            }
            Some(PublishAnswer::Ack(ack)) => acked.push(ack.request_id),
            _ => {}
        }
    }
    assert_eq!(acked, [3]);
    bench.good.push("good".to_owned());
    let unknown = refused(Code::NotFound, "UNKNOWN_TOPIC").naming("nowhere");
    let answer: Result<(), _> = Err(refusals.remove(&1).unwrap());
    bench.check("a batch to no topic", answer, &unknown).await;
    let answer: Result<(), _> = Err(refusals.remove(&2).unwrap());
    bench
        .check("an empty event", answer, &invalid("batch.events[0].id"))
        .await;

    let state = || refused(Code::FailedPrecondition, "STREAM_STATE").naming("open");
    let streams = [
        (
            "a batch before the open",
            vec![batch(1, "t", vec![event("e")])],
        ),
        ("a second open", vec![open.clone(), open]),
    ];
    for (case, messages) in streams {
        let messages = messages.into_iter().map(|message| PublishStreamRequest {
            message: Some(message),
        });
        let messages = tokio_stream::iter(messages.collect::<Vec<_>>());
        let answer = match call.publish_stream(messages).await {
            Ok(answers) => last(answers.into_inner()).await,
            Err(status) => Err(status),
        };
        bench.check(case, answer, &state()).await;
    }
    bench.finish().await;
}

async fn last<T>(mut stream: tonic::Streaming<T>) -> Result<(), Status> {
    expect("the end of the stream", async {
        while stream.message().await?.is_some() {}
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_grpc_on_the_port_is_cut_off() {
    let mut bench = Bench::start().await;
    let mut random = seeded();
    let mut noise = vec![0; 64 << 10];
    random.fill(&mut noise[..]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let cases = [
        ("HTTP/1", b"GET / HTTP/1.1\r\nhost: sluice\r\n\r\n".to_vec()),
        ("random bytes", noise.clone()),
        (
            "random bytes after the preface of HTTP/2",
            [preface, noise].concat(),
        ),
    ];
    for (case, bytes) in cases {
        let mut connection = TcpStream::connect(bench.broker.address()).await.unwrap();
        // It may be cut off before it has sent everything.
        let _ = connection.write_all(&bytes).await;
        let mut answer = vec![0; 4096];
        expect(case, async {
            while let Ok(1..) = connection.read(&mut answer).await {}
        })
        .await;
        bench.goes_on(case).await;
    }

    // Connections that say nothing do not stop others.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(bench.broker.address()).await.unwrap());
    }
    bench.goes_on("silent connections").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(silent);
    bench.finish().await;
}
