//! Which declared outputs hold their group back.
//!
//! A group that declares an output is an edge from its topic to that one. If all
//! edges of a cycle held their groups back, each could wait for the next for
//! ever. So they are looked at in the order in which the groups were made, and
//! one that closes a cycle with those before it is exempt: it holds nobody back.

use std::collections::{BTreeMap, BTreeSet};

/// An output that a group declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge<T> {
    /// The topic that it reads.
    pub from: T,
    /// The topic to which it publishes.
    pub to: T,
}

/// For each edge, in the order in which they are given, whether it is exempt.
#[must_use]
pub fn exempt<T: Copy + Ord>(edges: &[Edge<T>]) -> Vec<bool> {
    let mut onward: BTreeMap<T, BTreeSet<T>> = BTreeMap::new();
    edges
        .iter()
        .map(|edge| {
            let closes = reaches(&onward, edge.to, edge.from);
            if !closes {
                onward.entry(edge.from).or_default().insert(edge.to);
            }
            closes
        })
        .collect()
}

fn reaches<T: Copy + Ord>(onward: &BTreeMap<T, BTreeSet<T>>, from: T, to: T) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(topic) = next.pop() {
        if topic == to {
            return true;
        }
        if seen.insert(topic) {
            next.extend(onward.get(&topic).into_iter().flatten());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edges(of: &[(u8, u8)]) -> Vec<Edge<u8>> {
        let edge = |(from, to): &(u8, u8)| Edge {
            from: *from,
            to: *to,
        };
        of.iter().map(edge).collect()
    }

    #[test]
    fn what_leads_back_is_exempt() {
        assert_eq!(exempt(&edges(&[(1, 1)])), [true]);
        assert_eq!(exempt(&edges(&[(1, 2), (2, 1)])), [false, true]);
        // A diamond has no cycle.
        let diamond = edges(&[(1, 2), (1, 3), (2, 4), (3, 4)]);
        assert_eq!(exempt(&diamond), [false; 4]);
        let retry = edges(&[(1, 2), (2, 3), (3, 2)]);
        assert_eq!(exempt(&retry), [false, false, true]);
    }

    proptest! {
        /// What holds back has no cycle, so that somebody can always go on; and
        /// what is exempt would close one.
        #[test]
        fn what_holds_back_has_no_cycle(
            given in proptest::collection::vec((0_u8..8, 0_u8..8), 0..40),
        ) {
            let edges = edges(&given);
            let exempt = exempt(&edges);
            let mut onward: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
            for (edge, _) in edges.iter().zip(&exempt).filter(|(_, exempt)| !**exempt) {
                onward.entry(edge.from).or_default().insert(edge.to);
            }
            for (edge, exempt) in edges.iter().zip(exempt) {
                // An edge that holds back does not lead to where it comes from.
                prop_assert_eq!(reaches(&onward, edge.to, edge.from), exempt);
            }
        }
    }
}
