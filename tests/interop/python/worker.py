"""A worker of the group `ocr`: unary calls, one event at a time.

    python worker.py [ADDRESS]
"""

import sys
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta

import grpc
import stubs  # first: makes sluice.v1
from sluice.v1 import admin_pb2, admin_pb2_grpc, broker_pb2 as pb, broker_pb2_grpc
from sluice.v1.event_pb2 import Event

IMAGES = {"topic": "uploads", "group": "ocr"}
# The broker skips every other event for us.
GROUP = admin_pb2.GroupConfig(filter='event.type == "image.ready"')
# How far the work is: sent with each extend, for those who look at the group.
progress = {"percent": 0, "note": ""}


def ocr(image):
    """The work. It may take milliseconds or hours."""
    progress.update(percent=0, note=f"reading {image.subject}")
    text = f"the text of {image.subject}"
    return Event(
        # The same input gives the same id, so that a reader can tell a repetition.
        id=f"{image.id}/text",
        source="/workers/ocr",
        type="text.extracted",
        subject=image.subject,
        data_content_type="text/plain",
        data=text.encode(),
        attributes={**image.attributes, "causationid": image.id},
    )


def main(address):
    channel = grpc.insecure_channel(address, stubs.CHANNEL_OPTIONS)
    admin = admin_pb2_grpc.AdminServiceStub(channel)
    broker = broker_pb2_grpc.BrokerServiceStub(channel)
    pool = ThreadPoolExecutor(max_workers=1)

    # Nothing happens when they are there already.
    for topic in ("uploads", "texts"):
        admin.CreateTopic(admin_pb2.CreateTopicRequest(topic=topic))
    admin.CreateGroup(admin_pb2.CreateGroupRequest(**IMAGES, config=GROUP))

    def settle(**settlement):
        # A lease that is lost is no exception, but among the answer's failures. We
        # go on all the same, because the Commit is refused then.
        broker.Settle(pb.SettleRequest(**IMAGES, settlements=[pb.Settlement(**settlement)]))

    while True:
        # Answers as soon as there is an event, or with none after half a minute.
        pulled = broker.Pull(pb.PullRequest(**IMAGES, wait=timedelta(seconds=30)))
        for delivery in pulled.deliveries:
            lease, image = delivery.lease, delivery.event
            job = pool.submit(ocr, image)
            # The event is ours as long as we extend its lease in time. If we die,
            # another worker gets it when the lease has run out. It is also how we say how
            # far we are.
            while not wait([job], pulled.extend_interval.ToMilliseconds() / 1000).done:
                settle(lease=lease, extend=pb.Extend(**progress))
            if error := job.exception():
                # The group's retry policy says when the event comes again, and when
                # it becomes a dead letter.
                settle(lease=lease, nack=pb.Nack(reason=repr(error)[:200]))
                continue
            # The ack and the output are one step: both happen, or neither.
            commit = pb.CommitRequest(
                inputs=[pb.CommitInput(**IMAGES, acks=[lease])],
                outputs=[pb.CommitOutput(topic="texts", events=[job.result()])],
            )
            try:
                broker.Commit(commit)
                print("done", image.id, flush=True)
            except grpc.RpcError as error:
                # Not ours any more: an earlier try went through and its answer was
                # lost, or the lease ran out and another worker does the work.
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                    raise
                print("dropped", image.id, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["127.0.0.1:7070"])
