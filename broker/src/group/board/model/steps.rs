//! What may happen to a group, each done to the board and to the model alike.

use super::*;

impl Run {
    pub(super) fn step(&mut self) {
        if self.lasts {
            let passes = self.rng.random_range(0..3);
            self.pass(passes);
        }
        let kinds = if self.lasts { 48 } else { 29 };
        match self.rng.random_range(0..kinds) {
            0..4 => self.publish(),
            4 => self.join(),
            5 => self.grant(),
            6 => self.leave(),
            7 => self.crash(),
            8 => self.restart(),
            9 => self.reconnect(),
            10..13 | 14 => self.ack(),
            13 => self.nack(),
            15 => self.report(),
            16 => self.refuse_some(),
            17 => self.note(),
            18 => self.paused = !self.paused,
            19 => self.nack_for_long(),
            20 => self.follow(),
            21 => self.make_room(),
            22 => self.park_again(),
            23 => self.arrive_parked(),
            24 if self.rng.random_bool(0.2) => self.seek(),
            25..27 => self.ack_in_line(),
            27 => self.log_answers(),
            // Only where things are on their way.
            29..32 => self.answer_some(),
            32 => self.answer_failures(),
            33 => self.pull(),
            34 => self.claim(),
            35 => self.fall_silent(),
            36 => self.some_is_heard(),
            37 => self.disconnect(),
            38 => self.retain(),
            39 => self.redrive(),
            40..42 => self.scan_some(),
            42..44 => drop(self.find_page()),
            44..46 => self.note(),
            46 => self.refuse_some(),
            47 => self.begin_some(),
            _ => {
                let passes = self.rng.random_range(0..2 * LEASE_MS);
                self.pass(passes);
            }
        }
        self.deliver();
        self.check();
    }
}
