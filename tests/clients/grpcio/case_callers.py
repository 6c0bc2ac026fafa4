"""Who may do what, and what each caller is told."""

import base64
import os

import grpc
from build.bazel.remote.execution.v2 import remote_execution_pb2 as api

from client import BLAKE3, IDENTITY, METADATA_HEADER, SHA256, ZSTD, Client, noise, refusal, sha256

DENIED = grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def _bazel(version):
    metadata = api.RequestMetadata(tool_details=api.ToolDetails(tool_name="bazel", tool_version=version))
    return [(METADATA_HEADER, metadata.SerializeToString())]


def _may_update(client):
    return client.get_capabilities().cache_capabilities.action_cache_update_capabilities.update_enabled


def capabilities_say_what_the_server_can_do():
    said = Client.trusted().get_capabilities()
    cache = said.cache_capabilities
    assert set(cache.digest_functions) == {SHA256, BLAKE3}, said
    assert list(cache.supported_compressors) == [ZSTD], said
    assert list(cache.supported_batch_update_compressors) == [ZSTD], said
    # Clients with the usual limit of 4 MiB for a message must be able to take a whole batch.
    assert 1 << 20 < cache.max_batch_total_size_bytes < 4 << 20, said
    assert cache.symlink_absolute_path_strategy == api.SymlinkAbsolutePathStrategy.ALLOWED, said
    assert not said.execution_capabilities.exec_enabled, said
    assert (said.low_api_version.major, said.low_api_version.minor) == (2, 0), said
    assert said.high_api_version.major == 2 and said.high_api_version.minor >= 3, said
    assert not cache.split_blob_support and not cache.splice_blob_support, said


def capabilities_say_what_the_caller_may_do():
    assert _may_update(Client.trusted())
    assert _may_update(Client.isolated(1))
    assert not _may_update(Client.reader())
    assert not _may_update(Client())
    # An empty token is what a fork's CI sends: nobody's, and no bad one.
    assert not _may_update(Client(""))


def a_bazel_that_fails_on_a_plain_answer_is_told_that_it_may_update():
    assert _may_update(Client.reader(metadata=_bazel("4.2.3")))
    assert _may_update(Client.reader(metadata=_bazel("5.4.1")))
    assert not _may_update(Client.reader(metadata=_bazel("6.0.0")))
    assert not _may_update(Client.reader(metadata=_bazel("8.1.0")))


def any_instance_name_is_served():
    blob = noise("instance", 100)
    for instance in ["", "a", "acme/web", "/a", "a/", "a//b", "ümläut/名前", "a b", "x" * 200]:
        client = Client.trusted(instance=instance)
        assert client.get_capabilities().cache_capabilities.digest_functions, instance
        assert client.write(client.upload_name(blob), [blob]) == len(blob), instance
        assert client.read(client.read_name(sha256(blob))) == blob, instance
        action = sha256(instance.encode() + b"any")
        client.update(action, api.ActionResult(exit_code=3))
        assert client.get(action).exit_code == 3, instance


def _every_method(client):
    blob = b"of every method"
    action = sha256(b"action of every method")
    return {
        "GetCapabilities": client.get_capabilities,
        "FindMissingBlobs": lambda: client.find_missing([sha256(blob)]),
        "BatchUpdateBlobs": lambda: client.batch_update([(sha256(blob), blob, IDENTITY)]),
        "BatchReadBlobs": lambda: client.batch_read([sha256(blob)]),
        "GetTree": lambda: list(
            client.call(
                client.cas.GetTree,
                api.GetTreeRequest(instance_name=client.instance, root_digest=sha256(blob)),
            )
        ),
        "GetActionResult": lambda: client.get(action),
        "UpdateActionResult": lambda: client.update(action, api.ActionResult(exit_code=1)),
        "Read": lambda: client.read(client.read_name(sha256(blob))),
        "Write": lambda: client.write(client.upload_name(blob), [blob]),
    }


def a_bad_token_is_told_so_by_every_method():
    for token in ["nonsense", "lrd_unknown", "lrd_" + "0" * 49]:
        for method, call in _every_method(Client(token)).items():
            error = refusal(UNAUTHENTICATED, call)
            assert "token" in error.details(), f"{method}: {error.details()}"
            assert token not in error.details(), f"{method} repeats the token"


def a_reader_may_write_nothing_and_is_told_why():
    methods = _every_method(Client.reader())
    for method in ["BatchUpdateBlobs", "UpdateActionResult", "Write"]:
        error = refusal(DENIED, methods[method])
        assert "read" in error.details(), f"{method}: {error.details()}"
    trusted = Client.trusted()
    assert not trusted.has(b"of every method")
    assert trusted.get(sha256(b"action of every method")) is None


