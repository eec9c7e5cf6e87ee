"""What vLLM checks before it takes an adapter, written down after its documentation; vLLM itself needs a GPU build.

https://docs.vllm.ai/en/latest/api/vllm/lora/peft_helper/, .../lora/utils/, .../lora/lora_model/, .../config/lora/
"""

from __future__ import annotations

import json

from safetensors.torch import load_file

RANKS = {1, 8, 16, 32, 64, 128, 256, 320, 512}


def accepted(folder, linear, *, max_lora_rank):
    """Raise unless the adapter may be loaded; returns module -> (A, B, scale) as vLLM would multiply them.

    Args:
        folder: of the adapter.
        linear: last parts of the names of the modules that the model adapts.
        max_lora_rank: as vLLM was started with.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    assert {"r", "lora_alpha", "target_modules"} <= config.keys()
    assert not config.get("modules_to_save")
    assert not config.get("use_dora")
    assert config.get("bias", "none") == "none"
    assert max_lora_rank in RANKS
    assert config["r"] <= max_lora_rank
    modules = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        assert key.startswith("base_model.model.")
        parts = key.split(".")[2:]
        if parts[-1] in {"lora_embedding_A", "lora_embedding_B"}:
            module, side = parts[:-1], parts[-1][-1]
        else:
            assert parts[-1] == "weight"
            assert parts[-2] in {"lora_A", "lora_B"}
            module, side = parts[:-2], parts[-2][-1]
        assert module[-1] in linear
        modules.setdefault(".".join(module), {})[side] = tensor
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    for sides in modules.values():
        # Its buffers take any rank up to the largest, but the scale is that of the configuration's one rank.
        assert sides["A"].shape[0] == sides["B"].shape[1] == config["r"]
    return {name: (sides["A"], sides["B"], scale) for name, sides in modules.items()}
