"""A client of the Remote Execution API's cache that does exactly what a case asks for: whole calls, odd calls, bad calls.

Nothing is retried and every call has a deadline. What a case needs to know of the server under test comes from the environment.
"""

import hashlib
import os
import random

import blake3
import grpc
import zstandard
from build.bazel.remote.execution.v2 import remote_execution_pb2 as api
from build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as api_grpc
from google.bytestream import bytestream_pb2 as stream
from google.bytestream import bytestream_pb2_grpc as stream_grpc

DEADLINE_S = 60
MESSAGE_BYTES_MAX = 64 << 20

SHA256 = api.DigestFunction.SHA256
BLAKE3 = api.DigestFunction.BLAKE3
IDENTITY = api.Compressor.IDENTITY
ZSTD = api.Compressor.ZSTD

METADATA_HEADER = "build.bazel.remote.execution.v2.requestmetadata-bin"


def sha256(blob):
    """The digest of a blob under SHA-256."""
    return api.Digest(hash=hashlib.sha256(blob).hexdigest(), size_bytes=len(blob))


def blake3_digest(blob):
    """The digest of a blob under BLAKE3."""
    return api.Digest(hash=blake3.blake3(blob).hexdigest(), size_bytes=len(blob))


def compress(blob, frames=1):
    """The blob as zstd, in that many concatenated frames."""
    size = max(1, -(-len(blob) // frames))
    pieces = [blob[at : at + size] for at in range(0, len(blob), size)] or [b""]
    return b"".join(zstandard.compress(piece) for piece in pieces)


def decompress(body):
    """What zstd frames hold, however many there are."""
    blob = b""
    while body:
        frame = zstandard.ZstdDecompressor().decompressobj()
        blob += frame.decompress(body)
        body = frame.unused_data
    return blob


def noise(seed, size):
    """Bytes that nothing compresses, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def prose(seed, size):
    """Bytes that compress well, the same for the same seed."""
    line = f"line of {seed}\n".encode()
    return (line * (size // len(line) + 1))[:size]


class Client:
    """One caller: a channel, a token and an instance name."""

    def __init__(self, token=None, instance="grpcio", metadata=(), compression=None, target=None):
        self.instance = instance
        self.metadata = list(metadata)
        if token is not None:
            self.metadata.append(("authorization", f"Bearer {token}"))
        self.channel = grpc.insecure_channel(
            target or os.environ["LARDER_TARGET"],
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                # Otherwise all clients of one process share a connection.
                ("grpc.use_local_subchannel_pool", 1),
            ],
            compression=compression,
        )
        self.cas = api_grpc.ContentAddressableStorageStub(self.channel)
        self.actions = api_grpc.ActionCacheStub(self.channel)
        self.capabilities = api_grpc.CapabilitiesStub(self.channel)
        self.streams = stream_grpc.ByteStreamStub(self.channel)

    @staticmethod
    def trusted(**options):
        """A caller that reads and writes trusted entries."""
        return Client(os.environ["LARDER_TRUSTED_TOKEN"], **options)

    @staticmethod
    def reader(**options):
        """A caller that reads trusted entries."""
        return Client(os.environ["LARDER_READER_TOKEN"], **options)

    @staticmethod
    def isolated(number, **options):
        """A caller with a scope of its own, 1 or 2."""
        return Client(os.environ[f"LARDER_ISOLATED_{number}_TOKEN"], **options)

    def call(self, method, request, timeout=DEADLINE_S):
        """A call with this caller's credential and a deadline."""
        return method(request, timeout=timeout, metadata=self.metadata)

    def get_capabilities(self):
        request = api.GetCapabilitiesRequest(instance_name=self.instance)
        return self.call(self.capabilities.GetCapabilities, request)

    # Batches.

    def find_missing(self, digests, function=0):
        """The digests that the server has not, in its order."""
        request = api.FindMissingBlobsRequest(
            instance_name=self.instance, blob_digests=digests, digest_function=function
        )
        return list(self.call(self.cas.FindMissingBlobs, request).missing_blob_digests)

    def has(self, blob, digest=sha256, function=0):
        return not self.find_missing([digest(blob)], function)

    def batch_update(self, items, function=0):
        """Uploads (digest, data, compressor) each; the responses in the server's order."""
        request = api.BatchUpdateBlobsRequest(
            instance_name=self.instance, digest_function=function
        )
        for digest, data, compressor in items:
            request.requests.add(digest=digest, data=data, compressor=compressor)
        return list(self.call(self.cas.BatchUpdateBlobs, request).responses)

    def put(self, blob):
        """Stores one blob, whatever its size; its digest."""
        if len(blob) < 1 << 20:
            (answer,) = self.batch_update([(sha256(blob), blob, IDENTITY)])
            assert answer.status.code == 0, answer
        else:
            self.write(self.upload_name(blob), [blob[at : at + (1 << 20)] for at in range(0, len(blob), 1 << 20)])
        return sha256(blob)

    def batch_read(self, digests, acceptable=(), function=0):
        """Downloads in one call; the responses in the server's order."""
        request = api.BatchReadBlobsRequest(
            instance_name=self.instance,
            digests=digests,
            acceptable_compressors=acceptable,
            digest_function=function,
        )
        return list(self.call(self.cas.BatchReadBlobs, request).responses)

    # Streams.

    def prefix(self):
        return f"{self.instance}/" if self.instance else ""

    def upload_name(self, blob, compressed=False, uuid="00000000-0000-4000-8000-000000000000", digest=None):
        digest = digest or sha256(blob)
        kind = "compressed-blobs/zstd" if compressed else "blobs"
        return f"{self.prefix()}uploads/{uuid}/{kind}/{digest.hash}/{digest.size_bytes}"

    def read_name(self, digest, compressed=False):
        kind = "compressed-blobs/zstd" if compressed else "blobs"
        return f"{self.prefix()}{kind}/{digest.hash}/{digest.size_bytes}"

    def write(self, name, pieces, timeout=DEADLINE_S):
        """Streams these pieces as clients do: the name once, the end marked on the last; the committed size."""
        return self.write_messages(write_messages(name, pieces), timeout)

    def write_messages(self, messages, timeout=DEADLINE_S):
        """Streams exactly these messages; the committed size."""
        return self.call(self.streams.Write, iter(messages), timeout).committed_size

    def read(self, name, offset=0, limit=0):
        """All that a read returns, as one."""
        return b"".join(self.read_pieces(name, offset, limit))

    def read_pieces(self, name, offset=0, limit=0):
        request = stream.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
        return [answer.data for answer in self.call(self.streams.Read, request)]

    # Results.

    def update(self, action, result, function=0):
        request = api.UpdateActionResultRequest(
            instance_name=self.instance,
            action_digest=action,
            action_result=result,
            digest_function=function,
        )
        return self.call(self.actions.UpdateActionResult, request)

    def get(self, action, function=0, **hints):
        """The result of an action, or None."""
        request = api.GetActionResultRequest(
            instance_name=self.instance, action_digest=action, digest_function=function, **hints
        )
        try:
            return self.call(self.actions.GetActionResult, request)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise


def write_messages(name, pieces):
    offset = 0
    for number, piece in enumerate(pieces):
        yield stream.WriteRequest(
            resource_name=name if number == 0 else "",
            write_offset=offset,
            finish_write=number == len(pieces) - 1,
            data=piece,
        )
        offset += len(piece)


def chunks(body, size):
    """The body in pieces of that size; one empty piece if there is nothing."""
    return [body[at : at + size] for at in range(0, len(body), size)] or [b""]


def refusal(codes, work):
    """Does what must fail with one of these codes; the error, whose text says something."""
    codes = codes if isinstance(codes, tuple) else (codes,)
    try:
        done = work()
    except grpc.RpcError as error:
        assert error.code() in codes, f"{error.code()} instead of {codes}: {error.details()}"
        assert error.details(), f"{error.code()} without a word"
        return error
    raise AssertionError(f"was not refused with {codes}: {done}")
