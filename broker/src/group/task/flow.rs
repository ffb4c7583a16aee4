//! The group's part in flow control: it tells its topic's gate what it has to do,
//! and is not fed while one of its outputs is full.

use std::sync::Arc;

use sluice_proto::TopicId;
use tokio::task;

use super::{Continuation, GroupTask};
use crate::{
    commit::{Catalog, ReadError},
    flow::{Full, Measure, Metering, Report},
};

/// How often the bytes and the age of a backlog are measured.
const MEASURE_EVERY_MS: u64 = 100;

/// What a group's task keeps of it.
pub(super) struct Flowing {
    pub(super) metering: Metering,
    /// `None` when the gate has heard nothing yet.
    reported: Option<Report>,
    /// A measurement is under way.
    measuring: bool,
    measured_ms: u64,
    /// The declared outputs, each with whether it is exempt, by this catalog.
    outputs: Vec<(TopicId, bool)>,
    catalog: Option<Arc<Catalog>>,
    /// The output because of which nothing is delivered.
    pub(super) held_back: Option<Full>,
    /// When somebody without a stream was last here.
    pub(super) pulled_ms: Option<u64>,
}

impl Flowing {
    pub(super) fn new(metering: Metering) -> Self {
        Self {
            metering,
            reported: None,
            measuring: false,
            measured_ms: 0,
            outputs: Vec::new(),
            catalog: None,
            held_back: None,
            pulled_ms: None,
        }
    }
}

impl GroupTask {
    /// Tells the topic's gate how the group stands, if it has a limit.
    pub(super) fn tell_backlog(&mut self) {
        if self.flow.metering.gate().is_none() {
            return;
        }
        let mut report = Report {
            met: self.board.unsettled() as u64,
            scanned: 0,
            abandoned: self.is_abandoned(),
        };
        for (source, feed) in self.feeds.iter().enumerate() {
            let next = self.board.scan_next(source);
            if feed.filtered {
                report.scanned += next.0;
            } else {
                report.met += feed.visible_end().0.saturating_sub(next.0);
            }
        }
        if self.flow.reported != Some(report) {
            self.flow.reported = Some(report);
            self.flow.metering.report(report);
        }
        self.measure();
    }

    /// Goes by the group's limit and outputs as they are now. True when it has a
    /// limit and had none, or the other way round.
    pub(in crate::group) fn follow_settings(&mut self) -> bool {
        let had_limit = self.flow.metering.gate().is_some();
        self.flow.metering.follow(&self.group);
        self.flow.catalog = None;
        self.flow.reported = None;
        self.tell_backlog();
        had_limit != self.flow.metering.gate().is_some()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        let lease_ms = self.config().lease_ms;
        let now = self.clock.now_ms();
        let pulls = self.flow.pulled_ms.is_some_and(|at| now < at + lease_ms);
        let connected = self.members.iter().any(|(_, m)| m.outgoing.is_some());
        !(connected || pulls || self.board.occupied() > 0 || !self.pulls.is_empty())
    }

    /// Events that are met and not settled, or not looked at yet.
    pub(super) fn backlog_events(&self) -> u64 {
        let ahead = self.feeds.iter().enumerate().map(|(source, feed)| {
            let next = self.board.scan_next(source);
            feed.visible_end().0.saturating_sub(next.0)
        });
        self.board.len() as u64 + ahead.sum::<u64>()
    }

    /// Whether the filter goes on although enough is ready, so that what it drops
    /// is not taken for something to do.
    pub(super) fn scans_on(&self) -> bool {
        self.scanner.filter.is_some() && self.flow.metering.gate().is_some()
    }

    fn needs_measure(&self) -> bool {
        let config = self.config();
        (config.backlog_bytes > 0 || config.backlog_age_ms > 0)
            && self.flow.metering.gate().is_some()
            && !self.flow.measuring
    }

    /// When the backlog is to be measured next.
    pub(super) fn measure_due_ms(&self) -> Option<u64> {
        let due = self.flow.measured_ms + MEASURE_EVERY_MS;
        // An empty backlog that stays so needs no second look.
        let settled = self.board.is_empty() && !self.is_behind();
        (self.needs_measure() && !settled).then_some(due)
    }

    pub(super) fn is_behind(&self) -> bool {
        (0..self.feeds.len()).any(|s| self.board.scan_next(s) < self.readable_end(s))
    }

    fn measure(&mut self) {
        let now = self.clock.now_ms();
        if !self.needs_measure() || now < self.flow.measured_ms + MEASURE_EVERY_MS {
            return;
        }
        let Some(gate) = self.flow.metering.gate() else {
            return;
        };
        let done_bytes = gate.done_bytes();
        let feeds: Vec<_> = self
            .feeds
            .iter()
            .enumerate()
            .filter(|(_, feed)| feed.filtered)
            .map(|(source, feed)| {
                let window = self.board.window(source);
                let lag = window.unsettled_below(feed.visible_end());
                (feed.clone(), window.committed_end(), lag)
            })
            .collect();
        let store = self.scanner.store.clone();
        self.flow.measuring = true;
        self.jobs.push(Box::pin(async move {
            let measured = task::spawn_blocking(move || {
                let mut measure = Measure {
                    done_bytes,
                    ..Measure::default()
                };
                for (feed, from, lag) in feeds {
                    let Some(partition) = feed.partition().filter(|_| lag > 0) else {
                        continue;
                    };
                    let backlog = store.backlog(partition, from)?;
                    let all = partition.visible_end().0.saturating_sub(from.0).max(1);
                    let share = u128::from(backlog.bytes) * u128::from(lag) / u128::from(all);
                    measure.events += lag;
                    measure.bytes += u64::try_from(share).unwrap_or(u64::MAX);
                    measure.oldest_ms = match measure.oldest_ms {
                        0 => backlog.oldest_ms,
                        oldest => oldest.min(backlog.oldest_ms),
                    };
                }
                Ok::<_, ReadError>(measure)
            });
            let measured = measured.await;
            Box::new(move |task: &mut Self| {
                task.flow.measuring = false;
                task.flow.measured_ms = task.clock.now_ms();
                match measured {
                    Ok(Ok(measure)) => task.flow.metering.measured(measure),
                    Ok(Err(error)) => tracing::error!(%error, "a backlog cannot be measured"),
                    Err(error) => tracing::error!(%error, "a measurement ended with a panic"),
                }
            }) as Continuation
        }));
    }

    /// Looks whether an output holds the group back.
    pub(super) fn follow_outputs(&mut self) {
        if self.config().outputs.is_empty() {
            self.flow.held_back = None;
            return;
        }
        let catalog = self.proposals.catalog();
        let flow = self.flow.metering.flow();
        let known = self.flow.catalog.as_ref();
        if !known.is_some_and(|known| Arc::ptr_eq(known, &catalog)) {
            let outputs = flow.outputs(&catalog);
            self.flow.outputs = outputs.of_group(self.group.id).to_vec();
            self.flow.catalog = Some(catalog);
        }
        self.flow.held_back = self.flow.metering.flow().downstream(&self.flow.outputs);
    }
}
