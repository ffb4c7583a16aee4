//! Who reads while events are published, and what these are.

use bytes::Bytes;
use prost::Message;
use sluice_proto::pb;

use crate::report::Figure;

/// Every event matches it, so that the filter saves nothing.
pub(super) const FILTER: &str = r#"event.type == "image.ready" && event.data.confidence < 0.8 && event.source.startsWith("scanner/")"#;
/// The same, said so that no term is a comparison that Sluice makes in place.
const NOT_LOWERED: &str = r#"event.type + "" == "image.ready" && event.data.confidence + 0.0 < 0.8 && (event.source + "").startsWith("scanner/")"#;
/// One event in so many is wanted by a group.
const WANTED_ONE_IN: [u32; 3] = [1, 100, 1000];
/// Bytes of an event.
pub(super) const EVENT_BYTES: usize = 300;

/// What was measured, by round.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) events_per_second: Vec<f64>,
    pub(super) server_cpu_per_million: Vec<f64>,
}

impl Outcome {
    pub(super) fn rate(&self) -> f64 {
        Figure::of(self.events_per_second.clone()).median()
    }

    pub(super) fn cpu(&self) -> f64 {
        Figure::of(self.server_cpu_per_million.clone()).median()
    }
}

/// A group, how many of the events it gets, and how many members share them.
pub(super) struct Reader {
    pub(super) filter: String,
    pub(super) gets: u64,
    pub(super) members: u32,
}

/// One row: who reads while the events are published.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) readers: Vec<Reader>,
    pub(super) stream: Stream,
    pub(super) outcome: Outcome,
}

impl Case {
    fn new(name: String, stream: Stream, readers: Vec<Reader>) -> Self {
        Self {
            name,
            readers,
            stream,
            outcome: Outcome::default(),
        }
    }
}

pub(super) fn cases_at_the_head(events: u64) -> Vec<Case> {
    [
        ("no filter", ""),
        ("the filter", FILTER),
        ("the same, by the cel crate within the broker", NOT_LOWERED),
    ]
    .map(|(name, filter)| {
        let reader = Reader {
            filter: filter.into(),
            gets: events,
            members: 1,
        };
        Case::new(name.into(), Stream::of(1, 1), vec![reader])
    })
    .into()
}

/// Many groups: each event is wanted by one of them, or only few events are.
pub(super) fn cases_of_many(events: u64, groups: u32) -> Vec<Case> {
    let all = |members| Reader {
        filter: r#"event.source.startsWith("scanner/")"#.into(),
        gets: events,
        members,
    };
    let mut cases = vec![
        Case::new("no group".into(), Stream::of(groups, 1), Vec::new()),
        Case::new(
            "one group, every event".into(),
            Stream::of(groups, 1),
            vec![all(1)],
        ),
        Case::new(
            format!("the same, by {groups} members"),
            Stream::of(groups, 1),
            vec![all(groups)],
        ),
    ];
    for one_in in WANTED_ONE_IN {
        let stream = Stream::of(groups, one_in);
        let reader = |number| Reader {
            filter: format!("event.type == {:?}", type_of(number, groups)),
            gets: stream.count(number, events),
            members: 1,
        };
        let name = format!("one group, a type of {groups}; one event in {one_in} is of these");
        cases.push(Case::new(name, stream, vec![reader(0)]));
        let name = format!("{groups} groups, one type each; the same events");
        cases.push(Case::new(name, stream, (0..groups).map(reader).collect()));
    }
    cases
}

/// Which types the events have, in turn.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    pub(super) types: u32,
    /// The others have a type that no group wants.
    one_in: u32,
}

impl Stream {
    fn of(types: u32, one_in: u32) -> Self {
        Self { types, one_in }
    }

    /// The number of the type of event number `at`, if it is one of these.
    pub(super) fn type_at(self, at: u64) -> Option<u32> {
        let (round, rest) = (at / u64::from(self.one_in), at % u64::from(self.one_in));
        (rest == 0).then_some((round % u64::from(self.types)) as u32)
    }

    /// How many of so many events are of that type.
    fn count(self, number: u32, events: u64) -> u64 {
        let wanted = events.div_ceil(u64::from(self.one_in));
        let types = u64::from(self.types);
        wanted / types + u64::from(u64::from(number) < wanted % types)
    }
}

pub(super) fn type_of(number: u32, types: u32) -> String {
    if types == 1 {
        "image.ready".into()
    } else {
        format!("image.ready.{number}")
    }
}

pub(super) fn event(of_type: &str) -> Bytes {
    let mut event = pb::Event {
        id: "0190b3a8-7e2c-7000-8000-000000000001".into(),
        source: "scanner/7".into(),
        r#type: of_type.to_owned(),
        data_content_type: "application/json".into(),
        ..pb::Event::default()
    };
    let head = br#"{"page":4,"confidence":0.73,"language":"en","text":""#;
    let size = |event: &pb::Event| event.encoded_len() + head.len() + 4;
    let text = EVENT_BYTES.saturating_sub(size(&event));
    event.data = [&head[..], &vec![b'x'; text], b"\"}"].concat().into();
    event.encode_to_vec().into()
}
