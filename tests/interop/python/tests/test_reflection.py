"""A client that has not even the .proto files, as grpcurl: it asks the broker."""

import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


@pytest.fixture
def database(api):
    return ProtoReflectionDescriptorDatabase(api.channel)


def test_the_services_are_listed(database):
    services = set(database.get_services())
    assert {"sluice.v1.BrokerService", "sluice.v1.AdminService"} <= services


def test_methods_are_called_by_their_reflected_descriptors(api, database):
    # A pool of its own: nothing in it comes from the .proto files.
    pool = DescriptorPool(database)

    def call(service: str, method: str, request: dict) -> dict:
        method_ = pool.FindServiceByName(service).FindMethodByName(method)
        request_class = GetMessageClass(method_.input_type)
        response_class = GetMessageClass(method_.output_type)
        callable_ = api.channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        return MessageToDict(callable_(ParseDict(request, request_class())))

    admin, broker = "sluice.v1.AdminService", "sluice.v1.BrokerService"
    topic = {"topic": "t", "config": {"partitions": 2}}
    assert call(admin, "CreateTopic", topic) == {"created": True}
    event = {"id": "1", "source": "/tests", "type": "t", "attributes": {"partitionkey": "k"}}
    published = call(broker, "Publish", {"topic": "t", "events": [event]})
    assert published["ranges"][0]["count"] == 1
    listed = call(admin, "ListTopics", {})
    config = {"partitions": 2, "channel": "CHANNEL_FSYNC"}
    assert listed["topics"] == [{"topic": "t", "config": config, "eventCount": "1"}]


def test_every_message_of_the_api_can_be_resolved(database):
    pool = DescriptorPool(database)
    for service in ("sluice.v1.BrokerService", "sluice.v1.AdminService"):
        methods = pool.FindServiceByName(service).methods
        assert methods
        for method in methods:
            assert GetMessageClass(method.input_type)()
            assert GetMessageClass(method.output_type)() is not None
