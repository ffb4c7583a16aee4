"""A sample worker whose work takes until it is told that it is done.

python gated.py SAMPLE LEASE_SECONDS ADDRESS

Prints `took ID` for each event that it works on, one at a time. It works until a
line comes on standard input, and fails when that says `fail`. Its group has leases
of LEASE_SECONDS. A sample that says how far it is says that half is done.
"""

import asyncio
import importlib
import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
_, name, lease_seconds, address = sys.argv

import worker  # noqa: E402 - found by the path above

sample = importlib.import_module(name)
sample.SLOTS = 1
worker.GROUP.lease_duration.seconds = int(lease_seconds)
work = worker.ocr


def gated(image):
    worker.progress.update(percent=50, note=f"half of {image.id}")
    print("took", image.id, flush=True)
    if sys.stdin.readline().strip() == "fail":
        raise ValueError("told to fail")
    return work(image)


sample.ocr = gated
run = sample.main(address)
if inspect.iscoroutine(run):
    asyncio.run(run)
