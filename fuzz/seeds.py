"""Writes the seed corpus, ``fuzz/corpus``: ``python fuzz/seeds.py``. Small, made of sound inputs of every kind.

The corpus is committed; this says where it comes from and makes it anew when a format changes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import zstandard

from skillpack import pack
from skillpack.installing.journal import Journal, Move
from skillpack.installing.receipt import FileRecord, Receipt, SkillRecord
from skillpack.manifest import FILES, Manifest, block_of
from skillpack.safetensors_file import open_tensor, plan_header, read_header, write_safetensors
from skillpack.signing import Policy, PublicKey, TrustedKey
from skillpack.signing.bundles import make_bundle, statement
from skillpack.tensors import Tensor
from skillpack_store import Repository, digest_of
from skillpack_store.documents import COMMIT_TYPE, INDEX, MANIFEST, SKILL_TYPE, build_index

CORPUS = Path(__file__).parent / "corpus"
DIGEST = digest_of(b"")
ADDRESSES = (b"math", b"math@3", b"math@v1", b"math@sha256:01234567")


def main() -> None:
    shutil.rmtree(CORPUS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        skills = list(packed(Path(folder)))
        write("store_documents", store_documents(Path(folder) / "store"))
    write("skill_streams", skill_streams(skills))
    write("model_folders", model_folders())
    write("signatures", signatures())


def write(target: str, seeds: list[tuple[int, str, bytes]]) -> None:
    """Write seeds, each the number of its case, a name and the case's own bytes."""
    (CORPUS / target).mkdir(parents=True)
    for case, name, data in seeds:
        (CORPUS / target / name).write_bytes(bytes([case]) + data)


def packed(folder: Path) -> list[SimpleNamespace]:
    """Manifest and streams of a few tiny skills, which use all codecs between them."""
    random = np.random.default_rng(0)

    def values(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * random.normal(size=shape)).astype(np.float32)

    base = {"a.0.w": values(16, 12), "a.0.x": values(6, 8, 8), "e": values(20, 8), "n": values(8)}
    low = values(16, 2, scale=0.1) @ values(2, 12)
    rows = np.zeros((20, 8), np.float32)
    rows[3] = 0.3
    tuned = {
        "a.0.w": base["a.0.w"] + low,
        "a.0.x": base["a.0.x"] + values(6, 8, 8, scale=0.02),
        "e": np.concatenate([base["e"] + rows, values(2, 8)]),
        "n": base["n"] + values(8, scale=0.01),
        "new": values(3, 4),
    }
    model(folder / "base", base, {"a": 1, "b": [1]})
    model(folder / "tuned", tuned, {"a": 2, "b": [1, 2]})
    (folder / "tuned" / "vocab.txt").write_text("a\nb\n")
    for name, goal in {"exact": {"exact": True}, "fine": {"quality": 0.99}, "coarse": {"quality": 0.7}}.items():
        report = pack(folder / "base", folder / "tuned", name, store=folder / "store", **goal)
        yield opened(Repository.open(folder / "store"), report.digest, name)


def model(folder: Path, content: dict[str, np.ndarray], config: dict) -> None:
    folder.mkdir()
    tensors = {name: Tensor.from_float32(array, "BF16") for name, array in content.items()}
    entries = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(folder / "model.safetensors", entries, tensors.__getitem__)
    (folder / "config.json").write_text(json.dumps(config))


def opened(repository: Repository, digest: str, name: str) -> SimpleNamespace:
    listing = repository.skill_manifest(digest)
    coded = repository.blobs.read(listing.config.digest, limit=1 << 20)
    blocks, layers = {}, []
    for layer in listing.layers:
        path = repository.blobs.path(layer.digest)
        header = read_header(path)
        layers.append(path.read_bytes())
        blocks |= {block: open_tensor(path, header, block).data.tobytes() for block in header.entries}
    manifest = Manifest.load(coded)
    order = list(dict.fromkeys(block_of(entry.name) for entry in manifest.tensors if entry.nbytes))
    order += [FILES] if manifest.files else []
    streams = b"".join(blocks[block] for block in order)
    return SimpleNamespace(
        name=name, coded=coded, text=zstandard.ZstdDecompressor().decompress(coded), streams=streams, layers=layers
    )


