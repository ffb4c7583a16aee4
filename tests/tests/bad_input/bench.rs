//! A broker between whose bad requests events are published.

use sluice_proto::pb::{DescribeBrokerRequest, Limits};
use sluice_tests::{
    api::{Api, Refusal, event},
    broker::TestBroker,
};
use tonic::Status;

use crate::expected::Expected;

/// A broker with the topic `t`, and the events that were published there between
/// bad requests.
pub(crate) struct Bench {
    pub(crate) broker: TestBroker,
    pub(crate) api: Api,
    pub(crate) limits: Limits,
    pub(crate) good: Vec<String>,
    pub(crate) wrong: Vec<String>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let broker = TestBroker::start();
        let api = Api::connect(broker.url()).await;
        api.create_topic("t", 1).await;
        let description = api
            .admin
            .clone()
            .describe_broker(DescribeBrokerRequest {})
            .await;
        let limits = description.unwrap().into_inner().limits.unwrap();
        Self {
            broker,
            api,
            limits,
            good: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// Notes whether a request was refused as it should be, and that the broker
    /// goes on.
    pub(crate) async fn check<T: std::fmt::Debug>(
        &mut self,
        case: &str,
        answer: Result<T, impl Into<Answered>>,
        expected: &Expected,
    ) {
        match answer {
            Ok(answer) => self.wrong.push(format!("{case}: taken, {answer:?}")),
            Err(refusal) => {
                let Answered(refusal) = refusal.into();
                if let Some(differs) = expected.differs(&refusal) {
                    self.wrong.push(format!("{case}: {differs}"));
                }
            }
        }
        self.goes_on(case).await;
    }

    pub(crate) async fn goes_on(&mut self, case: &str) {
        let id = format!("after {case}");
        // A connection of its own, as the one that was used may be spoilt.
        let api = Api::connect(self.broker.url()).await;
        let published = api.publish("t", vec![event(&id)]).await;
        published.unwrap_or_else(|status| panic!("after {case}: {status}"));
        self.good.push(id);
    }

    /// Everything that was published is there, and nothing of what was refused,
    /// also after a crash.
    pub(crate) async fn finish(mut self) {
        let found = self.read().await;
        assert_eq!(found, self.good);
        self.broker.kill();
        self.broker.restart();
        self.api = Api::connect(self.broker.url()).await;
        assert_eq!(self.read().await, self.good);
        assert!(self.wrong.is_empty(), "\n{}", self.wrong.join("\n"));
    }

    async fn read(&self) -> Vec<String> {
        let all = self.api.read_all("t").await;
        all.into_iter().map(|(event, _)| event.id).collect()
    }
}

/// A refusal, as a status or within a message of a stream.
pub(crate) struct Answered(Refusal);

impl From<Status> for Answered {
    fn from(status: Status) -> Self {
        Self(Refusal::from(&status))
    }
}

impl From<Refusal> for Answered {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}
