from __future__ import annotations

import ast
import doctest
import sys
from pathlib import Path

import skillpack_store
from skillpack_store import disk, errors

PACKAGE = Path(skillpack_store.__file__).parent
CHANGES = {
    "rename",
    "replace",
    "link",
    "unlink",
    "mkdir",
    "rmdir",
    "chmod",
    "utime",
    "fsync",
    "write_bytes",
    "write_text",
}


def test_the_readme_is_executed():
    outcome = doctest.testfile(str(PACKAGE.parent / "README.md"), module_relative=False)
    assert outcome.attempted > 10
    assert outcome.failed == 0


def test_only_the_standard_library_is_imported():
    allowed = set(sys.stdlib_module_names) | {"skillpack_store", "typing_extensions"}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path


def test_only_disk_changes_the_file_system():
    """What goes around it would be invisible to the crash tests."""
    for path in PACKAGE.glob("*.py"):
        calls = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in {"os", "path", "shutil", "Path"}
        }
        assert path.name == "disk.py" or not calls & CHANGES, path


def test_every_primitive_and_export_exists():
    assert set(disk.PRIMITIVES) <= set(disk.__all__)
    for module in (disk, errors, skillpack_store):
        assert all(hasattr(module, name) for name in module.__all__ if name != "PRIMITIVES")


def test_errors_have_published_exit_codes():
    codes = {name: getattr(errors, name).exit_code for name in errors.__all__}
    assert codes == {
        "AuthenticationError": 1,
        "BusyError": 11,
        "CorruptStoreError": 13,
        "DivergedError": 1,
        "MergeConflictError": 1,
        "NoStoreError": 10,
        "NotFoundError": 1,
        "RefusedError": 1,
        "RemoteError": 1,
        "ReportedError": 1,
        "StoreError": 1,
    }
    assert all(issubclass(getattr(errors, name), errors.ReportedError) for name in errors.__all__)
