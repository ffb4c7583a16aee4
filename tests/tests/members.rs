//! Members that stop, fall silent, or take long.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sluice_proto::pb::{
    GroupConfig, IdleReason, Ordering, PullRequest, consume_request::Message as Request,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
    member::{Member, ack, commit, join},
};
use tokio::sync::mpsc;
use tonic::Code;

fn lease_of(millis: u64) -> GroupConfig {
    GroupConfig {
        lease_duration: Some(Duration::from_millis(millis).try_into().unwrap()),
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    }
}

/// A `sluice-test-worker` process; ends with this.
struct Worker {
    child: Child,
    stdin: ChildStdin,
}

impl Worker {
    /// Starts worker number `number`, whose lines go to `lines`.
    fn start(url: &str, number: usize, lines: &mpsc::UnboundedSender<(usize, String)>) -> Self {
        let name = format!("worker-{number}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice-test-worker"))
            .args([url, "in", "workers", "out", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let lines = lines.clone();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = lines.send((number, line));
            }
        });
        Self { child, stdin }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next line of any worker that begins with `what`: the worker's number and
/// the rest.
async fn line(lines: &mut mpsc::UnboundedReceiver<(usize, String)>, what: &str) -> (usize, String) {
    expect(what, async {
        loop {
            let (number, line) = lines.recv().await.unwrap();
            println!("worker {number}: {line}");
            if let Some(rest) = line.strip_prefix(what) {
                return (number, rest.trim().to_owned());
            }
        }
    })
    .await
}

/// Ten workers, each in an event; one is stopped in it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_stopped_worker_goes_to_another_and_what_it_says_late_is_refused() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 4).await;
    api.create_topic("out", 4).await;
    api.create_group("in", "workers", lease_of(2_000)).await;

    let (sender, mut lines) = mpsc::unbounded_channel();
    let start = |number| Worker::start(broker.url(), number, &sender);
    let mut workers: Vec<_> = (0..10).map(start).collect();
    for _ in 0..10 {
        line(&mut lines, "joined").await;
    }
    for number in 0..10 {
        api.publish("in", vec![event(&format!("e{number}"))])
            .await
            .unwrap();
    }
    let mut at_work = BTreeMap::new();
    for _ in 0..10 {
        let (worker, taken) = line(&mut lines, "took").await;
        let (id, attempt) = taken.split_once(' ').unwrap();
        assert_eq!(attempt, "1");
        at_work.insert(worker, id.to_owned());
    }
    assert_eq!(at_work.len(), 10, "each has one: {at_work:?}");

    workers[3].signal(Signal::STOP);
    let stuck = at_work.remove(&3).unwrap();
    for (worker, id) in &at_work {
        workers[*worker].tell("commit");
        assert_eq!(line(&mut lines, "committed").await, (*worker, id.clone()));
    }
    // The nine are idle now, and one of them gets what the tenth does not do.
    let (other, taken) = line(&mut lines, "took").await;
    assert_eq!(taken, format!("{stuck} 2"));
    workers[other].tell("commit");
    assert_eq!(line(&mut lines, "committed").await, (other, stuck.clone()));

    workers[3].signal(Signal::CONT);
    let refused = (3, format!("{stuck} FailedPrecondition LEASE_LOST"));
    workers[3].tell("ack");
    assert_eq!(line(&mut lines, "refused").await, refused);
    workers[3].tell("commit");
    assert_eq!(line(&mut lines, "refused").await, refused);

    let outputs: Vec<_> = (0..10).map(|number| format!("out-e{number}")).collect();
    assert_eq!(api.ids("out").await, outputs);
    assert_eq!(lag(&api, "in", "workers").await, 0);
}

