"""Where weights come from: folders, shards, lone files, the Hub; and what is refused."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

from skillpack.checkpoint import open_checkpoint, open_tuned
from skillpack.errors import CheckpointError, DamagedCheckpointError, UnsupportedCheckpointError

TENSORS = {"b.weight": np.ones((2, 3), np.float32), "a.weight": np.arange(4, dtype=np.float16)}
CONFIG = transformers.LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
)


def folder(path, tensors=TENSORS, name="model.safetensors", **documents):
    path.mkdir(parents=True, exist_ok=True)
    if tensors:
        save_file(tensors, path / name)
    for stem, document in documents.items():
        (path / f"{stem}.json").write_text(json.dumps(document))
    return path


def sharded(path, shards, index=None):
    """Shards by name -> tensor names, and an index that lists them, or another one."""
    path.mkdir()
    for name, names in shards.items():
        save_file({tensor: np.full(3, len(tensor)) for tensor in names}, path / name)
    listed = index or {tensor: name for name, names in shards.items() for tensor in names}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    return path


def test_folder(tmp_path):
    path = folder(tmp_path / "m", config={"model_type": "x"})
    (path / "modeling_x.py").touch()
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.origin == str(path)
    assert checkpoint.folder == path
    assert list(checkpoint.tensors) == ["a.weight", "b.weight"]
    assert checkpoint.tensors["a.weight"] == ("a.weight", "F16", (4,), path / "model.safetensors", 8)
    assert list(checkpoint.companions) == ["config.json"]
    assert checkpoint.code_files == ("modeling_x.py",)
    np.testing.assert_array_equal(checkpoint.read("b.weight").array(), TENSORS["b.weight"])
    assert checkpoint.update("b.weight") is None
    assert checkpoint.inherits("b.weight") is None
    with pytest.raises(KeyError):
        checkpoint.read("c.weight")


def test_lone_file(tmp_path):
    path = folder(tmp_path / "m", config={}) / "model.safetensors"
    checkpoint = open_tuned(path, open_checkpoint(path))
    assert checkpoint.folder is None
    assert checkpoint.companions == {}
    assert list(checkpoint.tensors) == ["a.weight", "b.weight"]


def test_shards_are_one_model(tmp_path):
    path = sharded(tmp_path / "m", {"m-1.safetensors": ["b", "ccc"], "m-2.safetensors": ["aa"]})
    checkpoint = open_checkpoint(path)
    assert {name: info.file.name for name, info in checkpoint.tensors.items()} == {
        "aa": "m-2.safetensors",
        "b": "m-1.safetensors",
        "ccc": "m-1.safetensors",
    }
    assert checkpoint.read("aa").array().tolist() == [2, 2, 2]


def test_one_file_comes_before_an_index_and_an_index_before_other_files(tmp_path):
    path = sharded(tmp_path / "m", {"m-1.safetensors": ["b"]})
    save_file({"other": np.zeros(1)}, path / "other.safetensors")
    assert list(open_checkpoint(path).tensors) == ["b"]
    save_file({"first": np.zeros(1)}, path / "model.safetensors")
    assert list(open_checkpoint(path).tensors) == ["first"]


def test_the_only_file_is_the_model_whatever_its_name(tmp_path):
    assert open_checkpoint(folder(tmp_path / "m", name="weights.safetensors")).tensors
    save_file(TENSORS, tmp_path / "m" / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"several files .* more\.safetensors, weights\.safetensors"):
        open_checkpoint(tmp_path / "m")


def test_sentence_transformer_with_nested_folders(tmp_path):
    path = folder(tmp_path / "m", modules=[{"path": ""}, {"path": "1_Pooling"}, {"path": "dense"}, {"path": "../x"}])
    folder(path / "1_Pooling", {}, config={"mode": "mean"})
    folder(path / "2_Dense", {"linear.weight": np.ones(2)}, config={})
    folder(path / "dense", {"linear.weight": np.zeros(2)})
    folder(path / "checkpoint-500", {"x": np.zeros(2)}, config={})
    folder(tmp_path / "x", {"x": np.zeros(2)})
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["2_Dense/linear.weight", "a.weight", "b.weight", "dense/linear.weight"]
    assert list(checkpoint.companions) == ["1_Pooling/config.json", "2_Dense/config.json", "modules.json"]
    assert checkpoint.read("2_Dense/linear.weight").array().tolist() == [1, 1]


def test_pipeline_of_parts_only(tmp_path):
    path = folder(tmp_path / "m", {}, model_index={"_class_name": "X", "unet": ["diffusers", "UNet"]})
    folder(path / "unet", {"w": np.ones(2)}, "diffusion_pytorch_model.safetensors")
    assert list(open_checkpoint(path).tensors) == ["unet/w"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"b": "m-1.safetensors", "x": "m-2.safetensors"}, r"names the file m-2\.safetensors, which is missing"),
        ({"b": "m-1.safetensors", "x": "m-1.safetensors"}, r"places x in m-1\.safetensors, which does not hold it"),
        ({"b": "../m/m-1.safetensors"}, "no usable weight_map"),
        ({"b": 3}, "no usable weight_map"),
    ],
)
def test_bad_index(tmp_path, index, message):
    path = sharded(tmp_path / "m", {"m-1.safetensors": ["b"]}, index)
    with pytest.raises(DamagedCheckpointError, match=message):
        open_checkpoint(path)


def test_a_tensor_in_two_shards(tmp_path):
    path = sharded(tmp_path / "m", {"m-1.safetensors": ["b", "a"], "m-2.safetensors": ["b"]}, None)
    (path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}'
    )
    with pytest.raises(DamagedCheckpointError, match=r"Tensor b is in two files: .*m-1\.safetensors and .*m-2"):
        open_checkpoint(path)


@pytest.mark.parametrize("content", ["{", "[]", "\ufeff"])
def test_an_index_that_is_no_json_object(tmp_path, content):
    path = sharded(tmp_path / "m", {"m-1.safetensors": ["b"]})
    (path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(DamagedCheckpointError, match="index"):
        open_checkpoint(path)


def test_truncated_shard_is_named(tmp_path):
    path = sharded(tmp_path / "m", {"m-1.safetensors": ["b", "a"], "m-2.safetensors": ["c"]})
    shard = path / "m-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(DamagedCheckpointError, match=r"m-1\.safetensors: is truncated: tensor \w ends at"):
        open_checkpoint(path)


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no model"):
        open_checkpoint(tmp_path / "empty")
    for source in (tmp_path / "absent", str(tmp_path / "absent"), "no-such-model", "a/b/c"):
        with pytest.raises(CheckpointError, match="no such file or folder"):
            open_checkpoint(source)
    (tmp_path / "empty" / "model.safetensors.index.json").touch()
    with pytest.raises(CheckpointError, match="is an index of shards"):
        open_checkpoint(tmp_path / "empty" / "model.safetensors.index.json")


@pytest.mark.parametrize(
    ("files", "documents", "tensors", "message"),
    [
        ([], {"config": {"quantization_config": {"quant_method": "gptq", "bits": 4}}}, TENSORS, r"quantised \(gptq\)"),
        ([], {"config": {"quantization_config": {"quant_method": "awq"}}}, TENSORS, r"quantised \(awq\)"),
        ([], {"config": {"quantization_config": {"load_in_4bit": True}}}, TENSORS, "quantised"),
        ([], {"quantize_config": {"bits": 4}}, TENSORS, "GPTQ or AWQ"),
        ([], {}, {"layer.qweight": np.zeros(3, np.int32)}, r"layer\.qweight holds quantised weights"),
        (["model-q4.gguf"], {"config": {}}, {}, "GGUF"),
    ],
)
def test_quantised_models_are_refused(tmp_path, files, documents, tensors, message):
    path = folder(tmp_path / "m", tensors, **documents)
    for file in files:
        (path / file).touch()
        with pytest.raises(UnsupportedCheckpointError, match=message):
            open_checkpoint(path / file)
    with pytest.raises(UnsupportedCheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert caught.value.hint


def test_8_bit_floats_are_refused(tmp_path):
    from safetensors.torch import save_file as save_torch

    save_torch({"w": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedCheckpointError, match="tensor w has the quantised dtype F8_E4M3"):
        open_checkpoint(tmp_path)


def test_no_quantisation_is_no_reason_to_refuse(tmp_path):
    assert open_checkpoint(folder(tmp_path / "m", config={"quantization_config": None})).tensors
    assert open_checkpoint(folder(tmp_path / "wide", {"w": np.zeros(2, np.float64)})).tensors["w"].dtype == "F64"


def run_hint(hint):
    """Run the python one-liner of a hint in this interpreter."""
    code = re.search(r'python -c "(.+)"$', hint)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, {})


def test_pickled_folder_is_refused_with_a_command_that_works(tmp_path):
    model = transformers.LlamaForCausalLM(CONFIG).to(torch.bfloat16)
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "training_args.bin").touch()
    with pytest.raises(UnsupportedCheckpointError, match=r"only pickled weights \(pytorch_model\.bin\)") as caught:
        open_checkpoint(tmp_path)
    run_hint(caught.value.hint)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors["model.embed_tokens.weight"].dtype == "BF16"
    expected = model.model.norm.weight.detach().float().numpy()
    np.testing.assert_array_equal(checkpoint.read("model.norm.weight").float32(), expected)


def test_pickled_file_is_refused_with_a_command_that_works(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "model.pt")
    with pytest.raises(UnsupportedCheckpointError, match="can run code") as caught:
        open_checkpoint(tmp_path / "model.pt")
    run_hint(caught.value.hint)
    assert open_checkpoint(tmp_path / "model.safetensors").read("w").array().tolist() == [1, 1, 1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path):
    path = folder(tmp_path / "m")
    path.chmod(0)
    try:
        with pytest.raises(CheckpointError, match="cannot be read"):
            open_checkpoint(path)
    finally:
        path.chmod(0o755)


def test_opening_reads_headers_only(tmp_path):
    path = folder(tmp_path / "m", {"w": np.zeros(40_000_000, np.uint8)})
    code = (
        "import sys, resource; from skillpack.checkpoint import open_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "tensor = open_checkpoint(sys.argv[1]).read('w')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 'torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True).stdout
    kilobytes, torch_loaded = output.split()
    assert int(kilobytes) < 10_000
    assert torch_loaded == "False"


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as huggingface_hub needs, for one repository; the answers are on the server object."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if path in self.server.answers:
            return self.answer(200, self.server.answers[path])
        code = "RevisionNotFound" if "org/name" in path else "RepoNotFound"
        return self.answer(404, b"{}", **{"X-Error-Code": code})

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, body, **headers):
        headers |= {"Content-Length": str(len(body)), "Content-Type": "application/json", "X-Repo-Commit": COMMIT}
        headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def hub(files):
    """A running Hub with these files in org/name; yields its address and the paths asked for."""
    info = {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
    tree = [
        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
    ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    server.answers = {f"/org/name/resolve/{COMMIT}/{name}": data for name, data in files.items()}
    server.answers[f"/api/models/org/name/tree/{COMMIT}"] = json.dumps(tree).encode()
    for revision in ("main", "v1"):
        server.answers[f"/api/models/org/name/revision/{revision}"] = json.dumps(info).encode()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


OPEN = """
import json, sys
from skillpack.checkpoint import open_checkpoint
from skillpack.errors import ReportedError
try:
    checkpoint = open_checkpoint(sys.argv[1])
