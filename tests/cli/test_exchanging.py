"""Skills as adapters and merged models on the command line, and adapters as skills."""

from __future__ import annotations

import json
import warnings

import pytest

from tests.interop.conftest import adapter


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_export_to_peft_says_what_is_carried(llama, tmp_path, run):
    result = run("export", "tiny", tmp_path / "lora", "--format", "peft", "--base", llama.base, "--store", llama.store)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    assert "tensors (" in result.stderr
    assert "PeftModel.from_pretrained" in result.stderr


def test_export_to_vllm_says_what_is_left_out(llama, tmp_path, run, run_json):
    options = ("--format", "vllm", "--base", llama.base, "--store", llama.store)
    result = run("export", "tiny", tmp_path / "lora", *options)
    assert result.exit_code == 0, result.output
    assert "left out: model.layers.0.input_layernorm.weight, " in result.stderr
    assert "more: vLLM takes factors of linear layers" in result.stderr
    assert "--max-lora-rank" in result.stderr
    document = run_json("export", "tiny", tmp_path / "again", *options)
    assert "model.norm.weight" in {lost["name"] for lost in document["lost"]}
    assert document["rank"] == max(tensor["rank"] for tensor in document["tensors"])
    refused = run("export", "tiny", tmp_path / "third", "--strict", *options)
    assert refused.exit_code == 1
    assert "--format merged" in refused.stderr
    assert not (tmp_path / "third").exists()


def test_export_merged(llama, tmp_path, run, run_json):
    options = ("--format", "merged", "--base", llama.base, "--store", llama.store)
    document = run_json("export", "tiny=0.5", tmp_path / "merged", *options)
    assert document["written"] == ["model.safetensors"]
    assert [skill["name"] for skill in document["skills"]] == ["tiny"]
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == sorted(
        path.name for path in llama.base.iterdir()
    )
    again = run("export", "tiny", tmp_path / "merged", *options)
    assert again.exit_code == 2
    assert "not an empty folder" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tiny", "--format", "peft"], "--base"),
        (["tiny", "--rank", "4"], "--rank has no meaning"),
        (["tiny", "--format", "merged", "--base", "x", "--strict"], "--strict has no meaning"),
        (["tiny", "--format", "peft", "--base", "x", "--force"], "--force has no meaning"),
        (["tiny", "other", "--format", "peft", "--base", "x"], "one skill"),
    ],
)
def test_options_that_do_not_go_together(run, tmp_path, arguments, complaint):
    skills = arguments[: 2 if arguments[1] == "other" else 1]
    result = run("export", *skills, tmp_path / "target", *arguments[len(skills) :])
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_import_an_adapter(llama, tmp_path, run, run_json):
    folder = adapter(llama.base, tmp_path / "adapter", target_modules=["q_proj"])
    refused = run("import", folder)
    assert refused.exit_code == 2
    assert "--base" in refused.stderr
    (skill,) = run_json("import", folder, "--base", llama.base, "--name", "lora", "-m", "Mine")["skills"]
    assert (skill["name"], skill["version"], skill["message"]) == ("lora", 1, "Mine")
    document = run_json("export", "lora", tmp_path / "again", "--format", "peft", "--base", llama.base, "--strict")
    assert document["lost"] == []
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 6)
