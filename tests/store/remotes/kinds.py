"""The kinds of remotes that the suite runs on. To add one: a class with these members, in KINDS."""

from __future__ import annotations

import http.server
import os
import re
import threading
import urllib.request
from functools import partial
from pathlib import Path

from skillpack_store.remotes.opening import open_remote


class Kind:
    """One place that can be opened again and again, as different people would.

    Attributes:
        writable: Things are pushed by ``open``; otherwise by ``writer``, to a place that ``open`` shows.
        races: Two pushes in the same moment are told apart.
        stride: Of so many steps one is tried where every step would take too long.
    """

    name: str
    writable = True
    races = True
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


KINDS = [Folder, Memory, Archive, Bucket, Web]
