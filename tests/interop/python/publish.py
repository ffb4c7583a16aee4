"""Publishes two events of a document: its upload, and an image of its first page.

    python publish.py [ADDRESS]
"""

import json
import sys
from datetime import datetime, timezone

import grpc
import stubs  # first: makes sluice.v1
from sluice.v1 import admin_pb2, admin_pb2_grpc, broker_pb2, broker_pb2_grpc, event_pb2

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7070"


def event(type, subject, data):
    return event_pb2.Event(
        # The same input gives the same id, so that a reader can tell a repetition.
        id=f"{subject}/{type}",
        source="/uploads",
        type=type,
        subject=subject,
        time=datetime.now(timezone.utc),
        data_content_type="application/json",
        data=json.dumps(data).encode(),
        # Events of one document stay in order, and keep its name all the way.
        attributes={"partitionkey": "doc123", "correlationid": "doc123"},
    )


with grpc.insecure_channel(ADDRESS, stubs.CHANNEL_OPTIONS) as channel:
    # Nothing happens when the topic is there already.
    admin = admin_pb2_grpc.AdminServiceStub(channel)
    admin.CreateTopic(admin_pb2.CreateTopicRequest(topic="uploads"))

    broker = broker_pb2_grpc.BrokerServiceStub(channel)
    # A session makes it safe to send a request again: a sequence is appended once.
    session = broker.OpenProducer(broker_pb2.OpenProducerRequest())
    request = broker_pb2.PublishRequest(
        topic="uploads",
        events=[
            event("file_upload", "doc123", {"file": "doc123.pdf"}),
            event("image.ready", "doc123/page/1", {"image": "s3://pages/doc123/1.png"}),
        ],
        producer=broker_pb2.ProducerSequence(
            producer_id=session.producer_id,
            producer_epoch=session.producer_epoch,
            sequence=1,
        ),
    )
    for appended in broker.Publish(request).ranges:
        print(f"published {appended.count} events from offset {appended.first_offset}")
