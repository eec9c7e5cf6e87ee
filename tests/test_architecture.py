"""The rules that keep the parts apart, read from the source."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import skillpack

ROOT = Path(__file__).parent.parent
PACKAGES = {"skillpack": ROOT / "skillpack", "skillpack_store": ROOT / "store" / "skillpack_store"}
MODULES = {
    ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
    for package, folder in PACKAGES.items()
    for path in sorted(folder.rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


def imports(module):
    """Full names of what a module imports, wherever in it and whatever for."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, *parents):
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def modules_of(*parents):
    found = [module for module in MODULES if within(module, *parents)]
    assert found
    return found


def test_the_rules_are_applied_to_all_modules():
    assert {"skillpack.codecs.exact", "skillpack.cli", "skillpack_store.blobs", "skillpack"} <= MODULES.keys()
    assert "skillpack.tensors.Tensor" in set(imports("skillpack.skill"))
    assert "torch" in set(imports("skillpack.codecs.gram"))


@pytest.mark.parametrize("module", modules_of("skillpack_store"))
def test_the_store_knows_nothing_of_models(module):
    allowed = {*sys.stdlib_module_names, "skillpack_store", "typing_extensions", "filelock", "platformdirs"}
    if within(module, "skillpack_store.remotes"):
        allowed |= {"huggingface_hub", "obstore", "urllib3"}
    assert {name.partition(".")[0] for name in imports(module)} <= allowed


@pytest.mark.parametrize(
    "module", [module for module in modules_of("skillpack") if not within(module, "skillpack.cli")]
)
def test_the_core_knows_nothing_of_the_command_line(module):
    assert not [name for name in imports(module) if within(name, "skillpack.cli", "click", "rich", "argparse")]


@pytest.mark.parametrize("module", modules_of("skillpack.codecs"))
def test_codecs_know_arrays_and_nothing_of_files(module):
    own = [name for name in imports(module) if within(name, "skillpack", "skillpack_store")]
    assert [name for name in own if not within(name, "skillpack.tensors", "skillpack.errors", "skillpack.codecs")] == []
    assert not [name for name in imports(module) if within(name, "os", "pathlib", "io", "tempfile", "mmap")]


@pytest.mark.parametrize(
    "module", modules_of("skillpack.checkpoint", "skillpack.installing", "skillpack.skill", "skillpack.delta")
)
def test_files_know_nothing_of_the_insides_of_codecs(module):
    seams = ("skillpack.codecs.codec_named", "skillpack.codecs.entropy", "skillpack.codecs.protocol")
    used = [name for name in imports(module) if within(name, "skillpack.codecs")]
    assert [name for name in used if not within(name, *seams)] == []


def calls(module):
    """Dotted names of what a module calls or looks up, such as ``sys.exit``."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


SILENT = [module for module in MODULES if not within(module, "skillpack.cli")]
NOISY = {"print", "input", "exit", "quit", "breakpoint", "sys.exit", "sys.stdout", "sys.stderr", "sys.argv", "os._exit"}
ENVIRONMENT = {"os.environ", "os.getenv", "os.environb", "os.putenv"}


@pytest.mark.parametrize("module", SILENT)
def test_only_the_command_line_prints_reads_the_environment_or_exits(module):
    refused = NOISY | (set() if module == "skillpack.settings" else ENVIRONMENT)
    assert refused & set(calls(module)) == set()
    assert not {"os.environ", "os.getenv", "sys.exit", "sys.stdout"} & set(imports(module))


@pytest.mark.parametrize("module", SILENT)
def test_nothing_is_unpickled_or_run(module):
    found = {*calls(module), *imports(module)}
    assert not found & {"eval", "exec", "compile", "__import__", "torch.load", "np.load", "numpy.load"}
    # Docker's configuration names programs that keep credentials.
    helpers = {"subprocess"} if module == "skillpack_store.remotes.oci.credentials" else set()
    refused = {"pickle", "marshal", "shelve", "subprocess"} - helpers
    assert not [name for name in found if within(name, *refused)]


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_short(module):
    assert len(MODULES[module].read_text().splitlines()) <= 600


def test_functions_stay_short():
    lengths = [
        node.end_lineno - node.lineno + 1
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    ]
    assert sorted(lengths)[len(lengths) // 2] <= 15


def test_no_module_hides_a_public_name():
    submodules = {path.stem for path in PACKAGES["skillpack"].iterdir()}
    assert submodules & set(skillpack.__all__) == set()


LIGHT = "import sys, {module}; sys.stdout.write(' '.join(m for m in {heavy!r} if m in sys.modules))"
HEAVY = ["torch", "numpy", "transformers", "huggingface_hub", "safetensors", "zstandard", "constriction"]


@pytest.mark.parametrize("module", ["skillpack", "skillpack.cli", "skillpack.errors", "skillpack_store"])
def test_importing_loads_no_heavy_library(module):
    code = LIGHT.format(module=module, heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == ""


def test_decoding_and_installing_need_no_torch():
    code = LIGHT.format(
        module="skillpack.installing, skillpack.library, skillpack.codecs", heavy=["torch", "transformers"]
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == ""


@pytest.mark.parametrize("name", skillpack.__all__)
def test_public_names_resolve_and_are_documented(name):
    importlib.import_module("skillpack.packing")  # A name must mean the same once all modules are imported.
    found = getattr(skillpack, name)
    assert inspect.getdoc(found)
    assert found.__module__.startswith(("skillpack.", "skillpack_store."))
    assert name in dir(skillpack)


def test_all_is_sorted_and_complete():
    assert skillpack.__all__ == sorted(set(skillpack.__all__))
    assert set(skillpack._HOMES) == set(skillpack.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = skillpack.nothing


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_documented_and_can_be_imported(module):
    assert ast.get_docstring(TREES[module])
    if not module.endswith("__main__"):
        importlib.import_module(module)
