"""A small Hub, run as a process: the endpoints that huggingface_hub uses for model repositories, in memory.

``python hub_server.py PORT`` answers until it is killed. As on the Hub, binary files and files above 10 MB are large
(LFS), large files are uploaded to, and read from, another place that refuses the Hub's token, a commit is refused with
412 if its parent is not the head, and who has no token is told 401 for a repository that is not there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKENS = {"hf_write": "write", "hf_read": "read"}
LARGE = 10_000_000  # bytes
PART = 6 << 20  # bytes; larger uploads go in parts
PATTERNS = (".safetensors", ".bin", ".zst")  # what .gitattributes of a new repository names


class Repository:
    """Branches of commits, each a mapping from path to content."""

    def __init__(self):
        attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in PATTERNS)
        self.commits = {}
        self.branches = {"main": self.add({".gitattributes": ("regular", attributes.encode())}, "", "initial commit")}

    def add(self, files, parent, message):
        """Return the id of a new commit."""
        sha = hashlib.sha1(f"{parent}{message}{len(self.commits)}{time.time()}".encode()).hexdigest()
        self.commits[sha] = (files, parent, message)
        return sha

    def find(self, revision):
        """Return the id of a commit; None if there is no such revision."""
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


class Hub:
    """Everything that the server knows."""

    def __init__(self, port):
        self.url = f"http://localhost:{port}"
        self.elsewhere = f"http://127.0.0.1:{port}"  # another origin, as the Hub's storage is
        self.repositories = {}
        self.large, self.parts = {}, {}
        self.lock = threading.Lock()
        self.faults = []  # what goes wrong with the next commits
        self.log = []


class RefusalError(Exception):
    """An answer that is not 200."""

    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "information"),
        ("POST", r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", "branch"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
        ("POST", r"/api/models/([^/]+/[^/]+)/paths-info/([^/]+)", "paths"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", "tree"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/storage/([0-9a-f]{64})(?:/([0-9]+))?", "store"),
        ("POST", r"/complete/([0-9a-f]{64})", "complete"),
        ("POST", r"/verify", "verify"),
        ("GET|HEAD", r"/storage/([0-9a-f]{64})", "stored"),
        ("GET|HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
        ("POST", r"/tests/faults", "arrange_faults"),
        ("GET", r"/tests/log", "show_log"),
    )

    def handle_any(self):
        parts = urllib.parse.urlsplit(self.path)
        self.query = urllib.parse.parse_qs(parts.query)
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.log.append(f"{self.command} {self.path}")
        for methods, pattern, name in self.ROUTES:
            found = re.fullmatch(pattern, parts.path)
            if found and self.command in methods.split("|"):
                arguments = [urllib.parse.unquote(part) if part else part for part in found.groups()]
                try:
                    getattr(self, name)(*arguments)
                except RefusalError as refusal:
                    headers = {"X-Error-Code": refusal.code} if refusal.code else {}
                    self.reply({"error": str(refusal)}, refusal.status, **headers, X_Error_Message=str(refusal))
                return
        self.reply({"error": "Not Found"}, 404)

    do_GET = do_HEAD = do_PUT = do_POST = handle_any

    def reply(self, data, status=200, **headers):
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        headers = {key.replace("_", "-"): value for key, value in headers.items()}
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def right(self):
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind and token not in TOKENS:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def require_write(self):
        right = self.right()
        if right != "write":
            raise RefusalError(403 if right else 401, "You need write access")

    def repository(self, name):
        right = self.right()
        if name not in self.hub.repositories:
            raise RefusalError(404 if right else 401, "Repository not found", "RepoNotFound")
        return self.hub.repositories[name]

    def files(self, name, revision):
        repository = self.repository(name)
        sha = repository.find(revision)
        if sha is None:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repository.commits[sha][0]

    def create(self):
        self.require_write()
        asked = json.loads(self.content)
        name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
        with self.hub.lock:
            if name in self.hub.repositories:
                self.reply({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
                return
            self.hub.repositories[name] = Repository()
        self.reply({"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})

    def whoami(self):
        if not self.right():
            raise RefusalError(401, "Invalid username or password.")
        self.reply({"type": "user", "name": "ada", "orgs": [], "auth": {"accessToken": {"role": self.right()}}})

    def validate(self):
        text = json.loads(self.content)["content"]
        header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        try:
            data = yaml.safe_load(header[1]) if header else {}
        except yaml.YAMLError as error:
            self.reply({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        base, license_name = data.get("base_model", []), data.get("license", "mit")
        wrong = [one for one in ([base] if isinstance(base, str) else base) if "/" not in one]
        wrong += [] if license_name in {"mit", "apache-2.0", "unknown"} else [license_name]
        if wrong:
            self.reply({"errors": [{"message": f"{wrong} is not valid"}], "warnings": []}, 400)
            return
        missing = [] if data.get("library_name") else [{"message": "no library_name"}]
        self.reply({"errors": [], "warnings": missing})

    def information(self, name, revision):
        sha, files = self.files(name, revision or "main")
        self.reply({"id": name, "modelId": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]})

    def branch(self, name, branch):
        self.require_write()
        repository = self.repository(name)
        if branch in repository.branches:
            raise RefusalError(409, "Branch already exists")
        repository.branches[branch] = repository.branches["main"]
        self.reply({})

    def preupload(self, name, revision):
        self.require_write()
        _, there = self.files(name, revision)
        answer = []
        for file in json.loads(self.content)["files"]:
            sample = base64.b64decode(file["sample"])
            large = file["size"] > LARGE or b"\0" in sample or file["path"].endswith(PATTERNS)
            found = there.get(file["path"])
            oid = None if found is None else found[1] if found[0] == "large" else git_hash(found[1])
            mode = "lfs" if large else "regular"
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply({"files": answer})

    def batch(self, name):
        self.require_write()
        self.repository(name)
        objects = []
        for wanted in json.loads(self.content)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            entry = {"oid": oid, "size": size}
            if oid not in self.hub.large:
                header = {}
                href = f"{self.hub.elsewhere}/storage/{oid}?signature=tests"
                if size > PART:
                    header = {"chunk_size": str(PART)}
                    for number in range(1, -(-size // PART) + 1):
                        header[f"{number:05}"] = f"{self.hub.elsewhere}/storage/{oid}/{number}?signature=tests"
                    href = f"{self.hub.elsewhere}/complete/{oid}"
                verify = {"href": f"{self.hub.url}/verify"}
                entry["actions"] = {"upload": {"href": href, "header": header}, "verify": verify}
            objects.append(entry)
        self.reply({"transfer": "basic", "objects": objects})

    def store(self, oid, number):
        self.refuse_token()
        if number is None:
            self.keep(oid, self.content)
        else:
            self.hub.parts[oid, int(number)] = self.content
        self.reply(b"", ETag=f'"{hashlib.md5(self.content).hexdigest()}"')

    def complete(self, oid):
        parts = sorted(number for key, number in self.hub.parts if key == oid)
        assert [part["partNumber"] for part in json.loads(self.content)["parts"]] == parts
        self.keep(oid, b"".join(self.hub.parts.pop((oid, number)) for number in parts))
        self.reply({})

    def keep(self, oid, content):
        if hashlib.sha256(content).hexdigest() != oid:
            raise RefusalError(400, "the content has another digest")
        self.hub.large[oid] = content

    def verify(self):
        asked = json.loads(self.content)
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise RefusalError(404, "the object is not there")
        self.reply({})

    def refuse_token(self):
        if self.headers.get("Authorization"):
            raise RefusalError(400, "Only one auth mechanism allowed")

    def commit(self, name, revision):
        self.require_write()
        repository = self.repository(name)
        fault = self.hub.faults.pop(0) if self.hub.faults else ""
        if fault == "refuse":
            raise RefusalError(500, "Internal error")
        with self.hub.lock:
            if revision not in repository.branches:
                raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            if fault == "overtake":
                files = dict(repository.commits[repository.branches[revision]][0])
                files["somebody-else.txt"] = ("regular", str(time.time()).encode())
                repository.branches[revision] = repository.add(files, repository.branches[revision], "by somebody else")
            sha = self.apply(repository, revision)
            repository.branches[revision] = sha
        if fault == "lose the answer":
            self.close_connection = True
            return
        self.reply({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def apply(self, repository, revision):
        header, *lines = [json.loads(line) for line in self.content.splitlines()]
        head = repository.branches[revision]
        if header["value"].get("parentCommit", head) != head:
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[head][0])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                if len(content) > LARGE:
                    raise RefusalError(400, "the file is too large to be an ordinary one")
                files[value["path"]] = ("regular", content)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise RefusalError(400, f"the object {value['oid']} was not uploaded")
                files[value["path"]] = ("large", value["oid"])
            elif files.pop(value["path"], None) is None:
                raise RefusalError(404, "A file with this name doesn't exist", "EntryNotFound")
        return repository.add(files, head, header["value"]["summary"])

    def described(self, path, file):
        kind, content = file
        if kind == "regular":
            return {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        size = len(self.hub.large[content])
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{content}\nsize {size}\n".encode()
        large = {"oid": content, "size": size, "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "size": size, "oid": git_hash(pointer), "lfs": large}

    def paths(self, name, revision):
        _, files = self.files(name, revision)
        wanted = urllib.parse.parse_qs(self.content.decode()).get("paths", [])
        if len(wanted) > 1000:
            raise RefusalError(413, "too many parameters")
        self.reply([self.described(path, files[path]) for path in wanted if path in files])

    def tree(self, name, revision):
        _, files = self.files(name, revision)
        self.reply([self.described(path, file) for path, file in sorted(files.items())])

    def resolve(self, name, revision, path):
        sha, files = self.files(name, revision)
        if path not in files:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        kind, content = files[path]
        if kind == "large":
            size = str(len(self.hub.large[content]))
            self.reply(
                b"", 302, Location=f"{self.hub.elsewhere}/storage/{content}?signature=tests", X_Repo_Commit=sha,
                X_Linked_Etag=f'"{content}"', X_Linked_Size=size,
            )  # fmt: skip
        else:
            self.send_part(content, ETag=f'"{git_hash(content)}"', X_Repo_Commit=sha)

    def stored(self, oid):
        self.refuse_token()
        self.send_part(self.hub.large[oid], ETag=f'"{oid}"')

    def send_part(self, content, **headers):
        asked = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        if asked is None:
            self.reply(content, **headers)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        if start >= len(content):
            self.reply(b"", 416, Content_Range=f"bytes */{len(content)}")
        else:
            whole = f"bytes {start}-{end}/{len(content)}"
            self.reply(content[start : end + 1], 206, Content_Range=whole, **headers)

    def arrange_faults(self):
        self.hub.faults = json.loads(self.content)
        self.reply({})

    def show_log(self):
        self.reply(self.hub.log)

    def log_message(self, *_):
        pass


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def main():
    port = int(sys.argv[1])
    Handler.hub = Hub(port)
    ThreadingHTTPServer.request_queue_size = 64
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
