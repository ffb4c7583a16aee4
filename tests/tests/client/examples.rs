//! The examples of the client crate, run as their first lines say.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sluice_tests::{
    api::Api,
    broker::{TestBroker, example},
};

/// Far longer than any line takes.
const HANGS: Duration = Duration::from_secs(60);

/// An example that runs; ends with this.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(name: &str, url: &str) -> Self {
        let mut child = Command::new(example(name))
            .arg(url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(HANGS).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_turn_an_upload_into_a_text() {
    let broker = TestBroker::start();
    let mut worker = Running::start("worker", broker.url());
    assert_eq!(worker.line(), "working");
    let mut publish = Running::start("publish", broker.url());
    assert_eq!(publish.line(), "stored at 0/0");
    assert_eq!(publish.line(), "stored at 0/1");
    assert!(publish.child.wait().unwrap().success());

    // The upload is not for it, the image is.
    let done = worker.line();
    let api = Api::connect(broker.url()).await;
    let uploads = api.read_all("uploads").await;
    assert_eq!(done, format!("done {}", uploads[1].0.id));
    // A stop waits for what has begun, so that its output is there.
    kill_process(Pid::from_child(&worker.child), Signal::INT).unwrap();
    assert!(worker.child.wait().unwrap().success());
    let texts = api.read_all("texts").await;
    assert_eq!(texts.len(), 1);
    assert_eq!(texts[0].0.data, "the text of 6 bytes".as_bytes());
    api.wait_until_caught_up("uploads", "ocr").await;
}
