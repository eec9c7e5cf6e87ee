from __future__ import annotations

import signal

import pytest


def pytest_configure(config):
    # Jobs that a shell runs in the background ignore interrupts, and so would every command that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory):
    """Nothing of the user's own is touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKILLPACK_HOME", str(tmp_path_factory.mktemp("home")))
        yield
