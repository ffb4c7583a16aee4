//! Whoever makes or deletes a group and does not wait for the answer.

use std::time::Duration;

use sluice_proto::pb::{
    CreateGroupRequest, DeleteGroupRequest, Heartbeat, ListGroupsRequest, consume_request::Message,
};
use sluice_tests::{
    api::{Api, event, expect},
    broker::TestBroker,
    member::{Member, join},
};
use tonic::Request;

const GROUPS: usize = 60;

fn name(number: usize) -> String {
    format!("g{number}")
}

/// A request whose caller is gone after a while, which is before the log has answered
/// for some of them, and after it for others.
fn impatient<T>(message: T, number: usize) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_micros(150 * (number as u64 % 20)));
    request
}

async fn groups(api: &Api) -> Vec<String> {
    let request = ListGroupsRequest {
        page_size: 1000,
        ..ListGroupsRequest::default()
    };
    let listed = api.admin.clone().list_groups(request).await.unwrap();
    let groups = listed.into_inner().groups.into_iter();
    groups.map(|group| group.group).collect()
}

/// A group that is in the catalog works, and one that is not does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_runs_exactly_if_it_is_there_also_when_nobody_waits_for_the_answer() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 1).await;
    api.publish("t", vec![event("e")]).await.unwrap();
    for number in 0..GROUPS {
        let request = CreateGroupRequest {
            topic: "t".into(),
            group: name(number),
            ..CreateGroupRequest::default()
        };
        let _ = api
            .admin
            .clone()
            .create_group(impatient(request, number))
            .await;
    }
    // Behind all others in the log.
    api.create_group("t", "last", Default::default()).await;
    let made = groups(&api).await;
    let mut members = Vec::new();
    for group in &made {
        let member = Member::join(&api, join("t", group, 1)).await;
        let mut member = member.unwrap_or_else(|error| panic!("{group} does not run: {error}"));
        expect("a delivery", member.delivery()).await.unwrap();
        members.push((group.clone(), member));
    }
    for (number, group) in made.iter().enumerate() {
        let request = DeleteGroupRequest {
            topic: "t".into(),
            group: group.clone(),
        };
        let _ = api
            .admin
            .clone()
            .delete_group(impatient(request, number))
            .await;
    }
    api.create_group("t", "behind", Default::default()).await;
    let left = groups(&api).await;
    for (group, mut member) in members {
        if !left.contains(&group) {
            member.send(Message::Heartbeat(Heartbeat::default())).await;
            let answer = expect("an answer", member.response()).await;
            assert!(
                answer.is_err(),
                "{group} is deleted and goes on: {answer:?}"
            );
        }
    }
}
