"""Tiny random models with a tiny tokenizer, saved as transformers saves them."""

from __future__ import annotations

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]
VOCABULARY = 256 + len(SPECIAL)
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
    "initializer_range": 0.3,
}


def tokenizer(chat_template=CHATML, **settings):
    """Each byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    named = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "pad_token": SPECIAL[1], **settings}
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    found.chat_template = chat_template
    return found


def save(folder, model, dtype=torch.bfloat16, tokens=True):
    model.to(dtype).save_pretrained(folder)
    if tokens:
        tokenizer().save_pretrained(folder)
    return folder


def llama(folder, seed=0, dtype=torch.bfloat16, **settings):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{**SIZES, "tie_word_embeddings": True, **settings})
    return save(folder, transformers.LlamaForCausalLM(config), dtype)


def mixtral(folder, dtype=torch.bfloat16):
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)
    return save(folder, transformers.MixtralForCausalLM(config), dtype)


def bert(folder, model_class="BertForSequenceClassification", seed=0, dtype=torch.float32, **settings):
    torch.manual_seed(seed)
    sizes = {name: SIZES[name] for name in SIZES if "key_value" not in name}
    config = transformers.BertConfig(**{**sizes, "num_labels": 3, **settings})
    return save(folder, getattr(transformers, model_class)(config), dtype)


def moved(source, target, scale=0.02, *, seed=1, names="", dtype=None):
    """A copy of a model whose weights are changed at random, relative to their size; those with `names` in theirs."""
    model = getattr(transformers, transformers.AutoConfig.from_pretrained(source).architectures[0])
    model = model.from_pretrained(source, dtype=dtype or "auto")
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if names in name:
                weight.add_(scale * weight.float().square().mean().sqrt() * torch.randn(weight.shape))
    return save(target, model, next(model.parameters()).dtype)


def trained(source, target, texts, steps=40, rate=3e-3):
    """A copy of a language model that has learned texts."""
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    encoded = tokenizer()(texts, return_tensors="pt", padding=True)
    labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        model(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return save(target, model)
