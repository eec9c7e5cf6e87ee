"""Registries that answer what they should not: an error that says so, soon, and without much memory."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillpack_store import AuthenticationError, BusyError, Descriptor, NotFoundError, RemoteError, digest_of
from skillpack_store.documents import COMMIT_TYPE, INDEX, build_index
from skillpack_store.remotes.oci.credentials import Credentials
from skillpack_store.remotes.oci.tokens import parse_challenges
from skillpack_store.remotes.registry import open_remote
from tests.store.remote_contents import blob_of, noise, parts
from tests.store.servers import HTTPServer

MIB = 1 << 20
NOTHING = Credentials("ada", "secret")


@pytest.fixture
def serve():
    """Start a server that answers in this way; return it and a remote on it."""
    servers = []

    def start(answer, **options):
        server = HTTPServer(answer)
        servers.append(server)
        options = {"credentials": NOTHING, "timeout": 20, "pause": 0.001, **options}
        return server, open_remote(f"oci://{server.host}/a/b", **options)

    yield start
    for server in servers:
        server.stop()


def read(remote, blob):
    return b"".join(remote.read(blob))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"tags":{}}',
        b'{"tags":[1]}',
        b'{"tags":7}',
        b"[" * 100_000,
        b"1" * 5000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_a_list_of_tags_that_is_none(serve, data):
    _, remote = serve(lambda handler: handler.reply(200, data))
    if data == b'{"tags":{}}':
        assert remote.refs() == {}
    else:
        with pytest.raises(RemoteError, match=r"list of tags of oci://localhost:\d+/a/b cannot be read"):
            remote.refs()


def test_tags_without_an_end(serve, monkeypatch):
    monkeypatch.setattr("skillpack_store.remotes.oci.repository._TAG_LIMIT", 10_000)

    def answer(handler):
        page = int(handler.path.partition("page=")[2] or 0)
        data = json.dumps({"tags": [f"x--{page}-{number}" for number in range(1000)]}).encode()
        handler.reply(200, data, Link=f'</v2/a/b/tags/list?page={page + 1}>; rel="next"')

    _, remote = serve(answer)
    with pytest.raises(RemoteError, match="has no end of tags"):
        remote.refs()


def test_the_next_page_is_on_another_server(serve):
    _, remote = serve(
        lambda handler: handler.reply(200, b'{"tags":["a"]}', Link='<https://elsewhere.example/>; rel="next"')
    )
    with pytest.raises(RemoteError, match="has no end of tags"):
        remote.refs()


def endless(handler, head=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"):
    handler.close_connection = True
    handler.wfile.write(head)
    while True:
        handler.wfile.write(b"x" * MIB)


@pytest.mark.parametrize("what", ["tags", "manifest", "blob", "error"])
def test_an_answer_without_an_end(serve, what):
    head = b"HTTP/1.1 500 Oh\r\nConnection: close\r\n\r\n" if what == "error" else None
    _, remote = serve(lambda handler: endless(handler, *([head] if head else [])))
    tracemalloc.start()
    try:
        media_type = INDEX if what == "manifest" else "application/octet-stream"
        blob = Descriptor(digest_of(b"x"), 1000, media_type)
        with pytest.raises(RemoteError, match=r"more than the|answered with 500"):
            _ = remote.refs() if what == "tags" else read(remote, blob)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * MIB


def test_no_more_than_the_size_of_a_blob_is_yielded(serve):
    _, remote = serve(lambda handler: handler.reply(200, b"abcdef"))
    got = []
    with pytest.raises(RemoteError, match="more than the 3 bytes"):
        got.extend(remote.read(Descriptor(digest_of(b"abc"), 3, "a/b")))
    assert b"".join(got) in {b"", b"abc"}


def test_a_compressed_answer_is_not_unpacked(serve):
    _, remote = serve(lambda handler: handler.reply(200, b"\x1f\x8bnothing", Content_Encoding="gzip"))
    assert read(remote, Descriptor(digest_of(b"x"), 9, "a/b")) == b"\x1f\x8bnothing"
    with pytest.raises(RemoteError):
        remote.refs()


def test_a_content_length_that_lies(serve):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"abc")
        handler.close_connection = True

    _, remote = serve(answer)
    got = []
    with pytest.raises(RemoteError, match="connection broke"):
        got.extend(remote.read(Descriptor(digest_of(b"x"), 1000, "a/b")))
    assert b"".join(got) == b"abc"


@pytest.mark.parametrize("length", ["x", "-5", "5, 6", "9" * 30])
def test_a_content_length_that_is_none(serve, length):
    def answer(handler):
        handler.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\nabc".encode())
        handler.close_connection = True

    _, remote = serve(answer)
    blob = Descriptor(digest_of(b"abc"), 3, "a/b")
    if length == "5, 6":
        with pytest.raises(RemoteError, match="connection broke"):
            read(remote, blob)
        with pytest.raises(RemoteError, match="connection broke"):
            remote.sizes([blob])
    elif length == "9" * 30:
        with pytest.raises(RemoteError, match="connection broke"):
            read(remote, blob)
        assert remote.sizes([blob]) == {blob.digest: 3}
    else:
        assert read(remote, blob) == b"abc"
        assert remote.sizes([blob]) == {blob.digest: 3}


@pytest.mark.parametrize(
    "reply", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500, b"HTTP/1.1 999"]
)
def test_an_answer_that_is_no_http(serve, reply):
    def answer(handler):
        handler.wfile.write(reply)
        handler.close_connection = True

    _, remote = serve(answer)
    with pytest.raises(RemoteError):
        remote.refs()


def test_redirects_without_an_end(serve):
    server, remote = serve(lambda handler: handler.reply(307, Location=handler.path + "x"))
    with pytest.raises(RemoteError, match="redirects again and again"):
        read(remote, Descriptor(digest_of(b"x"), 1, "a/b"))
    assert len(server.requests) == 6


@pytest.mark.parametrize("target", ["http://192.0.2.1/x", "file:///etc/passwd", "ftp://a/b", "//[x", "//", "data:,"])
def test_redirects_to_where_nobody_should_go(serve, target):
    _, remote = serve(lambda handler: handler.reply(307, Location=target))
    with pytest.raises(RemoteError, match=r"plain HTTP|not an address of the web|again and again"):
        read(remote, Descriptor(digest_of(b"x"), 1, "a/b"))


def test_a_redirect_keeps_the_password_from_another_server(serve):
    data = noise(1000)
    other, _ = serve(lambda handler: handler.reply(200, data))

    def answer(handler):
        if handler.headers.get("Authorization"):
            handler.reply(307, Location=f"http://{other.host}/elsewhere?signed=1")
        else:
            handler.reply(401, WWW_Authenticate='Basic realm="tests"')

    server, remote = serve(answer)
    assert read(remote, blob_of(data)) == data
    assert "Authorization" in server.requests[-1][2]
    assert other.requests[0][1] == "/elsewhere?signed=1"
    assert "Authorization" not in other.requests[0][2]


def test_an_upload_that_is_sent_elsewhere_gets_no_password(serve):
    other, _ = serve(lambda handler: (handler.body(), handler.reply(201)))

    def answer(handler):
        handler.body()
        if handler.headers.get("Authorization"):
            handler.reply(202, Location=f"http://{other.host}/upload?x=1")
        else:
            handler.reply(401, WWW_Authenticate='Basic realm="tests"')

    _, remote = serve(answer)
    blob = blob_of(b"abc")
    remote.write(blob, parts(b"abc"))
    assert other.requests[0][:2] == ("PUT", f"/upload?x=1&digest={blob.digest}")
    assert "Authorization" not in other.requests[0][2]


@pytest.mark.parametrize("location", ["http://192.0.2.1/x", "file:///x", "//[x", ""])
def test_an_upload_that_is_sent_where_nothing_should_go(serve, location):
    _, remote = serve(lambda handler: (handler.body(), handler.reply(202, Location=location)))
    with pytest.raises(RemoteError, match=r"plain HTTP|not an address|could not be begun"):
        remote.write(blob_of(b"abc"), lambda: pytest.fail("the content was sent"))


@pytest.mark.parametrize(
    "challenge", ['Basic realm="x"', 'Bearer realm="http://{host}/token"', "Digest x", "", 'Bearer realm="file:///x"']
)
def test_asking_for_authorization_again_and_again(serve, challenge):
    def answer(handler):
        host = handler.headers["Host"]
        if handler.path.startswith("/token"):
            handler.reply(200, b'{"token":"t"}')
        else:
            handler.reply(401, b"{}", WWW_Authenticate=challenge.format(host=host))

    server, remote = serve(answer)
    with pytest.raises(RemoteError) as caught:
        remote.refs()
    assert len(server.requests) <= 3
    assert isinstance(caught.value, AuthenticationError) == challenge.startswith(("Basic", 'Bearer realm="http'))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"token":7}', b'{"token":"a\\nb"}', b'{"token":"t","expires_in":"soon"}',
     b'{"token":"\xc3\xa9"}', b'{"token":"t","expires_in":1e999}', b" " * 2 * MIB],
    ids=lambda data: repr(data[:30]),
)  # fmt: skip
def test_a_token_server_that_answers_nonsense(serve, data):
    def answer(handler):
        if handler.path.startswith("/token"):
            handler.reply(200, data)
        else:
            handler.reply(401, WWW_Authenticate=f'Bearer realm="http://{handler.headers["Host"]}/token"')

    _, remote = serve(answer)
    with pytest.raises(RemoteError, match=r"cannot be read|more than the"):
        remote.refs()


def test_the_password_goes_to_no_token_server_in_the_clear(serve):
    _, remote = serve(lambda handler: handler.reply(401, WWW_Authenticate='Bearer realm="http://192.0.2.1/token"'))
    with pytest.raises(RemoteError, match="plain HTTP"):
        remote.refs()


def test_a_token_that_lives_for_ever_or_not_at_all(serve):
    for life in (10**30, -5, 0):
        given = []

        def answer(handler, life=life, given=given):
            if handler.path.startswith("/token"):
                given.append(handler.path)
                handler.reply(200, json.dumps({"token": "t", "expires_in": life}).encode())
            elif handler.headers.get("Authorization"):
                handler.reply(200, b'{"tags":null}')
            else:
                handler.reply(401, WWW_Authenticate=f'Bearer realm="http://{handler.headers["Host"]}/token"')

        _, remote = serve(answer)
        assert remote.refs() == remote.refs() == {}
        assert len(given) == (1 if life != -5 else 2)


def test_a_token_that_is_revoked_is_replaced(serve):
    given = []

    def answer(handler):
        if handler.path.startswith("/token"):
            given.append(f"t{len(given)}")
            handler.reply(200, json.dumps({"token": given[-1], "expires_in": 3600}).encode())
        elif given and handler.headers.get("Authorization") == f"Bearer {given[-1]}" and valid[0] == given[-1]:
            handler.reply(200, b'{"tags":[]}')
        else:
            handler.reply(401, WWW_Authenticate=f'Bearer realm="http://{handler.headers["Host"]}/token"')

    valid = ["t0"]
    _, remote = serve(answer)
    assert remote.refs() == remote.refs() == {}
    valid[0] = "t1"
    assert remote.refs() == remote.refs() == {}
    assert given == ["t0", "t1"]


def test_nothing_is_answered(serve):
    _, remote = serve(lambda handler: time.sleep(20), timeout=0.2)
    start = time.monotonic()
    with pytest.raises(RemoteError, match="timed out") as caught:
        remote.refs()
    assert time.monotonic() - start < 15
    assert caught.value.hint


def test_next_to_nothing_is_answered(serve):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    _, remote = serve(answer, timeout=0.4)
    start = time.monotonic()
    with pytest.raises(RemoteError, match="bytes in"):
        read(remote, Descriptor(digest_of(b"x"), 1_000_000, "a/b"))
    assert time.monotonic() - start < 15


def test_a_busy_server_is_asked_again(serve):
    answers = iter([503, 429, 500])

    def answer(handler):
        handler.reply(next(answers, 200), b'{"tags":[]}', Retry_After="0")

    server, remote = serve(answer)
    assert remote.refs() == {}
    assert len(server.requests) == 4


def test_a_server_that_asks_for_an_hour_is_not_waited_for(serve):
    _, remote = serve(lambda handler: handler.reply(429, b"{}", Retry_After="3600"))
    with pytest.raises(RemoteError, match="answered with 429"):
        remote.refs()


def test_what_a_registry_says_is_shown_without_its_tricks(serve):
    error = {"errors": [{"code": "DENIED", "message": "\x1b[31mno\nreally" + "x" * 5000}]}
    _, remote = serve(lambda handler: handler.reply(500, json.dumps(error).encode()))
    with pytest.raises(RemoteError) as caught:
        remote.refs()
    assert "DENIED:  [31mno really" in caught.value.message
    assert len(caught.value.message) < 500
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("header", ["sha256:0", "", "sha512:" + "0" * 128, "../../x"])
def test_a_tag_that_names_no_digest(serve, header):
    data = build_index([])

    def answer(handler):
        if "tags/list" in handler.path:
            handler.reply(200, b'{"tags":["main"]}')
        else:
            handler.reply(200, data, Content_Type=INDEX, Docker_Content_Digest=header)

    _, remote = serve(answer)
    # The digest is computed instead; the index is no library.
    assert remote.refs() == {}


def test_a_manifest_with_another_digest(serve):
    document = json.dumps({"artifactType": COMMIT_TYPE}).encode()

    def answer(handler):
        if "tags/list" in handler.path:
            handler.reply(200, b'{"tags":["main"]}')
        else:
            handler.reply(200, document, Content_Type=INDEX, Docker_Content_Digest=digest_of(b"another"))

    _, remote = serve(answer)
    with pytest.raises(RemoteError, match="has another digest"):
        remote.refs()


@pytest.mark.parametrize("content_range", [None, "x", "bytes 0-2", "bytes */3"])
def test_a_part_that_does_not_say_which(serve, content_range):
    _, remote = serve(lambda handler: handler.reply(206, b"bc", Content_Range=content_range))
    with pytest.raises(RemoteError, match="which part"):
        b"".join(remote.read(blob_of(b"abc"), 1))


def test_a_server_without_ranges_sends_it_all(serve):
    _, remote = serve(lambda handler: handler.reply(200, b"abcdef"))
    assert b"".join(remote.read(blob_of(b"abcdef"), 2)) == b"cdef"


def test_a_registry_that_stores_something_else(serve):
    def answer(handler):
        handler.body()
        if handler.command == "POST":
            handler.reply(202, Location="/v2/a/b/upload")
        else:
            handler.reply(201, Docker_Content_Digest=digest_of(b"another"))

    _, remote = serve(answer)
    with pytest.raises(RemoteError, match="stored blob"):
        remote.write(blob_of(b"abc"), parts(b"abc"))
    with pytest.raises(RemoteError, match="changed sha256") as caught:
        remote.write(blob_of(build_index([]), INDEX), parts(build_index([])))
    assert caught.value.hint == "It cannot keep skills bit for bit."


@pytest.mark.parametrize("reached", ["0-99999999999999", "0-0", "x"])
def test_an_upload_that_is_said_to_be_elsewhere(serve, reached):
    def answer(handler):
        handler.body()
        handler.reply(202, Location="/v2/a/b/upload", Range=reached)

    _, remote = serve(answer, part=1000)
    with pytest.raises(RemoteError):
        remote.write(blob_of(noise(3000)), parts(noise(3000)))


class FaithfulRegistry:
    """One repository in memory, with what docker-registry does not do and the specification allows."""

    def __init__(self, *, parts_allowed=True, honours=True, resumes=True, break_at=-1):
        self.parts_allowed, self.honours, self.resumes, self.break_at = parts_allowed, honours, resumes, break_at
        self.upload = self.blob = b""
        self.starts = 0
        self.patches, self.tags = [], {}
        self.broken = False
        self.most = None  # bytes that are kept of a part
        self.range = lambda: f"0-{len(self.upload) - 1}"
        self.before_put = self.after_put = lambda: None

    def __call__(self, handler):
        place = handler.path.partition("?")[0]
        kind = "upload" if place.endswith("/upload/1") else "manifest" if "/manifests/" in place else "other"
        answer = getattr(self, f"{handler.command.lower()}_{kind}", None)
        if answer is None:
            handler.body()
            handler.reply(204)
        else:
            answer(handler, place.rpartition("/")[2])

    def post_other(self, handler, _):
        handler.body()
        self.upload = b""
        self.starts += 1
        handler.reply(202, Location="upload/1")

    def patch_upload(self, handler, _):
        size = int(handler.headers["Content-Length"])
        if len(self.patches) == self.break_at and not self.broken:
            # Half of it arrives.
            self.broken = True
            self.upload += handler.rfile.read(size // 2)
            handler.close_connection = True
            return
        body = handler.body()
        if not self.parts_allowed:
            handler.reply(413)
            return
        self.patches.append((handler.headers["Content-Range"], size))
        self.upload += body[: self.most]
        handler.reply(202, Location="/v2/a/b/upload/1", Range=self.range())

    def get_upload(self, handler, _):
        handler.reply(204 if self.resumes else 404, Location="/v2/a/b/upload/1", Range=f"0-{len(self.upload) - 1}")

    def put_upload(self, handler, _):
        self.blob = self.upload + handler.body()
        handler.reply(201)

    def head_manifest(self, handler, tag):
        if found := self.tags.get(tag):
            handler.reply(200, Content_Type=INDEX, Docker_Content_Digest=found, ETag=f'"{found}"')
        else:
            handler.reply(404)

    def get_manifest(self, handler, _):
        handler.reply(200, build_index([]), Content_Type=INDEX)

    def put_manifest(self, handler, tag):
        body = handler.body()
        self.before_put()
        current = self.tags.get(tag)
        wanted = ("If-Match", f'"{current}"') if current else ("If-None-Match", "*")
        if self.honours and handler.headers.get(wanted[0]) != wanted[1]:
            handler.reply(412)
        else:
            self.tags[tag] = digest_of(body)
            self.after_put()
            handler.reply(201)


class TestAFaithfulRegistry:
    def test_an_upload_goes_on_in_the_middle_of_a_part(self, serve):
        answer = FaithfulRegistry(break_at=1)
        _, remote = serve(answer, part=100_000)
        data = noise(350_001)
        remote.write(blob_of(data), parts(data, 7777))
        assert answer.blob == data
        assert answer.broken
        assert answer.starts == 1
        assert sum(size for _, size in answer.patches) == 350_001 - 50_000
        assert answer.patches[1][0] == "150000-249999"

    def test_an_upload_starts_anew_where_it_cannot_go_on(self, serve):
        answer = FaithfulRegistry(break_at=1, resumes=False)
        _, remote = serve(answer, part=100_000)
        data = noise(350_001)
        remote.write(blob_of(data), parts(data, 7777))
        assert answer.blob == data
        assert answer.starts == 2

    def test_a_registry_that_takes_no_parts_gets_it_whole(self, serve):
        answer = FaithfulRegistry(parts_allowed=False)
        _, remote = serve(answer, part=100_000)
        data = noise(350_001)
        remote.write(blob_of(data), parts(data, 7777))
        assert answer.blob == data
        assert answer.patches == []

    def test_a_registry_that_hangs_up_on_large_parts_gets_them_whole(self, serve):
        answer = FaithfulRegistry()

        def hang_up(handler):
            if handler.command == "PATCH":
                handler.close_connection = True
            else:
                answer(handler)

        server, remote = serve(hang_up, part=100_000)
        for seed in range(2):
            data = noise(350_001, seed)
            remote.write(blob_of(data), parts(data, 7777))
            assert answer.blob == data
        # The second blob was not tried in parts any more.
        assert [command for command, *_ in server.requests].count("PATCH") == 3

    def test_a_range_that_stands_still(self, serve):
        answer = FaithfulRegistry()
        answer.range = lambda: "0-99999"
        _, remote = serve(answer, part=100_000)
        data = noise(350_001)
        remote.write(blob_of(data), parts(data, 7777))
        assert answer.blob == data
        assert len(answer.patches) == 4

    def test_a_part_that_is_taken_in_part(self, serve):
        answer = FaithfulRegistry()
        answer.most = 60_000
        _, remote = serve(answer, part=100_000)
        data = noise(350_001)
        remote.write(blob_of(data), parts(data, 7777))
        assert answer.blob == data

    def test_conditions_make_a_compare_and_swap(self, serve):
        answer = FaithfulRegistry()
        _, remote = serve(answer)
        new = digest_of(build_index([]))
        remote.update_ref("heads/main", new, expected=None)
        assert answer.tags == {"main": new}
        # Somebody is faster, after the look and before the put.
        answer.before_put = lambda: answer.tags.update(main=digest_of(b"theirs"))
        for expected in (new, None):
            answer.tags = {"main": new} if expected else {}
            with pytest.raises(BusyError, match="moved by somebody else"):
                remote.update_ref("heads/main", new, expected=expected)
            assert answer.tags == {"main": digest_of(b"theirs")}

    def test_without_conditions_who_is_overwritten_before_looking_again_is_told(self, serve):
        answer = FaithfulRegistry(honours=False)
        _, remote = serve(answer)
        new = digest_of(build_index([]))
        answer.after_put = lambda: answer.tags.update(main=digest_of(b"theirs"))
        with pytest.raises(BusyError):
            remote.update_ref("heads/main", new, expected=None)

    def test_a_lost_answer_to_a_put_that_was_done(self, serve):
        answer = FaithfulRegistry()
        server, remote = serve(answer)

        def lose():
            raise ConnectionError

        answer.after_put = lose
        new = digest_of(build_index([]))
        remote.update_ref("heads/main", new, expected=None)
        assert [command for command, *_ in server.requests].count("PUT") == 1
        assert answer.tags == {"main": new}


def test_a_forbidden_request_says_what_to_do(serve):
    _, remote = serve(lambda handler: handler.reply(403, b'{"errors":[{"code":"DENIED","message":"no"}]}'))
    with pytest.raises(AuthenticationError, match=r"does not allow this to ada \(DENIED: no\)") as caught:
        remote.refs()
    assert "docker login" in caught.value.hint
    assert isinstance(caught.value, RemoteError)
    assert not isinstance(caught.value, NotFoundError)


def test_a_proxy_is_used_for_other_machines_and_not_for_this_one(serve, monkeypatch):
    proxy, direct = serve(lambda handler: handler.reply(200, b'{"tags":[]}'))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert open_remote("oci://registry.example/a/b", insecure=True, config_files=[]).refs() == {}
    assert proxy.requests[-1][1] == "http://registry.example/v2/a/b/tags/list?n=1000"
    assert direct.refs() == {}
    assert proxy.requests[-1][1] == "/v2/a/b/tags/list?n=1000"


def test_a_token_that_no_header_can_have(serve):
    def answer(handler):
        handler.reply(401, WWW_Authenticate='Bearer realm="http://localhost/token"')

    _, remote = serve(answer, credentials=Credentials(registry_token="a\r\nb: c"))
    with pytest.raises(AuthenticationError, match="cannot be one") as caught:
        remote.refs()
    assert "b: c" not in caught.value.message


@given(st.text(max_size=80) | st.text('Bearealmscopvic=",\\\\ ', max_size=60))
def test_any_challenge_is_read(header):
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()
