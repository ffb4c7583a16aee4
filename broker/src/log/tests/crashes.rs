//! The process is killed or the power fails at any operation, again and again, also while the log is
//! being opened: what was acked is there, in order, at its position; a block
//! that was under way is there whole or not at all.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{
    super::{LogPoint, Opened, Position, ReadError, ReclaimError, When, WriteError},
    CONFIG, Stored, open, prepare,
    sim_disk::SimDisk,
};

/// Seeds, unless `SLUICE_SEEDS` says how many, from `SLUICE_SEED` on: so a single
/// one is replayed.
const SEEDS: u64 = 2000;
/// Seeds of a disk whose syncs do nothing, which most of them find out.
const LYING_SEEDS: u64 = 300;
const LIVES: usize = 12;
/// Seeds that found something once.
///
/// 1,032,712: a place to begin from that was taken in an epoch of which no block
/// became durable, so that a later start gave that epoch's number again.
const FOUND: [u64; 1] = [1_032_712];

/// What the log has promised.
#[derive(Default)]
struct Model {
    acked: Vec<Stored>,
    /// Blocks after those, in order: where they end, and their frames.
    under_way: Vec<(Position, Vec<Stored>)>,
    /// So many of them survive a killed process.
    written: usize,
    /// The highest epoch in which a block was acked.
    epoch: u64,
    /// A place to begin from, and how many frames are below.
    point: Option<(LogPoint, usize)>,
    /// Everything below it may have been removed. Replay begins above.
    reclaimed_below: Position,
    clean: bool,
}

impl Model {
    /// One life of the log, up to the next crash. Tells what was wrong.
    fn live(&mut self, disk: &SimDisk, rng: &mut impl Rng) -> Result<(), String> {
        disk.power_off_after(rng.random_range(0..40));
        let from = self.begin(rng.random_bool(0.5));
        let (mut opened, frames) = match open(disk, from.map(|(point, _)| point)) {
            Ok(opened) => opened,
            Err(super::OpenError::Io(..)) => return Ok(()),
            Err(error) => return Err(format!("it does not open: {error}")),
        };
        let below = from.map_or(0, |(_, below)| below);
        self.check(below, &frames)?;
        if opened.report.epoch <= self.epoch {
            return Err(format!("epoch {} again", opened.report.epoch));
        }
        let clean = std::mem::take(&mut self.clean);
        if clean && (!opened.report.clean && from.is_none() || opened.report.cut_bytes > 0) {
            return Err("a close that was acked is not seen".into());
        }
        for stored in &self.acked {
            let read = opened.reader.frame(stored.position, stored.length);
            match read {
                Ok(payload) if payload[..] == stored.payload[..] => {}
                Err(ReadError::NotThere(_)) if stored.position < self.reclaimed_below => {}
                other => return Err(format!("{} reads as {other:?}", stored.position)),
            }
        }
        loop {
            let frames = rng.random_range(1..4);
            let payloads: Vec<_> = (0..frames).map(|_| payload(rng)).collect();
            // Before the first block there is nothing to begin from.
            if !self.acked.is_empty() && self.under_way.is_empty() && rng.random_bool(0.1) {
                self.point = Some((opened.writer.end(), self.acked.len()));
            }
            if rng.random_bool(0.1) && self.reclaim(&mut opened, rng).is_err() {
                return Ok(());
            }
            if rng.random_bool(0.03) {
                self.clean = opened.writer.close().is_ok();
                return Ok(());
            }
            if self.write_some(&mut opened, payloads, rng).is_err() {
                return Ok(());
            }
        }
    }

    /// Has up to three blocks under way, which land in any order.
    fn write_some(
        &mut self,
        opened: &mut Opened,
        mut payloads: Vec<Vec<u8>>,
        rng: &mut impl Rng,
    ) -> Result<(), WriteError> {
        let mut flying = Vec::new();
        for _ in 0..3 {
            let bytes = payloads.iter().map(|p| 8 + p.len()).sum();
            // A new segment would wait for those that fly, and nobody lands them.
            if !flying.is_empty() && !opened.writer.has_room(bytes) {
                break;
            }
            let when = if rng.random_bool(0.7) {
                When::Durable
            } else {
                When::Written
            };
            let (prepared, stored) = prepare(&mut opened.writer, &payloads, when)?;
            self.under_way.push((prepared.placed().end(), stored));
            flying.push(prepared);
            // The first block of an epoch goes alone.
            if rng.random_bool(0.5) || self.epoch < opened.report.epoch {
                break;
            }
            payloads = vec![payload(rng)];
        }
        let mut result = Ok(());
        while !flying.is_empty() && result.is_ok() {
            let next = flying.swap_remove(rng.random_range(0..flying.len()));
            result = next.write();
        }
        let durable_end = opened.reader.durable_end();
        let durable = self.under_way.iter().filter(|(end, _)| *end <= durable_end);
        for (_, stored) in self.under_way.drain(..durable.count()) {
            self.acked.extend(stored);
            self.epoch = opened.report.epoch;
        }
        let written_end = opened.reader.written_end();
        let written = self.under_way.iter().filter(|(end, _)| *end <= written_end);
        self.written = written.count();
        result
    }

