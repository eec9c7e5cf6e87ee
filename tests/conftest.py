from __future__ import annotations

import signal


def pytest_configure(config):
    # Jobs that a shell runs in the background ignore interrupts, and so would every command that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
