"""Real servers for the tests of remotes: processes that are started, waited for and ended."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

USER, PASSWORD = "ada", "correct horse"
# bcrypt of PASSWORD, cost 4
HTPASSWD = f"{USER}:$2b$04$61xORFzWo0KrXJ94NSYeMuc5K5rUcrs8L9Q2LnfiXDhQczTUnWvVy\n"


def require(program, package):
    """Skip only where the program cannot be had."""
    if shutil.which(program):
        return
    if os.getuid() == 0 and shutil.which("apt-get"):
        pytest.fail(f"{program} is not installed: apt-get install {package}")
    pytest.skip(f"{program} is not installed, and cannot be without root and apt-get")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, process):
    for _ in range(400):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        assert process.poll() is None, "the server ended"
        time.sleep(0.02)
    raise TimeoutError("the server does not answer")


class DockerRegistry:
    """Debian's docker-registry."""

    def __init__(self, folder, auth, *, delete=True, tls=None):
        require("docker-registry", "docker-registry")
        self.folder = folder
        self.port = free_port()
        self.host = f"localhost:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": delete}},
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": "of the tests"},
            "auth": auth,
        }
        if tls:
            config["http"]["tls"] = {"key": str(tls[0]), "certificate": str(tls[1])}
        (folder / "config.json").write_text(json.dumps(config))  # JSON is YAML
        self.process = None
        self.start()

    @classmethod
    def with_password(cls, folder, **options):
        folder.mkdir(parents=True)
        (folder / "htpasswd").write_text(HTPASSWD)
        return cls(folder, {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}, **options)

    def start(self):
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(self.folder / "config.json")], stdout=log, stderr=log
            )
        wait_for(self.port, self.process)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def url(self, name="library"):
        """The address of a repository that nobody else uses."""
        return f"oci://{self.host}/tests-{uuid.uuid4().hex}/{name}"


class HTTPServer:
    """Answers every request with what ``answer(handler)`` does; keeps what was asked."""

    def __init__(self, answer):
        self.requests = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self):
                # Clients that hang up are part of the tests.
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def handle_any(self):
                server.requests.append((self.command, self.path, dict(self.headers)))
                answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

            def reply(self, status, data=b"", **headers):
                self.send_response(status)
                headers = {"Content-Length": str(len(data)), **{k.replace("_", "-"): v for k, v in headers.items()}}
                for key, value in headers.items():
                    if value is not None:
                        self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def body(self):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.host = f"localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def make_certificate(folder):
    """Write a key and a certificate that it signed itself; return their paths."""
    require("openssl", "openssl")
    folder.mkdir(parents=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request, *names], check=True, capture_output=True)
    return key, certificate


class TokenServer(HTTPServer):
    """Gives signed tokens (https://distribution.github.io/distribution/spec/auth/token/)."""

    def __init__(self, folder, life=300):
        self.life, self.given = life, []
        self.key, self.certificate = make_certificate(folder)
        super().__init__(self._token)

    @property
    def auth(self):
        """The part of a docker-registry's configuration."""
        return {
            "token": {
                "realm": f"http://localhost:{self.port}/token",
                "service": "tests",
                "issuer": "tests",
                "rootcertbundle": str(self.certificate),
            }
        }

    def _token(self, handler):
        parts = urllib.parse.urlsplit(handler.path)
        fields = urllib.parse.parse_qs(handler.body().decode() if handler.command == "POST" else parts.query)
        known = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        trusted = handler.headers.get("Authorization") == known or fields.get("refresh_token") == ["kept"]
        if handler.headers.get("Authorization") and not trusted:
            handler.reply(401, b"{}")
            return
        access = []
        for scope in " ".join(fields.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            # Anybody may pull, only the user may push.
            allowed = [action for action in actions.split(",") if trusted or action == "pull"]
            access.append({"type": kind, "name": name, "actions": allowed})
        self.given.append(access)
        data = {"token": self._signed(access, fields["service"][0]), "expires_in": self.life}
        handler.reply(200, json.dumps(data).encode(), Content_Type="application/json")

    def _signed(self, access, service):
        now = int(time.time())
        der = "".join(self.certificate.read_text().split("\n")[1:-2])
        claims = {"iss": "tests", "sub": USER, "aud": service, "exp": now + 300, "nbf": now - 10, "iat": now}
        head = _base64({"typ": "JWT", "alg": "RS256", "x5c": [der]})
        text = f"{head}.{_base64({**claims, 'jti': uuid.uuid4().hex, 'access': access})}"
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        done = subprocess.run(sign, input=text.encode(), check=True, capture_output=True)
        return f"{text}.{_base64(done.stdout)}"


def _base64(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class CuttingProxy:
    """Passes TCP on to a port and cuts a connection when ``cut(bytes from the client so far)`` says so.

    ``cut`` gets the newest piece and everything that this connection sent before it, and is asked before the piece is
    passed on; True hangs up on both sides.
    """

    def __init__(self, port, cut):
        self.cuts = 0
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with socket.create_connection(("127.0.0.1", port)) as there:
                    back = threading.Thread(target=self.pump, args=(there, self.request), daemon=True)
                    back.start()
                    self.pump(self.request, there, cut)
                    back.join(5)

            def pump(self, source, target, cut=None):
                before = 0
                with contextlib.suppress(OSError):
                    while piece := source.recv(1 << 16):
                        if cut and cut(piece, before):
                            proxy.cuts += 1
                            break
                        before += len(piece)
                        target.sendall(piece)
                for end in (source, target):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.host = f"localhost:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class HubServer:
    """The small Hub of ``hub_server.py``, as a process."""

    def __init__(self):
        self.port = free_port()
        self.endpoint = f"http://localhost:{self.port}"
        program = Path(__file__).parent / "hub_server.py"
        self.process = subprocess.Popen([sys.executable, str(program), str(self.port)])
        wait_for(self.port, self.process)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def url(self, name="library"):
        """The address of a repository that nobody else uses."""
        return f"hf://tests/{name}-{uuid.uuid4().hex}"

    def fail(self, *faults):
        """Make the next commits fail: "refuse", "overtake" or "lose the answer"; "" lets one pass."""
        with urllib.request.urlopen(f"{self.endpoint}/tests/faults", json.dumps(faults).encode()):
            pass

    def log(self):
        """What was asked so far."""
        with urllib.request.urlopen(f"{self.endpoint}/tests/log") as answer:
            return json.load(answer)
