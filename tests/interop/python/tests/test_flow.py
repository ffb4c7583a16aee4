"""A worker that grants itself everything, in a group with a backlog limit."""

import grpc
import pytest
from api import image
from sluice.v1 import admin_pb2, broker_pb2 as pb
from test_credit import Greedy

LIMIT = 10


def test_a_worker_that_grants_itself_everything_does_not_lift_the_limit(api):
    api.create_topic("images")
    api.create_group(
        "images",
        "ocr",
        lease_duration={"seconds": 3600},
        backlog=admin_pb2.BacklogLimit(
            policy=admin_pb2.BACKLOG_POLICY_THROTTLE, max_events=LIMIT
        ),
    )
    member = Greedy(api, pb.Grant(max_events=2**62, max_bytes=2**62))
    assert member.next().WhichOneof("message") == "joined"

    published = 0
    with pytest.raises(grpc.RpcError) as refused:
        while True:
            request = pb.PublishRequest(topic="images", events=[image(published)])
            # It waits for room, up to its deadline.
            api.broker.Publish(request, timeout=2)
            published += 1
    # It has all of them, and has done none.
    assert published == LIMIT
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(refused.value.trailing_metadata())
    assert trailers["sluice-reason"] == "BACKLOG_FULL"
    assert "group ocr has 10 of 10 events" in refused.value.details()
    while len(member.got) < LIMIT:
        member.why_nothing_comes()

    # Done, they make room.
    acks = [pb.Settlement(lease=of.lease, ack=pb.Ack()) for of in member.got]
    api.broker.Settle(pb.SettleRequest(topic="images", group="ocr", settlements=acks))
    for number in range(LIMIT):
        api.publish("images", image(LIMIT + number))
    assert api.lag("images", "ocr") == LIMIT