def nobody_finds_anything_and_may_write_nothing():
    blob = noise("for nobody", 1000)
    trusted = Client.trusted()
    trusted.put(blob)
    action = sha256(b"for nobody")
    trusted.update(action, api.ActionResult(exit_code=2))
    for nobody in [Client(), Client("")]:
        assert nobody.find_missing([sha256(blob)]) == [sha256(blob)]
        (answer,) = nobody.batch_read([sha256(blob)])
        assert answer.status.code == grpc.StatusCode.NOT_FOUND.value[0] and not answer.data, answer
        refusal(grpc.StatusCode.NOT_FOUND, lambda: nobody.read(nobody.read_name(sha256(blob))))
        assert nobody.get(action) is None
        methods = _every_method(nobody)
        for method in ["BatchUpdateBlobs", "UpdateActionResult", "Write"]:
            error = refusal(DENIED, methods[method])
            assert "token" in error.details(), f"{method}: {error.details()}"


def what_an_isolated_caller_writes_is_seen_in_its_scope_alone():
    one, two, trusted, reader = Client.isolated(1), Client.isolated(2), Client.trusted(), Client.reader()
    small, large = noise("isolated", 1000), noise("isolated", 2 << 20)
    one.put(small)
    one.put(large)
    action = sha256(b"isolated")
    result = api.ActionResult(exit_code=1, stdout_digest=sha256(small))
    one.update(action, result)

    assert one.get(action) == result
    assert one.find_missing([sha256(small), sha256(large)]) == []
    for other in [two, trusted, reader]:
        assert other.get(action) is None
        assert len(other.find_missing([sha256(small), sha256(large)])) == 2
        refusal(grpc.StatusCode.NOT_FOUND, lambda: other.read(other.read_name(sha256(large))))

    # Trunk's own result stands in front of the scope's from now on.
    trusted.put(small)
    of_trunk = api.ActionResult(exit_code=2, stdout_digest=sha256(small))
    trusted.update(action, of_trunk)
    assert trusted.get(action) == of_trunk
    assert one.get(action) == of_trunk
    assert two.get(action) == of_trunk
    # And a scope cannot put its own in front of it.
    two.update(action, api.ActionResult(exit_code=3))
    assert two.get(action) == of_trunk
    assert trusted.get(action) == of_trunk


def a_result_of_trunk_that_lost_a_blob_leaves_the_scopes_own():
    one, trusted = Client.isolated(1), Client.trusted()
    action = sha256(b"trunk lost a blob")
    lost, own = noise("never stored", 100), noise("own", 100)
    trusted.update(action, api.ActionResult(exit_code=1, stdout_digest=sha256(lost)))
    assert one.get(action) is None
    one.put(own)
    of_scope = api.ActionResult(exit_code=2, stdout_digest=sha256(own))
    one.update(action, of_scope)
    assert one.get(action) == of_scope
    assert trusted.get(action) is None


def a_label_in_the_instance_name_narrows_an_isolated_token():
    blob = noise("label", 500)
    labelled = Client.isolated(1, instance="grpcio/scope/pr-9")
    other = Client.isolated(1, instance="grpcio/scope/pr-10")
    labelled.put(blob)
    assert labelled.has(blob)
    assert not other.has(blob)
    assert not Client.trusted().has(blob)


def metadata_of_any_kind_is_taken():
    good = api.RequestMetadata(
        tool_details=api.ToolDetails(tool_name="a tool", tool_version="1.2.3-rc1"),
        action_id="f" * 64,
        tool_invocation_id="an invocation",
        correlated_invocations_id="a correlation",
        action_mnemonic="Genrule",
        target_id="//some:target",
        configuration_id="c",
    ).SerializeToString()
    for value in [good, b"", b"\xff" * 50, good[:-3], b"\x0a\xff\xff\xff\xff\x0f", good * 20]:
        client = Client.trusted(metadata=[(METADATA_HEADER, value)])
        assert client.get_capabilities().cache_capabilities.digest_functions
        assert client.find_missing([sha256(b"metadata")]) == [sha256(b"metadata")]


def a_credential_may_come_as_basic_too():
    for separator in [b":", b"larder:", b"any one:"]:
        pair = base64.b64encode(separator + os.environ["LARDER_TRUSTED_TOKEN"].encode()).decode()
        client = Client(metadata=[("authorization", f"Basic {pair}")])
        assert _may_update(client), separator
    refusal(UNAUTHENTICATED, Client(metadata=[("authorization", "Basic !!!")]).get_capabilities)
