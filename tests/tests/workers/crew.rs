//! Worker processes, and what they say.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    thread::JoinHandle,
};

use rustix::process::{Pid, Signal, kill_process};
use sluice_tests::{api::expect, task::End};
use tokio::sync::mpsc;

/// A lease, as the broker numbers it: growing.
pub(crate) type Lease = (i64, i64);

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Joined,
    Took {
        id: String,
        lease: Lease,
        attempt: i32,
        at_us: u128,
    },
    Asks {
        lease: Lease,
        what: End,
        at_us: u128,
    },
    Done {
        lease: Lease,
    },
    Refused {
        lease: Lease,
        reason: String,
    },
    Left,
}

/// A word and who said it.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) member: String,
    pub(crate) word: Word,
}

/// A `sluice-test-busy-worker` process; ends with this.
pub(crate) struct Worker {
    pub(crate) name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    listening: Option<JoinHandle<()>>,
}

/// Starts workers, and hears all that they say.
pub(crate) struct Crew {
    url: String,
    sender: mpsc::UnboundedSender<Said>,
    words: mpsc::UnboundedReceiver<Said>,
    heard: Vec<Said>,
}

impl Crew {
    pub(crate) fn of(url: &str) -> Self {
        let (sender, words) = mpsc::unbounded_channel();
        Self {
            url: url.to_owned(),
            sender,
            words,
            heard: Vec::new(),
        }
    }

    /// Starts a worker that is granted so many events at a time.
    pub(crate) fn start(&self, name: &str, credit: usize) -> Worker {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice-test-busy-worker"))
            .args([&self.url, "in", "workers", "out", name])
            .arg(credit.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let sender = self.sender.clone();
        let member = name.to_owned();
        let listening = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // A killed worker's last line may have no end.
                if let Some(word) = Word::of(&line) {
                    let member = member.clone();
                    let _ = sender.send(Said { member, word });
                }
            }
        });
        Worker {
            name: name.to_owned(),
            child,
            stdin,
            listening: Some(listening),
        }
    }

    /// The next word of anybody.
    pub(crate) async fn next(&mut self) -> &Said {
        let said = expect("a word of a worker", self.words.recv()).await;
        self.heard.push(said.unwrap());
        &self.heard[self.heard.len() - 1]
    }

    /// All that anybody has said.
    pub(crate) fn heard(&self) -> &[Said] {
        &self.heard
    }

    /// Waits for so many of such words; says of whom they came.
    pub(crate) async fn wait_for(&mut self, count: usize, which: fn(&Word) -> bool) -> Vec<String> {
        let mut members = Vec::new();
        while members.len() < count {
            let said = self.next().await;
            if which(&said.word) {
                members.push(said.member.clone());
            }
        }
        members
    }

    /// Ends these workers, and returns all that any has said.
    pub(crate) fn end(mut self, workers: Vec<Worker>) -> Vec<Said> {
        // Each is listened to until its end.
        drop(workers);
        while let Ok(said) = self.words.try_recv() {
            self.heard.push(said);
        }
        self.heard
    }
}

impl Worker {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Has it leave when it has handled what it was granted.
    pub(crate) fn leave(&mut self) {
        self.stdin = None;
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl Word {
    fn of(line: &str) -> Option<Self> {
        let mut parts = line.split(' ');
        let verb = parts.next()?;
        match verb {
            "joined" => return Some(Self::Joined),
            "left" => return Some(Self::Left),
            _ => {}
        }
        let id = parts.next()?.to_owned();
        let (epoch, counter) = parts.next()?.split_once(':')?;
        let lease = (epoch.parse().ok()?, counter.parse().ok()?);
        match verb {
            "took" => Some(Self::Took {
                id,
                lease,
                attempt: parts.next()?.parse().ok()?,
                at_us: parts.next()?.parse().ok()?,
            }),
            "asks" => Some(Self::Asks {
                lease,
                what: End::named(parts.next()?)?,
                at_us: parts.next()?.parse().ok()?,
            }),
            "done" => Some(Self::Done { lease }),
            "refused" => Some(Self::Refused {
                lease,
                reason: parts.next()?.to_owned(),
            }),
            _ => None,
        }
    }
}
