//! One number for many entities, which follows each change of one of them.

use super::EntityKey;

/// Of a set of entities: the sum of a hash of each, so that it does not matter
/// in which order they came. A view that lost one is told by it, not one that
/// somebody made up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// With this one.
    pub fn add(&mut self, key: EntityKey, value: &[u8]) {
        self.0 = self.0.wrapping_add(hash(key, value));
    }

    /// Without this one, which was in it.
    pub fn remove(&mut self, key: EntityKey, value: &[u8]) {
        self.0 = self.0.wrapping_sub(hash(key, value));
    }
}

/// FNV-1a of both, each with its length, mixed so that sums of similar ones
/// differ (the last step of MurmurHash3).
fn hash(key: EntityKey, value: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in [&key.encode()[..], value] {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_proto::TopicId;

    #[test]
    fn it_follows_changes_and_knows_no_order() {
        let (a, b) = (EntityKey::Topic(TopicId(1)), EntityKey::Topic(TopicId(2)));
        let mut one = Digest::default();
        one.add(a, b"x");
        one.add(b, b"y");
        let mut other = Digest::default();
        other.add(b, b"z");
        other.add(a, b"x");
        assert_ne!(one, other);
        other.remove(b, b"z");
        other.add(b, b"y");
        assert_eq!(one, other);
        // The values the other way round.
        let mut swapped = Digest::default();
        swapped.add(a, b"y");
        swapped.add(b, b"x");
        assert_ne!(one, swapped);
    }
}
