"""The JSON that clients send: OpenAI's parameters, as far as they mean something here.

What would change the answer and cannot be done is refused. What only concerns OpenAI's own service is accepted and has
no effect: `IGNORED`.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from skillpack.serving.sampling import Sampling

IGNORED: Final = (
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)
UNSUPPORTED: Final = frozenset(
    {
        "audio",
        "best_of",
        "echo",
        "function_call",
        "functions",
        "modalities",
        "prediction",
        "reasoning_effort",
        "response_format",
        "suffix",
        "tool_choice",
        "tools",
        "verbosity",
        "web_search_options",
    }
)
"""Parameters of OpenAI's that are refused, but for values that ask for nothing."""

_MOST_CHOICES: Final = 16
_MOST_STOPS: Final = 4
_LARGEST_SEED: Final = (1 << 63) - 1
_BIAS: Final = 100.0

Text = Annotated[str, Field(max_length=1 << 20)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class Body(BaseModel):
    """What all bodies have in common: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class StreamOptions(Body):
    """What a stream tells besides the text."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Generation(Body):
    """Parameters that chats and completions share."""

    model: str = Field(min_length=1, max_length=2000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = Field(None, max_length=1000)
    seed: int | None = Field(None, ge=-_LARGEST_SEED, le=_LARGEST_SEED)
    n: int | None = Field(None, ge=1, le=_MOST_CHOICES)
    stop: Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)] | None = None
    ignore_eos: bool | None = None
    metadata: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None

    @model_validator(mode="after")
    def _check(self) -> Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for streams: set stream to true")
        for token, bias in (self.logit_bias or {}).items():
            if not (token.isascii() and token.isdigit()) or not -_BIAS <= bias <= _BIAS:
                raise ValueError("logit_bias has numbers of tokens as keys and values from -100 to 100")
        return self

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def with_usage(self) -> bool:
        """A stream ends with what it cost."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, logprobs: int | None) -> Sampling:
        """How tokens are chosen."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            logprobs=logprobs,
        )

    def seed_or_random(self) -> int:
        """The seed of this request."""
        return secrets.randbits(62) if self.seed is None else self.seed


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(Body):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it; instructions of developers are those of the system."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ResponseFormat(Body):
    """The form of the answer; only text can be had."""

    type: Literal["text"]


class ChatRequest(Generation):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None

    @model_validator(mode="after")
    def _check_chat(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @property
    def most(self) -> int | None:
        """Tokens of an answer at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def likely(self) -> int | None:
        """How many likely tokens are reported; None for no report."""
        return (self.top_logprobs or 0) if self.logprobs else None


Token = Annotated[int, Field(ge=0)]


class CompletionRequest(Generation):
    """Body of /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=64)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1, max_length=64)]
    )
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Texts, or tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


class LoadRequest(Body):
    """Body of /v1/load_lora_adapter, as vLLM has it; the path is the address of a skill in the library."""

    lora_name: str = Field(min_length=1, max_length=200)
    lora_path: str | None = Field(None, min_length=1, max_length=400)
    load_inplace: bool = False


class UnloadRequest(Body):
    """Body of /v1/unload_lora_adapter."""

    lora_name: str = Field(min_length=1, max_length=200)
    lora_int_id: int | None = None
