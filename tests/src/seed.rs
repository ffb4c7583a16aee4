//! Seeds of random tests.

use rand::{SeedableRng, rngs::StdRng};

/// A generator whose seed is printed, so that a failure can be replayed:
/// `SLUICE_SEED=<seed> cargo test …` takes that seed again.
///
/// # Panics
/// When `SLUICE_SEED` is set and no number.
#[must_use]
pub fn seeded() -> StdRng {
    let seed = match std::env::var("SLUICE_SEED") {
        Ok(seed) => seed.parse().expect("SLUICE_SEED is a number"),
        Err(_) => rand::random::<u64>(),
    };
    println!("SLUICE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
