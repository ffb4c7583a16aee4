"""The API as the tests call it."""

import json

import grpc
import stubs  # noqa: F401 - first: makes sluice.v1
from processes import HANGS_SECONDS
from sluice.v1 import admin_pb2, admin_pb2_grpc, broker_pb2 as pb, broker_pb2_grpc
from sluice.v1.event_pb2 import Event

CHANNEL_OPTIONS = [
    ("grpc.max_reconnect_backoff_ms", 1_000),
    (
        "grpc.service_config",
        json.dumps(
            {
                "methodConfig": [
                    {"name": [{}], "waitForReady": True, "timeout": f"{HANGS_SECONDS}s"}
                ]
            }
        ),
    ),
]


class Api:
    def __init__(self, address: str):
        self.channel = grpc.insecure_channel(address, CHANNEL_OPTIONS)
        self.broker = broker_pb2_grpc.BrokerServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def create_topic(self, topic: str) -> None:
        self.admin.CreateTopic(admin_pb2.CreateTopicRequest(topic=topic))

    def create_group(self, topic: str, group: str, **config) -> None:
        config = admin_pb2.GroupConfig(**config)
        request = admin_pb2.CreateGroupRequest(topic=topic, group=group, config=config)
        self.admin.CreateGroup(request)

    def publish(self, topic: str, *events) -> None:
        self.broker.Publish(pb.PublishRequest(topic=topic, events=events))

    def read_all(self, topic: str) -> list:
        pages = self.broker.Read(pb.ReadRequest(topic=topic))
        return [read.event for page in pages for read in page.events]

    def describe_group(self, topic: str, group: str):
        request = admin_pb2.DescribeGroupRequest(topic=topic, group=group)
        return self.admin.DescribeGroup(request)

    def lag(self, topic: str, group: str) -> int:
        return sum(p.lag for p in self.describe_group(topic, group).partitions)


def image(number: int) -> Event:
    """An event that the workers of the samples want."""
    return Event(
        id=f"image-{number}",
        source="/tests",
        type="image.ready",
        subject=f"doc/page/{number}",
        attributes={"partitionkey": f"doc-{number}"},
    )
