"""The programs that the tests start: a broker, and workers."""

import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

# Far longer than anything takes: what is not there by then never comes.
HANGS_SECONDS = 60

SAMPLES = Path(__file__).resolve().parents[1]
GATED = Path(__file__).with_name("gated.py")


class Process:
    """A child process. What it prints is read line by line; where it says more goes
    to a file."""

    def __init__(self, command, log: Path):
        # What is set for a broker of the developer's own is not for this one.
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
        self.log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                bufsize=1,
                env={**env, "TMPDIR": str(log.parent), "PYTHONDONTWRITEBYTECODE": "1"},
            )
        self.lines = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def line(self, begins_with: str) -> str:
        """The rest of the next line that begins so."""
        while True:
            try:
                line = self.lines.get(timeout=HANGS_SECONDS)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line {begins_with!r}:\n{self.log.read_text()}")
            print(f"{self.process.args[-1]} {self.process.pid}: {line}")
            if line.startswith(begins_with):
                return line.removeprefix(begins_with).strip()

    def lines_to_the_end(self) -> list[str]:
        """Ends it, and returns what it printed that nobody has read."""
        self.kill()
        return list(iter(self.lines.get, None))

    def tell(self, line: str) -> None:
        self.process.stdin.write(line + "\n")

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANGS_SECONDS)

    def kill(self) -> None:
        """SIGKILL; nothing happens when it has ended."""
        self.process.kill()
        self.process.wait(HANGS_SECONDS)
        self.reader.join(HANGS_SECONDS)


class Broker:
    """A broker over a folder of its own. After a restart it listens on the same
    port."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.binary = os.environ.get("SLUICE_BIN")
        assert self.binary, "SLUICE_BIN must be the path of the program `sluice`"
        self.address = "127.0.0.1:0"
        self.process = None
        self.start()

    def start(self) -> None:
        command = [self.binary, "serve", "--listen", self.address]
        command += ["--data-dir", str(self.folder / "data")]
        self.process = Process(command, self.folder / "broker.log")
        self.address = self.process.line("sluice listening on ")

    def kill(self) -> None:
        """Ends it as a crash does (SIGKILL)."""
        self.process.kill()

    def stop(self) -> None:
        """Ends it as a supervisor does (SIGTERM)."""
        assert self.process.terminate() == 0


class Workers:
    """Starts workers of one sample, and ends them."""

    def __init__(self, sample: str, address: str, folder: Path):
        self.sample = sample
        self.address = address
        self.folder = folder
        self.all = []

    def start(self) -> Process:
        """The sample as it is: prints `done ID` when it has done an event."""
        return self._start([str(SAMPLES / f"{self.sample}.py"), self.address])

    def start_gated(self, lease_seconds: int) -> Process:
        """The sample with work that prints `took ID` and lasts until it is told."""
        return self._start([str(GATED), self.sample, str(lease_seconds), self.address])

    def _start(self, args) -> Process:
        log = self.folder / f"worker-{len(self.all)}.log"
        worker = Process([sys.executable, *args], log)
        self.all.append(worker)
        return worker

    def kill(self) -> None:
        for worker in self.all:
            worker.kill()
