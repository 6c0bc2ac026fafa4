"""FindMissingBlobs, BatchUpdateBlobs, BatchReadBlobs and GetTree."""

import grpc
from build.bazel.remote.execution.v2 import remote_execution_pb2 as api

from client import (
    BLAKE3,
    IDENTITY,
    SHA256,
    ZSTD,
    Client,
    blake3_digest,
    compress,
    decompress,
    noise,
    prose,
    refusal,
    sha256,
)

OK = 0
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def _statuses(answers):
    # A client of Pants' takes an absent status for an unknown error.
    assert all(answer.HasField("status") for answer in answers), answers
    return [answer.status.code for answer in answers]


def batches_come_back_in_either_encoding_whatever_was_sent():
    client = Client.trusted()
    blobs = [noise("batch", 10), noise("batch", 5000), prose("batch", 20_000), prose("batch", 300_000)]
    sent = []
    for number, blob in enumerate(blobs):
        plain = number % 2 == 0
        sent.append((sha256(blob), blob if plain else compress(blob), IDENTITY if plain else ZSTD))
    answers = client.batch_update(sent)
    assert _statuses(answers) == [OK] * 4, answers
    assert [answer.digest for answer in answers] == [sha256(blob) for blob in blobs]

    for acceptable in [[], [IDENTITY], [IDENTITY, ZSTD], [ZSTD]]:
        answers = client.batch_read([sha256(blob) for blob in blobs], acceptable)
        assert _statuses(answers) == [OK] * 4, answers
        for answer, blob in zip(answers, blobs, strict=True):
            assert answer.digest == sha256(blob)
            assert answer.compressor in [IDENTITY, *acceptable], answer.compressor
            data = decompress(answer.data) if answer.compressor == ZSTD else answer.data
            assert data == blob


def each_item_of_a_batch_is_answered_for_itself():
    client = Client.trusted()
    good, bad, other = noise("good", 100), noise("bad", 100), noise("other", 100)
    items = [
        (sha256(good), good, IDENTITY),
        (sha256(bad), other, IDENTITY),
        (sha256(good), good, IDENTITY),
        (sha256(bad), bad[:-1], IDENTITY),
        (sha256(other), compress(other), ZSTD),
        (sha256(bad), b"no zstd at all", ZSTD),
        (sha256(bad), compress(bad)[:-2], ZSTD),
        (sha256(bad), compress(bad) + b"more", ZSTD),
        (sha256(good), good, api.Compressor.BROTLI),
    ]
    answers = client.batch_update(items)
    assert [answer.digest for answer in answers] == [digest for digest, _, _ in items]
    wrong = INVALID.value[0]
    assert _statuses(answers) == [OK, wrong, OK, wrong, OK, wrong, wrong, wrong, wrong], answers
    assert all(answer.status.message for answer in answers if answer.status.code), answers
    assert client.find_missing([sha256(good), sha256(bad), sha256(other)]) == [sha256(bad)]

    answers = client.batch_read([sha256(bad), sha256(good), sha256(bad)])
    assert _statuses(answers) == [NOT_FOUND.value[0], OK, NOT_FOUND.value[0]], answers
    assert [answer.data for answer in answers] == [b"", good, b""]


def a_zstd_body_that_holds_more_than_it_says_is_refused():
    client = Client.trusted()
    bomb = bytes(256 << 20)
    body = compress(bomb)
    assert len(body) < 1 << 20
    lie = api.Digest(hash=sha256(b"bomb").hash, size_bytes=1000)
    (answer,) = client.batch_update([(lie, body, ZSTD)])
    assert answer.status.code == INVALID.value[0], answer
    name = client.upload_name(b"", compressed=True, digest=lie)
    refusal(INVALID, lambda: client.write(name, [body]))
    assert client.find_missing([lie]) == [lie]


def zstd_may_come_in_several_frames():
    client = Client.trusted()
    blob = prose("frames", 100_000)
    (answer,) = client.batch_update([(sha256(blob), compress(blob, frames=7), ZSTD)])
    assert answer.status.code == OK, answer
    (answer,) = client.batch_read([sha256(blob)])
    assert answer.data == blob
    (answer,) = client.batch_read([sha256(blob)], [ZSTD])
    assert decompress(answer.data) == blob


