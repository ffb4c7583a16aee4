//! What a group never does, whatever its members do: it has no more out than its caps
//! say, sends nobody more than was granted, nor messages that are too large, nor the same
//! event to two, and nothing at all while it is paused.
//!
//! `SLUICE_LIMITS_SEED=<seed>` replays a run.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::group::command::Pulled;

const RUNS: u64 = 30;
const STEPS: usize = 100;

/// Somebody on a stream.
struct Worker {
    inbox: mpsc::Receiver<Outgoing>,
    message_bytes_max: usize,
    granted: u64,
    sent: u64,
}

struct Run {
    rng: StdRng,
    standing: Standing,
    workers: BTreeMap<MemberId, Worker>,
    pulls: Vec<oneshot::Receiver<Pulled>>,
    /// Leases that workers know of, with who has them if it is one on a stream.
    leases: Vec<(LeaseToken, Option<MemberId>)>,
    tokens: BTreeSet<LeaseToken>,
    paused: bool,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let ordering = [Ordering::None, Ordering::Key, Ordering::Partition][(seed % 3) as usize];
        let config = GroupConfig {
            ordering: ordering.into(),
            max_in_flight: [1, 5, 40, 10_000][rng.random_range(0..4)],
            max_in_flight_per_member: [0, 1, 7][rng.random_range(0..3)],
            max_attempts: 3,
            lease_ms: 60_000,
            ..GroupConfig::default()
        };
        Self {
            rng,
            standing: Standing::of(config).await,
            workers: BTreeMap::new(),
            pulls: Vec::new(),
            leases: Vec::new(),
            tokens: BTreeSet::new(),
            paused: false,
        }
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..12) {
            0 if self.workers.len() < 4 => self.join(),
            1..4 => self.grant(),
            4 => self.pull(),
            5..9 => self.settle(),
            9 => self.leave(),
            10 => self.pause().await,
            _ => self.extend(),
        }
        // Now and then several things come in one turn.
        if self.rng.random_bool(0.7) {
            self.standing.come_to_rest().await;
            self.take();
        }
        self.check();
    }

    fn some_worker(&mut self) -> Option<MemberId> {
        let at = self.rng.random_range(0..self.workers.len().max(1));
        self.workers.keys().nth(at).copied()
    }

    fn join(&mut self) {
        // The least takes the smallest events only.
        let smallest = event(0, 1).encoded_len() + 64;
        let message_bytes_max = [smallest, 300, 1 << 20][self.rng.random_range(0..3)];
        let (member, inbox) = self.standing.member(message_bytes_max);
        let worker = Worker {
            inbox,
            message_bytes_max,
            granted: 0,
            sent: 0,
        };
        self.workers.insert(member, worker);
    }

    fn grant(&mut self) {
        let Some(member) = self.some_worker() else {
            return;
        };
        let more = self.rng.random_range(0..30);
        let worker = self.workers.get_mut(&member).unwrap();
        let max_events = worker.sent + more;
        let grant = Grant {
            max_events,
            max_bytes: None,
        };
        let (reply, mut taken) = oneshot::channel();
        self.standing.task.handle(Command::Grant {
            member,
            grant,
            reply,
        });
        let is_taken = taken.try_recv().unwrap().is_ok();
        assert_eq!(is_taken, max_events >= worker.granted, "credit shrinks");
        worker.granted = worker.granted.max(max_events);
    }

    fn pull(&mut self) {
        let (reply, pulled) = oneshot::channel();
        let pull = PendingPull {
            name: ["a", "b"][self.rng.random_range(0..2)].into(),
            events_max: self.rng.random_range(1..20),
            bytes_max: 1 << 20,
            message_bytes_max: 1 << 20,
            until: tokio::time::Instant::now() + Duration::from_secs(600),
            reply,
        };
        self.standing.task.handle(Command::Pull { pull });
        // Some do not wait for their answers.
        if self.rng.random_bool(0.8) {
            self.pulls.push(pulled);
        }
    }

    /// Acks some, and nacks others, as they come.
    fn settle(&mut self) {
        let count = self.rng.random_range(0..=self.leases.len());
        let mut settlements = Vec::new();
        let mut settled_by = None;
        for _ in 0..count {
            let at = self.rng.random_range(0..self.leases.len());
            let (token, member) = self.leases.swap_remove(at);
            settled_by = member.or(settled_by);
            let delay_ms = Some([0, 5][self.rng.random_range(0..2)]);
            let reason = String::new();
            let action = match self.rng.random_range(0..6) {
                0 => SettlementAction::Nack { delay_ms, reason },
                1 => SettlementAction::Reject { reason },
                _ => SettlementAction::Ack,
            };
            settlements.push(Settlement { token, action });
        }
        let (reply, _) = oneshot::channel();
        self.standing.task.handle(Command::Settle {
            member: settled_by,
            settlements,
            reply,
        });
    }

    fn extend(&mut self) {
        let settlements = self.leases.iter().map(|(token, _)| Settlement {
            token: *token,
            action: SettlementAction::Extend(None),
        });
        let settlements = settlements.collect();
        let (reply, mut extended) = oneshot::channel();
        let member = None;
        self.standing.task.handle(Command::Settle {
            member,
            settlements,
            reply,
        });
        let failures = extended.try_recv().unwrap();
        assert!(failures.is_empty(), "a lease is lost: {failures:?}");
    }

    fn leave(&mut self) {
        if let Some(member) = self.some_worker() {
            self.take();
            self.workers.remove(&member);
            self.leases.retain(|(_, of)| *of != Some(member));
            self.standing.task.handle(Command::Leave { member });
        }
    }

    async fn pause(&mut self) {
        let change = GroupChange {
            paused: Some(!self.paused),
            ..GroupChange::default()
        };
        let changed = self.standing.change(change);
        self.standing.answer(changed).await.unwrap();
        self.take();
        self.paused = !self.paused;
    }

    /// Workers take what they were sent.
    fn take(&mut self) {
        for (member, worker) in &mut self.workers {
            while let Ok(outgoing) = worker.inbox.try_recv() {
                let Outgoing::Deliveries(message) = outgoing else {
                    continue;
                };
                assert!(!self.paused, "it is paused and sends");
                worker.sent += message.tokens().len() as u64;
                assert!(worker.sent <= worker.granted, "more than was granted");
                for token in message.tokens() {
                    assert!(self.tokens.insert(*token), "{token:?} comes twice");
                    self.leases.push((*token, Some(*member)));
                }
                let bytes = message.into_wire().encoded_len();
                let most = worker.message_bytes_max;
                assert!(bytes <= most, "a message of {bytes} bytes, not {most}");
            }
        }
        let mut waiting = Vec::new();
        for mut pull in self.pulls.drain(..) {
            match pull.try_recv() {
                Ok(pulled) => {
                    let tokens = pulled.deliveries.iter().map(|delivery| delivery.token);
                    for token in tokens {
                        assert!(!self.paused, "it is paused and sends");
                        assert!(self.tokens.insert(token), "{token:?} comes twice");
                        self.leases.push((token, None));
                    }
                }
                Err(_) => waiting.push(pull),
            }
        }
        self.pulls = waiting;
    }

    fn check(&self) {
        let task = &self.standing.task;
        let (board, config) = (&task.board, task.config());
        let most = config.max_in_flight as usize;
        assert!(board.occupied() <= most, "{} are out", board.occupied());
        let members = self.workers.keys().map(|id| Holder::Member(*id));
        let pullers = ["a", "b"].map(|name| Holder::Unary(name.into()));
        for holder in members.chain(pullers) {
            let leases = board.holding(&holder).leases;
            let most = config.max_in_flight_per_member as usize;
            assert!(most == 0 || leases <= most, "{holder:?} has {leases}");
        }
        // One has an event at a time.
        let mut out = BTreeSet::new();
        for of in board.leased_events() {
            assert!(out.insert(of.id), "{:?} is out twice", of.id);
        }
    }
}

async fn run(seed: u64) {
    println!("SLUICE_LIMITS_SEED={seed} replays this");
    let mut run = Run::new(seed).await;
    for _ in 0..STEPS {
        run.step().await;
    }
    // With room for all, all can be worked off.
    run.take();
    if run.paused {
        run.pause().await;
    }
    let (member, inbox) = run.standing.member(1 << 20);
    let worker = Worker {
        inbox,
        message_bytes_max: 1 << 20,
        granted: u64::MAX,
        sent: 0,
    };
    run.workers.insert(member, worker);
    let all = Grant {
        max_events: u64::MAX,
        max_bytes: None,
    };
    let grant = run.standing.task.members.get_mut(member).unwrap();
    grant.credit.grant(all).unwrap();
    for _ in 0..40 {
        run.standing.come_to_rest().await;
        run.take();
        run.check();
        run.settle();
    }
    run.standing.end().await;
}

#[tokio::test]
async fn limits_hold_whatever_members_do() {
    let given = std::env::var("SLUICE_LIMITS_SEED").ok();
    if let Some(seed) = given.map(|seed| seed.parse().unwrap()) {
        return run(seed).await;
    }
    for seed in 0..RUNS {
        run(seed).await;
    }
}
