"""What remotes need is loaded when they are opened, and asked for by name where it is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from skillpack_store import RemoteError
from skillpack_store.remotes import hub, registry


@pytest.mark.parametrize("module", ["registry", "hub", "protocol"])
def test_importing_a_remote_loads_nothing_heavy(module):
    heavy = "[name for name in ('urllib3', 'huggingface_hub') if name in sys.modules]"
    code = f"import sys, skillpack_store.remotes.{module}; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("module", "url", "package", "part"),
    [
        (registry, "oci://ghcr.io/a/b", "urllib3", "skillpack_store.remotes.client"),
        (hub, "hf://a/b", "huggingface_hub", "skillpack_store.remotes.hf.remote"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, module, url, package, part):
    for name in list(sys.modules):
        if name.startswith(
            ("skillpack_store.remotes.client", "skillpack_store.remotes.oci", "skillpack_store.remotes.hf")
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RemoteError, match=f"need.* the package {package}") as caught:
        module.open_remote(url)
    assert "skillpack[remotes]" in caught.value.hint
