"""ByteStream: Read, Write and QueryWriteStatus."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.bytestream import bytestream_pb2 as stream

from client import (
    Client,
    chunks,
    compress,
    decompress,
    noise,
    prose,
    refusal,
    sha256,
    write_messages,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
MIB = 1 << 20


def a_blob_may_come_in_pieces_of_any_size():
    client = Client.trusted()
    for size, piece in [
        (1, 1),
        (3, 1),
        (1000, 1),
        (MIB, 8 << 10),
        (3 * MIB + 1, 16 << 10),
        (3 * MIB, MIB),
        (7 * MIB, 3 * MIB),
        (3 * MIB + 5, 4 * MIB),
    ]:
        blob = noise(f"pieces of {piece}", size)
        assert client.write(client.upload_name(blob), chunks(blob, piece)) == size, (size, piece)
        pieces = client.read_pieces(client.read_name(sha256(blob)))
        assert b"".join(pieces) == blob, (size, piece)
        # No client refuses a message of this size.
        assert max(len(piece) for piece in pieces) <= 2 * MIB
        assert all(pieces)


def the_end_may_be_marked_by_an_empty_message():
    client = Client.trusted()
    blob = noise("empty end", 100_000)
    assert client.write(client.upload_name(blob), [b"", *chunks(blob, 30_000), b"", b""]) == len(blob)
    assert client.read(client.read_name(sha256(blob))) == blob


def the_name_may_be_repeated_in_every_message():
    client = Client.trusted()
    blob = noise("repeated", 50_000)
    messages = list(write_messages(client.upload_name(blob), chunks(blob, 9000)))
    for message in messages:
        message.resource_name = client.upload_name(blob)
    assert client.write_messages(messages) == len(blob)


def compressed_uploads_commit_what_was_sent():
    client = Client.trusted()
    for seed, blob in enumerate([prose("c", 2 * MIB), noise("c", 300_000), prose("c", 10)]):
        for frames in [1, 5]:
            blob = blob + bytes([seed, frames])
            body = compress(blob, frames)
            # moon sends pieces of 8 KiB.
            name = client.upload_name(blob, compressed=True)
            assert client.write(name, chunks(body, 8 << 10)) == len(body)
            assert client.read(client.read_name(sha256(blob))) == blob
            assert decompress(client.read(client.read_name(sha256(blob), compressed=True))) == blob
            # The one answer that every client takes for a blob that is there.
            assert client.write(name, chunks(body, 8 << 10)) in (-1, len(body))


def a_read_starts_and_ends_anywhere():
    client = Client.trusted()
    plain, packed = noise("anywhere", 3 * MIB), prose("anywhere", 5 * MIB)
    client.write(client.upload_name(plain), chunks(plain, MIB))
    client.write(client.upload_name(packed, compressed=True), chunks(compress(packed, 3), MIB))
    small = noise("anywhere small", 500)
    client.put(small)
    for blob in [plain, packed, small]:
        size = len(blob)
        name = client.read_name(sha256(blob))
        compressed = client.read_name(sha256(blob), compressed=True)
        for offset in [0, 1, size // 3, size - 1, size]:
            assert client.read(name, offset) == blob[offset:], offset
            assert decompress(client.read(compressed, offset)) == blob[offset:], offset
            for limit in [1, 100, size, size * 2]:
                assert client.read(name, offset, limit) == blob[offset : offset + limit]
        refusal(grpc.StatusCode.OUT_OF_RANGE, lambda: client.read(name, size + 1))
        refusal(grpc.StatusCode.OUT_OF_RANGE, lambda: client.read(compressed, size + 1))
        refusal(INVALID, lambda: client.read(name, -1))
        refusal(INVALID, lambda: client.read(name, 0, -1))
        refusal(INVALID, lambda: client.read(compressed, 0, 10))


def uploads_that_share_a_uuid_do_not_meet():
    client = Client.trusted()
    uuid = "11111111-2222-4333-8444-555555555555"
    blobs = [noise(f"shared {number}", 400_000 + number) for number in range(24)]
    start = threading.Barrier(len(blobs))

    def upload(blob):
        start.wait(30)
        return client.write(client.upload_name(blob, uuid=uuid), chunks(blob, 8 << 10))

    with ThreadPoolExecutor(len(blobs)) as pool:
        assert list(pool.map(upload, blobs)) == [len(blob) for blob in blobs]
    for blob in blobs:
        assert client.read(client.read_name(sha256(blob))) == blob


def many_writers_of_one_blob_all_succeed():
    client = Client.trusted()
    blob = noise("one for all", 2 * MIB)
    start = threading.Barrier(12)

    def upload(number):
        start.wait(30)
        if number % 3 == 0:
            body = compress(blob)
            name = client.upload_name(blob, compressed=True)
            return client.write(name, chunks(body, 64 << 10)) in (-1, len(body))
        return client.write(client.upload_name(blob), chunks(blob, 8 << 10)) == len(blob)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(upload, range(12)))
    assert client.read(client.read_name(sha256(blob))) == blob


def a_blob_that_is_there_is_answered_before_it_is_sent():
    client = Client.trusted()
    blob = noise("early", 64 * MIB)
    client.write(client.upload_name(blob), chunks(blob, MIB))
    answered = threading.Event()
    sent = []

    def messages():
        for message in write_messages(client.upload_name(blob), chunks(blob, MIB)):
            # After the first few the client waits for an answer.
            if len(sent) == 4 and not answered.wait(30):
                return
            sent.append(len(message.data))
            yield message

    future = client.streams.Write.future(messages(), timeout=60, metadata=client.metadata)
    future.add_done_callback(lambda _: answered.set())
    assert future.result().committed_size == len(blob)
    assert client.read(client.read_name(sha256(blob)), 63 * MIB) == blob[63 * MIB :]


def an_upload_that_breaks_a_rule_is_refused_and_leaves_nothing():
    client = Client.trusted()
    blob = noise("rules", 200_000)
    name = client.upload_name(blob)
    halves = chunks(blob, 100_000)

    def messages(*parts):
        return [
            stream.WriteRequest(resource_name=name, write_offset=offset, data=data, finish_write=end)
            for name, offset, data, end in parts
        ]

    refused = {
        "another blob": [(name, 0, noise("others", 200_000), True)],
        "too few bytes": [(name, 0, halves[0], True)],
        "too many bytes": [(name, 0, blob, False), ("", 200_000, b"x", True)],
        "no end": [(name, 0, blob, False)],
        "no end, nothing": [(name, 0, b"", False)],
        "no messages": [],
        "no name": [("", 0, blob, True)],
        "a gap": [(name, 0, halves[0], False), ("", 100_001, halves[1], True)],
        "an overlap": [(name, 0, halves[0], False), ("", 99_999, halves[1], True)],
        "a start in the middle": [(name, 100_000, halves[1], True)],
        "another name": [(name, 0, halves[0], False), (name + "x", 100_000, halves[1], True)],
        "more after the end": [(name, 0, halves[0], True), ("", 100_000, halves[1], True)],
    }
    codes = (INVALID, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.FAILED_PRECONDITION)
    for rule, parts in refused.items():
        try:
            refusal(codes, lambda: client.write_messages(messages(*parts)))
        except AssertionError as error:
            raise AssertionError(f"{rule}: {error}") from error
        assert not client.has(blob), rule
    assert client.write(name, halves) == len(blob)


def names_of_resources_are_read_as_the_specification_says():
    blob = noise("names", 1000)
    hash_, size = sha256(blob).hash, len(blob)
    client = Client.trusted(instance="")
    uuid = "00000000-0000-4000-8000-000000000000"
    for write, read in [
        (f"uploads/{uuid}/blobs/{hash_}/{size}", f"blobs/{hash_}/{size}"),
        (f"/uploads/{uuid}/blobs/{hash_}/{size}", f"/blobs/{hash_}/{size}"),
        (f"a/b/uploads/{uuid}/blobs/{hash_}/{size}", f"a/b/blobs/{hash_}/{size}"),
        (f"uploads/{uuid}/blobs/{hash_}/{size}/a/file.txt", f"blobs/{hash_}/{size}"),
        (f"i/uploads/no-uuid-at-all/blobs/{hash_}/{size}", f"i/blobs/{hash_}/{size}"),
    ]:
        assert client.write(write, [blob]) == size, write
        assert client.read(read) == blob, read
    for bad in [
        "",
        "/",
        "blobs",
        f"blobs/{hash_}",
        f"blobs/{hash_}/x",
        f"blobs/{hash_}/-1",
        f"blobs/{hash_}/99999999999999999999",
        f"bulbs/{hash_}/{size}",
        f"compressed-blobs/brotli/{hash_}/{size}",
        f"compressed-blobs/identity/{hash_}/{size}",
        f"blobs/md5/{hash_}/{size}",
        f"blobs/ü/{size}",
    ]:
        refusal(INVALID, lambda: client.read(bad))
        refusal(INVALID, lambda: client.write(f"uploads/{uuid}/{bad}", [blob]))
    refusal(INVALID, lambda: client.write(f"blobs/{hash_}/{size}", [blob]))


def the_state_of_an_upload_can_be_asked():
    client = Client.trusted()
    blob = noise("state", 1000)
    request = stream.QueryWriteStatusRequest(resource_name=client.upload_name(blob))
    state = client.call(client.streams.QueryWriteStatus, request)
    assert (state.committed_size, state.complete) == (0, False), state
    client.put(blob)
    state = client.call(client.streams.QueryWriteStatus, request)
    assert (state.committed_size, state.complete) == (1000, True), state


def an_upload_that_is_given_up_leaves_nothing():
    client = Client.trusted()
    blob = noise("given up", 4 * MIB)
    half_sent, go_on = threading.Event(), threading.Event()

    def messages():
        for number, message in enumerate(write_messages(client.upload_name(blob), chunks(blob, MIB))):
            if number == 2:
                half_sent.set()
                go_on.wait(30)
            yield message

    future = client.streams.Write.future(messages(), timeout=60, metadata=client.metadata)
    assert half_sent.wait(30)
    future.cancel()
    go_on.set()
    assert not client.has(blob)
    assert client.write(client.upload_name(blob), chunks(blob, MIB)) == len(blob)
    assert client.read(client.read_name(sha256(blob))) == blob


def a_read_that_is_given_up_harms_no_other():
    client = Client.trusted()
    blob = noise("read given up", 32 * MIB)
    client.write(client.upload_name(blob), chunks(blob, MIB))
    request = stream.ReadRequest(resource_name=client.read_name(sha256(blob)))
    for _ in range(20):
        answers = client.streams.Read(request, timeout=60, metadata=client.metadata)
        assert next(answers).data
        answers.cancel()
    assert client.read(client.read_name(sha256(blob))) == blob


def what_is_not_there_is_not_found():
    client = Client.trusted()
    for size in [10, 10 * MIB]:
        digest = sha256(noise("absent", 16))
        digest.size_bytes = size
        for compressed in [False, True]:
            name = client.read_name(digest, compressed)
            refusal(NOT_FOUND, lambda: client.read(name))
