//! Consume streams and leases.

use sluice_proto::pb::{
    CommitRequest, ConsumeRequest, Grant, GroupConfig, Heartbeat, Join, LeaseToken, SettleBatch,
    SettleRequest, SettlementFailure, consume_request::Message as Request,
};
use sluice_tests::{
    api::{Refusal, event, expect},
    member::{Member, ack, commit, join},
};
use tonic::{Code, Status};

use crate::{
    bench::Bench,
    expected::{invalid, over_limit, refused},
};

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

fn first_failure(failures: Vec<SettlementFailure>) -> Result<(), Refusal> {
    match failures.first() {
        Some(failure) => Err(Refusal::from(failure.error.as_ref().unwrap())),
        None => Ok(()),
    }
}