except ReportedError as error:
    print(json.dumps({"error": str(error), "hint": error.hint}))
else:
    print(json.dumps([checkpoint.origin, list(checkpoint.tensors), list(checkpoint.companions), checkpoint.code_files]))
"""


def open_elsewhere(source, home, code=OPEN, **environment):
    """Open a Hub id in a process of its own, whose cache is in `home`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    environment = {**kept, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code, source], check=True, capture_output=True, text=True, cwd=home, env=environment
    )
    return json.loads(done.stdout)


def test_hub(tmp_path):
    model = folder(tmp_path / "model", config={"model_type": "llama"})
    files = {file.name: file.read_bytes() for file in model.iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "modeling.py": b"", "original/consolidated.00.safetensors": b"x"}
    (tmp_path / "home").mkdir()
    expected = [f"org/name@{COMMIT}", ["a.weight", "b.weight"], ["config.json"], ["modeling.py"]]
    with hub(files) as (address, asked):
        assert open_elsewhere("org/name", tmp_path / "home", HF_ENDPOINT=address) == expected
        assert open_elsewhere("org/name@v1", tmp_path / "home", HF_ENDPOINT=address) == expected
        assert open_elsewhere(f"org/name@{COMMIT}", tmp_path / "home", HF_ENDPOINT=address) == expected
        assert not [path for path in asked if "pytorch_model" in path or "original/" in path]
        unknown = open_elsewhere("org/other", tmp_path / "home", HF_ENDPOINT=address)
        assert "org/other: no such folder, and the Hub did not give it" in unknown["error"]
        assert "org/name" in open_elsewhere("org/name@v9", tmp_path / "home", HF_ENDPOINT=address)["error"]
    for source in ("org/name", "org/name@v1"):
        assert open_elsewhere(source, tmp_path / "home", HF_HUB_OFFLINE="1") == expected
    assert "org/new: no such folder" in open_elsewhere("org/new", tmp_path / "home", HF_HUB_OFFLINE="1")["error"]


def test_hub_repository_with_pickles_only(tmp_path):
    with hub({"pytorch_model.bin": b"pickle", "config.json": b'{"architectures": ["LlamaForCausalLM"]}'}) as (
        address,
        _,
    ):
        answer = open_elsewhere("org/name", tmp_path, HF_ENDPOINT=address)
    assert "has no .safetensors file" in answer["error"]
    assert "transformers.LlamaForCausalLM.from_pretrained('org/name', dtype='auto')" in answer["hint"]


def test_hub_without_the_extra_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['huggingface_hub'] = None\n" + OPEN
    answer = open_elsewhere("org/name", tmp_path, code)
    assert "needs huggingface_hub" in answer["error"]
    assert answer["hint"] == "pip install 'skillpack[hub]'"
