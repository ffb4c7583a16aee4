//! The pipeline as a user runs it, on the sample documents.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use docflow::{
    events::{PageReady, PageText},
    feed, ocr,
    pipeline::{self, Activity, Options, Pipeline},
    progress::Watch,
    store::{Row, Store},
    topology::{self, ENTITIES, OCR, PAGES, StageGroup, TEXTS, UPLOADED},
};
use futures_util::StreamExt;
use sluice_broker::Broker;
use sluice_client::{Client, Event, Outputs, StageError, derive_id};

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/samples");
const TOPICS: [&str; 4] = [UPLOADED, PAGES, TEXTS, ENTITIES];

/// Runs the program, and returns what it printed.
fn docflow(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_docflow"))
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    text
}

/// What a run left behind: the events of each topic, and the rows.
struct Outcome {
    events: BTreeMap<&'static str, Vec<Event>>,
    rows: Vec<Row>,
}

impl Outcome {
    async fn of(data: &Path) -> Self {
        let config = pipeline::broker_config(&data.join("broker"));
        let broker = Broker::start(config).await.unwrap();
        let client = Client::connect(&format!("http://{}", broker.addr()))
            .await
            .unwrap();
        let mut events = BTreeMap::new();
        for topic in TOPICS {
            events.insert(topic, all_events(&client, topic).await);
        }
        broker.shut_down().await;
        let rows = Store::open(&data.join("documents.sqlite")).unwrap().rows();
        Self {
            events,
            rows: rows.unwrap(),
        }
    }

    /// The ids of each topic's events, in order of id, with repetitions.
    fn ids(&self) -> BTreeMap<&'static str, Vec<String>> {
        let ids = |events: &Vec<Event>| {
            let mut ids: Vec<_> = events.iter().map(|event| event.id().to_owned()).collect();
            ids.sort();
            ids
        };
        self.events
            .iter()
            .map(|(topic, events)| (*topic, ids(events)))
            .collect()
    }

    /// The rows without what differs between runs, which is the span ids.
    fn contents(&self) -> Vec<(String, String, String)> {
        let of = |row: &Row| {
            let ids = (row.event_id.clone(), row.correlation_id.clone());
            (row.content.clone(), ids.0, ids.1)
        };
        self.rows.iter().map(of).collect()
    }
}

async fn all_events(client: &Client, topic: &str) -> Vec<Event> {
    let mut events = client.read(topic).events().await.unwrap();
    let mut all = Vec::new();
    while let Some(event) = events.next().await {
        all.push(event.unwrap().event);
    }
    all
}

/// The trace id of an event.
fn trace(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap()
}

