"""Who may call what: the role table, the tokens file, and where the server may listen."""

from __future__ import annotations

import pytest

from supernet_registry.registry.server.auth import METHOD_ROLES, Access, Role, check_bind, is_local, new_token
from supernet_registry.search.errors import InvalidArgument, PermissionDenied, Unauthenticated
from supernet_registry.v1 import blobs_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2

FILES = (blobs_pb2, datasets_pb2, searches_pb2, supernets_pb2, workers_pb2)
METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


@pytest.fixture
def tokens(tmp_path):
    """(access, token of every role)."""
    given, lines = {}, ["# who may call", ""]
    for role in Role:
        given[role], line = new_token(f"the-{role}", role)
        lines.append(line + "  # made for a test")
    path = tmp_path / "tokens"
    path.write_text("\n".join(lines))
    return Access(path), given


@pytest.mark.parametrize("method", METHODS)
def test_every_rpc_has_roles(method):
    """A new RPC must be entered into the table; until then it is for nobody."""
    assert Role.ADMIN in METHOD_ROLES[method]


def test_the_table_names_no_rpc_that_does_not_exist():
    ours = {method for method in METHOD_ROLES if method.startswith("/supernet_registry.")}
    assert ours == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("role", Role)
def test_a_token_opens_exactly_what_its_role_may(tokens, method, role):
    access, given = tokens
    if role in METHOD_ROLES[method]:
        access.check(method, bearer(given[role]))
    else:
        with pytest.raises(PermissionDenied):
            access.check(method, bearer(given[role]))


def test_readers_change_nothing_and_only_admins_delete():
    for method, roles in METHOD_ROLES.items():
        verb = method.rpartition("/")[2]
        if verb.startswith(("Create", "Update", "Delete", "Rollback", "Cancel", "Lease", "Complete", "Write", "Start")):
            assert Role.READER not in roles, method
        if verb.startswith(("Delete", "Rollback")):
            assert roles == {Role.ADMIN}, method


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer wrong")],
        [("authorization", "Bearer \N{SNOWMAN}")],
        [("authorization", "Basic dXNlcjpwYXNz")],
        [("authorization", "")],
        [("cookie", "Bearer x")],
    ],
)
def test_without_a_known_token_nobody_is_anybody(tokens, metadata):
    access, _ = tokens
    with pytest.raises(Unauthenticated):
        access.check(METHODS[0], metadata)


def test_an_unknown_method_is_for_nobody(tokens):
    access, given = tokens
    with pytest.raises(PermissionDenied, match="nobody"):
        access.check("/supernet_registry.v1.DatasetService/Invented", bearer(given[Role.ADMIN]))


def test_health_needs_no_token(tokens):
    tokens[0].check("/grpc.health.v1.Health/Check", [])


def test_without_a_tokens_file_everybody_on_this_machine_is_admin():
    access = Access(None)
    access.check(METHODS[0], [])
    assert access.identify([]).role is Role.ADMIN


def test_the_tokens_file_never_holds_the_token():
    token, line = new_token("ann", Role.READER)
    assert token not in line
    assert line.startswith("ann reader ")


@pytest.mark.parametrize("line", ["ann", "ann owner " + "0" * 64, "ann reader 123", "secret-token-in-clear"])
def test_a_bad_line_is_named_by_its_number_and_not_quoted(tmp_path, line):
    path = tmp_path / "tokens"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(InvalidArgument, match="Line 2") as caught:
        Access(path)
    assert line not in str(caught.value)


def test_a_missing_tokens_file_is_an_error_not_an_open_door(tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        Access(tmp_path / "missing")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:50551", "127.9.9.9:1", "localhost:0", "[::1]:50551", "unix:/tmp/s", "unix-abstract:s"]
)
def test_addresses_that_only_this_machine_reaches_need_nothing(address):
    assert is_local(address)
    check_bind(address, tls=False, tokens=False)


@pytest.mark.parametrize("address", ["0.0.0.0:50551", "[::]:1", "192.168.1.2:1", "example.org:1", ":50551", "50551"])
def test_addresses_that_others_reach_need_tls_and_tokens(address):
    assert not is_local(address)
    check_bind(address, tls=True, tokens=True)
    for tls, tokens, missing in ((False, True, "TLS"), (True, False, "tokens file"), (False, False, "TLS")):
        with pytest.raises(InvalidArgument, match=missing):
            check_bind(address, tls=tls, tokens=tokens)
