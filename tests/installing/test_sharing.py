"""Other programs on a managed folder: uploads, git, and loading without any code of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from skillpack.installing import install, remove, status
from skillpack.packing import pack
from tests.installing import models
from tests.installing.models import model_files, whole


@pytest.fixture
def managed(shelf, model):
    install([shelf.skills["code"], shelf.skills["chat"]], model)
    assert (model / ".skillpack/.cache/huggingface/base").is_dir()
    return model


def test_upload_folder_takes_the_model_and_nothing_of_ours(managed):
    from huggingface_hub import HfApi
    from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS

    (managed / "README.md").unlink()
    added = HfApi()._prepare_upload_folder_additions(managed, "", ignore_patterns=list(DEFAULT_IGNORE_PATTERNS))
    assert {operation.path_in_repo for operation in added} == model_files(managed).keys()


def test_every_file_of_ours_is_below_a_folder_that_is_ignored(managed):
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

    ours = [path for path in whole(managed) if path.startswith(".skillpack") and (managed / path).is_file()]
    assert len(ours) > 8
    assert list(filter_repo_objects(ours, ignore_patterns=DEFAULT_IGNORE_PATTERNS)) == []
    for path in ours:
        with pytest.raises(ValueError, match="cannot update files under"):
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=managed / path)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_add_takes_the_model_and_nothing_of_ours(managed):
    git = ["git", "-C", str(managed)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    listed = subprocess.run([*git, "ls-files"], check=True, capture_output=True, text=True).stdout.split()
    assert set(listed) == {path for path in model_files(managed) if not path.startswith(".git")}


def test_install_remove_and_status_do_not_import_torch(shelf, model):
    code = """
import sys
from skillpack.installing import Wanted, install, remove, status
from skillpack.skill import open_skill
from skillpack_store import Repository
model, store, digest = sys.argv[1:]
repository = Repository.open(store)
install([Wanted(open_skill(repository, digest, "prose"), repository)], model)
status(model, verify=True)
remove(None, model)
print(sorted({"torch", "transformers", "huggingface_hub"} & sys.modules.keys()))
"""
    digest = shelf.skills["prose"].skill.digest
    command = [sys.executable, "-c", code, str(model), str(shelf.store), digest]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


def tiny_llama(folder, seed, **sizes):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, **sizes)


def test_transformers_loads_the_result_in_place_of_the_fine_tune(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    base, tuned = tmp_path / "base", tmp_path / "tuned"
    tiny_llama(base, 0, max_shard_size="4KB")
    tiny_llama(tuned, 1)
    assert len(list(base.glob("*.safetensors"))) > 2
    before = whole(base)
    report = pack(base, tuned, "tuned", exact=True, store=tmp_path / "store", author="Ada")
    install([models.wanted(tmp_path / "store", report.digest, "tuned")], base)
    ids = torch.arange(12)[None]
    logits = [AutoModelForCausalLM.from_pretrained(folder, dtype="auto")(ids).logits for folder in (base, tuned)]
    assert torch.equal(*logits)
    assert not status(base, verify=True).differences
    remove(None, base)
    assert whole(base) == before
