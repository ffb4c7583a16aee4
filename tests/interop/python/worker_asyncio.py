"""A worker of the group `ocr` on a stream, as worker_stream.py, with asyncio.
SIGTERM makes it hand its events back.

    python worker_asyncio.py [ADDRESS]
"""

import asyncio
import signal
import sys

import grpc
import stubs  # first: makes sluice.v1
from sluice.v1 import admin_pb2, admin_pb2_grpc, broker_pb2 as pb, broker_pb2_grpc
from worker import GROUP, IMAGES, ocr

# Events that we work on at the same time.
SLOTS = 4


class Worker:
    def __init__(self, channel):
        self.broker = broker_pb2_grpc.BrokerServiceStub(channel)
        # The events that we work on: their leases, by the task.
        self.tasks = {}
        self.stopping = False
        # Whatever the next heartbeat should not wait for: finished tasks, the stop.
        self.news = asyncio.Queue()

    def stop(self):
        self.stopping = True
        self.news.put_nowait(None)

    async def consume(self):
        """One stream, until it breaks or we stop."""
        # When a stream broke while we were at work, the leases that we present stay
        # ours, and we have fewer free slots.
        held = list(self.tasks.values())
        # Set by the broker's first answer, to a third of the lease duration.
        heartbeat_seconds = 1.0
        # Credit is what the broker may send in all since the stream began.
        received = 0

        def grant():
            return pb.Grant(max_events=received + SLOTS - len(self.tasks))

        async def requests():
            yield pb.ConsumeRequest(join=pb.Join(**IMAGES, grant=grant(), held=held))
            while not self.stopping:
                try:
                    await asyncio.wait_for(self.news.get(), heartbeat_seconds)
                except TimeoutError:
                    pass
                # Each heartbeat renews all our leases, and can carry the credit.
                yield pb.ConsumeRequest(heartbeat=pb.Heartbeat(grant=grant()))
            # What we hold goes to others at once, and no attempt is counted.
            yield pb.ConsumeRequest(leave=pb.Leave())

        async for response in self.broker.Consume(requests()):
            match response.WhichOneof("message"):
                case "joined":
                    heartbeat_seconds = response.joined.heartbeat_interval.ToMilliseconds() / 1000
                case "deliveries":
                    received += len(response.deliveries.deliveries)
                    for delivery in response.deliveries.deliveries:
                        task = asyncio.create_task(self.handle(delivery))
                        self.tasks[task] = delivery.lease
                        task.add_done_callback(self.finished)
                # Messages that we do not know, or have no use for, are ignored.

    def finished(self, task):
        del self.tasks[task]
        self.news.put_nowait(None)

    async def handle(self, delivery):
        lease, image = delivery.lease, delivery.event
        try:
            output = await asyncio.to_thread(ocr, image)
        except Exception as error:
            # The group's retry policy says when the event comes again, and when it
            # becomes a dead letter.
            nack = pb.Settlement(lease=lease, nack=pb.Nack(reason=repr(error)[:200]))
            await self.broker.Settle(pb.SettleRequest(**IMAGES, settlements=[nack]))
            return
        # The ack and the output are one step: both happen, or neither.
        commit = pb.CommitRequest(
            inputs=[pb.CommitInput(**IMAGES, acks=[lease])],
            outputs=[pb.CommitOutput(topic="texts", events=[output])],
        )
        try:
            await self.broker.Commit(commit)
            print("done", image.id, flush=True)
        except grpc.RpcError as error:
            # Most often LEASE_LOST: another worker has the event.
            print("dropped", image.id, error.details(), flush=True)


def is_broken(error):
    """Whether the connection is, and nothing else."""
    # What grpc.aio says when it was just about to send something
    # (https://github.com/grpc/grpc/issues/36066).
    internal = error.code() is grpc.StatusCode.INTERNAL
    sending = internal and error.details() == "Internal error from Core"
    return sending or error.code() is grpc.StatusCode.UNAVAILABLE


async def main(address):
    async with grpc.aio.insecure_channel(address, stubs.CHANNEL_OPTIONS) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        # Nothing happens when they are there already.
        for topic in ("uploads", "texts"):
            await admin.CreateTopic(admin_pb2.CreateTopicRequest(topic=topic))
        await admin.CreateGroup(admin_pb2.CreateGroupRequest(**IMAGES, config=GROUP))

        worker = Worker(channel)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        while not worker.stopping:
            try:
                await worker.consume()
            except grpc.RpcError as error:
                if not is_broken(error):
                    raise
                # The broker is being restarted, or the connection broke. Join again.
                await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["127.0.0.1:7070"]))
