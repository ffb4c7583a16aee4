import pytest
from api import Api
from processes import Broker, Workers


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path)
    yield broker
    broker.kill()
    # Shown when the test has failed.
    print(f"--- the broker's log\n{broker.process.log.read_text()}---")


@pytest.fixture
def api(broker):
    api = Api(broker.address)
    yield api
    api.close()


@pytest.fixture(params=["worker", "worker_stream", "worker_asyncio"])
def workers(request, broker, tmp_path):
    """Each test with workers runs with each of the samples."""
    workers = Workers(request.param, broker.address, tmp_path)
    yield workers
    workers.kill()
    for worker in workers.all:
        print(f"--- worker {worker.process.pid}\n{worker.log.read_text()}---")
