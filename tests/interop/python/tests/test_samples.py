"""The samples as they are, against a real broker."""

import json
import signal
import subprocess
import sys
from datetime import datetime, timezone

from api import image as image_event
from processes import HANGS_SECONDS, SAMPLES, Workers


def run_publish(address: str) -> str:
    command = [sys.executable, str(SAMPLES / "publish.py"), address]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=HANGS_SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_publish_sends_the_upload_and_its_image(broker, api):
    before = datetime.now(timezone.utc)
    assert run_publish(broker.address) == "published 2 events from offset 0\n"
    upload, image = api.read_all("uploads")
    assert (upload.type, upload.subject) == ("file_upload", "doc123")
    assert (image.type, image.subject) == ("image.ready", "doc123/page/1")
    assert json.loads(image.data) == {"image": "s3://pages/doc123/1.png"}
    assert image.attributes["partitionkey"] == "doc123"
    now = datetime.now(timezone.utc)
    assert before <= image.time.ToDatetime(timezone.utc) <= now


def test_a_worker_turns_images_into_texts_and_is_not_shown_the_rest(broker, api, workers):
    run_publish(broker.address)
    worker = workers.start()
    assert worker.line("done") == "doc123/page/1/image.ready"
    # What comes later as well.
    run_publish(broker.address)
    worker.line("done")

    texts = api.read_all("texts")
    assert [text.id for text in texts] == ["doc123/page/1/image.ready/text"] * 2
    text = texts[0]
    assert (text.type, text.subject) == ("text.extracted", "doc123/page/1")
    assert text.data == b"the text of doc123/page/1"
    assert text.attributes == {
        "partitionkey": "doc123",
        "correlationid": "doc123",
        "causationid": "doc123/page/1/image.ready",
    }
    group = api.describe_group("uploads", "ocr")
    # The uploads were skipped at the broker, and the images acked by the Commits.
    assert group.filtered_count == 2
    assert sum(partition.lag for partition in group.partitions) == 0
    assert worker.lines_to_the_end() == []


def test_an_event_whose_work_fails_comes_again(api, workers):
    api.create_topic("uploads")
    api.publish("uploads", image_event(0))
    worker = workers.start_gated(lease_seconds=600)
    worker.line("took")
    worker.tell("fail")
    assert worker.line("took") == "image-0"
    worker.tell("done")
    assert worker.line("done") == "image-0"
    assert [text.id for text in api.read_all("texts")] == ["image-0/text"]


def test_a_worker_that_is_told_to_stop_hands_its_event_back(broker, api, tmp_path):
    # So long that only handing it back can explain the second delivery.
    an_hour = 3600
    workers = Workers("worker_asyncio", broker.address, tmp_path)
    api.create_topic("uploads")
    api.publish("uploads", image_event(0))
    try:
        first = workers.start_gated(lease_seconds=an_hour)
        first.line("took")
        first.process.send_signal(signal.SIGTERM)
        second = workers.start_gated(lease_seconds=an_hour)
        assert second.line("took") == "image-0"
        second.tell("done")
        assert second.line("done") == "image-0"
        # A thread cannot be stopped, but what the first one says is of no use now.
        first.tell("done")
        assert first.process.wait(HANGS_SECONDS) == 0
        assert "done image-0" not in first.lines_to_the_end()
    finally:
        workers.kill()
    assert len(api.read_all("texts")) == 1
