"""The options of the engine `llama`, checked.  Not in the packet's path.

Pure.  It knows the settings file; not llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct, structs

from voxd.engine.options import read

BUILT_IN = "smollm2-135m"  # the model that a package carries
TOY_PENALTY = 1.1
ModelFile = Annotated[
    str, Meta(min_length=1, description="a GGUF file, or REPO:FILE that `voxd pull` has fetched from the hub")
]


class LlamaOptions(Struct, frozen=True):
    """`engine_options.llama` of the settings file."""

    model: ModelFile = BUILT_IN
    max_context: Annotated[int, Meta(ge=512, le=1_048_576)] = 4096  # tokens of a conversation; then the oldest turns go
    slots: Annotated[int, Meta(ge=1, le=64)] = 2  # conversations kept ready, and answers given at the same time
    max_streams: Annotated[int, Meta(ge=1, le=1024)] = 16
    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] = 512  # of an answer, where the session does not say
    temperature: Annotated[float, Meta(ge=0, le=2, description="a number from 0 to 2")] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1, description="a number above 0 and at most 1")] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1000)] = 40  # 0: all
    min_p: Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")] = 0.05
    # None: 1, which changes nothing; for the built-in toy more, or it would repeat itself for ever.
    repeat_penalty: Annotated[float, Meta(ge=1, le=2, description="a number from 1 to 2")] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    ahead: bool = True  # an answer is begun when a turn has probably ended; off: only once it has
    think: bool = False  # models that can may think before they answer; what they think is never said
    threads: Annotated[int, Meta(ge=0, le=256)] = 0  # 0: half of the cores; the rest is the transcriber's
    gpu_layers: Annotated[int, Meta(ge=-1, le=1000)] = -1  # on a GPU, if this build of llama.cpp uses one; -1: all

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> LlamaOptions:
        """Raises Unusable; its text names the option."""
        return read("llama", cls, given)

    def resolved(self, cores: int) -> LlamaOptions:
        """The same with 0 threads replaced by what suits `cores`."""
        return structs.replace(self, threads=self.threads or max(1, cores // 2))

    @property
    def request(self) -> dict[str, object]:
        """What each request says of the choice of tokens."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repeat_penalty": self.repeat_penalty or (TOY_PENALTY if self.model == BUILT_IN else 1.0),
            "seed": self.seed,
            "chat_template_kwargs": {"enable_thinking": self.think},
        }