def skill_streams(skills: list[SimpleNamespace]) -> list[tuple[int, str, bytes]]:
    seeds = []
    for skill in skills:
        whole = len(skill.text).to_bytes(2, "little") + skill.text + skill.streams
        seeds += [(0, f"skill-{skill.name}", whole), (1, f"manifest-{skill.name}", skill.text)]
        seeds += [(2, f"frame-{skill.name}", skill.coded)]
        seeds += [(3, f"layer-{skill.name}", skill.layers[0][:2] + skill.layers[0][8:])]
    seeds += [(0, name, one_part(name, part)) for name, part in PARTS.items()]
    seeds += [(5, f"codec-{name}", codec_part(name, part)) for name, part in PARTS.items()]
    small = plan_header({"w": ("BF16", (2, 3))})
    seeds.append((3, "layer-small", small[:2] + small[8:] + bytes(12)))
    patch = (
        b'[{"op":"replace","path":"/a","value":2},{"op":"add","path":"/b/-","value":{}},{"op":"remove","path":"/d"}]'
    )
    seeds.append((4, "patch", b"1_Pooling/config.json\n" + patch + b'\n{"a":1,"b":[],"d":null}'))
    return seeds


PARTS = {
    "lowrank": {"columns": [0, 1], "outer": 0.5, "top": 0},
    "lowrank-dithered": {"columns": [1], "outer": 0.5, "top": 0, "dither": 7, "gains": 1},
    "direct": {"step": 0.5, "level": 0, "dither": 7},
    "direct-plain": {"step": 0.5, "level": 0},
    "factors": {"alpha": 1, "dtypes": ["BF16", "F32"], "rank": 2, "rooted": False, "turned": True},
    "sparse": {"step": 0.5},
    "tucker": {"axes": [0, 1, 2], "slices": [[1], [1], [1]], "tops": [0, 0, 0], "outer": 0.5, "level": 0},
    "lowrank+direct": {"strong": {"columns": [], "outer": 0.5, "top": 0}, "rest": {"step": 0.5, "level": 0}},
}
TABLES = {
    "lowrank.gain": [[0, 1], [32768, 32768]],
    "direct.rows": [[0], [65536]],
    "direct.columns": [[0], [65536]],
    "sparse.rows": [[0, 2], [32768, 32768]],
    **{f"sparse.{level}": [[0, 1, 60], [32768, 32767, 1]] for level in (1, 2)},
    **{f"lowrank.{level}": [[0, 1], [32768, 32768]] for level in range(4)},
    **{f"lowrank.{level}.{phase}": [[0, 1], [32768, 32768]] for level in (0, 1) for phase in range(8)},
    **{f"direct.{level}": [[0, 1], [32768, 32768]] for level in (0, 1)},
    **{f"direct.{level}.{phase}": [[0, 1], [32768, 32768]] for level in (0, 1) for phase in range(8)},
}


def one_part(name: str, parameters: dict) -> bytes:
    """A skill of one tensor by one codec, with chunks of nothing or little."""
    shape = [3, 3, 3] if name == "tucker" else [4, 6]
    chunks = [bytes(range(8)), bytes(range(8, 16)), bytes(range(16, 24))]
    if name == "factors":
        chunks = [zstandard.ZstdCompressor().compress(bytes(size)) for size in (2 * 4 * 2, 6 * 2 * 4)]
    entry = {
        "name": "w", "dtype": "F32", "shape": shape, "reference": "w", "digest": "0" * 64,
        "main": {"codec": name.partition("-")[0], "parameters": parameters, "sizes": list(map(len, chunks))},
    }  # fmt: skip
    document = {
        "format": 1, "coder": "constriction-ans-24", "base": DIGEST, "tuned": DIGEST, "names": {"strip": "", "add": ""},
        "gone": [], "tensors": [entry], "files": [], "tables": TABLES,
    }  # fmt: skip
    text = json.dumps(document, separators=(",", ":")).encode()
    return len(text).to_bytes(2, "little") + text + b"".join(chunks)


def codec_part(name: str, parameters: dict) -> bytes:
    """What `skill_streams.codec` reads: 3x4 or 3x3x3 numbers from two to four chunks of empty streams."""
    order = ["lowrank", "direct", "sparse", "tucker", "lowrank+direct", "exact", "raw", "factors"]
    text = json.dumps(parameters, separators=(",", ":")).encode()
    shape = [3, 3, 3] if name == "tucker" else [3, 4, 0]
    return bytes([order.index(name.partition("-")[0]), 3, *shape, 4]) + len(text).to_bytes(2, "little") + text