#[test]
fn every_document_but_the_broken_one_is_stored() {
    let text = docflow(&[]);
    let row = |name: &str| {
        let line = text.lines().find(|line| line.trim().starts_with(name));
        let words = line.unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
        words
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row("invoice.pdf")[1..], ["1", "1", "8", "stored"]);
    assert_eq!(row("letter.pdf")[1..], ["3", "3", "6", "stored"]);
    assert_eq!(row("contract.pdf")[1..], ["2", "2", "6", "stored"]);
    let broken = row("broken.pdf").join(" ");
    assert!(
        broken.starts_with("broken.pdf - 0 0 dead letter: the file is no readable PDF"),
        "{broken}"
    );
    let scan = row("scan.pdf");
    let last = text.lines().last().unwrap();
    if ocr::is_available() {
        assert_eq!(
            (&scan[1..3], &scan[4]),
            (&["1", "1"].map(String::from)[..], &"stored".into())
        );
        assert_eq!(
            last,
            "5 documents: 4 stored, 1 dead letter, 0 pages waiting for OCR"
        );
    } else {
        assert_eq!(
            scan[1..],
            ["1", "0", "0", "1", "page", "waits", "for", "OCR"]
        );
        assert_eq!(
            last,
            "5 documents: 3 stored, 1 dead letter, 1 page waiting for OCR"
        );
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_changes_neither_events_nor_rows() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, arguments: &[&str]| {
        let data = folder.path().join(name);
        let mut all = vec!["--data", data.to_str().unwrap()];
        all.extend(arguments);
        let text = docflow(&all);
        (data.clone(), text)
    };
    let (data, _) = run("undisturbed", &[]);
    let undisturbed = Outcome::of(&data).await;

    let pages = if ocr::is_available() { 7 } else { 6 };
    let counts = |outcome: &Outcome| TOPICS.map(|topic| outcome.events[topic].len());
    assert_eq!(counts(&undisturbed), [5, 7, pages, pages]);
    for ids in undisturbed.ids().values() {
        let distinct: BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    for seed in 1..=10 {
        let (data, text) = run(
            &format!("seed-{seed}"),
            &["--kill", "--seed", &seed.to_string()],
        );
        assert!(text.contains("killed the broker"), "{text}");
        let outcome = Outcome::of(&data).await;
        assert_eq!(outcome.ids(), undisturbed.ids(), "seed {seed}\n{text}");
        assert_eq!(
            outcome.contents(),
            undisturbed.contents(),
            "seed {seed}\n{text}"
        );
        assert_walks_back(&outcome);
    }
}

#[cfg(feature = "python")]
#[tokio::test]
async fn a_stage_in_python_is_not_noticed_by_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut outcomes = Vec::new();
    for (name, arguments) in [
        ("rust", &[][..]),
        ("python", &["--python"]),
        ("killed", &["--python", "--kill"]),
    ] {
        let data = folder.path().join(name);
        let arguments = [&["--data", data.to_str().unwrap()], arguments].concat();
        docflow(&arguments);
        outcomes.push(Outcome::of(&data).await);
    }
    let [rust, python @ ..] = &outcomes[..] else {
        unreachable!()
    };
    for python in python {
        assert_eq!(python.ids(), rust.ids());
        assert_eq!(python.contents(), rust.contents());
        assert_walks_back(python);
    }
}

/// From every row back to its upload, by causationid.
fn assert_walks_back(outcome: &Outcome) {
    let all: BTreeMap<&str, &Event> = outcome
        .events
        .values()
        .flatten()
        .map(|event| (event.id(), event))
        .collect();
    assert!(!outcome.rows.is_empty());
    for row in &outcome.rows {
        let mut event = all[row.event_id.as_str()];
        let mut steps = vec![event.event_type()];
        let (correlation, trace_id) = (&row.correlation_id, trace(&row.traceparent));
        while event.event_type() != UPLOADED {
            assert_eq!(event.get("correlationid"), Some(correlation.as_str()));
            assert_eq!(trace(event.get("traceparent").unwrap()), trace_id);
            event = all[event.get("causationid").unwrap()];
            steps.push(event.event_type());
        }
        assert_eq!(steps, [ENTITIES, TEXTS, PAGES, UPLOADED]);
        assert_eq!(event.id(), correlation);
        assert_eq!(event.get("correlationid"), Some(correlation.as_str()));
        assert_eq!(trace(event.get("traceparent").unwrap()), trace_id);
    }
}

/// A pipeline without an OCR worker, with every document as far as it gets.
struct Running {
    folder: tempfile::TempDir,
    broker: Broker,
    url: String,
    client: Client,
    workers: Pipeline,
    watch: Watch,
    activity: Arc<Activity>,
}

impl Running {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = pipeline::broker_config(&folder.path().join("broker"));
        let broker = Broker::start(config).await.unwrap();
        let url = format!("http://{}", broker.addr());
        let client = Client::connect(&url).await.unwrap();
        topology::create(&client.admin()).await.unwrap();
        let options = Options {
            database: folder.path().join("documents.sqlite"),
            ocr: false,
            python: None,
        };
        let activity = Arc::new(Activity::default());
        let workers = Pipeline::start(&url, &options, &activity).await.unwrap();
        let uploads = feed::find(Path::new(SAMPLES)).unwrap();
        let watch = Watch::start(client.clone(), uploads.clone(), &options.database).unwrap();
        feed::publish(&client, &uploads).await.unwrap();
        let running = Self {
            folder,
            broker,
            url,
            client,
            workers,
            watch,
            activity,
        };
        running.settled(false).await;
        running
    }

    /// Waits until nothing more happens, with or without somebody who reads
    /// images.
    async fn settled(&self, ocr: bool) {
        loop {
            let documents = self.watch.progress().await.unwrap();
            if documents.iter().all(|document| document.is_settled(ocr)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn rows(&self) -> Vec<Row> {
        let database = self.folder.path().join("documents.sqlite");
        Store::open(&database).unwrap().rows().unwrap()
    }

    async fn stop(self) {
        self.workers.stop().await;
        self.broker.shut_down().await;
    }
}

#[tokio::test]
async fn an_ocr_worker_that_comes_later_finishes_the_scans() {
    let running = Running::start().await;
    let before = running.rows();
    // What the real one does, with a text that needs no program.
    let read = |input: &Event| -> Result<Outputs, StageError> {
        let page: PageReady = input.parse()?;
        let text = PageText {
            document: page.document,
            name: page.name,
            page: page.page,
            pages: page.pages,
            method: "ocr".into(),
            text: "delivered on 2026-11-20".into(),
        };
        let id = derive_id(input, "page.text");
        let event = Event::new("/test", TEXTS).with_id(id).json(&text)?;
        Ok(Outputs::one(TEXTS, event))
    };
    let worker = pipeline::worker(&running.url, OCR, 1, &running.activity, read)
        .await
        .unwrap();
    running.settled(true).await;
    worker.stop().await;
    let after = running.rows();
    // A document, a page and a date more, and nothing else has changed.
    assert_eq!(after.len(), before.len() + 3);
    assert!(before.iter().all(|row| after.contains(row)));
    running.stop().await;
}

#[tokio::test]
async fn a_stage_is_added_while_the_others_run() {
    const HANDWRITING: StageGroup = StageGroup {
        topic: PAGES,
        group: "handwriting",
        filter: "event.data.text_layer == false && event.data.name.startsWith('scan')",
    };
    let running = Running::start().await;
    let before = running.rows();

    let admin = running.client.admin();
    admin.create_topic("page.handwriting", 1).await.unwrap();
    admin
        .create_group(
            HANDWRITING.topic,
            HANDWRITING.group,
            topology::group_options(HANDWRITING.filter),
        )
        .await
        .unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let read = move |input: &Event| -> Result<Outputs, StageError> {
        let page: PageReady = input.parse()?;
        note.lock().unwrap().push(page.name);
        let event = Event::new("/test", "page.handwriting").with_id(derive_id(input, "hand"));
        Ok(Outputs::one("page.handwriting", event))
    };
    let worker = pipeline::worker(&running.url, HANDWRITING, 1, &running.activity, read)
        .await
        .unwrap();
    // A page that comes now goes to it as well, and to nobody who did not want
    // it before.
    let scan = std::fs::read(format!("{SAMPLES}/scan.pdf")).unwrap();
    let new = docflow::events::uploaded("scan-2.pdf", scan);
    let producer = running.client.producer().await.unwrap();
    producer.publish(UPLOADED, new).await.unwrap();
    while all_events(&running.client, "page.handwriting").await.len() < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    worker.stop().await;
    let mut names = seen.lock().unwrap().clone();
    names.sort();
    assert_eq!(names, ["scan-2.pdf", "scan.pdf"]);
    assert_eq!(running.rows(), before);
    running.stop().await;
}
