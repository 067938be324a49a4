"""Reads checkpoints of Voxtral through transformers, and chooses the device.  Step 8.

It knows folders, the hub's cache and what may be wrong with them; not the layers of a model.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from voxd.engine.contract import Unusable
from voxd.engine.gpu.ops import Ops, Torch


def read(
    source: str, kind: str, name: str, device: str, dtype: torch.dtype, progress: Callable[[str], None]
) -> tuple[Any, Any]:
    """Model and processor of transformers, from a folder, or from the cache of the hub where `voxd pull` puts it;
    nothing is downloaded here.  `kind`: the model type that it must have, `name`: what people call it.
    Raises Unusable."""
    import transformers
    from safetensors import SafetensorError
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()
    logging.getLogger("mistral_common").setLevel(logging.WARNING)
    where: dict[str, Any] = {"local_files_only": True}
    classes = {
        "voxtral": "VoxtralForConditionalGeneration",
        "voxtral_realtime": "VoxtralRealtimeForConditionalGeneration",
    }
    try:
        config = transformers.AutoConfig.from_pretrained(source, **where)
        if config.model_type != kind:
            raise Unusable(f"{source} is not a {name} model but {config.model_type!r}")
        progress(f"reading {Path(source).name}")
        processor = transformers.AutoProcessor.from_pretrained(source, **where)
        loader = getattr(transformers, classes[kind])
        model = loader.from_pretrained(source, dtype=dtype, use_safetensors=True, **where)
    except (OSError, ValueError, SafetensorError) as error:
        raise Unusable(_why_not(source, error)) from error
    return model.eval().requires_grad_(False).to(device), processor


def config_of(source: str, kind: str) -> Any | None:
    """transformers' config of a model of this kind.  None: there is none here; loading it says why."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        return None
    return config if config.model_type == kind else None


def pieces(tekken: Any, vocabulary: int) -> tuple[bytes, ...]:
    """The bytes of each token; empty for rows of the model's vocabulary without a token."""
    known = tuple(tekken.id_to_byte_piece(each) for each in range(tekken.n_words))
    return known + (b"",) * (vocabulary - len(known))


def where(wanted: str) -> tuple[str, torch.dtype]:
    """The device, and the number format that suits it.  Raises Unusable."""
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise Unusable("there is no CUDA device that PyTorch can use; set the option `device` to cpu")
    return ("cuda", torch.bfloat16) if there and wanted != "cpu" else ("cpu", torch.float32)


def ops_of(device: torch.device) -> tuple[Ops, str]:
    """The kernels for this device, and their name for the user."""
    if device.type != "cuda":
        return Torch(), ""
    from voxd.engine.gpu.triton_ops import Triton  # comes with every PyTorch for CUDA

    return Triton(), ", Triton kernels"


def free_memory(device: torch.device) -> int:
    """Bytes that sequences may take: the free memory without what captures and libraries need."""
    if device.type == "cuda":
        return max(0, torch.cuda.mem_get_info(device)[0] - (4 << 30))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _why_not(source: str, error: Exception) -> str:
    if isinstance(error, OSError) and not Path(source).is_dir():
        return f"there is no model {source!r} on this machine; get it with: voxd pull {source}"
    what = f"the model {source!r} cannot be read ({str(error).splitlines()[0]})"
    return f"{what}; it may be incomplete; fetch it again with: voxd pull"
