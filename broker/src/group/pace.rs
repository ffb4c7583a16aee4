//! How fast a group reads on that has many events in line behind others.
//!
//! What is behind another event of its key is of no use before that one is settled,
//! and what is read further ahead than memory goes is read twice. So while many are
//! in line, a page is read when as many events as it has were settled. When few are at work
//! their keys may be in the way of others, which are to be found soon; and however
//! many are at work, others are found at some time.
//!
//! Pure: it is given the time.

/// So many events in line are enough.
const IN_LINE_ENOUGH: usize = 4096;
/// Events of a page.
pub(super) const PAGE_EVENTS: usize = 512;
/// Fewer at work are few.
const FEW_AT_WORK: usize = 64;
/// The next page while few are at work.
const SOON_MS: u64 = 5;
/// The next page in any case.
const LATE_MS: u64 = 50;

/// When the last page was read, and how many events it was to have.
#[derive(Debug, Default)]
pub(super) struct Pace {
    at_ms: u64,
    settled: u64,
    page_events: u64,
}

/// What a group has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Events behind others of their key.
    pub(super) in_line: usize,
    /// Events under lease.
    pub(super) at_work: usize,
    /// Events that were ever settled.
    pub(super) settled: u64,
}

impl Pace {
    /// A page was read, with so many events.
    pub(super) fn read(&mut self, page_events: usize, standing: Standing, now_ms: u64) {
        self.at_ms = now_ms;
        self.settled = standing.settled;
        self.page_events = page_events as u64;
    }

    /// When the next page is due, if no more is settled: what is not later than
    /// now is due.
    pub(super) fn next_due(&self, standing: Standing) -> u64 {
        let settled = standing.settled.saturating_sub(self.settled);
        if standing.in_line < IN_LINE_ENOUGH || settled >= self.page_events {
            return 0;
        }
        let few = standing.at_work < FEW_AT_WORK;
        self.at_ms + if few { SOON_MS } else { LATE_MS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_is_settled_and_never_stops() {
        let mut pace = Pace::default();
        let busy = Standing {
            in_line: IN_LINE_ENOUGH,
            at_work: FEW_AT_WORK,
            settled: 1000,
        };
        pace.read(PAGE_EVENTS, busy, 70);
        let few_in_line = Standing {
            in_line: IN_LINE_ENOUGH - 1,
            ..busy
        };
        assert_eq!(pace.next_due(few_in_line), 0);
        assert_eq!(pace.next_due(busy), 70 + LATE_MS);
        let settled = |count| Standing {
            settled: 1000 + count,
            ..busy
        };
        assert_eq!(pace.next_due(settled(PAGE_EVENTS as u64 - 1)), 70 + LATE_MS);
        assert_eq!(pace.next_due(settled(PAGE_EVENTS as u64)), 0);
        let few_at_work = Standing {
            at_work: FEW_AT_WORK - 1,
            ..busy
        };
        assert_eq!(pace.next_due(few_at_work), 70 + SOON_MS);
    }
}
