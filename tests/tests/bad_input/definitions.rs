//! Topics, groups, and reads, and the filters in them.

use sluice_proto::pb::{
    CreateGroupRequest, CreateTopicRequest, GroupConfig, ReadRequest, TopicConfig,
};
use tonic::Code;

use crate::{
    bench::Bench,
    expected::{invalid, over_limit, refused},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_topic_group_or_filter_is_refused() {
    let mut bench = Bench::start().await;
    let limits = bench.limits;
    let mut admin = bench.api.admin.clone();

    let topic = |topic: &str, partitions| CreateTopicRequest {
        topic: topic.to_owned(),
        config: Some(TopicConfig {
            partitions,
            ..TopicConfig::default()
        }),
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
