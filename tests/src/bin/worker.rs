//! A stage worker in a process of its own, which a test can stop and lets go on
//! line by line.
//!
//! `sluice-test-worker URL TOPIC GROUP OUTPUT_TOPIC NAME` joins the group with
//! credit for one event, sends heartbeats, and says on standard output what
//! happens:
//!
//! | line | meaning |
//! |---|---|
//! | `joined` | it is a member |
//! | `took ID ATTEMPT` | it has got an event, and works on it until it is told |
//! | `committed ID`, `acked ID` | the broker has done what was asked |
//! | `refused ID CODE REASON` | the broker has refused it |
//! | `lost` | the broker says that the lease has run out |
//! | `disconnected` | its stream has ended; it takes no more events |
//!
//! It is told on standard input: `commit` acks the event it took last and
//! publishes `out-ID`, in one step; `ack` only acks it. Both are unary calls, so
//! that they work however the stream has fared. It ends with its standard input.

use std::error::Error;

use sluice_proto::pb::{
    Delivery, Grant, LeaseToken, SettleRequest, consume_request::Message as Request,
    consume_response::Message as Response,
};
use sluice_tests::{
    api::{Api, Refusal, event},
    member::{Member, ack, commit, join},
};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

struct Worker {
    api: Api,
    topic: String,
    group: String,
    output: String,
    /// Id and lease of the event it took last.
    taken: Option<(String, LeaseToken)>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [url, topic, group, output, name] = &args[..] else {
        return Err("usage: sluice-test-worker URL TOPIC GROUP OUTPUT_TOPIC NAME".into());
    };
    let api = Api::connect(url).await;
    let mut join = join(topic, group, 1);
    join.member = name.clone();
    let mut member = Member::join(&api, join).await?;
    let _heartbeats = member.heartbeats();
    println!("joined");
    let mut worker = Worker {
        api,
        topic: topic.clone(),
        group: group.clone(),
        output: output.clone(),
        taken: None,
    };
    let mut lines = BufReader::new(stdin()).lines();
    let mut connected = true;
    let mut granted = 1;
    loop {
        tokio::select! {
            response = member.response(), if connected => match response {
                Ok(Some(Response::Deliveries(deliveries))) => {
                    deliveries.deliveries.into_iter().for_each(|delivery| worker.take(delivery));
                }
                Ok(Some(Response::LeasesLost(_))) => println!("lost"),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    connected = false;
                    println!("disconnected");
                }
            },
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                worker.told(&line).await?;
                granted += 1;
                let grant = Grant { max_events: granted, max_bytes: 0 };
                member.send(Request::Grant(grant)).await;
            }
        }
    }
}

impl Worker {
    fn take(&mut self, delivery: Delivery) {
        let (Some(event), Some(lease)) = (delivery.event, delivery.lease) else {
            return;
        };
        println!("took {} {}", event.id, delivery.attempt);
        self.taken = Some((event.id, lease));
    }

    async fn told(&mut self, line: &str) -> Result<(), Box<dyn Error>> {
        let (id, lease) = self.taken.clone().ok_or("there is no event to work on")?;
        let refusal = match line {
            "commit" => self.commit(&id, lease).await,
            "ack" => self.ack(lease).await,
            _ => return Err(format!("what is {line:?}?").into()),
        };
        match refusal {
            None if line == "commit" => println!("committed {id}"),
            None => println!("acked {id}"),
            Some(refusal) => println!("refused {id} {:?} {}", refusal.code, refusal.reason),
        }
        Ok(())
    }

    async fn commit(&self, id: &str, lease: LeaseToken) -> Option<Refusal> {
        let from = (self.topic.as_str(), self.group.as_str());
        let request = commit(from, lease, &self.output, event(&format!("out-{id}")));
        let answer = self.api.broker.clone().commit(request).await;
        answer.err().map(|status| Refusal::from(&status))
    }

    async fn ack(&self, lease: LeaseToken) -> Option<Refusal> {
        let request = SettleRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            settlements: vec![ack(lease)],
        };
        match self.api.broker.clone().settle(request).await {
            Ok(response) => {
                let failures = response.into_inner().failures;
                let error = failures.first().and_then(|failure| failure.error.as_ref());
                error.map(Refusal::from)
            }
            Err(status) => Some(Refusal::from(&status)),
        }
    }
}
