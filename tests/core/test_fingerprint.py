"""Model fingerprints depend on tensors alone."""

import hashlib

import numpy as np
from safetensors.numpy import save_file

from skillpack.checkpoint import open_checkpoint
from skillpack.fingerprint import fingerprint, tensor_digests

TENSORS = {"b": np.ones(3, np.float32), "a": np.zeros((2, 2), np.float16), "c": np.arange(5)}


def save(folder, shards, metadata):
    folder.mkdir()
    index = {}
    for number, names in enumerate(shards):
        file = f"model-{number:05}.safetensors"
        save_file({name: TENSORS[name] for name in names}, folder / file, metadata)
        index |= dict.fromkeys(names, file)
    listed = ",".join(f'"{name}":"{file}"' for name, file in index.items())
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map":{{{listed}}}}}')
    return open_checkpoint(folder)


def test_shards_order_and_metadata_do_not_matter(tmp_path):
    first = save(tmp_path / "first", [["a", "b", "c"]], {"format": "pt"})
    second = save(tmp_path / "second", [["c"], ["b", "a"]], {"other": "note"})
    assert fingerprint(tensor_digests(first)) == fingerprint(tensor_digests(second))


def test_fingerprint_is_sha256_over_sorted_lines(tmp_path):
    digests = tensor_digests(save(tmp_path / "m", [["a", "b", "c"]], None))
    assert list(digests) == ["a", "b", "c"]
    lines = "".join(f"{name} {digests[name]}\n" for name in "abc")
    assert fingerprint(digests) == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
    assert fingerprint(digests | {"a": digests["b"]}) != fingerprint(digests)
    renamed = {("d" if name == "a" else name): digest for name, digest in digests.items()}
    assert fingerprint(renamed) != fingerprint(digests)


def test_chosen_tensors_and_progress_in_bytes(tmp_path):
    checkpoint = save(tmp_path / "m", [["a", "b", "c"]], None)
    seen = []
    assert tensor_digests(checkpoint, ["c", "a"], progress=seen.append).keys() == {"a", "c"}
    assert seen == [8, 40]
