"""ActionCache: what is stored comes back, and only when all that it needs is there."""

import grpc
from build.bazel.remote.execution.v2 import remote_execution_pb2 as api
from google.protobuf import any_pb2, timestamp_pb2, wrappers_pb2

from client import IDENTITY, Client, noise, refusal, sha256

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def _full_result(client):
    """A result with something in every field, all of whose blobs are stored."""
    stdout, stderr, file = noise("stdout", 300), noise("stderr", 200), noise("file", 5000)
    for blob in [stdout, stderr, file]:
        client.put(blob)
    leaf = api.Directory(files=[api.FileNode(name="leaf", digest=sha256(file))])
    root = api.Directory(
        files=[api.FileNode(name="file", digest=sha256(stdout), is_executable=True)],
        directories=[api.DirectoryNode(name="leaf", digest=sha256(leaf.SerializeToString()))],
        symlinks=[api.SymlinkNode(name="link", target="../elsewhere")],
    )
    tree = client.put(api.Tree(root=root, children=[leaf]).SerializeToString())
    when = timestamp_pb2.Timestamp(seconds=1_700_000_000, nanos=500_903_088)
    properties = api.NodeProperties(
        properties=[api.NodeProperty(name="a", value="b")],
        mtime=when,
        unix_mode=wrappers_pb2.UInt32Value(value=0o100755),
    )
    detail = any_pb2.Any()
    detail.Pack(when)
    return api.ActionResult(
        output_files=[
            api.OutputFile(path="a/file", digest=sha256(file), is_executable=True, node_properties=properties),
            api.OutputFile(path="a/empty", digest=sha256(b"")),
            api.OutputFile(path="inlined", digest=sha256(b"never stored"), contents=b"never stored"),
        ],
        output_symlinks=[api.OutputSymlink(path="link", target="a/file")],
        output_directories=[api.OutputDirectory(path="dir", tree_digest=tree)],
        exit_code=7,
        stdout_digest=sha256(stdout),
        stderr_digest=sha256(stderr),
        execution_metadata=api.ExecutedActionMetadata(
            worker="a worker", queued_timestamp=when, auxiliary_metadata=[detail]
        ),
    )


def a_result_comes_back_as_it_was_stored():
    client = Client.trusted()
    action = sha256(b"full")
    assert client.get(action) is None
    result = _full_result(client)
    assert client.update(action, result) == result
    assert client.get(action) == result
    # The last one wins, so that a bad result can be replaced.
    other = api.ActionResult(exit_code=1, stdout_digest=result.stdout_digest)
    client.update(action, other)
    assert client.get(action) == other


def fields_that_the_server_does_not_know_come_back_too():
    client = Client.trusted()
    action = sha256(b"unknown fields")
    # Field 1000, a string.
    unknown = b"\xc2\x3e\x05later"
    result = api.ActionResult.FromString(api.ActionResult(exit_code=1).SerializeToString() + unknown)
    client.update(action, result)
    assert client.get(action).SerializeToString() == result.SerializeToString()


def an_empty_result_is_one():
    client = Client.trusted()
    action = sha256(b"empty result")
    client.update(action, api.ActionResult())
    assert client.get(action) is not None


def results_are_kept_apart_by_instance():
    action = sha256(b"apart")
    names = ["", "a", "a/b", "b"]
    for number, name in enumerate(names):
        client = Client.trusted(instance=name)
        assert client.get(action) is None, name
        client.update(action, api.ActionResult(exit_code=number + 1))
    for number, name in enumerate(names):
        assert Client.trusted(instance=name).get(action).exit_code == number + 1, name


