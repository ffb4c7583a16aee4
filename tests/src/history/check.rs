//! Finds what in a run does not go together.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Delivered, History, Place, Publish};

/// What was delivered of a key, by a group, in the order of the leases.
#[derive(Default)]
struct KeyLine {
    delivered: BTreeMap<i64, String>,
    /// The latest delivery: the epoch of its lease, and its offset.
    latest: Option<(i64, i64)>,
}

impl KeyLine {
    /// Whether an event may be delivered next. A key goes on when an ack is in line for
    /// the log, so that a crash can lose acks of events that others of the key have
    /// followed: all from one on. Then the key begins again with that one.
    fn may_come(&self, offset: i64, epoch: i64, is_over: impl Fn(&String) -> bool) -> bool {
        let in_one_life = self
            .latest
            .is_none_or(|(before, latest)| before < epoch || latest <= offset);
        let mut later = self
            .delivered
            .range(offset + 1..)
            .map(|(_, id)| id)
            .peekable();
        let is_new = !self.delivered.contains_key(&offset);
        in_one_life && (later.peek().is_none() || (!is_new && !later.any(is_over)))
    }

    fn came(&mut self, offset: i64, epoch: i64, id: &str) {
        self.delivered.insert(offset, id.to_owned());
        self.latest = Some((epoch, offset));
    }
}

impl History {
    /// Everything in which the run contradicts what the broker promises.
    #[must_use]
    pub fn anomalies(&self) -> Vec<Anomaly> {
        let mut found = Vec::new();
        let mut places: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
        for (id, place) in &self.read {
            places.entry(id).or_default().push(place.clone());
        }
        self.check_publishes(&places, &mut found);
        self.check_origins(&places, &mut found);
        self.check_places(&mut found);
        self.check_offsets(&mut found);
        self.check_sends(&mut found);
        self.check_polls(&mut found);
        self.check_deliveries(&mut found);
        found
    }

    /// Events of the topic that the group never got. Only to be asked when the
    /// group has no filter and has caught up.
    #[must_use]
    pub fn undelivered(&self, group: &str, topic: &str) -> Vec<Anomaly> {
        let to_group = self.deliveries.iter().filter(|d| d.group == group);
        let delivered: BTreeSet<_> = to_group.map(|d| &d.id).collect();
        let in_topic = self.read.iter().filter(|(_, place)| place.topic == topic);
        in_topic
            .filter(|(id, _)| !delivered.contains(id))
            .map(|(id, place)| Anomaly::Undelivered {
                group: group.to_owned(),
                id: id.clone(),
                place: place.clone(),
            })
            .collect()
    }

    /// Events of the partition that the reader never got. Only to be asked when it has
    /// read to the end.
    #[must_use]
    pub fn unread(&self, reader: &str, topic: &str, partition: i32) -> Vec<Anomaly> {
        let pages = self.polls.get(reader).into_iter().flatten();
        let got: BTreeSet<_> = pages.flatten().map(|(id, _)| id).collect();
        let of_it = |place: &Place| place.topic == topic && place.partition == partition;
        let in_partition = self.read.iter().filter(|(_, place)| of_it(place));
        in_partition
            .filter(|(id, _)| !got.contains(id))
            .map(|(id, place)| Anomaly::Unseen {
                reader: reader.to_owned(),
                id: id.clone(),
                place: place.clone(),
            })
            .collect()
    }

    fn check_publishes(&self, places: &BTreeMap<&str, Vec<Place>>, found: &mut Vec<Anomaly>) {
        for (id, publish) in &self.publishes {
            let id = id.clone();
            let there = places.get(id.as_str()).map_or(&[][..], Vec::as_slice);
            match (publish, there) {
                (Publish::Acked(place), []) => found.push(Anomaly::Lost {
                    id,
                    place: place.clone(),
                }),
                (Publish::Acked(acked), [only]) if only != acked => found.push(Anomaly::Moved {
                    id,
                    acked: acked.clone(),
                    found: only.clone(),
                }),
                (Publish::Refused, [first, ..]) => found.push(Anomaly::RefusedButThere {
                    id,
                    place: first.clone(),
                }),
                (Publish::Acked(_) | Publish::Unknown, [_, _, ..]) => {
                    found.push(Anomaly::Duplicated {
                        id,
                        places: there.to_vec(),
                    });
                }
                _ => {}
            }
        }
    }

    fn check_origins(&self, places: &BTreeMap<&str, Vec<Place>>, found: &mut Vec<Anomaly>) {
        for (id, place) in self.seen() {
            let anomaly = Anomaly::Invented {
                id: id.clone(),
                place: place.clone(),
            };
            if !self.publishes.contains_key(id) && !found.contains(&anomaly) {
                found.push(anomaly);
            }
        }
        for (id, place) in self.delivered_or_polled() {
            let refused = self.publishes.get(id) == Some(&Publish::Refused);
            let gone = !places.contains_key(id.as_str());
            let (id, place) = (id.clone(), place.clone());
            let anomaly = if refused {
                Anomaly::RefusedButThere { id, place }
            } else {
                Anomaly::Phantom { id, place }
            };
            if (refused || gone) && !found.contains(&anomaly) {
                found.push(anomaly);
            }
        }
    }

