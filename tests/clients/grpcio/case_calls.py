"""The layer below the methods: what a real gRPC stack sees of errors, limits, deadlines and load."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import health_pb2
import health_pb2_grpc
from build.bazel.remote.execution.v2 import remote_execution_pb2 as api
from google.bytestream import bytestream_pb2 as stream

from client import IDENTITY, Client, chunks, noise, refusal, sha256, write_messages

MIB = 1 << 20


def health_is_told_to_everybody():
    for client in [Client(), Client.trusted(), Client.reader()]:
        health = health_pb2_grpc.HealthStub(client.channel)
        for service in [
            "",
            "build.bazel.remote.execution.v2.ContentAddressableStorage",
            "build.bazel.remote.execution.v2.ActionCache",
            "google.bytestream.ByteStream",
        ]:
            answer = client.call(health.Check, health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
        unknown = health_pb2.HealthCheckRequest(service="of.nobody")
        refusal(grpc.StatusCode.NOT_FOUND, lambda: client.call(health.Check, unknown))


def what_is_not_there_is_unimplemented():
    client = Client.trusted()
    for path in [
        "/build.bazel.remote.execution.v2.Execution/Execute",
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/Nothing",
        "/of.nobody/Nothing",
    ]:
        unary = client.channel.unary_unary(path)
        refusal(grpc.StatusCode.UNIMPLEMENTED, lambda: client.call(unary, b""))
        streaming = client.channel.stream_unary(path)
        refusal(grpc.StatusCode.UNIMPLEMENTED, lambda: client.call(streaming, iter([b"", b""])))


def a_request_that_is_no_message_is_refused():
    client = Client.trusted()
    for method in [
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
        "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
        "/google.bytestream.ByteStream/Read",
    ]:
        unary = client.channel.unary_unary(method)
        refusal(grpc.StatusCode.INVALID_ARGUMENT, lambda: client.call(unary, b"\xff\xff\xff\xff"))


def messages_compressed_by_grpc_itself_are_unimplemented():
    client = Client.trusted(compression=grpc.Compression.Gzip)
    digests = [sha256(str(number).encode()) for number in range(1000)]
    refusal(grpc.StatusCode.UNIMPLEMENTED, lambda: client.find_missing(digests))


def a_message_above_the_limit_is_refused_with_the_limit():
    client = Client.trusted()
    blob = noise("message", 9 * MIB)
    error = refusal(
        (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED),
        lambda: client.batch_update([(sha256(blob), blob, IDENTITY)]),
    )
    assert str(8 * MIB) in error.details(), error.details()
    # The channel is as good as before.
    assert client.write(client.upload_name(blob), [blob[: 4 * MIB], blob[4 * MIB :]]) == len(blob)


def texts_of_errors_arrive_as_they_were_written():
    client = Client.trusted()
    for name in ["blobs/ünï%20\n\t'\"/1", "名前/блобы/1", "100%/blobs"]:
        error = refusal(grpc.StatusCode.INVALID_ARGUMENT, lambda: client.read(name))
        assert "%25" not in error.details() and "%C3" not in error.details(), error.details()
        assert "resource name" in error.details(), error.details()


def a_call_ends_at_its_deadline_and_leaves_nothing():
    client = Client.trusted()
    blob = noise("deadline", 2 * MIB)
    over = threading.Event()

    def stalled():
        messages = list(write_messages(client.upload_name(blob), chunks(blob, MIB)))
        yield messages[0]
        over.wait(30)
        yield messages[1]

    start = time.monotonic()
    refusal(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        lambda: client.call(client.streams.Write, stalled(), timeout=0.3).committed_size,
    )
    assert time.monotonic() - start < 10
    over.set()
    assert not client.has(blob)
    assert client.write(client.upload_name(blob), chunks(blob, MIB)) == len(blob)


def hundreds_of_calls_share_one_connection():
    client = Client.trusted()
    blobs = [noise(f"load {number}", 100_000 + number) for number in range(300)]

    def there_and_back(blob):
        client.write(client.upload_name(blob), chunks(blob, 16 << 10))
        assert client.has(blob)
        return client.read(client.read_name(sha256(blob))) == blob

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(there_and_back, blobs))


def slow_readers_do_not_stop_the_others_of_their_connection():
    client = Client.trusted()
    blob, small = noise("slow", 16 * MIB), noise("quick", 1000)
    client.write(client.upload_name(blob), chunks(blob, MIB))
    client.put(small)
    request = stream.ReadRequest(resource_name=client.read_name(sha256(blob)))
    # Each has taken one message and takes no more for now.
    slow = [client.streams.Read(request, timeout=60, metadata=client.metadata) for _ in range(5)]
    begun = [next(answers).data for answers in slow]
    for _ in range(50):
        (answer,) = client.batch_read([sha256(small)])
        assert answer.data == small
    for first, answers in zip(begun, slow, strict=True):
        assert first + b"".join(answer.data for answer in answers) == blob


def a_connection_is_good_for_thousands_of_calls():
    client = Client.trusted()
    digest = sha256(b"thousands of calls")
    request = api.FindMissingBlobsRequest(instance_name="grpcio", blob_digests=[digest])
    futures = []
    for _ in range(3000):
        futures.append(
            client.cas.FindMissingBlobs.future(request, timeout=60, metadata=client.metadata)
        )
        if len(futures) == 100:
            for future in futures:
                assert len(future.result().missing_blob_digests) == 1
            futures.clear()
