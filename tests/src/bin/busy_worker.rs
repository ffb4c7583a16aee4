//! A stage worker in a process of its own that works by itself: what it does with
//! an event is in the event.
//!
//! `sluice-test-busy-worker URL TOPIC GROUP OUTPUT_TOPIC NAME CREDIT` joins the
//! group, sends heartbeats, handles what it gets one after the other, and says on
//! standard output what happens. ID is the event's, LEASE is `EPOCH:COUNTER`,
//! TIME is the wall clock in microseconds, WHAT is `ack`, `commit`, `nack` or
//! `reject`:
//!
//! | line | meaning |
//! |---|---|
//! | `joined` | it is a member |
//! | `took ID LEASE ATTEMPT TIME` | it has got an event |
//! | `asks ID LEASE WHAT TIME` | it is about to settle it |
//! | `done ID LEASE` | the broker has done what was asked |
//! | `refused ID LEASE REASON` | the broker has refused it |
//! | `left` | it has handled what it was granted, and has left |
//!
//! It leaves when its standard input ends, and ends with its stream. The event's
//! data is a [`Task`] in JSON.

use std::{
    collections::VecDeque,
    error::Error,
    io::Write,
    time::{Duration, SystemTime},
};

use rustix::process::{Signal, getpid, kill_process};
use sluice_proto::pb::{
    Delivery, Grant, LeaseToken, Nack, Reject, Settlement, consume_request::Message as Request,
    settlement::Action,
};
use sluice_tests::{
    api::{Api, Refusal, event, is_unknown},
    member::{Member, ack, commit, join},
    task::{End, Task},
};
use tokio::io::{AsyncReadExt, stdin};

struct Worker {
    api: Api,
    member: Member,
    topic: String,
    group: String,
    output: String,
    /// Got and not handled.
    queue: VecDeque<Delivery>,
    taken: i64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [url, topic, group, output, name, credit] = &args[..] else {
        return Err("usage: … URL TOPIC GROUP OUTPUT_TOPIC NAME CREDIT".into());
    };
    let mut granted: i64 = credit.parse()?;
    let api = Api::connect(url).await;
    let mut join = join(topic, group, granted);
    join.member = name.clone();
    let member = Member::join(&api, join).await?;
    let _heartbeats = member.heartbeats();
    say("joined");
    let mut worker = Worker {
        api,
        member,
        topic: topic.clone(),
        group: group.clone(),
        output: output.clone(),
        queue: VecDeque::new(),
        taken: 0,
    };
    let mut told_to_leave = tokio::spawn(async { stdin().read(&mut [0]).await });
    let mut leaving = false;
    while !leaving || worker.taken < granted || !worker.queue.is_empty() {
        if worker.queue.is_empty() {
            tokio::select! {
                delivery = worker.member.delivery() => worker.take(delivery?),
                _ = &mut told_to_leave, if !leaving => leaving = true,
            }
        }
        leaving |= told_to_leave.is_finished();
        while let Some(delivery) = worker.member.delivery_at_hand() {
            worker.take(delivery);
        }
        let Some(delivery) = worker.queue.pop_front() else {
            continue;
        };
        worker.handle(delivery).await?;
        if !leaving {
            granted += 1;
            let grant = Grant {
                max_events: granted,
                max_bytes: 0,
            };
            worker.member.send(Request::Grant(grant)).await;
        }
    }
    worker.member.leave().await?;
    say("left");
    Ok(())
}

/// Says a line, at once and whole. Whoever listens may be gone.
fn say(line: &str) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

fn now_us() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros())
}

/// The event's id and its lease, as lines have them.
fn name(delivery: &Delivery) -> (String, LeaseToken) {
    let id = delivery.event.as_ref().map(|event| event.id.clone());
    let lease = delivery.lease.unwrap_or_default();
    let id = id.unwrap_or_default();
    (format!("{id} {}:{}", lease.epoch, lease.counter), lease)
}

impl Worker {
    fn take(&mut self, delivery: Delivery) {
        let (name, _) = name(&delivery);
        say(&format!("took {name} {} {}", delivery.attempt, now_us()));
        self.taken += 1;
        self.queue.push_back(delivery);
    }

    async fn handle(&mut self, delivery: Delivery) -> Result<(), Box<dyn Error>> {
        let (name, lease) = name(&delivery);
        let event_of = delivery.event.unwrap_or_default();
        let task = Task::of(&event_of)?;
        if task.end == End::Die {
            kill_process(getpid(), Signal::KILL)?;
        }
        tokio::time::sleep(Duration::from_millis(task.ms)).await;
        let end = task.end_of(delivery.attempt);
        say(&format!("asks {name} {} {}", end.name(), now_us()));
        let refusal = match end {
            End::Commit => {
                let from = (self.topic.as_str(), self.group.as_str());
                let output = event(&format!("out-{}", event_of.id));
                let request = commit(from, lease, &self.output, output);
                match self.api.broker.clone().commit(request).await {
                    Err(status) if is_unknown(&status) => return Err(status.into()),
                    answer => answer.err().map(|status| Refusal::from(&status)),
                }
            }
            End::Ack => self.settle(ack(lease)).await?,
            End::Nack | End::Reject | End::Die => {
                let reason = "as the event says".to_owned();
                let action = match end {
                    End::Nack => Action::Nack(Nack {
                        delay: None,
                        reason,
                    }),
                    _ => Action::Reject(Reject { reason }),
                };
                let settlement = Settlement {
                    lease: Some(lease),
                    action: Some(action),
                };
                self.settle(settlement).await?
            }
        };
        match refusal {
            None => say(&format!("done {name}")),
            Some(refusal) => say(&format!("refused {name} {}", refusal.reason)),
        }
        Ok(())
    }

    async fn settle(&mut self, settlement: Settlement) -> Result<Option<Refusal>, Box<dyn Error>> {
        let failures = self.member.settle(vec![settlement]).await?;
        let error = failures.first().and_then(|failure| failure.error.as_ref());
        Ok(error.map(Refusal::from))
    }
}
