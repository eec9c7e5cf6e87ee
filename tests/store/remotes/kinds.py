"""The kinds of remotes that the suite runs on. To add one: a class with these members, in KINDS."""

from __future__ import annotations

import atexit
import base64
import http.server
import json
import os
import re
import shutil
import tempfile
import threading
import urllib.request
from functools import partial
from pathlib import Path

from skillpack_store.remotes import hub
from skillpack_store.remotes.hf.state import blob_path
from skillpack_store.remotes.opening import open_remote
from tests.store.servers import PASSWORD, USER, DockerRegistry, HubServer


class Kind:
    """One place that can be opened again and again, as different people would.

    Attributes:
        writable: Things are pushed by ``open``; otherwise by ``writer``, to a place that ``open`` shows.
        races: Two pushes in the same moment are told apart.
        checks_itself: The server finds out that its own documents are damaged, and sends none then.
        stride: Of so many steps one is tried where every step would take too long.
    """

    name: str
    writable = True
    races = True
    checks_itself = False
    stride = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def url(self) -> str:
        """Where it is."""
        raise NotImplementedError

    def open(self):
        """A connection of one's own, to read."""
        return open_remote(self.url())

    def writer(self):
        """A connection of one's own, to write."""
        return self.open()

    def replace(self, digest: str, content: bytes) -> None:
        """Put other bytes where a blob is."""
        raise NotImplementedError

    def close(self) -> None:
        """End servers."""


class Folder(Kind):
    name = "folder"

    def url(self):
        return str(self.folder / "remote")

    def replace(self, digest, content):
        path = self.folder / "remote" / "blobs" / "sha256" / digest.removeprefix("sha256:")
        path.chmod(0o644)
        path.write_bytes(content)


class Memory(Kind):
    name = "memory"

    def url(self):
        return f"memory://{self.folder}"

    def replace(self, digest, content):
        self.open().blobs[digest] = content


class Archive(Kind):
    name = "archive"
    races = False

    def url(self):
        return str(self.folder / "library.tar")

    def replace(self, digest, content):
        """Other bytes of the same length only: the frame stays."""
        path = Path(self.url())
        remote = self.open()
        member = remote._members()[f"blobs/sha256/{digest.removeprefix('sha256:')}"]
        data = bytearray(path.read_bytes())
        fitting = (content + bytes(member.size))[: member.size]
        data[member.start : member.start + member.size] = fitting
        path.write_bytes(data)


class Bucket(Kind):
    """S3 by moto's server over HTTP; one server for all tests, a bucket for each."""

    name = "s3"
    stride = 4
    _server = None
    _count = 0

    def __init__(self, folder):
        super().__init__(folder)
        from moto.server import ThreadedMotoServer

        if Bucket._server is None:
            import logging

            logging.getLogger("werkzeug").setLevel(logging.ERROR)
            Bucket._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
            Bucket._server.start()
        _, port = Bucket._server.get_host_and_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        Bucket._count += 1
        self.bucket = f"bucket-{os.getpid()}-{Bucket._count}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }
        os.environ.update(self.environment)
        self.request("PUT", "")

    def request(self, method, path, data=None):
        request = urllib.request.Request(f"{self.endpoint}/{self.bucket}{path}", data=data, method=method)
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def url(self):
        return f"s3://{self.bucket}/my/skills"

    def replace(self, digest, content):
        self.put(f"blobs/sha256/{digest.removeprefix('sha256:')}", content)

    def put(self, path, content):
        import boto3

        client = boto3.client("s3", endpoint_url=self.endpoint)
        client.put_object(Bucket=self.bucket, Key=f"my/skills/{path}", Body=content)

    def close(self):
        for name in self.environment:
            os.environ.pop(name, None)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with ranges, which http.server lacks."""

    ranges = True
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not (found and self.ranges and path.is_file()):
            super().do_GET()
            return
        content = path.read_bytes()
        start = int(found[1])
        self.send_response(206)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:])


class Web(Folder):
    """A folder behind a web server."""

    name = "http"
    writable = False
    handler = Handler

    def __init__(self, folder):
        super().__init__(folder)
        (folder / "remote").mkdir()
        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(self.handler, directory=str(folder / "remote"))
        )
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def writer(self):
        return open_remote(str(self.folder / "remote"))

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class _Served(Kind):
    """A place on one server for all tests; each test has a name of its own there."""

    _server = None

    def __init__(self, folder):
        super().__init__(folder)
        if type(self)._server is None:
            type(self)._server = self.start()
            atexit.register(type(self)._server.stop)
        self._url = self._server.url()
        self._before = {name: os.environ.get(name) for name in self.environment()}
        os.environ.update(self.environment())

    def start(self):
        raise NotImplementedError

    def environment(self):
        """What another process needs to be let in."""
        raise NotImplementedError

    def url(self):
        return self._url

    def close(self):
        for name, value in self._before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class Registry(_Served):
    """Debian's docker-registry, with passwords."""

    name = "registry"
    races = False
    checks_itself = True
    stride = 4

    def start(self):
        home = Path(tempfile.mkdtemp(prefix="skillpack-registry-"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        server = DockerRegistry.with_password(home / "registry")
        (home / ".docker").mkdir()
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (home / ".docker" / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": login}}}))
        return server

    def environment(self):
        return {"HOME": str(self._server.folder.parent)}

    def replace(self, digest, content):
        hexadecimal = digest.removeprefix("sha256:")
        data = self._server.folder / "data" / "docker" / "registry" / "v2" / "blobs"
        (data / "sha256" / hexadecimal[:2] / hexadecimal / "data").write_bytes(content)


class Hub(_Served):
    """The Hub's protocol, by the server of the tests."""

    name = "hub"
    stride = 4

    def start(self):
        return HubServer()

    def environment(self):
        return {"HF_ENDPOINT": self._server.endpoint, "HF_TOKEN": "hf_write", "HF_HUB_DISABLE_XET": "1"}

    def open(self):
        # huggingface_hub has read its environment by now.
        return hub.open_remote(self._url, endpoint=self._server.endpoint, token="hf_write", pause=0.01)

    def replace(self, digest, content):
        from huggingface_hub import HfApi

        path = blob_path(digest)
        api = HfApi(endpoint=self._server.endpoint, token="hf_write")
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=self._url.removeprefix("hf://"))


KINDS = [Folder, Memory, Archive, Bucket, Web, Registry, Hub]
