//! The credit of a producer's stream: bytes that it may have under way.
//!
//! What is told is a limit on the bytes of the stream since it began, so a lost
//! or repeated one does no harm. It is replenished as batches are done with, and
//! never taken back: when the window shrinks, it is not renewed until what is
//! under way fits. One batch may overshoot. What a producer sends without credit
//! is not read beyond the most that its stream may have under way just now.

/// The window of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// What it is when it is the only one and nobody is behind.
    bytes_max: u64,
    /// What the number of streams leaves of it.
    shared: u64,
    /// What it is now.
    bytes: u64,
    arrived: u64,
    done: u64,
    told: u64,
}

/// A window never shrinks below this, so that a producer that waits for its turn
/// has something that waits.
pub const WINDOW_BYTES_MIN: u64 = 64 << 10;

impl Window {
    /// A window of a new stream.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            shared: bytes_max,
            bytes: bytes_max,
            arrived: 0,
            done: 0,
            told: 0,
        }
    }

    /// A batch came.
    pub fn arrived(&mut self, bytes: u64) {
        self.arrived += bytes;
    }

    /// A batch is done with, whether it was appended or refused.
    pub fn done(&mut self, bytes: u64) {
        self.done += bytes;
    }

    /// Makes the window a share of what it is at most, each from 0 to 1: as much as
    /// other streams leave of it, and of that what those who are behind do.
    pub fn set_share(&mut self, of_all: f64, of_topics: f64) {
        let share = |share: f64| {
            let bytes = (self.bytes_max as f64 * share.clamp(0.0, 1.0)) as u64;
            bytes.clamp(WINDOW_BYTES_MIN.min(self.bytes_max), self.bytes_max)
        };
        self.shared = share(of_all);
        self.bytes = share(of_all.min(of_topics));
    }

    /// Bytes under way.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        self.arrived.saturating_sub(self.done)
    }

    /// Whether another batch is read; those beyond wait in the connection. Also
    /// while a topic is full, so that batches for others go on.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.under_way() < self.shared
    }

    /// The limit that is to be told, if enough of it is new: a quarter of the
    /// window, or anything when the last one is used up.
    pub fn due(&mut self) -> Option<u64> {
        let limit = self.limit();
        let new = limit - self.told;
        let used_up = self.told <= self.arrived;
        (new > 0 && (new >= self.bytes / 4 || used_up)).then(|| self.tell())
    }

    /// The limit as it is told now.
    pub fn tell(&mut self) -> u64 {
        self.told = self.limit();
        self.told
    }

    fn limit(&self) -> u64 {
        self.told.max(self.done + self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// The producer sends a batch, if it has credit.
        Send(u64),
        /// The oldest batch is done with.
        Done,
        /// The limit on its way at this place arrives.
        Arrive(usize),
        Repeat(usize),
        /// It is lost, for a while: the next one heals it.
        Lose(usize),
        Share(f64, f64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_u64..400_000).prop_map(Step::Send),
            3 => Just(Step::Done),
            3 => any::<usize>().prop_map(Step::Arrive),
            1 => any::<usize>().prop_map(Step::Repeat),
            1 => any::<usize>().prop_map(Step::Lose),
            1 => (0.0..1.0_f64, 0.0..1.0_f64).prop_map(|(all, topics)| Step::Share(all, topics)),
        ]
    }

    proptest! {
        /// Whatever happens to what is told: never more is under way than the
        /// largest window and one batch, limits never shrink, and a producer of
        /// whom nothing is under way may send as soon as it is told.
        #[test]
        fn a_stream_has_its_window_under_way_and_is_never_stuck(
            bytes_max in (64_u64 << 10)..(4 << 20),
            steps in proptest::collection::vec(step(), 0..300),
        ) {
            let mut window = Window::new(bytes_max);
            let mut limits = vec![window.tell()];
            let (mut credit, mut sent, mut last_told) = (0, 0, 0);
            let mut under_way = std::collections::VecDeque::new();
            for step in steps {
                match step {
                    Step::Send(bytes) if sent < credit => {
                        prop_assert!(window.under_way() < bytes_max);
                        // It waits in the connection as long as it is not read.
                        if !window.takes_more() {
                            prop_assert!(window.under_way() > 0, "never read");
                            continue;
                        }
                        sent += bytes;
                        window.arrived(bytes);
                        under_way.push_back(bytes);
                    }
                    Step::Send(_) => {}
                    Step::Done => {
                        if let Some(bytes) = under_way.pop_front() {
                            window.done(bytes);
                        }
                    }
                    Step::Arrive(at) if !limits.is_empty() => {
                        let limit: u64 = limits.swap_remove(at % limits.len());
                        credit = credit.max(limit);
                    }
                    Step::Repeat(at) if !limits.is_empty() => {
                        limits.push(limits[at % limits.len()]);
                    }
                    Step::Lose(at) if !limits.is_empty() => {
                        limits.swap_remove(at % limits.len());
                    }
                    Step::Arrive(_) | Step::Repeat(_) | Step::Lose(_) => {}
                    Step::Share(of_all, of_topics) => {
                        window.set_share(of_all, of_topics);
                    }
                }
                if let Some(limit) = window.due() {
                    prop_assert!(limit > last_told);
                    last_told = limit;
                    limits.push(limit);
                }
                prop_assert_eq!(window.under_way(), under_way.iter().sum::<u64>());
            }
            for bytes in under_way {
                window.done(bytes);
            }
            if let Some(limit) = window.due() {
                last_told = limit;
            }
            // The last limit heals those that were lost.
            prop_assert!(last_told > sent || window.tell() > sent, "stuck");
            prop_assert!(window.told > sent, "an idle producer has no credit");
        }

        /// A window that has shrunk lets less be under way, once what was
        /// granted before is used up.
        #[test]
        fn a_smaller_share_is_a_smaller_window(share in 0.0..1.0_f64) {
            let mut window = Window::new(4 << 20);
            let first = window.tell();
            window.set_share(1.0, share);
            window.arrived(first);
            window.done(first);
            let limit = window.tell();
            let expected = ((4 << 20) as f64 * share) as u64;
            prop_assert_eq!(limit - first, expected.max(WINDOW_BYTES_MIN));
        }
    }
}
