"""A worker that ignores its credit: it takes what it gets, settles nothing and
grants nothing more."""

import queue

import pytest
from api import image
from sluice.v1 import broker_pb2 as pb

EVENTS = 20


class Greedy:
    """A member on a stream. Keeps what it gets."""

    def __init__(self, api, grant):
        self.outbox = queue.SimpleQueue()
        self.got = []
        join = pb.Join(topic="images", group="ocr", member="greedy", grant=grant)
        self.outbox.put(pb.ConsumeRequest(join=join))
        self.responses = api.broker.Consume(iter(self.outbox.get, None))

    def next(self):
        """The next message but for deliveries, which are kept; none at the end."""
        for response in self.responses:
            if response.WhichOneof("message") != "deliveries":
                return response
            self.got.extend(response.deliveries.deliveries)
        return None

    def why_nothing_comes(self, grant=None) -> int:
        heartbeat = pb.Heartbeat(grant=grant)
        self.outbox.put(pb.ConsumeRequest(heartbeat=heartbeat))
        return self.next().heartbeat.idle

    def leave(self) -> None:
        """Everything that the broker has sent on the stream has come after this."""
        self.outbox.put(pb.ConsumeRequest(leave=pb.Leave()))
        while self.next():
            pass
        self.outbox.put(None)


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        (pb.Grant(max_events=3), 3),
        # One event may overshoot, so that a large one always moves.
        (pb.Grant(max_events=EVENTS, max_bytes=1), 1),
        (pb.Grant(max_events=0), 0),
        # One and a half: the second one overshoots.
        (pb.Grant(max_events=EVENTS, max_bytes=image(0).ByteSize() * 3 // 2), 2),
    ],
    ids=["events", "one byte", "nothing", "bytes"],
)
def test_the_broker_never_sends_more_than_is_granted(api, grant, expected):
    api.create_topic("images")
    # Leases that do not run out while we look.
    api.create_group("images", "ocr", lease_duration={"seconds": 3600})
    api.publish("images", *(image(number) for number in range(EVENTS // 2)))
    member = Greedy(api, grant)
    assert member.next().WhichOneof("message") == "joined"
    while member.why_nothing_comes() != pb.IDLE_REASON_NO_CREDIT:
        pass

    # More events, and the same grant once more, change nothing.
    api.publish("images", *(image(number) for number in range(EVENTS // 2, EVENTS)))
    for _ in range(3):
        assert member.why_nothing_comes(grant) == pb.IDLE_REASON_NO_CREDIT
    group = api.describe_group("images", "ocr")
    assert [m.in_flight for m in group.members] == [expected]
    assert group.partitions[0].in_flight == expected

    member.leave()
    assert [delivery.offset for delivery in member.got] == list(range(expected))

    # All of them are there for a worker that works, and no attempt is counted.
    deliveries = []
    while len(deliveries) < EVENTS:
        pull = pb.PullRequest(topic="images", group="ocr", max_events=100, wait={"seconds": 60})
        pulled = api.broker.Pull(pull).deliveries
        assert pulled, "the rest of the events never comes"
        deliveries.extend(pulled)
    assert sorted(delivery.offset for delivery in deliveries) == list(range(EVENTS))
    assert {delivery.attempt for delivery in deliveries} == {1}
