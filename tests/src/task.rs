//! What `sluice-test-busy-worker` is to do with an event, which is in its data.

use sluice_proto::pb::Event;

use crate::api::event;

/// How the work on an event ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Its worker acks it.
    Ack,
    /// Its worker acks it and publishes `out-ID`, in one step.
    Commit,
    /// Its worker wants it again.
    Nack,
    /// Its worker never wants it again.
    Reject,
    /// Its worker dies of it.
    Die,
}

/// What is to be done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// How long it takes, in milliseconds.
    pub ms: u64,
    /// How it ends, at last.
    pub end: End,
    /// Its first attempts, so many, are nacked.
    pub nacks: i32,
}

const ENDS: [End; 5] = [End::Ack, End::Commit, End::Nack, End::Reject, End::Die];

impl End {
    /// Its name on a line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Commit => "commit",
            Self::Nack => "nack",
            Self::Reject => "reject",
            Self::Die => "die",
        }
    }

    /// The end of this name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ENDS.into_iter().find(|end| end.name() == name)
    }
}

impl Task {
    /// The event that asks for it.
    #[must_use]
    pub fn event(self, id: &str) -> Event {
        let data = serde_json::json!({
            "ms": self.ms, "end": self.end.name(), "nacks": self.nacks,
        });
        Event {
            data: data.to_string().into_bytes().into(),
            ..event(id)
        }
    }

    /// What an event asks for.
    ///
    /// # Errors
    /// When it does not ask for anything that there is.
    pub fn of(event: &Event) -> Result<Self, String> {
        let asks = || {
            let data: serde_json::Value = serde_json::from_slice(&event.data).ok()?;
            Some(Self {
                ms: data["ms"].as_u64()?,
                end: End::named(data["end"].as_str()?)?,
                nacks: data["nacks"].as_i64()?.try_into().ok()?,
            })
        };
        asks().ok_or_else(|| format!("{} is no task", event.id))
    }

    /// How attempt number `attempt`, from 1, ends.
    #[must_use]
    pub fn end_of(self, attempt: i32) -> End {
        if attempt <= self.nacks {
            End::Nack
        } else {
            self.end
        }
    }
}