/// The stopped worker says its word while nobody else has begun yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_ack_is_refused_even_when_nobody_else_has_the_event() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_topic("out", 1).await;
    api.create_group("in", "workers", lease_of(500)).await;
    api.publish("in", vec![event("e")]).await.unwrap();

    // Joined and silent: no heartbeats.
    let mut silent = Member::join(&api, join("in", "workers", 1)).await.unwrap();
    let delivery = silent.delivery().await.unwrap();
    let lease = delivery.lease.unwrap();
    let lost = expect("a notice of the lost lease", silent.lost()).await;
    assert_eq!(lost.unwrap(), [lease]);

    let failures = silent.settle(vec![ack(lease)]).await.unwrap();
    let refusal = Refusal::from(failures[0].error.as_ref().unwrap());
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert_eq!(refusal.reason, "LEASE_LOST");
    assert_eq!(failures[0].lease, Some(lease));

    let request = commit(("in", "workers"), lease, "out", event("late"));
    let status = api.broker.clone().commit(request).await.unwrap_err();
    let refusal = Refusal::from(&status);
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert_eq!(refusal.reason, "LEASE_LOST");
    assert!(api.ids("out").await.is_empty());
    assert_eq!(lag(&api, "in", "workers").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_of_three_lease_times_gets_its_event_once() {
    const LEASE_MS: u64 = 2_000;
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_group("in", "workers", lease_of(LEASE_MS)).await;
    let mut slow = Member::join(&api, join("in", "workers", 1)).await.unwrap();
    let _beats = slow.heartbeats();
    api.publish("in", vec![event("e")]).await.unwrap();
    let delivery = slow.delivery().await.unwrap();

    // Somebody who would take it.
    let mut idle = Member::join(&api, join("in", "workers", 9)).await.unwrap();
    let _idle_beats = idle.heartbeats();
    tokio::time::sleep(Duration::from_millis(3 * LEASE_MS)).await;

    let failures = slow.settle(vec![ack(delivery.lease.unwrap())]).await;
    assert_eq!(failures.unwrap(), []);
    // The first that the other one gets is what is published now.
    api.publish("in", vec![event("next")]).await.unwrap();
    let next = idle.delivery().await.unwrap();
    assert_eq!((next.offset, next.attempt), (1, 1));
    assert!(slow.delivery_at_hand().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_leaving_member_held_goes_to_another_at_once_and_counts_no_attempt() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    // So long that only handing it back can explain the second delivery.
    let hour = 60 * 60 * 1000;
    api.create_group("in", "workers", lease_of(hour)).await;
    api.publish("in", vec![event("e")]).await.unwrap();
    let mut first = Member::join(&api, join("in", "workers", 1)).await.unwrap();
    assert_eq!(first.delivery().await.unwrap().attempt, 1);
    expect("the end of a left stream", first.leave())
        .await
        .unwrap();
    let mut second = Member::join(&api, join("in", "workers", 1)).await.unwrap();
    let delivery = second.delivery().await.unwrap();
    assert_eq!(delivery.attempt, 1);
    let failures = second.settle(vec![ack(delivery.lease.unwrap())]).await;
    assert_eq!(failures.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_reconnects_goes_on_with_the_leases_that_it_presents() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let hour = 60 * 60 * 1000;
    api.create_group("in", "workers", lease_of(hour)).await;
    api.publish("in", vec![event("e")]).await.unwrap();
    let mut first = Member::join(&api, join("in", "workers", 1)).await.unwrap();
    let lease = first.delivery().await.unwrap().lease.unwrap();
    drop(first);
    let mut again = join("in", "workers", 1);
    let never_given = sluice_proto::pb::LeaseToken {
        counter: lease.counter + 1000,
        ..lease
    };
    again.held = vec![lease, never_given];
    let mut second = Member::join(&api, again).await.unwrap();
    assert_eq!(second.joined.lost, [never_given]);
    let failures = second.settle(vec![ack(lease)]).await.unwrap();
    assert_eq!(failures, []);
    assert_eq!(lag(&api, "in", "workers").await, 0);
}

/// A deploy of the broker does not redo what is being worked on.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_goes_on_with_its_event_after_a_restart_of_the_broker() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let minute = 60 * 1000;
    api.create_group("in", "workers", lease_of(minute)).await;
    api.publish("in", vec![event("e")]).await.unwrap();
    let mut member = Member::join(&api, join("in", "workers", 1)).await.unwrap();
    let lease = member.delivery().await.unwrap().lease.unwrap();
    // Leases of short work are not noted; this work is long.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(broker.stop().success());
    broker.restart();

    let api = Api::connect(broker.url()).await;
    let mut other = Member::join(&api, join("in", "workers", 1)).await.unwrap();
    let mut again = join("in", "workers", 0);
    again.held = vec![lease];
    let mut member = Member::join(&api, again).await.unwrap();
    assert_eq!(member.joined.lost, []);
    let failures = member.settle(vec![ack(lease)]).await.unwrap();
    assert_eq!(failures, []);
    // It was not redone: the first that the other one gets is what comes now.
    api.publish("in", vec![event("next")]).await.unwrap();
    let next = other.delivery().await.unwrap();
    assert_eq!((next.offset, next.attempt), (1, 1));
}

/// A wait is over when it is over, whatever it is that the group waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_ends_with_its_reason_when_the_group_is_at_its_in_flight_cap() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let config = GroupConfig {
        max_in_flight: 1,
        // It does not run out while the second pull waits.
        ..lease_of(60 * 60 * 1000)
    };
    api.create_group("in", "workers", config).await;
    api.publish("in", vec![event("a"), event("b")])
        .await
        .unwrap();
    let pull = PullRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        wait: Some(Duration::from_millis(200).try_into().unwrap()),
        ..PullRequest::default()
    };
    let mut broker_api = api.broker.clone();
    let first = broker_api.pull(pull.clone()).await.unwrap().into_inner();
    assert_eq!(first.deliveries.len(), 1);
    let second = expect("a pull to end", broker_api.pull(pull)).await;
    let second = second.unwrap().into_inner();
    assert!(second.deliveries.is_empty());
    assert_eq!(second.idle(), IdleReason::InFlightCap);
}