def a_batch_as_large_as_advertised_is_taken_and_a_larger_one_is_not():
    client = Client.trusted()
    limit = client.get_capabilities().cache_capabilities.max_batch_total_size_bytes
    blobs = [noise("full", limit // 2), noise("batch", limit - limit // 2)]
    digests = [sha256(blob) for blob in blobs]
    answers = client.batch_update(list(zip(digests, blobs, [IDENTITY] * 2, strict=True)))
    assert _statuses(answers) == [OK, OK], [answer.status for answer in answers]
    answers = client.batch_read(digests)
    assert [answer.data for answer in answers] == blobs

    more = noise("one too many", 1000)
    items = [*zip(digests, blobs, [IDENTITY] * 2, strict=True), (sha256(more), more, IDENTITY)]
    refusal(INVALID, lambda: client.batch_update(items))
    client.put(more)
    error = refusal(INVALID, lambda: client.batch_read([*digests, sha256(more)]))
    assert str(limit) in error.details(), error.details()


def many_small_blobs_fit_into_one_batch():
    client = Client.trusted()
    blobs = [noise(f"small {number}", 1 + number % 700) for number in range(3000)]
    answers = client.batch_update([(sha256(blob), blob, IDENTITY) for blob in blobs])
    assert _statuses(answers) == [OK] * len(blobs)
    answers = client.batch_read([sha256(blob) for blob in blobs])
    assert [answer.data for answer in answers] == blobs


def ten_thousand_digests_are_looked_up_at_once():
    client = Client.trusted()
    blobs = [f"one of ten thousand: {number}".encode() for number in range(10_000)]
    digests = [sha256(blob) for blob in blobs]
    assert client.find_missing(digests) == digests
    there = [(digest, blob, IDENTITY) for digest, blob in zip(digests, blobs, strict=True)][::2]
    for at in range(0, len(there), 2500):
        assert _statuses(client.batch_update(there[at : at + 2500])) == [OK] * 2500
    assert client.find_missing(digests) == digests[1::2]
    # Asked twice, answered at least once and nothing invented.
    twice = client.find_missing(digests[:100] * 2)
    assert {digest.hash for digest in twice} == {digest.hash for digest in digests[1:100:2]}


def a_right_hash_with_a_wrong_size_is_missing():
    client = Client.trusted()
    for blob in [noise("size", 10), noise("size", 70_000), noise("size", 200_000)]:
        client.put(blob)
        assert client.has(blob)
        for size in [len(blob) - 1, len(blob) + 1, len(blob) * 2, 65535, 65536, 1 << 40]:
            wrong = api.Digest(hash=sha256(blob).hash, size_bytes=size)
            assert client.find_missing([wrong, sha256(blob)]) == [wrong], size
            (answer,) = client.batch_read([wrong]) if size < 1 << 20 else [None]
            assert answer is None or (answer.status.code != OK and not answer.data), size
            refusal((NOT_FOUND, INVALID), lambda: client.read(client.read_name(wrong)))


def digests_that_are_none_are_refused():
    client = Client.trusted()
    good = sha256(b"a digest")
    for hash_, size in [
        (good.hash.upper(), 8),
        (good.hash[:-1], 8),
        (good.hash + "0", 8),
        ("", 8),
        (good.hash[:-1] + "g", 8),
        (good.hash, -1),
        (good.hash, 0),
    ]:
        bad = api.Digest(hash=hash_, size_bytes=size)
        error = refusal(INVALID, lambda: client.find_missing([good, bad]))
        assert "digest" in error.details().lower(), error.details()
        refusal(INVALID, lambda: client.read(client.read_name(bad)))
        refusal(INVALID, lambda: client.get(bad))
    refusal(INVALID, lambda: client.find_missing([good], api.DigestFunction.MD5))
    refusal(INVALID, lambda: client.find_missing([good], api.DigestFunction.SHA256TREE))
    assert client.find_missing([good], SHA256) == [good]


def the_empty_blob_is_always_there():
    client = Client.trusted(instance="empty")
    for digest, function, middle in [(sha256(b""), 0, ""), (blake3_digest(b""), BLAKE3, "blake3/")]:
        assert client.find_missing([digest], function) == []
        (answer,) = client.batch_read([digest], function=function)
        assert _statuses([answer]) == [OK] and answer.data == b"", answer
        assert client.read(f"empty/blobs/{middle}{digest.hash}/0") == b""
        assert decompress(client.read(f"empty/compressed-blobs/zstd/{middle}{digest.hash}/0")) == b""
        (answer,) = client.batch_update([(digest, b"", IDENTITY)], function)
        assert _statuses([answer]) == [OK], answer
        name = f"empty/uploads/00000000-0000-4000-8000-000000000000/blobs/{middle}{digest.hash}/0"
        assert client.write(name, [b""]) == 0
    compressed = client.upload_name(b"", compressed=True)
    assert client.write(compressed, [compress(b"")]) in (-1, len(compress(b"")))


def blake3_is_a_key_space_of_its_own():
    client = Client.trusted()
    blob = prose("blake3", 3_000_000)
    digest = blake3_digest(blob)
    uuid = "00000000-0000-4000-8000-000000000000"
    name = f"{client.instance}/uploads/{uuid}/blobs/blake3/{digest.hash}/{digest.size_bytes}"
    assert client.write(name, [blob[:1_000_000], blob[1_000_000:]]) == len(blob)
    assert client.has(blob, blake3_digest, BLAKE3)
    assert client.read(f"{client.instance}/blobs/blake3/{digest.hash}/{digest.size_bytes}") == blob
    # The same digest is another blob's under SHA-256, which nobody has.
    assert client.find_missing([digest]) == [digest]
    assert client.find_missing([digest], SHA256) == [digest]
    assert not client.has(blob)
    # The hash is the right one, of the other function.
    (answer,) = client.batch_update([(sha256(b"x"), b"x", IDENTITY)], BLAKE3)
    assert answer.status.code == INVALID.value[0], answer

    small = noise("blake3", 50)
    (answer,) = client.batch_update([(blake3_digest(small), compress(small), ZSTD)], BLAKE3)
    assert answer.status.code == OK, answer
    (answer,) = client.batch_read([blake3_digest(small)], function=BLAKE3)
    assert answer.data == small

    action = blake3_digest(b"action")
    client.update(action, api.ActionResult(exit_code=4, stdout_digest=blake3_digest(small)), BLAKE3)
    assert client.get(action, BLAKE3).exit_code == 4
    assert client.get(action) is None


def _directory(client, files=(), directories=()):
    """Stores a directory of these children; its message and digest."""
    directory = api.Directory()
    for name in files:
        directory.files.add(name=name, digest=sha256(name.encode()))
    for name, digest in directories:
        directory.directories.add(name=name, digest=digest)
    return directory, client.put(directory.SerializeToString())


def _tree(client, digest, **options):
    request = api.GetTreeRequest(instance_name=client.instance, root_digest=digest, **options)
    return list(client.call(client.cas.GetTree, request))


def a_tree_is_walked_to_its_leaves():
    client = Client.trusted()
    leaf, leaf_digest = _directory(client, ["leaf.txt"])
    middle, middle_digest = _directory(client, ["middle.txt"], [("leaf", leaf_digest)])
    missing = sha256(b"a directory that nobody stored")
    root, root_digest = _directory(
        client, ["root.txt"], [("again", leaf_digest), ("gone", missing), ("middle", middle_digest)]
    )
    found = [directory for page in _tree(client, root_digest) for directory in page.directories]
    assert found[0] == root
    names = [directory.files[0].name for directory in found]
    assert set(names) == {"root.txt", "middle.txt", "leaf.txt"}, names
    assert middle in found and leaf in found
    refusal(NOT_FOUND, lambda: _tree(client, missing))


def a_large_tree_comes_in_messages_that_every_client_takes():
    client = Client.trusted()
    children = []
    for number in range(200):
        files = [f"{number}-{name}-{'x' * 150}" for name in range(130)]
        directory = api.Directory()
        for name in files:
            directory.files.add(name=name, digest=sha256(name.encode()))
        children.append((f"d{number:03}", client.put(directory.SerializeToString())))
    _, root = _directory(client, [], children)
    pages = _tree(client, root)
    assert max(page.ByteSize() for page in pages) < 4 << 20
    assert sum(len(page.directories) for page in pages) == 201
    assert sum(page.ByteSize() for page in pages) > 5 << 20
