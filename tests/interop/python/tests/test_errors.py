"""Errors as a program reads them: the reason, the field, when to try again."""

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from sluice.v1 import admin_pb2, broker_pb2 as pb
from sluice.v1.error_pb2 import ErrorReason
from sluice.v1.event_pb2 import Event


def details(error: grpc.RpcError, kind):
    """The details of one kind that a refused call carries."""
    found = []
    for packed in rpc_status.from_call(error).details:
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found


def refused(call, request) -> tuple:
    """Code, reason and field of a refusal."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request)
    error = raised.value
    (info,) = details(error, ErrorInfo)
    assert info.domain == "sluice"
    # Every reason is one of the .proto files.
    assert f"ERROR_REASON_{info.reason}" in ErrorReason.keys()
    assert error.details()
    fields = [v.field for bad in details(error, BadRequest) for v in bad.field_violations]
    return error.code(), info.reason, fields


def publish(*events, topic="t"):
    return pb.PublishRequest(topic=topic, events=events)


GOOD = Event(id="1", source="/tests", type="t")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            publish(GOOD, Event(source="/tests", type="t")),
            (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ["events[1].id"]),
        ),
        (
            publish(Event(id="1", source="/tests")),
            (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ["events[0].type"]),
        ),
        (
            publish(Event(id="i" * 1025, source="/tests", type="t")),
            (grpc.StatusCode.INVALID_ARGUMENT, "LIMIT_EXCEEDED", ["events[0].id"]),
        ),
        (
            publish(GOOD, topic="not a name"),
            (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ["topic"]),
        ),
        (
            publish(GOOD, topic="unknown"),
            (grpc.StatusCode.NOT_FOUND, "UNKNOWN_TOPIC", ["topic"]),
        ),
    ],
    ids=["no id", "no type", "long id", "bad topic", "unknown topic"],
)
def test_a_bad_publish_says_what_is_wrong_with_which_field(api, request_, expected):
    api.create_topic("t")
    assert refused(api.broker.Publish, request_) == expected
    assert api.read_all("t") == []


def test_a_filter_that_does_not_compile_is_refused(api):
    api.create_topic("t")
    config = admin_pb2.GroupConfig(filter="event.type ==")
    request = admin_pb2.CreateGroupRequest(topic="t", group="g", config=config)
    code, reason, fields = refused(api.admin.CreateGroup, request)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FILTER")
    assert fields == ["config.filter"]


def test_a_lease_that_was_never_given_is_refused(api):
    api.create_topic("t")
    api.create_group("t", "g")
    lease = pb.LeaseToken(epoch=1, counter=1000)
    commit = pb.CommitRequest(inputs=[pb.CommitInput(topic="t", group="g", acks=[lease])])
    code, reason, _ = refused(api.broker.Commit, commit)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST")

    # Settle answers with what failed, and raises nothing.
    settlement = pb.Settlement(lease=lease, ack=pb.Ack())
    request = pb.SettleRequest(topic="t", group="g", settlements=[settlement])
    (failure,) = api.broker.Settle(request).failures
    assert failure.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert failure.error.reason == ErrorReason.ERROR_REASON_LEASE_LOST
    assert failure.lease == lease