def store_documents(store: Path) -> list[tuple[int, str, bytes]]:
    repository = Repository.create(store.with_name("small"))
    skill = repository.put_skill(b"{}", "application/vnd.a+json", [([b"streams"], "application/vnd.b")])
    commit = repository.commit("main", lambda _: {"math": skill}, author="Ada", message="Add", tools={"a": "1"})
    repository.commit("main", lambda _: {"code": skill}, author="Ada", message="More", tools={})
    card = repository.attach(skill, "application/vnd.c", [(b"# Math", "text/markdown", "README.md")], {"by": "Ada"})
    read = repository.blobs.read
    index = build_index([skill.to_json(), card.to_json()])
    return [
        (0, "json", b'{"a":[1,2.5,-3e8,"\\u00e9",true,null],"b":{}}'),
        (1, "skill", read(skill.digest, limit=1 << 20)),
        (2, "commit", read(commit.digest, limit=1 << 20)),
        (2, "commit-second", read(repository.head().digest, limit=1 << 20)),
        (3, "attachment", read(card.digest, limit=1 << 20)),
        (4, "index", index),
        (5, "descriptor", json.dumps(card.to_json()).encode()),
        (6, "ref", json.dumps({"digest": commit.digest, "time": "2026-01-02T03:04:05Z"}).encode()),
        (6, "ref-deleted", b'{"digest":null,"time":"2026-01-02T03:04:05Z"}'),
        (6, "index-view", (repository.path / "index.json").read_bytes()),
        *((7, f"address-{at}", text) for at, text in enumerate(ADDRESSES)),
        (8, "tar", tar_seed()),
        (9, "archive", archive_seed()),
        (9, "archive-attached", archive_seed(attached=True)),
    ]  # fmt: skip


def tar_seed() -> bytes:
    from skillpack_store.tar import member_bytes, tar_end

    return b"".join([*member_bytes("a" * 120, 3, [b"abc"]), *member_bytes("oci-layout", 2, [b"{}"]), tar_end()])


def archive_seed(*, attached: bool = False) -> bytes:
    """Files as `store_documents.composed` reads them."""
    config = '{"mediaType":"application/vnd.a+json","digest":"sha256:@1","size":#1}'
    skill = (
        f'{{"schemaVersion":2,"mediaType":"{MANIFEST}","artifactType":"{SKILL_TYPE}","config":{config},"layers":[]}}'
    )
    entry = (
        f'{{"mediaType":"{MANIFEST}","digest":"sha256:@%d","size":#%d,"annotations":{{"org.skillpack.name":"math"}}}}'
    )
    files = [(3, b"{}"), (3, skill.encode())]
    entries = entry % (1, 1)
    if attached:
        empty = '{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:@2","size":2}'
        subject = f'{{"mediaType":"{MANIFEST}","digest":"sha256:@1","size":#1}}'
        card = (
            f'{{"schemaVersion":2,"mediaType":"{MANIFEST}","artifactType":"application/vnd.c","config":{empty},'
            f'"layers":[{empty}],"subject":{subject}}}'
        )
        listed = f'{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{entry % (1, 1)}]}}'
        files += [(3, card.encode()), (3, listed.encode())]
        tag = '"annotations":{"org.opencontainers.image.ref.name":"sha256-"}'
        entries = f'{entry % (3, 3)},{{"mediaType":"{INDEX}","digest":"sha256:@1","size":#1,{tag}}}'
    index = f'{{"schemaVersion":2,"mediaType":"{INDEX}","artifactType":"{COMMIT_TYPE}","manifests":[{entries}]}}'
    files += [(1, index.encode()), (0, b'{"imageLayoutVersion":"1.0.0"}')]
    return b"".join(bytes([kind]) + len(content).to_bytes(2, "little") + content for kind, content in files)


def model_folders() -> list[tuple[int, str, bytes]]:
    record = FileRecord(3, DIGEST, 5)
    receipt = Receipt(
        skills=(SkillRecord("math", "math@1", DIGEST, 0.5),),
        fingerprint=DIGEST,
        tensors={"w": DIGEST},
        weights={"model.safetensors": record},
        originals={"model.safetensors": record},
        written={"1_Pooling/config.json": record},
        folders=("1_Pooling",),
        tool="skillpack 0.1.0",
    )
    moves = (Move("model.safetensors", "base", "ours", True), Move("config.json", "ours", "none", False))
    journal = Journal("staging-0123", moves, ("1_Pooling",), receipt=True, previous=DIGEST)
    statistics = {"schema": 1, "tuned": "sha256:" + "0" * 64, "metric": "fisher", "sensitivity": {"w": 0.5}}
    return [
        (0, "receipt", receipt.dump()),
        (1, "journal", journal.dump()),
        (2, "statistics", json.dumps(statistics).encode()),
    ]


def signatures() -> list[tuple[int, str, bytes]]:
    """With a key that is always the same, and no secret."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public = PublicKey.from_der(bytes.fromhex("302a300506032b6570032100") + private.public_key().public_bytes_raw())
    keys = (TrustedKey("Ada", public, ("math-*", "code"), "2027-01-31"),)
    return [
        (0, "bundle", make_bundle(private, public, DIGEST, "math")),
        (1, "payload", statement(DIGEST, "math")),
        (2, "policy", Policy("require", keys).dump()),
        (3, "pem", public.pem().encode()),
        (3, "der", public.der),
    ]


if __name__ == "__main__":
    main()
