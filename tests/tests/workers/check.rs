//! What workers have said, put together event by event, and whether a broker
//! that keeps its word could have let it happen.
//!
//! Leases are given in growing order, which tells what came after what. Times are
//! of one wall clock, so that what a worker asked after another had the event is
//! known to have come too late.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use sluice_proto::pb::{AttemptEnd, DeadLetter, DeadLetterHistory, FailedAttempt};
use sluice_tests::task::End;

use crate::crew::{Lease, Said, Word};

/// What became of what a worker asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Refused,
    /// The worker was killed before it could say.
    Unknown,
}

/// An event in a worker's hands.
#[derive(Clone, Debug)]
struct Taken {
    lease: Lease,
    member: String,
    attempt: i32,
    at_us: u128,
    /// What it asked for, when, and what it was answered.
    asked: Option<(End, u128, Answer)>,
}

/// What is known of a run when it is over.
pub(crate) struct Story {
    /// By event, in the order of the leases.
    taken: BTreeMap<String, Vec<Taken>>,
    /// How each dead letter fared; by event, more than one if it is doubled.
    letters: BTreeMap<String, Vec<DeadLetterHistory>>,
    /// How often each output is there, by the event that it is of.
    outputs: BTreeMap<String, usize>,
    max_attempts: i32,
    anomalies: Vec<String>,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) deliveries: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    pub(crate) again: usize,
    pub(crate) dead_letters: usize,
    /// Attempts in the histories of dead letters that ended with their worker.
    pub(crate) recorded_losses: usize,
}

impl Story {
    pub(crate) fn new(
        said: &[Said],
        letters: &[DeadLetter],
        outputs: &[String],
        max_attempts: i32,
    ) -> Self {
        let mut story = Self {
            taken: BTreeMap::new(),
            letters: BTreeMap::new(),
            outputs: BTreeMap::new(),
            max_attempts,
            anomalies: Vec::new(),
        };
        let mut event_of: BTreeMap<Lease, String> = BTreeMap::new();
        for Said { member, word } in said {
            story.hear(member, word, &mut event_of);
        }
        for taken in story.taken.values_mut() {
            taken.sort_by_key(|taken| taken.lease);
        }
        for letter in letters {
            let id = letter.event.as_ref().unwrap().id.clone();
            let history = letter.history.clone().unwrap();
            story.letters.entry(id).or_default().push(history);
        }
        for output in outputs {
            let id = output.trim_start_matches("out-").to_owned();
            *story.outputs.entry(id).or_default() += 1;
        }
        story
    }

    fn hear(&mut self, member: &str, word: &Word, event_of: &mut BTreeMap<Lease, String>) {
        match word {
            Word::Joined | Word::Left => {}
            Word::Took {
                id,
                lease,
                attempt,
                at_us,
            } => {
                if event_of.insert(*lease, id.clone()).is_some() {
                    self.find(id, "its lease was given before", lease);
                }
                self.taken.entry(id.clone()).or_default().push(Taken {
                    lease: *lease,
                    member: member.to_owned(),
                    attempt: *attempt,
                    at_us: *at_us,
                    asked: None,
                });
            }
            Word::Asks { lease, what, at_us } => {
                let taken = self.taken_by(lease, event_of);
                taken.asked = Some((*what, *at_us, Answer::Unknown));
            }
            Word::Done { lease } => self.answered(lease, event_of, Answer::Done),
            Word::Refused { lease, reason } => {
                if reason != "LEASE_LOST" {
                    self.find(&event_of[lease].clone(), "it is refused with", reason);
                }
                self.answered(lease, event_of, Answer::Refused);
            }
        }
    }

    /// A worker says all that it says of a lease after it took it.
    fn taken_by(&mut self, lease: &Lease, event_of: &BTreeMap<Lease, String>) -> &mut Taken {
        let taken = self.taken.get_mut(&event_of[lease]).unwrap();
        let by_lease = taken.iter_mut().find(|taken| taken.lease == *lease);
        by_lease.unwrap()
    }

    fn answered(&mut self, lease: &Lease, event_of: &BTreeMap<Lease, String>, answer: Answer) {
        let taken = self.taken_by(lease, event_of);
        taken.asked.as_mut().unwrap().2 = answer;
    }

    fn find(&mut self, id: &str, what: &str, detail: impl Debug) {
        self.anomalies.push(format!("{id}: {what}: {detail:?}"));
    }

    pub(crate) fn counts(&self) -> Counts {
        let all = || self.taken.values().flatten();
        let answers = |wanted: &Answer| {
            all()
                .filter(|taken| taken.asked.as_ref().is_some_and(|asked| asked.2 == *wanted))
                .count()
        };
        let records = self.letters.values().flatten().flat_map(|h| &h.attempts);
        Counts {
            deliveries: all().count(),
            refused: answers(&Answer::Refused),
            unknown: answers(&Answer::Unknown),
            again: all().count() - self.taken.len(),
            dead_letters: self.letters.len(),
            recorded_losses: records.filter(|record| is_loss(record)).count(),
        }
    }