    fn check_places(&self, found: &mut Vec<Anomaly>) {
        let acked = self
            .publishes
            .iter()
            .filter_map(|(id, publish)| match publish {
                Publish::Acked(place) => Some((id, place)),
                Publish::Unknown | Publish::Refused => None,
            });
        let mut events: BTreeMap<&Place, BTreeSet<&String>> = BTreeMap::new();
        for (id, place) in acked.chain(self.seen()) {
            events.entry(place).or_default().insert(id);
        }
        for (place, ids) in events.into_iter().filter(|(_, ids)| ids.len() > 1) {
            found.push(Anomaly::Inconsistent {
                place: place.clone(),
                ids: ids.into_iter().cloned().collect(),
            });
        }
    }

    /// Every event that was delivered or read, with its place.
    fn seen(&self) -> impl Iterator<Item = (&String, &Place)> {
        let read = self.read.iter().map(|(id, place)| (id, place));
        self.delivered_or_polled().chain(read)
    }

    fn delivered_or_polled(&self) -> impl Iterator<Item = (&String, &Place)> {
        let deliveries = self.deliveries.iter().map(|d| (&d.id, &d.place));
        let polled = self.polls.values().flatten().flatten();
        deliveries.chain(polled.map(|(id, place)| (id, place)))
    }

    fn check_deliveries(&self, found: &mut Vec<Anomaly>) {
        let mut in_order: Vec<_> = self.deliveries.iter().collect();
        in_order.sort_by_key(|delivered| delivered.lease);
        let mut lines: BTreeMap<_, KeyLine> = BTreeMap::new();
        for delivered in in_order {
            let Delivered {
                group,
                id,
                key,
                place,
                lease,
            } = delivered;
            let settled = self.settled.get(&(group.clone(), id.clone()));
            if settled.is_some_and(|settled| settled < lease) {
                found.push(Anomaly::Redelivered {
                    group: group.clone(),
                    id: id.clone(),
                });
            }
            let Some(key) = key else { continue };
            let line = (group, key, &place.topic, place.partition);
            let line = lines.entry(line).or_default();
            let is_over = |later: &String| {
                let settled = self.settled.get(&(group.clone(), later.clone()));
                settled.is_some_and(|settled| settled < lease)
            };
            if !line.may_come(place.offset, lease.0, is_over) {
                found.push(Anomaly::OutOfOrder {
                    group: group.clone(),
                    key: key.clone(),
                    id: id.clone(),
                    place: place.clone(),
                });
            }
            line.came(place.offset, lease.0, id);
        }
    }

    fn check_offsets(&self, found: &mut Vec<Anomaly>) {
        let mut next: BTreeMap<(&str, i32), i64> = BTreeMap::new();
        for (_, place) in &self.read {
            let expected = next.entry((&place.topic, place.partition)).or_insert(0);
            if place.offset != *expected {
                found.push(Anomaly::Gap {
                    expected: *expected,
                    found: place.clone(),
                });
            }
            *expected = place.offset + 1;
        }
    }
    fn check_sends(&self, found: &mut Vec<Anomaly>) {
        for (producer, requests) in &self.sent {
            let steps = steps(requests.values().map(Vec::as_slice), |place| place);
            for Step {
                after,
                place,
                within,
            } in steps
            {
                let (producer, place) = (producer.clone(), place.clone());
                if place.offset <= after {
                    found.push(Anomaly::NonmonotonicSend {
                        producer,
                        after,
                        place,
                        within,
                    });
                } else if within && place.offset > after + 1 {
                    // What lies between two requests may be others'.
                    found.push(Anomaly::SkippingSend {
                        producer,
                        after,
                        place,
                    });
                }
            }
        }
    }

    fn check_polls(&self, found: &mut Vec<Anomaly>) {
        for (reader, pages) in &self.polls {
            let steps = steps(pages.iter().map(Vec::as_slice), |(_, place)| place);
            for Step {
                after,
                place,
                within,
            } in steps
            {
                let (reader, place) = (reader.clone(), place.clone());
                if place.offset <= after {
                    found.push(Anomaly::NonmonotonicPoll {
                        reader,
                        after,
                        place,
                        within,
                    });
                } else if place.offset > after + 1 {
                    found.push(Anomaly::SkippingPoll {
                        reader,
                        after,
                        place,
                        within,
                    });
                }
            }
        }
    }
}

/// From one place of a partition to the next that somebody noted.
struct Step<'a> {
    /// The offset before; -1 at the beginning.
    after: i64,
    place: &'a Place,
    /// Both are in the same request or page.
    within: bool,
}

/// Every step in lists of lists of places.
fn steps<'a, T: 'a>(
    lists: impl Iterator<Item = &'a [T]>,
    place_of: impl Fn(&'a T) -> &'a Place,
) -> Vec<Step<'a>> {
    let mut last: BTreeMap<(&str, i32), (i64, Option<usize>)> = BTreeMap::new();
    let mut steps = Vec::new();
    for (number, list) in lists.enumerate() {
        for item in list {
            let place = place_of(item);
            let partition = (place.topic.as_str(), place.partition);
            let (after, noted_in) = last
                .insert(partition, (place.offset, Some(number)))
                .unwrap_or((-1, None));
            steps.push(Step {
                after,
                place,
                within: noted_in == Some(number),
            });
        }
    }
    steps
}
