//! `sluice-bench filters`: what a filter costs, beside none and beside the `cel`
//! crate as it comes; and what many groups cost whose filters fix the type.

use std::{
    hint::black_box,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt, stream::FuturesUnordered};
use prost::Message;
use serde_json::json;
use sluice_broker::filter::Filter;
use sluice_proto::{
    event::EventRef,
    pb::{self, admin_service_client::AdminServiceClient},
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{
    api::{
        broker::OwnBroker,
        connect,
        member::{Came, Member, ack},
        publisher::Publisher,
    },
    report::{Figure, table},
};

const TOPIC: &str = "events";
/// Every event matches it, so that the filter saves nothing.
const FILTER: &str = r#"event.type == "image.ready" && event.data.confidence < 0.8 && event.source.startsWith("scanner/")"#;
/// The same, said so that no term is a comparison that Sluice makes in place.
const NOT_LOWERED: &str = r#"event.type + "" == "image.ready" && event.data.confidence + 0.0 < 0.8 && (event.source + "").startsWith("scanner/")"#;
const EVENT_BYTES: usize = 300;
/// Events of a batch, and batches under way.
const BATCH: usize = 800;
const IN_FLIGHT: usize = 8;
/// Events that a member may have at once.
const WINDOW: i64 = 4000;
/// One event in so many is wanted by a group.
const WANTED_ONE_IN: [u32; 3] = [1, 100, 1000];
/// Members on one connection.
const MEMBERS_PER_CONNECTION: usize = 64;
/// Nothing that is measured takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Settings of the run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Filters {
    /// Rounds, of which the median is told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Thousand events of 300 bytes in one measurement.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    thousand_events: u32,
    /// Groups with distinct types on one topic.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=2000))]
    groups: u32,
    /// Where files are written [default: the system's folder for temporary
    /// files].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// What was measured, by round.
#[derive(Default)]
struct Outcome {
    events_per_second: Vec<f64>,
    server_cpu_per_million: Vec<f64>,
}

impl Outcome {
    fn rate(&self) -> f64 {
        Figure::of(self.events_per_second.clone()).median()
    }

    fn cpu(&self) -> f64 {
        Figure::of(self.server_cpu_per_million.clone()).median()
    }
}

/// A group, and how many of the events it gets.
struct Reader {
    filter: String,
    gets: u64,
}

/// One row: who reads while the events are published.
struct Case {
    name: String,
    readers: Vec<Reader>,
    stream: Stream,
    outcome: Outcome,
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

/// Runs the suite and prints its tables.
pub(crate) async fn run(settings: Filters) -> anyhow::Result<()> {
    let events = u64::from(settings.thousand_events) * 1000;
    let mut at_the_head = cases_at_the_head(events);
    let mut many = cases_of_many(events, settings.groups);
    let mut alone = Alone::default();
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        for case in at_the_head.iter_mut().chain(&mut many) {
            settings.measure(case, events).await?;
        }
        tokio::task::block_in_place(|| alone.measure())?;
    }
    print!("{}", report(&settings, &at_the_head, &many, &alone));
    Ok(())
}

fn cases_at_the_head(events: u64) -> Vec<Case> {
    [
        ("no filter", ""),
        ("the filter", FILTER),
        ("the same, by the cel crate within the broker", NOT_LOWERED),
    ]
    .map(|(name, filter)| {
        let reader = Reader {
            filter: filter.into(),
            gets: events,
        };
        Case::new(name.into(), Stream::of(1, 1), vec![reader])
    })
    .into()
}

/// Many groups: each event is wanted by one of them, or only few events are.
fn cases_of_many(events: u64, groups: u32) -> Vec<Case> {
    let all = Reader {
        filter: r#"event.source.startsWith("scanner/")"#.into(),
        gets: events,
    };
    let mut cases = vec![
        Case::new("no group".into(), Stream::of(groups, 1), Vec::new()),
        Case::new(
            "one group, every event".into(),
            Stream::of(groups, 1),
            vec![all],
        ),
    ];
    for one_in in WANTED_ONE_IN {
        let stream = Stream::of(groups, one_in);
        let reader = |number| Reader {
            filter: format!("event.type == {:?}", type_of(number, groups)),
            gets: stream.count(number, events),
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
struct Stream {
    types: u32,
    /// The others have a type that no group wants.
    one_in: u32,
}

impl Stream {
    fn of(types: u32, one_in: u32) -> Self {
        Self { types, one_in }
    }

    /// The number of the type of event number `at`, if it is one of these.
    fn type_at(self, at: u64) -> Option<u32> {
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

fn type_of(number: u32, types: u32) -> String {
    if types == 1 {
        "image.ready".into()
    } else {
        format!("image.ready.{number}")
    }
}

fn event(of_type: &str) -> Bytes {
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

impl Filters {
    async fn measure(&self, case: &mut Case, events: u64) -> anyhow::Result<()> {
        let broker = OwnBroker::start(self.dir.as_deref())?;
        let admin = broker.admin().await?;
        broker.create_topic(TOPIC).await?;
        let mut members = JoinSet::new();
        let mut connection = None;
        for (number, reader) in case.readers.iter().enumerate() {
            let group = format!("group-{number}");
            create_group(&admin, &group, &reader.filter).await?;
            if number % MEMBERS_PER_CONNECTION == 0 {
                connection = Some(connect(broker.process.addr()).await?);
            }
            let channel = connection.clone().context("the first one opens one")?;
            let member = Member::join_on(channel, TOPIC, &group, "bench", WINDOW).await?;
            members.spawn(take(member, reader.gets));
        }
        let before = broker.process.usage()?;
        let started = Instant::now();
        let work = async {
            publish(&broker, events, case.stream).await?;
            while let Some(done) = members.join_next().await {
                done??;
            }
            anyhow::Ok(())
        };
        let done = tokio::time::timeout(PATIENCE, work).await;
        done.with_context(|| format!("{} is not done after {PATIENCE:?}", case.name))??;
        let (time, used) = (started.elapsed(), broker.process.usage()?.since(&before));
        let outcome = &mut case.outcome;
        outcome
            .events_per_second
            .push(events as f64 / time.as_secs_f64());
        outcome
            .server_cpu_per_million
            .push(used.cpu.as_secs_f64() * 1e6 / events as f64);
        Ok(())
    }
}

async fn publish(broker: &OwnBroker, events: u64, stream: Stream) -> anyhow::Result<()> {
    let types: Vec<Bytes> = (0..stream.types)
        .map(|number| event(&type_of(number, stream.types)))
        .collect();
    let other = event("image.other");
    let mut events = (0..events).map(|at| {
        let of = stream.type_at(at).map(|number| &types[number as usize]);
        of.unwrap_or(&other).clone()
    });
    let mut publisher = Publisher::open(broker.process.addr()).await?;
    let mut on_their_way = FuturesUnordered::new();
    loop {
        let batch: Vec<Bytes> = events.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        on_their_way.push(publisher.send(TOPIC, batch).await?);
        if on_their_way.len() == IN_FLIGHT {
            on_their_way.next().await.transpose()?;
        }
    }
    while on_their_way.next().await.transpose()?.is_some() {}
    Ok(())
}

/// Takes and acks so many events, and waits until the acks are durable.
async fn take(mut member: Member, events: u64) -> anyhow::Result<()> {
    let mut received = 0;
    let mut last = None;
    while received < events || last.is_some() {
        let came = member.next().await?.context("the stream ended")?;
        match came {
            Came::Deliveries(deliveries) => {
                received += deliveries.len() as u64;
                let mut acks = deliveries.into_iter().map(|of| ack(of.lease)).collect();
                last = Some(member.settle(&mut acks).await?);
            }
            Came::Settled(number) => last = last.filter(|last| *last > number),
        }
    }
    anyhow::ensure!(received == events, "{received} events instead of {events}");
    Ok(())
}

async fn create_group(
    admin: &AdminServiceClient<Channel>,
    group: &str,
    filter: &str,
) -> anyhow::Result<()> {
    let config = pb::GroupConfig {
        ordering: pb::Ordering::None.into(),
        filter: filter.to_owned(),
        max_in_flight: 100_000,
        ..pb::GroupConfig::default()
    };
    let request = pb::CreateGroupRequest {
        topic: TOPIC.into(),
        group: group.to_owned(),
        config: Some(config),
    };
    admin.clone().create_group(request).await?;
    Ok(())
}

/// Judging alone, on one thread of this process: nanoseconds for an event.
#[derive(Default)]
struct Alone {
    in_place: Vec<f64>,
    first_term_false: Vec<f64>,
    /// The crate with a context that is kept, and the payload read by serde_json.
    plain: Vec<f64>,
    /// The same, with a context for each event.
    plain_anew: Vec<f64>,
}

impl Alone {
    fn measure(&mut self) -> anyhow::Result<()> {
        let encoded = event(&type_of(0, 1));
        let other = event("image.other");
        let filter = Filter::compile(FILTER)?;
        let judge = |encoded: &Bytes, expected| {
            let event = EventRef::read(encoded).expect("the bench has encoded it");
            assert_eq!(filter.matches(&event), Ok(expected));
        };
        self.in_place
            .push(nanos(|| judge(black_box(&encoded), true)));
        self.first_term_false
            .push(nanos(|| judge(black_box(&other), false)));

        let program = cel::Program::compile(FILTER)?;
        let context = cel::Context::default();
        let run = |context: &cel::Context<'_, '_>| {
            let mut context = context.new_inner_scope();
            let variable = plain_event(black_box(&encoded));
            context
                .add_variable("event", variable)
                .expect("JSON is a value");
            assert_eq!(program.execute(&context), Ok(cel::Value::Bool(true)));
        };
        self.plain.push(nanos(|| run(&context)));
        self.plain_anew
            .push(nanos(|| run(&cel::Context::default())));
        Ok(())
    }
}

/// An event as a program would hand it to the crate that knows nothing better.
fn plain_event(encoded: &Bytes) -> serde_json::Value {
    let event = pb::Event::decode(&encoded[..]).expect("the bench has encoded it");
    let data: serde_json::Value = serde_json::from_slice(&event.data).expect("it is JSON");
    json!({"id": event.id, "type": event.r#type, "source": event.source, "data": data})
}

/// The time of one call, of many.
fn nanos(mut call: impl FnMut()) -> f64 {
    const AT_LEAST: Duration = Duration::from_millis(200);
    let (started, mut calls) = (Instant::now(), 0_u32);
    while started.elapsed() < AT_LEAST {
        for _ in 0..100 {
            call();
        }
        calls += 100;
    }
    started.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn report(settings: &Filters, at_the_head: &[Case], many: &[Case], alone: &Alone) -> String {
    let row = |case: &Case, ratio: String| {
        let Outcome {
            events_per_second,
            server_cpu_per_million,
        } = &case.outcome;
        vec![
            case.name.clone(),
            Figure::of(events_per_second.clone()).show(1e3, 0),
            Figure::of(server_cpu_per_million.clone()).show(1.0, 2),
            ratio,
        ]
    };
    let none = at_the_head[0].outcome.rate();
    let head_rows = at_the_head
        .iter()
        .map(|case| row(case, format!("{:.2}", case.outcome.rate() / none)))
        .collect();
    let head = table(
        &[
            "one group at the head",
            "1,000 events/s",
            "server CPU s/million",
            "speed of no filter",
        ],
        head_rows,
    );
    // Beside the one group that looks at the same events; and that gets as many,
    // where every event is wanted.
    let ratio =
        |at: usize, one: usize| format!("{:.2}", many[at].outcome.cpu() / many[one].outcome.cpu());
    let of_one = |at: usize| match at {
        0 | 1 => String::new(),
        _ if at.is_multiple_of(2) => "1".to_owned(),
        3 => format!("{} ({} of every event)", ratio(at, 2), ratio(at, 1)),
        _ => ratio(at, at - 1),
    };
    let many_rows = many.iter().enumerate();
    let many_rows = many_rows.map(|(at, case)| row(case, of_one(at))).collect();
    let many = table(
        &[
            "many groups",
            "1,000 events/s",
            "server CPU s/million",
            "CPU of one group",
        ],
        many_rows,
    );
    let show = |values: &Vec<f64>| vec![Figure::of(values.clone()).show(1.0, 0)];
    let named = |name: &str, values: &Vec<f64>| [vec![name.to_owned()], show(values)].concat();
    let judging = table(
        &["judging alone, one thread", "ns/event"],
        vec![
            named("the filter", &alone.in_place),
            named("its first term is false", &alone.first_term_false),
            named("the cel crate over serde_json", &alone.plain),
            named("the same, a context for each event", &alone.plain_anew),
        ],
    );
    format!(
        "{} rounds, median (min–max); {} thousand events of {EVENT_BYTES} B, published, delivered \
         and acked at full speed.\nThe filter: {FILTER}\n\n{head}\n{many}\n{judging}",
        settings.rounds, settings.thousand_events,
    )
}