    /// What cannot have happened. `published` are all events.
    pub(crate) fn anomalies(mut self, published: &BTreeSet<String>) -> Vec<String> {
        let known = self.letters.keys().chain(self.outputs.keys());
        let unknown = known.chain(self.taken.keys());
        let unknown: Vec<_> = unknown
            .filter(|id| !published.contains(*id))
            .cloned()
            .collect();
        for id in unknown {
            self.find(&id, "it was never published", ());
        }
        for id in published {
            let taken = self.taken.get(id).cloned().unwrap_or_default();
            self.check_settled_once(id, &taken);
            self.check_late_settlements(id, &taken);
            self.check_attempts(id, &taken);
            if let Some(history) = self.letters.get(id).and_then(|all| all.first()) {
                let history = history.clone();
                self.check_history(id, &taken, &history);
            }
        }
        self.anomalies
    }

    /// Each event is settled, once, and in the way that its worker was told.
    fn check_settled_once(&mut self, id: &str, taken: &[Taken]) {
        let of = |end: End, answer: Answer| {
            taken
                .iter()
                .filter(|taken| {
                    let asked = taken.asked.as_ref();
                    asked.is_some_and(|asked| asked.0 == end && asked.2 == answer)
                })
                .count()
        };
        let acked = of(End::Ack, Answer::Done);
        let outputs = self.outputs.get(id).copied().unwrap_or(0);
        let letters = self.letters.get(id).map_or(0, Vec::len);
        let settled = acked + outputs + letters;
        if settled > 1 {
            self.find(
                id,
                "it is settled more than once",
                (acked, outputs, letters),
            );
        }
        if settled == 0 && of(End::Ack, Answer::Unknown) == 0 {
            self.find(id, "it is settled, and nobody has settled it", taken);
        }
        let committed = of(End::Commit, Answer::Done);
        if committed > outputs {
            self.find(
                id,
                "a commit was answered, and its output is not there",
                committed,
            );
        }
        if outputs > committed + of(End::Commit, Answer::Unknown) {
            self.find(id, "there is an output of a commit that was refused", taken);
        }
        if of(End::Reject, Answer::Done) > letters {
            self.find(id, "it was rejected, and is no dead letter", taken);
        }
    }

    /// Nothing is accepted of a worker that has lost its lease.
    fn check_late_settlements(&mut self, id: &str, taken: &[Taken]) {
        for (at, earlier) in taken.iter().enumerate() {
            let Some((end, asked_us, Answer::Done)) = &earlier.asked else {
                continue;
            };
            for later in &taken[at + 1..] {
                if *end != End::Nack {
                    self.find(id, "it is delivered after it was settled", (earlier, later));
                } else if later.at_us < *asked_us {
                    self.find(id, "a late nack was accepted", (earlier, later));
                }
            }
        }
    }

    /// Attempts count what failed.
    fn check_attempts(&mut self, id: &str, taken: &[Taken]) {
        let mut at_least = 1;
        for taken in taken {
            if taken.attempt < at_least || taken.attempt > self.max_attempts {
                self.find(id, "the number of its attempt is wrong", (at_least, taken));
            }
            let nacked = matches!(&taken.asked, Some((End::Nack, _, Answer::Done)));
            at_least = taken.attempt + i32::from(nacked);
        }
    }

    /// A dead letter's history is what happened: each time that a worker had the
    /// event is there with how it ended. Besides there are only losses, of workers
    /// that were stopped before they had heard of the event.
    fn check_history(&mut self, id: &str, taken: &[Taken], history: &DeadLetterHistory) {
        let mut counted = 0;
        for record in &history.attempts {
            if record.attempt != counted + 1 {
                self.find(
                    id,
                    "a recorded attempt has the wrong number",
                    &history.attempts,
                );
            }
            counted += i32::from(!record.uncounted);
        }
        let last = history.attempts.last().map(FailedAttempt::end);
        let is_last = counted == self.max_attempts || last == Some(AttemptEnd::Reject);
        if counted != history.attempt_count || !is_last {
            self.find(id, "it became a dead letter too early or too late", history);
        }
        let mut records = history.attempts.iter();
        for taken in taken {
            let record = loop {
                match records.next() {
                    Some(record) if record.member == taken.member => break Some(record),
                    Some(record) if is_loss(record) => {}
                    _ => break None,
                }
            };
            match record {
                None => self.find(id, "an attempt is not recorded", (taken, history)),
                Some(record) if record.attempt != taken.attempt || !agrees(record, taken) => {
                    self.find(id, "a record is not what happened", (taken, record));
                }
                Some(_) => {}
            }
        }
        if !records.all(is_loss) {
            self.find(id, "a record is of nothing that happened", history);
        }
    }
}

/// Whether a recorded attempt ended with its worker, or with its lease.
fn is_loss(record: &FailedAttempt) -> bool {
    matches!(
        record.end(),
        AttemptEnd::LeaseExpired | AttemptEnd::ConnectionLost
    )
}

