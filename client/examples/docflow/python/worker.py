"""The stage `entities` of the document pipeline, in Python: takes the text of
pages, finds what they speak of, and publishes it together with its ack.

    python worker.py ADDRESS

Needs grpcio, and the code that grpc_tools makes of Sluice's .proto files, and
nothing else of Sluice.
"""

import json
import random
import sys
from datetime import datetime, timedelta, timezone
from uuid import NAMESPACE_URL, uuid5

import grpc
from entities import find
from sluice.v1 import broker_pb2 as pb, broker_pb2_grpc
from sluice.v1.event_pb2 import Event

TEXTS = {"topic": "page.text", "group": "entities"}
OUTPUT = "doc.entities"

# A call waits for a broker that is being restarted, and is sent again when its
# answer was lost: a lease is settled only once, so that does no harm.
RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
SERVICE = {"methodConfig": [{"name": [{}], "waitForReady": True, "retryPolicy": RETRY}]}
OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE)),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 16 << 20),
]


def extract(page):
    """The event that comes of a page's text."""
    payload = json.loads(page.data)
    text = payload.pop("text")
    payload |= {"characters": len(text), "entities": find(text)}
    number = payload["page"]
    return Event(
        id=derived_id(page, f"{OUTPUT}/{number}"),
        source="/docflow",
        type=OUTPUT,
        subject=f"{page.attributes['partitionkey']}/page/{number}",
        time=datetime.now(timezone.utc),
        data_content_type="application/json",
        data=json.dumps(payload).encode(),
        attributes=context(page),
    )


def derived_id(page, name):
    """The same whenever the same output comes of the same input."""
    return str(uuid5(uuid5(uuid5(NAMESPACE_URL, page.source), page.id), name))


def context(page):
    """What an event hands on to those that come of it: key, case, cause, trace."""
    attributes = dict(page.attributes)
    attributes["causationid"] = page.id
    version, trace, _, flags = attributes["traceparent"].split("-")
    attributes["traceparent"] = f"{version}-{trace}-{random.randrange(1, 1 << 64):016x}-{flags}"
    return attributes


def main(address):
    broker = broker_pb2_grpc.BrokerServiceStub(grpc.insecure_channel(address, OPTIONS))
    while True:
        pull = pb.PullRequest(**TEXTS, member="entities.py", wait=timedelta(seconds=30))
        for delivery in broker.Pull(pull).deliveries:
            lease, page = delivery.lease, delivery.event
            try:
                output = extract(page)
            except Exception as error:
                nack = pb.Settlement(lease=lease, nack=pb.Nack(reason=repr(error)[:200]))
                broker.Settle(pb.SettleRequest(**TEXTS, settlements=[nack]))
                continue
            commit = pb.CommitRequest(
                inputs=[pb.CommitInput(**TEXTS, acks=[lease])],
                outputs=[pb.CommitOutput(topic=OUTPUT, events=[output])],
            )
            try:
                broker.Commit(commit)
            except grpc.RpcError as error:
                # Not ours any more: an earlier try went through and its answer
                # was lost, or the lease ran out.
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                    raise


if __name__ == "__main__":
    main(sys.argv[1])