    /// Where to replay from: nothing that may be gone is below.
    fn begin(&self, from_point: bool) -> Option<(LogPoint, usize)> {
        let must = self.reclaimed_below > Position(0);
        self.point.filter(|_| from_point || must)
    }

    /// Removes some of the segments that no replay needs any more.
    fn reclaim(&mut self, opened: &mut Opened, rng: &mut impl Rng) -> Result<(), ReclaimError> {
        let Some((point, _)) = self.point else {
            return Ok(());
        };
        let segments = opened.reader.segments();
        let unneeded = segments.iter().filter(|s| s.end <= point.position);
        let some: Vec<_> = unneeded.filter(|_| rng.random_bool(0.7)).collect();
        let Some(last) = some.last() else {
            return Ok(());
        };
        self.reclaimed_below = self.reclaimed_below.max(last.end);
        let bases: Vec<_> = some.iter().map(|s| s.base).collect();
        opened.reclaimer.remove(&bases).map(drop)
    }

    /// Compares what was given back from the frame numbered `below` on.
    fn check(&mut self, below: usize, frames: &[Stored]) -> Result<(), String> {
        let expected = &self.acked[below..];
        if frames.len() < expected.len() || frames[..expected.len()] != *expected {
            return Err(format!(
                "{} frames were acked, {} came back",
                expected.len(),
                frames.len()
            ));
        }
        let rest = &frames[expected.len()..];
        let (mut blocks, mut after) = (0, rest);
        for (_, stored) in &self.under_way {
            let Some(next) = after.strip_prefix(&stored[..]) else {
                break;
            };
            (blocks, after) = (blocks + 1, next);
        }
        if !after.is_empty() {
            return Err("blocks that were under way came back in part".into());
        }
        if blocks < self.written {
            return Err(format!(
                "{} blocks were written, {blocks} came back",
                self.written
            ));
        }
        self.written = 0;
        // What is served once must stay.
        self.acked.extend_from_slice(rest);
        self.under_way.clear();
        Ok(())
    }
}

fn payload(rng: &mut impl Rng) -> Vec<u8> {
    let length = match rng.random_range(0..4) {
        0 => rng.random_range(0..20),
        1 => rng.random_range(0..5000),
        2 => 4096 - 64 - 8,
        _ => rng.random_range(0..12_000),
    };
    let mut payload = vec![0; length];
    rng.fill(&mut payload[..]);
    payload
}

/// Several lives with a kill or a crash after each.
fn lives(disk: &SimDisk, seed: u64) -> Result<(usize, usize), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    for _ in 0..LIVES {
        model.live(disk, &mut rng)?;
        if rng.random_bool(0.5) {
            disk.crash(&mut rng);
            model.written = 0;
        } else {
            disk.kill();
        }
    }
    disk.crash(&mut rng);
    model.written = 0;
    // The last word has a log that opens in peace.
    let from = model.begin(false);
    let (opened, frames) =
        open(disk, from.map(|(point, _)| point)).map_err(|error| error.to_string())?;
    model.check(from.map_or(0, |(_, below)| below), &frames)?;
    let recycled = disk.recycled();
    if opened.reader.spare_bytes() > CONFIG.spares_max as u64 * CONFIG.segment_bytes {
        return Err("too many spare files".into());
    }
    Ok((model.acked.len(), recycled))
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let first = number("SLUICE_SEED").unwrap_or(0);
    first..first + number("SLUICE_SEEDS").unwrap_or(SEEDS)
}

#[test]
fn what_was_acked_survives_every_crash() {
    let (mut acked, mut recycled) = (0, 0);
    for seed in seeds() {
        match lives(&SimDisk::default(), seed) {
            Ok((frames, files)) => {
                acked += frames;
                recycled += files;
            }
            Err(wrong) => panic!("seed {seed}: {wrong}"),
        }
    }
    println!(
        "seeds {:?}: acked {acked} frames, recycled {recycled} files",
        seeds()
    );
    // A few seeds, as when one is replayed, need not be worth anything.
    if seeds().count() as u64 >= SEEDS {
        assert!(
            acked > SEEDS as usize * 20,
            "only {acked} frames were acked"
        );
        assert!(recycled > 100, "only {recycled} files were recycled");
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    for seed in FOUND {
        if let Err(wrong) = lives(&SimDisk::default(), seed) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

/// The tests above would notice a log that does not sync.
#[test]
fn a_disk_that_only_pretends_to_sync_is_found_out() {
    let found = (0..LYING_SEEDS).filter(|seed| {
        let disk = SimDisk::default();
        disk.let_syncs_lie();
        lives(&disk, *seed).is_err()
    });
    assert!(found.count() > LYING_SEEDS as usize / 2);
}
