//! The two services as tonic wants them; each call is in a file of its own.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use sluice_proto::wire::{
    self, admin_service_server::AdminService, broker_service_server::BrokerService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{admin::backup, api::Api, calls::Calls, consume, publish_stream, read};

/// Responses of a PublishStream that may wait for the connection.
const PUBLISH_RESPONSES_MAX: usize = 64;

/// The services.
#[derive(Clone)]
pub(super) struct Services(pub(super) Arc<Api>);

/// Where the connection's calls run that a request came over.
fn calls_of<T>(request: &Request<T>) -> Calls {
    let calls = request.extensions().get::<Calls>();
    calls
        .cloned()
        .expect("the server gives each request its connection's")
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl BrokerService for Services {
    type PublishStreamStream = ReceiverStream<Result<wire::PublishStreamResponse, Status>>;
    type ConsumeStream = Answers<wire::ConsumeResponse>;
    type ReadStream = ReceiverStream<Result<wire::ReadResponse, Status>>;

    async fn open_producer(
        &self,
        request: Request<wire::OpenProducerRequest>,
    ) -> Result<Response<wire::OpenProducerResponse>, Status> {
        Ok(Response::new(
            self.0.open_producer(request.into_inner()).await?,
        ))
    }

    async fn publish(
        &self,
        request: Request<wire::PublishRequest>,
    ) -> Result<Response<wire::PublishResponse>, Status> {
        Ok(Response::new(self.0.publish(request).await?))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<wire::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (responses, stream) = mpsc::channel(PUBLISH_RESPONSES_MAX);
        let connection = request.remote_addr();
        let calls = calls_of(&request);
        calls.run(publish_stream::run(
            self.0.clone(),
            connection,
            request.into_inner(),
            responses,
        ));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn consume(
        &self,
        request: Request<Streaming<wire::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let calls = calls_of(&request);
        let stream = consume::start(self.0.clone(), &calls, request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn pull(
        &self,
        request: Request<wire::PullRequest>,
    ) -> Result<Response<wire::PullResponse>, Status> {
        Ok(Response::new(self.0.pull(request.into_inner()).await?))
    }

    async fn settle(
        &self,
        request: Request<wire::SettleRequest>,
    ) -> Result<Response<wire::SettleResponse>, Status> {
        Ok(Response::new(self.0.settle(request.into_inner()).await?))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitRequest>,
    ) -> Result<Response<wire::CommitResponse>, Status> {
        Ok(Response::new(self.0.commit(request.into_inner()).await?))
    }

    async fn read(
        &self,
        request: Request<wire::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let stream = read::start(self.0.clone(), request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[async_trait]
impl AdminService for Services {
    type BackupStream = ReceiverStream<Result<wire::BackupResponse, Status>>;

    async fn backup(
        &self,
        request: Request<wire::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let stream = backup::start(self.0.clone(), request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn describe_broker(
        &self,
        _: Request<wire::DescribeBrokerRequest>,
    ) -> Result<Response<wire::DescribeBrokerResponse>, Status> {
        Ok(Response::new(self.0.describe_broker()?))
    }

    async fn create_topic(
        &self,
        request: Request<wire::CreateTopicRequest>,
    ) -> Result<Response<wire::CreateTopicResponse>, Status> {
        Ok(Response::new(
            self.0.create_topic(request.into_inner()).await?,
        ))
    }

    async fn delete_topic(
        &self,
        request: Request<wire::DeleteTopicRequest>,
    ) -> Result<Response<wire::DeleteTopicResponse>, Status> {
        Ok(Response::new(
            self.0.delete_topic(request.into_inner()).await?,
        ))
    }

    async fn update_topic(
        &self,
        request: Request<wire::UpdateTopicRequest>,
    ) -> Result<Response<wire::UpdateTopicResponse>, Status> {
        Ok(Response::new(
            self.0.update_topic(request.into_inner()).await?,
        ))
    }

    async fn trim_topic(
        &self,
        request: Request<wire::TrimTopicRequest>,
    ) -> Result<Response<wire::TrimTopicResponse>, Status> {
        Ok(Response::new(
            self.0.trim_topic(request.into_inner()).await?,
        ))
    }

    async fn list_topics(
        &self,
        request: Request<wire::ListTopicsRequest>,
    ) -> Result<Response<wire::ListTopicsResponse>, Status> {
        Ok(Response::new(self.0.list_topics(request.get_ref())?))
    }

    async fn describe_topic(
        &self,
        request: Request<wire::DescribeTopicRequest>,
    ) -> Result<Response<wire::DescribeTopicResponse>, Status> {
        Ok(Response::new(self.0.describe_topic(request.get_ref())?))
    }

    async fn create_group(
        &self,
        request: Request<wire::CreateGroupRequest>,
    ) -> Result<Response<wire::CreateGroupResponse>, Status> {
        Ok(Response::new(
            self.0.create_group(request.into_inner()).await?,
        ))
    }

    async fn delete_group(
        &self,
        request: Request<wire::DeleteGroupRequest>,
    ) -> Result<Response<wire::DeleteGroupResponse>, Status> {
        Ok(Response::new(
            self.0.delete_group(request.into_inner()).await?,
        ))
    }

    async fn list_groups(
        &self,
        request: Request<wire::ListGroupsRequest>,
    ) -> Result<Response<wire::ListGroupsResponse>, Status> {
        Ok(Response::new(self.0.list_groups(request.get_ref())?))
    }

    async fn describe_group(
        &self,
        request: Request<wire::DescribeGroupRequest>,
    ) -> Result<Response<wire::DescribeGroupResponse>, Status> {
        Ok(Response::new(
            self.0.describe_group(request.into_inner()).await?,
        ))
    }

    async fn update_group(
        &self,
        request: Request<wire::UpdateGroupRequest>,
    ) -> Result<Response<wire::UpdateGroupResponse>, Status> {
        Ok(Response::new(
            self.0.update_group(request.into_inner()).await?,
        ))
    }

    async fn seek_group(
        &self,
        request: Request<wire::SeekGroupRequest>,
    ) -> Result<Response<wire::SeekGroupResponse>, Status> {
        Ok(Response::new(
            self.0.seek_group(request.into_inner()).await?,
        ))
    }

    async fn pause_group(
        &self,
        request: Request<wire::PauseGroupRequest>,
    ) -> Result<Response<wire::PauseGroupResponse>, Status> {
        Ok(Response::new(
            self.0.pause_group(request.into_inner()).await?,
        ))
    }

    async fn resume_group(
        &self,
        request: Request<wire::ResumeGroupRequest>,
    ) -> Result<Response<wire::ResumeGroupResponse>, Status> {
        Ok(Response::new(
            self.0.resume_group(request.into_inner()).await?,
        ))
    }

    async fn list_dead_letters(
        &self,
        request: Request<wire::ListDeadLettersRequest>,
    ) -> Result<Response<wire::ListDeadLettersResponse>, Status> {
        Ok(Response::new(
            self.0.list_dead_letters(request.into_inner()).await?,
        ))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<wire::RedriveDeadLettersRequest>,
    ) -> Result<Response<wire::RedriveDeadLettersResponse>, Status> {
        Ok(Response::new(
            self.0.redrive_dead_letters(request.into_inner()).await?,
        ))
    }

    async fn purge_dead_letters(
        &self,
        request: Request<wire::PurgeDeadLettersRequest>,
    ) -> Result<Response<wire::PurgeDeadLettersResponse>, Status> {
        Ok(Response::new(
            self.0.purge_dead_letters(request.into_inner()).await?,
        ))
    }

    async fn test_filter(
        &self,
        request: Request<wire::TestFilterRequest>,
    ) -> Result<Response<wire::TestFilterResponse>, Status> {
        Ok(Response::new(
            self.0.test_filter(request.into_inner()).await?,
        ))
    }

    async fn describe_flow(
        &self,
        request: Request<wire::DescribeFlowRequest>,
    ) -> Result<Response<wire::DescribeFlowResponse>, Status> {
        Ok(Response::new(
            self.0.describe_flow(request.into_inner()).await?,
        ))
    }

    async fn explain_event(
        &self,
        request: Request<wire::ExplainEventRequest>,
    ) -> Result<Response<wire::ExplainEventResponse>, Status> {
        Ok(Response::new(
            self.0.explain_event(request.into_inner()).await?,
        ))
    }
}
