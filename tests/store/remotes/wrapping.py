"""Remotes that count, lie, break off or die."""

from __future__ import annotations

import os
import signal
import threading

from skillpack_store import RemoteError


class Wrapped:
    """Passes everything on and counts bytes and calls.

    Attributes:
        got: Bytes read.
        sent: Bytes written.
        calls: Names of the methods called.
    """

    def __init__(self, inner) -> None:
        self.inner = inner
        self.url = inner.url
        self.got = self.sent = 0
        self.calls = []
        self.starts = []
        self.lock = threading.Lock()

    def step(self, name):
        """Called before each operation and each chunk."""
        with self.lock:
            self.calls.append(name)

    def refs(self):
        self.step("refs")
        return self.inner.refs()

    def sizes(self, blobs):
        self.step("sizes")
        return self.inner.sizes(blobs)

    def read(self, blob, start=0):
        self.starts.append((blob.digest, start))
        self.step("read")
        for chunk in self.inner.read(blob, start):
            with self.lock:
                self.got += len(chunk)
            self.step("chunk")
            yield chunk

    def write(self, blob, chunks):
        self.step("write")
        self.inner.write(blob, chunks)
        with self.lock:
            self.sent += blob.size
        self.step("written")

    def update_ref(self, ref, digest, *, expected):
        self.step("update_ref")
        self.inner.update_ref(ref, digest, expected=expected)
        self.step("updated")

    def finish(self):
        self.step("finish")
        if hasattr(self.inner, "finish"):
            self.inner.finish()
        self.step("finished")


class Death(BaseException):
    """The process is gone."""


class Dying(Wrapped):
    """Dies at the n-th step, from 1; with ``kill`` by a real signal."""

    def __init__(self, inner, number, *, kill=False):
        super().__init__(inner)
        self.number = number
        self.kill = kill

    def step(self, name):
        super().step(name)
        if len(self.calls) >= self.number:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Death(f"at step {self.number}, {name}")


class Chopping(Wrapped):
    """Cuts every answer off after a few bytes, with an error or silently."""

    def __init__(self, inner, length, *, silent=False):
        super().__init__(inner)
        self.length, self.silent = length, silent

    def read(self, blob, start=0):
        self.starts.append((blob.digest, start))
        data = b"".join(self.inner.read(blob, start))
        self.got += len(data[: self.length])
        yield data[: self.length]
        if len(data) > self.length and not self.silent:
            raise RemoteError("the connection broke")


class Changing(Wrapped):
    """Answers with other bytes."""

    def __init__(self, inner, change, only=None):
        super().__init__(inner)
        self.change, self.only = change, only

    def read(self, blob, start=0):
        data = b"".join(self.inner.read(blob))
        if self.only in {None, blob.digest}:
            data = self.change(data)
        yield data[start:]