/// A member whose credit is used up is in nobody's way.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_gets_what_a_member_without_credit_does_not_take() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_group("in", "workers", lease_of(60 * 60 * 1000))
        .await;
    let mut member = Member::join(&api, join("in", "workers", 1)).await.unwrap();
    let ids = ["a", "b", "c", "d"];
    api.publish("in", vec![event(ids[0])]).await.unwrap();
    let held = expect("its one event", member.delivery()).await.unwrap();
    let mut got = vec![held.event.unwrap().id];
    let pull = PullRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        wait: Some(Duration::from_secs(60).try_into().unwrap()),
        ..PullRequest::default()
    };
    let pull = || {
        let (mut broker_api, pull) = (api.broker.clone(), pull.clone());
        tokio::spawn(async move { broker_api.pull(pull).await })
    };
    // Pulls that come before their event, and one that comes after it.
    for (id, waits) in [(ids[1], true), (ids[2], true), (ids[3], false)] {
        let waiting = waits.then(&pull);
        api.publish("in", vec![event(id)]).await.unwrap();
        let pulling = waiting.unwrap_or_else(&pull);
        let pulled = expect("the pull", pulling).await.unwrap().unwrap();
        got.extend(
            pulled
                .into_inner()
                .deliveries
                .into_iter()
                .map(|of| of.event.unwrap().id),
        );
    }
    assert_eq!(got, ids);
}

/// A member that is told why nothing comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_answered_with_the_reason_why_nothing_comes() {
    use sluice_proto::pb::{Heartbeat, consume_response::Message as Response};
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_group("in", "workers", lease_of(60 * 1000)).await;
    let mut member = Member::join(&api, join("in", "workers", 0)).await.unwrap();
    for (publish, reason) in [(false, IdleReason::Empty), (true, IdleReason::NoCredit)] {
        if publish {
            api.publish("in", vec![event("e")]).await.unwrap();
        }
        let answered = expect("the heartbeat's answer to be right", async {
            loop {
                member.send(Request::Heartbeat(Heartbeat::default())).await;
                if let Some(Response::Heartbeat(ack)) = member.response().await.unwrap()
                    && ack.idle() == reason
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        answered.await;
    }
}

async fn lag(api: &Api, topic: &str, group: &str) -> i64 {
    let description = api.describe_group(topic, group).await;
    description.partitions.iter().map(|p| p.lag).sum()
}

/// A member that does not read, and goes away: what the broker had not sent yet
/// is nobody's work, and does not wait for the lease to run out.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_to_a_member_that_went_away_goes_to_others_at_once() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    // Far longer than this test waits.
    api.create_group("in", "workers", lease_of(600_000)).await;
    let deaf = Member::join(&api, join("in", "workers", 1000)).await;
    // The first messages fill the connection, the next ones wait in the broker, and
    // the last ones are not given to a member that does not read.
    for round in 1..=5 {
        let events = (0..100).map(|number| {
            let mut event = event(&format!("{round}-{number}"));
            event.data = vec![7; 20_000].into();
            event
        });
        api.publish("in", events.collect()).await.unwrap();
    }
    let (mut leased, mut same) = (0, 0);
    expect("no more to be leased", async {
        while leased == 0 || same < 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let described = api.describe_group("in", "workers").await;
            let in_flight = described.partitions[0].in_flight;
            same = if in_flight == leased { same + 1 } else { 0 };
            leased = in_flight;
        }
    })
    .await;
    assert!(leased < 500, "one that does not read got everything");
    drop(deaf);
    let mut second = Member::join(&api, join("in", "workers", 1000))
        .await
        .unwrap();
    // Those that nobody had may come before.
    let delivery = loop {
        let delivery = second.delivery().await.unwrap();
        if delivery.offset < leased {
            break delivery;
        }
    };
    assert_eq!(delivery.attempt, 1);
}
