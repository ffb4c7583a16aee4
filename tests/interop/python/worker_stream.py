"""A worker of the group `ocr` on a stream: the broker sends events as they come,
and never more than we have credit for.

    python worker_stream.py [ADDRESS]
"""

import queue
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import stubs  # first: makes sluice.v1
from sluice.v1 import admin_pb2, admin_pb2_grpc, broker_pb2 as pb, broker_pb2_grpc
from worker import GROUP, IMAGES, ocr

# Events that we work on at the same time.
SLOTS = 4


class Worker:
    def __init__(self, channel):
        self.broker = broker_pb2_grpc.BrokerServiceStub(channel)
        self.pool = ThreadPoolExecutor(max_workers=SLOTS)
        # The events that we work on: their leases, by the job.
        self.jobs = {}

    def at_work(self):
        return {job: lease for job, lease in self.jobs.items() if not job.done()}

    def consume(self):
        """One stream, until it breaks."""
        finished = queue.SimpleQueue()
        # When a stream broke while we were at work, the leases that we present stay
        # ours, and we have fewer free slots.
        held = self.at_work()
        # Set by the broker's first answer, to a third of the lease duration.
        heartbeat_seconds = 1.0

        def requests():
            # Credit is what the broker may send in all since the stream began.
            granted = SLOTS - len(held)
            grant = pb.Grant(max_events=granted)
            yield pb.ConsumeRequest(join=pb.Join(**IMAGES, grant=grant, held=held.values()))
            while True:
                try:
                    finished.get(timeout=heartbeat_seconds)
                    granted += 1
                except queue.Empty:
                    pass
                # Each heartbeat renews all our leases, and can carry the credit.
                heartbeat = pb.Heartbeat(grant=pb.Grant(max_events=granted))
                yield pb.ConsumeRequest(heartbeat=heartbeat)

        for job in held:
            job.add_done_callback(finished.put)
        for response in self.broker.Consume(requests()):
            self.jobs = self.at_work()
            match response.WhichOneof("message"):
                case "joined":
                    heartbeat_seconds = response.joined.heartbeat_interval.ToMilliseconds() / 1000
                case "deliveries":
                    for delivery in response.deliveries.deliveries:
                        job = self.pool.submit(self.handle, delivery)
                        self.jobs[job] = delivery.lease
                        job.add_done_callback(finished.put)
                # Messages that we do not know, or have no use for, are ignored.

    def handle(self, delivery):
        lease, image = delivery.lease, delivery.event
        try:
            output = ocr(image)
        except Exception as error:
            # The group's retry policy says when the event comes again, and when it
            # becomes a dead letter.
            nack = pb.Settlement(lease=lease, nack=pb.Nack(reason=repr(error)[:200]))
            self.broker.Settle(pb.SettleRequest(**IMAGES, settlements=[nack]))
            return
        # The ack and the output are one step: both happen, or neither.
        commit = pb.CommitRequest(
            inputs=[pb.CommitInput(**IMAGES, acks=[lease])],
            outputs=[pb.CommitOutput(topic="texts", events=[output])],
        )
        try:
            self.broker.Commit(commit)
            print("done", image.id, flush=True)
        except grpc.RpcError as error:
            # Most often LEASE_LOST: another worker has the event.
            print("dropped", image.id, error.details(), flush=True)


def main(address):
    channel = grpc.insecure_channel(address, stubs.CHANNEL_OPTIONS)
    admin = admin_pb2_grpc.AdminServiceStub(channel)
    # Nothing happens when they are there already.
    for topic in ("uploads", "texts"):
        admin.CreateTopic(admin_pb2.CreateTopicRequest(topic=topic))
    admin.CreateGroup(admin_pb2.CreateGroupRequest(**IMAGES, config=GROUP))

    worker = Worker(channel)
    while True:
        try:
            worker.consume()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            # The broker is being restarted, or the connection broke. Join again.
            time.sleep(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["127.0.0.1:7070"])
