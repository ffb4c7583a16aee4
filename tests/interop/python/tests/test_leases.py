"""Work that lasts, workers that die, and a broker that is restarted: each event is
worked on by one worker at a time, and its output appears once."""

import time

import pytest
from api import image
from processes import Broker

ENDS = pytest.mark.parametrize("end", [Broker.kill, Broker.stop], ids=["killed", "stopped"])


def outputs(api) -> list[str]:
    return [text.id for text in api.read_all("texts")]


def test_work_longer_than_its_lease_is_done_once(api, workers):
    lease_seconds = 3
    api.create_topic("uploads")
    api.publish("uploads", image(0))
    slow = workers.start_gated(lease_seconds)
    assert slow.line("took") == "image-0"
    # Somebody who is up and would take it.
    idle = workers.start_gated(lease_seconds)
    api.publish("uploads", image(1))
    assert idle.line("took") == "image-1"
    idle.tell("done")
    assert idle.line("done") == "image-1"

    time.sleep(2.5 * lease_seconds)
    if workers.sample == "worker":
        [held] = api.describe_group("uploads", "ocr").in_flight_events
        assert (held.progress_percent, held.progress_note) == (50, "half of image-0")
    slow.tell("done")
    assert slow.line("done") == "image-0"

    assert outputs(api) == ["image-1/text", "image-0/text"]
    assert api.lag("uploads", "ocr") == 0
    assert idle.lines_to_the_end() == []
    assert slow.lines_to_the_end() == []


def test_what_a_killed_worker_held_goes_to_another(api, workers):
    api.create_topic("uploads")
    api.publish("uploads", image(0))
    killed = workers.start_gated(lease_seconds=3)
    assert killed.line("took") == "image-0"
    killed.kill()
    other = workers.start_gated(lease_seconds=3)
    assert other.line("took") == "image-0"
    other.tell("done")
    assert other.line("done") == "image-0"
    assert outputs(api) == ["image-0/text"]
    assert api.lag("uploads", "ocr") == 0
    assert other.lines_to_the_end() == []


def test_what_a_killed_worker_held_is_kept_for_it_until_its_lease_runs_out(api, workers):
    an_hour = 3600
    api.create_topic("uploads")
    api.publish("uploads", image(0))
    killed = workers.start_gated(an_hour)
    assert killed.line("took") == "image-0"
    killed.kill()
    other = workers.start_gated(an_hour)
    api.publish("uploads", image(1))
    assert other.line("took") == "image-1"
    assert api.describe_group("uploads", "ocr").partitions[0].in_flight == 2


def test_work_goes_on_across_a_restart_of_the_broker(broker, api, workers):
    lease_seconds = 6
    api.create_topic("uploads")
    api.publish("uploads", image(0))
    worker = workers.start_gated(lease_seconds)
    assert worker.line("took") == "image-0"
    # A lease is in the log after a second: shorter work may be redone.
    time.sleep(3)
    api.describe_group("uploads", "ocr")
    broker.kill()
    broker.start()
    # The first that another worker gets is what is published now.
    other = workers.start_gated(lease_seconds)
    api.publish("uploads", image(1))
    assert other.line("took") == "image-1"
    other.tell("done")
    assert other.line("done") == "image-1"

    # And it gets nothing more when the first lease would have run out.
    time.sleep(1.5 * lease_seconds)
    worker.tell("done")
    assert worker.line("done") == "image-0"
    assert outputs(api) == ["image-1/text", "image-0/text"]
    assert api.lag("uploads", "ocr") == 0
    assert worker.lines_to_the_end() == []
    assert other.lines_to_the_end() == []


@ENDS
def test_work_begun_just_before_a_restart_of_the_broker_is_done_once(broker, api, workers, end):
    api.create_topic("uploads")
    api.publish("uploads", image(0))
    worker = workers.start_gated(lease_seconds=60)
    assert worker.line("took") == "image-0"
    end(broker)
    # Done while the broker is away. The worker may have to do it again, because the
    # broker may not remember the lease.
    worker.tell("done")
    worker.tell("done")
    broker.start()
    assert worker.line("done") == "image-0"
    assert outputs(api) == ["image-0/text"]
    assert api.lag("uploads", "ocr") == 0


@ENDS
def test_an_idle_worker_gets_what_comes_after_a_restart_of_the_broker(broker, api, workers, end):
    api.create_topic("uploads")
    api.publish("uploads", image(0))
    worker = workers.start()
    assert worker.line("done") == "image-0"
    end(broker)
    broker.start()
    api.publish("uploads", image(1))
    assert worker.line("done") == "image-1"
    assert outputs(api) == ["image-0/text", "image-1/text"]
    assert api.lag("uploads", "ocr") == 0
