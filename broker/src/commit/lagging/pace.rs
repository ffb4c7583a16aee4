//! How long the next read has to wait, so that reads keep to a rate while
//! publishing goes on.
//!
//! What was read beyond the rate is a debt that time pays off; nobody reads while
//! there is one. Nothing is saved up: so in any time no more is read than the rate
//! allows, and what may be on its way at once.

use std::time::Duration;

/// Publishing goes on when so much is published per second.
const PUBLISHING_BYTES_PER_S: u64 = 1 << 20;
/// How long is looked before it is decided whether publishing goes on.
const LOOK: Duration = Duration::from_millis(100);
/// The longest wait before everything is looked at again.
const WAIT_MAX: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// Bytes that were read and are not paid off.
    debt: u64,
    /// When that was so, and what had been read in all.
    at: Duration,
    read: u64,
    publishing: Publishing,
}

/// Whether publishing goes on, by what was published since the last look.
#[derive(Debug, Default)]
struct Publishing {
    goes_on: bool,
    at: Duration,
    published: u64,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            debt: 0,
            at: Duration::ZERO,
            read: 0,
            publishing: Publishing::default(),
        }
    }

    /// `None` when a read may begin; otherwise when to ask again. `now` never
    /// decreases, and neither do `read` and `published`, bytes since the
    /// beginning.
    pub(super) fn wait(&mut self, now: Duration, read: u64, published: u64) -> Option<Duration> {
        let paid = bytes_in(now.saturating_sub(self.at), self.bytes_per_second);
        self.debt = self
            .debt
            .saturating_add(read.saturating_sub(self.read))
            .saturating_sub(paid);
        (self.at, self.read) = (now, read);
        if !self.publishing.goes_on(now, published) {
            self.debt = 0;
        }
        if self.debt == 0 {
            return None;
        }
        let seconds = self.debt as f64 / self.bytes_per_second as f64;
        Some(Duration::from_secs_f64(seconds.min(WAIT_MAX.as_secs_f64())))
    }
}

impl Publishing {
    fn goes_on(&mut self, now: Duration, published: u64) -> bool {
        let time = now.saturating_sub(self.at);
        if time >= LOOK {
            let since = published.saturating_sub(self.published);
            self.goes_on = since >= bytes_in(time, PUBLISHING_BYTES_PER_S);
            (self.at, self.published) = (now, published);
        }
        self.goes_on
    }
}

fn bytes_in(time: Duration, bytes_per_second: u64) -> u64 {
    let bytes = time.as_nanos() * u128::from(bytes_per_second) / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: u64 = 10 << 20;
    const PAGE: u64 = 1 << 20;

    /// Reads as fast as it may for `time`, in pages of these sizes. Tells when
    /// each was read, and its bytes.
    fn reads(
        pace: &mut Pace,
        time: Duration,
        mut page: impl FnMut() -> u64,
        published: impl Fn(Duration) -> u64,
    ) -> Vec<(Duration, u64)> {
        let (mut now, mut read, mut reads) = (LOOK, 0, Vec::new());
        while now < time {
            match pace.wait(now, read, published(now)) {
                Some(wait) => now += wait.max(Duration::from_micros(1)),
                None => {
                    let bytes = page();
                    read += bytes;
                    reads.push((now, bytes));
                    now += Duration::from_millis(1);
                }
            }
        }
        reads
    }

    fn full_speed(now: Duration) -> u64 {
        bytes_in(now, 1 << 30)
    }

    proptest! {
        #[test]
        fn while_publishing_goes_on_reads_keep_to_the_rate(
            pages in prop::collection::vec(1..4 * PAGE, 1..40),
            rate in 64 << 10..200_u64 << 20,
        ) {
            let mut next = pages.iter().cycle();
            let largest = pages.iter().max().copied().unwrap_or(0);
            let mut pace = Pace::new(rate);
            let reads = reads(
                &mut pace,
                Duration::from_secs(2),
                || *next.next().expect("it goes round"),
                full_speed,
            );
            for (first, (begin, _)) in reads.iter().enumerate() {
                let mut bytes = 0;
                for (at, page) in &reads[first..] {
                    bytes += page;
                    let allowed = bytes_in(*at - *begin, rate) + largest;
                    prop_assert!(bytes <= allowed + 1, "{bytes} in {:?}", *at - *begin);
                }
            }
        }

        #[test]
        fn the_rate_is_used(pages in prop::collection::vec(1..PAGE, 1..40)) {
            let mut next = pages.iter().cycle();
            let mut pace = Pace::new(RATE);
            let time = Duration::from_secs(10);
            let read = reads(&mut pace, time, || *next.next().expect("it goes round"), full_speed);
            let bytes: u64 = read.iter().map(|(_, bytes)| bytes).sum();
            // Or as many pages as one after the other can be read.
            prop_assert!(bytes > RATE * 9 || read.len() > 9000, "{bytes}");
        }
    }

    #[test]
    fn a_trickle_is_no_publishing_and_nothing_is_owed_when_it_ends() {
        let trickle = |now| bytes_in(now, PUBLISHING_BYTES_PER_S / 2);
        let time = Duration::from_secs(1);
        let read = reads(&mut Pace::new(RATE), time, || PAGE, trickle);
        assert_eq!(read.len(), 900, "one after the other");

        let mut pace = Pace::new(RATE);
        assert_eq!(pace.wait(LOOK, 0, PAGE), None);
        assert!(pace.wait(LOOK, 100 * PAGE, PAGE).is_some(), "it owes 100");
        assert_eq!(
            pace.wait(2 * LOOK, 100 * PAGE, PAGE),
            None,
            "nobody publishes"
        );
        assert_eq!(
            pace.wait(3 * LOOK, 100 * PAGE, 2 * PAGE),
            None,
            "it is forgiven"
        );
    }
}
