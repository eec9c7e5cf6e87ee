"""Everything that SkillPack takes from the environment.

`SKILLPACK_HOME` moves the folder in which the default store, keys, the policy and what interrupted packs leave live.
`SKILLPACK_KEY_PASSWORD` is the password of a private key where nobody can be asked, `SKILLPACK_API_KEY` the key that
clients of a server must send. The Hugging Face
libraries read `HF_HOME`, `HF_HUB_OFFLINE` and their other variables themselves, and temporary files go where `TMPDIR`
says. Credentials for registries are where docker (`DOCKER_CONFIG`) and podman (`REGISTRY_AUTH_FILE`) keep them.
"""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import platformdirs

HOME_VARIABLE = "SKILLPACK_HOME"
PASSWORD_VARIABLE = "SKILLPACK_KEY_PASSWORD"  # noqa: S105 - the name of a variable
API_KEY_VARIABLE = "SKILLPACK_API_KEY"
"""Read by the command line alone."""


def default_store() -> Path:
    """Folder of the store that is used when none is named."""
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home) if home else platformdirs.user_data_path("skillpack")) / "store"


def unfinished_folder() -> Path:
    """Folder of what interrupted packs leave for the next ones."""
    return _cache_folder() / "unfinished"


def backgrounds_folder() -> Path:
    """Folder of what bases make of the texts that routers compare with."""
    return _cache_folder() / "backgrounds"


def config_folder() -> Path:
    """Folder of what a user decides: keys and the policy. It is never in a store, which others may write."""
    home = os.environ.get(HOME_VARIABLE)
    return Path(home) if home else platformdirs.user_config_path("skillpack")


def keys_folder() -> Path:
    """Folder of the user's own keys."""
    return config_folder() / "keys"


def policy_file() -> Path:
    """File that says whose skills are accepted."""
    return config_folder() / "policy.json"


def key_password() -> str | None:
    """Password of a private key, from the environment; None if it is not set."""
    return os.environ.get(PASSWORD_VARIABLE)


def default_author() -> str:
    """Who commits, when nobody is named."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def registry_config_files() -> list[Path]:
    """Files with credentials for registries, the first to look at first: docker's, then podman's."""
    home, named, docker = Path.home(), os.environ.get("REGISTRY_AUTH_FILE"), os.environ.get("DOCKER_CONFIG")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return [
        *([Path(named)] if named else []),
        (Path(docker) if docker else home / ".docker") / "config.json",
        *([Path(runtime) / "containers" / "auth.json"] if runtime else []),
        home / ".config" / "containers" / "auth.json",
    ]


def _cache_folder() -> Path:
    home = os.environ.get(HOME_VARIABLE)
    return Path(home) if home else platformdirs.user_cache_path("skillpack")
