"""CloudEvents in their JSON format, written and read by the official package, go
through `sluice publish` and `sluice tail` unchanged."""

import json
import subprocess
from datetime import datetime, timedelta, timezone

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from processes import HANGS_SECONDS
from sluice.v1.event_pb2 import Event

FORMAT = JSONFormat()
REQUIRED = {
    "id": "e-1",
    "source": "/scanner/1",
    "type": "page.ready",
    "specversion": "1.0",
    # The package adds the time when it is left out.
    "time": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc),
}


def sluice(broker, *args: str, stdin: bytes = b"") -> bytes:
    command = [broker.binary, *args, "--broker", f"http://{broker.address}"]
    result = subprocess.run(
        command, input=stdin, capture_output=True, timeout=HANGS_SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def tail(broker, topic: str) -> list[CloudEvent]:
    lines = sluice(broker, "tail", topic, "--from", "earliest", "--no-follow", "--json")
    return [FORMAT.read(CloudEvent, line) for line in lines.splitlines()]


@pytest.mark.parametrize(
    "event",
    [
        CloudEvent(dict(REQUIRED)),
        CloudEvent(
            {**REQUIRED, "datacontenttype": "application/json"}, {"page": 1, "tags": ["a", None]}
        ),
        CloudEvent({**REQUIRED, "datacontenttype": "text/plain"}, "Grüße, 世界\n"),
        CloudEvent({**REQUIRED, "datacontenttype": "image/png"}, b"\x89PNG\r\n\x00\xff"),
        CloudEvent(
            {
                **REQUIRED,
                "subject": "doc123/page/4",
                "dataschema": "https://example.com/page.json",
                "partitionkey": "doc123",
                "correlationid": "doc123",
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            }
        ),
        CloudEvent({**REQUIRED, "urgent": True, "pages": 12}),
        # Another time zone, the same time.
        CloudEvent(
            {
                **REQUIRED,
                "time": REQUIRED["time"].astimezone(timezone(timedelta(hours=5, minutes=30))),
            }
        ),
    ],
    ids=["required", "json", "text", "binary", "optional", "typed", "time zone"],
)
def test_an_event_comes_back_as_it_went_in(broker, api, event):
    api.create_topic("t")
    sluice(broker, "publish", "t", stdin=FORMAT.write(event))
    (back,) = tail(broker, "t")
    assert back.get_attributes() == event.get_attributes()
    assert back.get_data() == event.get_data()


def test_an_event_published_over_grpc_is_read_as_a_cloudevent(broker, api):
    api.create_topic("t")
    event = Event(
        id="e-1",
        source="/scanner/1",
        type="page.ready",
        subject="doc123/page/4",
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        data_content_type="application/json",
        data_schema="https://example.com/page.json",
        attributes={"partitionkey": "doc123"},
        data=b'{"page": 4}',
    )
    event.typed_attributes["pages"].integer = 12
    event.typed_attributes["urgent"].boolean = True
    api.publish("t", event)
    (read,) = tail(broker, "t")
    assert read.get_attributes() == {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/scanner/1",
        "type": "page.ready",
        "subject": "doc123/page/4",
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        "datacontenttype": "application/json",
        "dataschema": "https://example.com/page.json",
        "partitionkey": "doc123",
        "pages": 12,
        "urgent": True,
    }
    assert read.get_data() == {"page": 4}


def test_a_cloudevent_has_the_fields_of_the_proto_file(broker, api):
    api.create_topic("t")
    event = CloudEvent(
        {**REQUIRED, "datacontenttype": "application/json", "partitionkey": "k", "pages": 12},
        {"page": 4},
    )
    sluice(broker, "publish", "t", stdin=FORMAT.write(event))
    (stored,) = api.read_all("t")
    assert (stored.id, stored.source, stored.type) == ("e-1", "/scanner/1", "page.ready")
    assert stored.time.ToDatetime(timezone.utc) == REQUIRED["time"]
    assert stored.data_content_type == "application/json"
    assert json.loads(stored.data) == {"page": 4}
    assert stored.attributes == {"partitionkey": "k"}
    assert stored.typed_attributes["pages"].integer == 12