def a_result_that_lacks_a_blob_is_not_found_until_it_is_there():
    client = Client.trusted()
    number = 0

    def check(what, make, blob=None):
        """`make` gets the digest of a blob that is missing, and gives the result that needs it."""
        nonlocal number
        number += 1
        blob = blob or noise(f"lacking {number}", 1000 + number)
        action = sha256(f"lacking {number}".encode())
        client.update(action, make(sha256(blob)))
        assert client.get(action) is None, what
        client.put(blob)
        assert client.get(action) is not None, what

    def tree(root, *children):
        tree = api.Tree(root=root, children=children)
        return api.OutputDirectory(path="d", tree_digest=client.put(tree.SerializeToString()))

    def directory(digest):
        return api.Directory(files=[api.FileNode(name="f", digest=digest)])

    there = client.put(noise("there", 100))
    check("a file", lambda digest: api.ActionResult(
        output_files=[api.OutputFile(path="a", digest=there), api.OutputFile(path="b", digest=digest)]
    ))
    check("standard output", lambda digest: api.ActionResult(stdout_digest=digest))
    check("standard error", lambda digest: api.ActionResult(stderr_digest=digest))
    check("a file at the root of a tree", lambda digest: api.ActionResult(
        output_directories=[tree(directory(digest))]
    ))
    check("a file in a child of a tree", lambda digest: api.ActionResult(
        output_directories=[tree(directory(there), directory(there), directory(digest))]
    ))
    check("a root directory", lambda digest: api.ActionResult(
        output_directories=[
            api.OutputDirectory(
                path="d",
                tree_digest=client.put(api.Tree(root=directory(there)).SerializeToString()),
                root_directory_digest=digest,
            )
        ]
    ), blob=directory(there).SerializeToString())

    lost = api.Tree(root=directory(there), children=[directory(sha256(b"unique"))])
    client.put(b"unique")
    action = sha256(b"lost tree")
    result = api.ActionResult(
        output_directories=[api.OutputDirectory(path="d", tree_digest=sha256(lost.SerializeToString()))]
    )
    client.update(action, result)
    assert client.get(action) is None
    client.put(lost.SerializeToString())
    assert client.get(action) == result


def a_tree_that_is_none_is_a_miss():
    client = Client.trusted()
    digest = client.put(b"\xff\xff\xff no tree at all")
    action = sha256(b"no tree")
    client.update(
        action, api.ActionResult(output_directories=[api.OutputDirectory(path="d", tree_digest=digest)])
    )
    assert client.get(action) is None


def a_result_of_thousands_of_outputs_is_complete_or_not_found():
    client = Client.trusted()
    blobs = [noise(f"output {number}", 50) for number in range(5000)]
    for at in range(0, len(blobs), 2500):
        client.batch_update([(sha256(blob), blob, IDENTITY) for blob in blobs[at : at + 2500]])
    last = noise("the last output", 50)
    result = api.ActionResult(
        output_files=[
            api.OutputFile(path=f"out/{number}", digest=sha256(blob))
            for number, blob in enumerate([*blobs, last])
        ]
    )
    action = sha256(b"thousands")
    client.update(action, result)
    assert client.get(action) is None
    client.put(last)
    assert client.get(action) == result


def outputs_are_inlined_when_asked_for():
    client = Client.trusted()
    result = _full_result(client)
    action = sha256(b"inline")
    client.update(action, result)
    got = client.get(
        action, inline_stdout=True, inline_stderr=True, inline_output_files=["a/file", "not/there"]
    )
    assert got.stdout_raw == noise("stdout", 300)
    assert got.stderr_raw == noise("stderr", 200)
    assert got.output_files[0].contents == noise("file", 5000)
    assert got.stdout_digest == result.stdout_digest
    # What is too large for a message is not inlined, and the result is whole all the same.
    large = noise("large stdout", 9 << 20)
    client.put(large)
    result = api.ActionResult(stdout_digest=sha256(large))
    client.update(action, result)
    got = client.get(action, inline_stdout=True)
    assert got == result
    assert got.ByteSize() < 4 << 20


def what_is_stored_inline_stays_readable():
    client = Client.trusted()
    action = sha256(b"raw")
    result = api.ActionResult(stdout_raw=b"said by moon 2.4.0", stderr_raw=b"complained", exit_code=1)
    client.update(action, result)
    for hints in [{}, {"inline_stdout": True, "inline_stderr": True}]:
        got = client.get(action, **hints)
        for raw, digest, text in [
            (got.stdout_raw, got.stdout_digest, b"said by moon 2.4.0"),
            (got.stderr_raw, got.stderr_digest, b"complained"),
        ]:
            assert raw == text or client.read(client.read_name(digest)) == text


def results_that_make_no_sense_are_refused():
    client = Client.trusted()
    action = sha256(b"senseless")
    good = sha256(b"x")
    bad = api.Digest(hash="no hash", size_bytes=1)
    for result in [
        api.ActionResult(output_files=[api.OutputFile(path="", digest=good)]),
        api.ActionResult(output_files=[api.OutputFile(path="/absolute", digest=good)]),
        api.ActionResult(output_files=[api.OutputFile(path="no/digest")]),
        api.ActionResult(output_files=[api.OutputFile(path="a", digest=bad)]),
        api.ActionResult(stdout_digest=api.Digest(hash=good.hash, size_bytes=-5)),
        api.ActionResult(output_symlinks=[api.OutputSymlink(path="link", target="")]),
        api.ActionResult(output_directories=[api.OutputDirectory(path="d")]),
    ]:
        error = refusal(INVALID, lambda: client.update(action, result))
        assert "action result" in error.details(), error.details()
    assert client.get(action) is None