/// Whether a record says what its worker has seen.
fn agrees(record: &FailedAttempt, taken: &Taken) -> bool {
    let settled = |end: &End| match end {
        End::Nack => record.end() == AttemptEnd::Nack,
        End::Reject => record.end() == AttemptEnd::Reject,
        End::Ack | End::Commit | End::Die => false,
    };
    match &taken.asked {
        Some((end, _, Answer::Done)) => settled(end),
        Some((end, _, Answer::Unknown)) => settled(end) || is_loss(record),
        Some((_, _, Answer::Refused)) | None => is_loss(record),
    }
}

/// A run of one event: `(member, lease, attempt, asked at, what, answer)`.
#[cfg(test)]
fn story_of(taken: &[(&str, i64, i32, End, &str)], letters: &[DeadLetterHistory]) -> Vec<String> {
    let mut said = Vec::new();
    let mut say = |member: &str, word| {
        let member = member.to_owned();
        said.push(Said { member, word });
    };
    for (at, (member, lease, attempt, what, answer)) in (0_u128..).zip(taken) {
        let lease = (1, *lease);
        say(
            member,
            Word::Took {
                id: "e".to_owned(),
                lease,
                attempt: *attempt,
                at_us: at,
            },
        );
        // All are asked for when all are taken.
        let at_us = 100 + at;
        let what = *what;
        say(member, Word::Asks { lease, what, at_us });
        match *answer {
            "done" => say(member, Word::Done { lease }),
            "lost" => {
                let reason = "LEASE_LOST".to_owned();
                say(member, Word::Refused { lease, reason });
            }
            _ => {}
        }
    }
    let letter = |history: &DeadLetterHistory| DeadLetter {
        event: Some(sluice_tests::api::event("e")),
        history: Some(history.clone()),
        ..DeadLetter::default()
    };
    let letters: Vec<_> = letters.iter().map(letter).collect();
    let story = Story::new(&said, &letters, &[], 3);
    story.anomalies(&BTreeSet::from(["e".to_owned()]))
}

#[cfg(test)]
fn history(attempts: &[(&str, i32, AttemptEnd, bool)]) -> DeadLetterHistory {
    let attempts: Vec<_> = attempts
        .iter()
        .map(|(member, attempt, end, uncounted)| FailedAttempt {
            attempt: *attempt,
            member: (*member).to_owned(),
            end: (*end).into(),
            uncounted: *uncounted,
            ..FailedAttempt::default()
        })
        .collect();
    DeadLetterHistory {
        attempt_count: attempts.last().unwrap().attempt,
        attempts,
        ..DeadLetterHistory::default()
    }
}

#[test]
fn a_run_as_it_may_be_has_no_anomalies() {
    use AttemptEnd::{ConnectionLost, LeaseExpired, Reject};
    let fine = [("a", 1, 1, End::Ack, "lost"), ("b", 2, 2, End::Ack, "done")];
    assert_eq!(story_of(&fine, &[]), Vec::<String>::new());
    let rejected = [
        ("a", 1, 1, End::Reject, ""),
        ("b", 3, 2, End::Reject, "done"),
    ];
    let recorded = history(&[
        ("a", 1, LeaseExpired, true),
        // It never said that it had it.
        ("c", 1, ConnectionLost, false),
        ("b", 2, Reject, false),
    ]);
    assert_eq!(story_of(&rejected, &[recorded]), Vec::<String>::new());
}

#[test]
fn what_may_not_be_is_an_anomaly() {
    use AttemptEnd::{LeaseExpired, Nack, Reject};
    let found = |taken: &[_], letters: &[_], what: &str| {
        let anomalies = story_of(taken, letters);
        let is_there = anomalies.iter().any(|anomaly| anomaly.contains(what));
        assert!(is_there, "{what}: {anomalies:?}");
    };
    let twice = [("a", 1, 1, End::Ack, "done"), ("b", 2, 2, End::Ack, "done")];
    found(&twice, &[], "settled more than once");
    found(&twice, &[], "delivered after it was settled");
    let late = [
        ("a", 1, 1, End::Nack, "done"),
        ("b", 2, 2, End::Ack, "done"),
    ];
    found(&late, &[], "late nack");
    let lost = [("a", 1, 1, End::Ack, "lost")];
    found(&lost, &[], "nobody has settled it");
    let rejected = [("a", 1, 1, End::Reject, "done")];
    found(&rejected, &[], "no dead letter");
    let as_another = history(&[("a", 1, Nack, false)]);
    found(&rejected, &[as_another], "not what happened");
    let forgotten = history(&[("b", 1, Reject, false)]);
    found(&rejected, &[forgotten], "not recorded");
    let miscounted = history(&[("a", 2, Reject, false)]);
    found(&rejected, &[miscounted], "wrong number");
    let early = history(&[("a", 1, LeaseExpired, false)]);
    found(&lost, &[early], "too early");
    let uncounted = [
        ("a", 1, 1, End::Nack, "done"),
        ("b", 2, 1, End::Ack, "done"),
    ];
    found(&uncounted, &[], "attempt is wrong");
}
