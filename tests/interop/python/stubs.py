"""Sluice's API for Python, made from its .proto files.

After `import stubs`, the modules `sluice.v1.*_pb2` and `sluice.v1.*_pb2_grpc`
can be imported. They are generated into a temporary folder that is gone when
the import is done. To keep them in a project of your own, generate them once:

    python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. \\
        --grpc_python_out=. proto/sluice/v1/*.proto
"""

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[3] / "proto"

# For every channel to a broker.
CHANNEL_OPTIONS = [
    # Notice a broker that is gone without a word.
    ("grpc.keepalive_time_ms", 20_000),
    # Try again soon when the broker is being restarted.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Keep requests of up to this size for a second attempt.
    ("grpc.per_rpc_retry_buffer_size", 16 << 20),
    # A call waits for a broker that is not there, and is sent again when its
    # answer was lost. Settle and Commit may be sent again because a lease is
    # settled only once, Publish because of its producer session (publish.py). What
    # a lost answer of Pull brought comes again when its lease has run out.
    (
        "grpc.service_config",
        json.dumps(
            {
                "methodConfig": [
                    {
                        "name": [{}],
                        "waitForReady": True,
                        "retryPolicy": {
                            "maxAttempts": 5,
                            "initialBackoff": "0.5s",
                            "maxBackoff": "5s",
                            "backoffMultiplier": 2,
                            "retryableStatusCodes": ["UNAVAILABLE"],
                        },
                    }
                ]
            }
        ),
    ),
]


def generate() -> None:
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    # Where google/protobuf/*.proto are.
    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        if protoc.main(["protoc", f"-I{PROTO}", f"-I{well_known}", *out, *files]) != 0:
            raise ImportError(f"cannot generate code from {PROTO}")
        sys.path.insert(0, folder)
        try:
            for file in files:
                module = file.removesuffix(".proto").replace("/", ".")
                import_module(f"{module}_pb2")
                import_module(f"{module}_pb2_grpc")
        finally:
            sys.path.remove(folder)


generate()
