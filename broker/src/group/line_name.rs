//! What lines are called.
//!
//! Others choose keys, so that their hash is one that withstands chosen ones. It costs
//! more than the rest of what is done with a name, and whoever reads an event does it:
//! beside the group's task, mostly.

use std::{collections::hash_map::RandomState, hash::BuildHasher, sync::LazyLock};

/// Hash of a name, the same one while the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameHash(u64);

impl NameHash {
    /// The hash of a name.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(HASHES.hash_one(name))
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What a line is called, with its hash.
#[derive(Clone, Copy, Debug)]
pub struct LineName<'a> {
    /// A key, or what stands for a partition.
    pub bytes: &'a [u8],
    /// Its hash: a name with the hash of another one is another line.
    pub hash: NameHash,
}

impl<'a> From<&'a [u8]> for LineName<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        let hash = NameHash::of(bytes);
        Self { bytes, hash }
    }
}
