"""What a build stores and fetches through a cache proxy: `through_casd.py store|fetch`, with the proxy as the target.

What is fetched was stored through another proxy with an empty store of its own, so it can only come from the server behind both.
"""

import sys

import grpc
from build.bazel.remote.execution.v2 import remote_execution_pb2 as api

from client import IDENTITY, Client, chunks, noise, refusal, sha256

START_LIMIT_S = 30
SMALL = [noise(f"small {number}", 100 + number) for number in range(50)]
LARGE = noise("large", 9_000_000)
ACTION = sha256(b"an action")
ABSENT = sha256(b"stored by nobody")


def _result(client):
    leaf = api.Directory(files=[api.FileNode(name="leaf", digest=sha256(SMALL[3]))])
    root = api.Directory(directories=[api.DirectoryNode(name="leaf", digest=sha256(leaf.SerializeToString()))])
    tree = api.Tree(root=root, children=[leaf]).SerializeToString()
    result = api.ActionResult(
        output_files=[
            api.OutputFile(path="small", digest=sha256(SMALL[0])),
            api.OutputFile(path="large", digest=sha256(LARGE)),
        ],
        output_directories=[api.OutputDirectory(path="dir", tree_digest=sha256(tree))],
        stdout_digest=sha256(SMALL[1]),
        exit_code=0,
    )
    return result, [tree, leaf.SerializeToString(), root.SerializeToString()]


def store(client):
    result, more = _result(client)
    blobs = [*SMALL, *more]
    digests = [sha256(blob) for blob in blobs]
    assert client.find_missing([*digests, sha256(LARGE)]) == [*digests, sha256(LARGE)]
    answers = client.batch_update(list(zip(digests, blobs, [IDENTITY] * len(blobs), strict=True)))
    assert not any(answer.status.code for answer in answers), answers
    assert client.write(client.upload_name(LARGE), chunks(LARGE, 64 << 10)) == len(LARGE)
    assert client.get(ACTION) is None
    client.update(ACTION, result)
    assert client.get(ACTION) == result


def fetch(client):
    result, more = _result(client)
    # casd asks for the output inlined, and hands it on.
    result.stdout_raw = SMALL[1]
    blobs = [*SMALL, *more]
    digests = [sha256(blob) for blob in blobs]
    assert client.find_missing([*digests, ABSENT, sha256(LARGE)]) == [ABSENT]
    assert client.get(ACTION) == result
    answers = client.batch_read(digests)
    assert {answer.digest.hash: answer.data for answer in answers} == {
        sha256(blob).hash: blob for blob in blobs
    }
    assert client.read(client.read_name(sha256(LARGE))) == LARGE
    refusal(grpc.StatusCode.NOT_FOUND, lambda: client.read(client.read_name(ABSENT)))


if __name__ == "__main__":
    proxy = Client(instance="")
    grpc.channel_ready_future(proxy.channel).result(START_LIMIT_S)
    {"store": store, "fetch": fetch}[sys.argv[1]](proxy)
