"""What every process does first: it keeps libraries off the network, forbids core dumps, and gives the engine process
no more of the environment than it needs.  Not in the packet's path.

This is the only place that decides it.  Each program calls `begin` before it imports anything that could read these
variables; its children inherit them.  It does not know settings, engines or sockets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, MutableMapping

# Variable -> value; the comment names the library that would otherwise use the network.
AT_HOME: dict[str, tuple[str, str]] = {
    "ORT_DISABLE_TELEMETRY": ("1", "onnxruntime: an id of the machine and figures of each model, to its maker"),
    "HF_HUB_DISABLE_TELEMETRY": ("1", "huggingface_hub, transformers: which model is loaded by which library"),
    "DISABLE_TELEMETRY": ("1", "the same under the name that older versions read"),
    "HF_HUB_DISABLE_UPDATE_CHECK": ("1", "huggingface_hub: a look for a newer version of itself"),
    "DO_NOT_TRACK": ("1", "huggingface_hub and others that keep to this convention"),
    "RAY_USAGE_STATS_ENABLED": ("0", "Ray: figures of the cluster, to its maker"),
    "VLLM_NO_USAGE_STATS": ("1", "vLLM: the machine and the model, to its maker"),
    "OTEL_SDK_DISABLED": ("true", "OpenTelemetry in any library: spans and figures, to a collector"),
}
# The same, unless the environment itself says otherwise: `HF_HUB_OFFLINE=0` asks for models to be fetched.
OFFLINE: dict[str, tuple[str, str]] = {
    "HF_HUB_OFFLINE": ("1", "huggingface_hub, transformers, faster-whisper: a look for newer weights at each load"),
}
# For the engine process alone, unless the environment says otherwise.
ENGINE_DEFAULTS: dict[str, tuple[str, str]] = {
    "GGML_NO_BACKTRACE": ("1", "llama.cpp: after a fault a debugger would write what lay in memory into the journal"),
    "OPENBLAS_NUM_THREADS": ("1", "decodes run on threads of their own, and idle BLAS threads spin"),
    "MALLOC_TRIM_THRESHOLD_": (
        "131072",
        "freed audio goes back to the system: glibc would keep 2 KiB of every session",
    ),
}

# What an engine and its libraries may read.  Nothing else reaches them: an environment may hold passwords of others.
ENGINE_NAMES = frozenset(
    {
        *("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "TEMP", "TERM", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"),
        *("GLIBC_TUNABLES", "LD_LIBRARY_PATH", "LD_PRELOAD"),  # where CUDA and an allocator may be chosen
        *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),  # certificates for chat servers
        *("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "all_proxy", "https_proxy", "http_proxy", "no_proxy"),
        *("NO_COLOR", "VOXD_EAGER"),
    }
)
ENGINE_PREFIXES = (
    *("LC_", "XDG_", "PYTHON"),
    *("CUBLAS", "CUDA_", "CUDNN_", "NCCL_", "NVIDIA_", "NVTE_"),  # the driver and its libraries
    *("HIP_", "HSA_", "ROCM_", "ROCR_"),  # the same of AMD
    *("GOMP_", "KMP_", "MALLOC_", "MKL_", "NUMBA_", "OMP_", "OPENBLAS_"),  # threads and memory
    *("CT2_", "HF_", "HUGGINGFACE_", "INDUCTOR_", "ORT_", "PYTORCH_", "TORCH", "TRANSFORMERS_", "TRITON_"),
)
SECRET_NAMES = frozenset({"HF_TOKEN", "HUGGINGFACE_TOKEN"})  # fit a prefix, and are for `voxd pull`


def begin(environ: MutableMapping[str, str], *, fetches: bool = False) -> None:
    """Prepares a process of voxd or voxtui; call it first.  `fetches`: this command downloads from the model hub."""
    environ.update({name: value for name, (value, _) in AT_HOME.items()})
    if not fetches:
        for name, (value, _) in OFFLINE.items():
            environ.setdefault(name, value)
    no_core_dumps()


def no_core_dumps() -> None:
    """Forbids core dumps, which would hold speech and keys.  Children inherit it; systems without limits ignore it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def engine_environment(environ: Mapping[str, str], named: Iterable[str] = ()) -> dict[str, str]:
    """The part of `environ` that the engine process may see.  `named`: variables that the settings name."""
    names = frozenset(named)
    kept = {name: value for name, value in environ.items() if name in names or _is_known(name)}
    for name, (value, _) in (OFFLINE | ENGINE_DEFAULTS).items():
        kept.setdefault(name, value)
    return kept | {name: value for name, (value, _) in AT_HOME.items()}


def names_of_keys(engine_options: Mapping[str, object]) -> tuple[str, ...]:
    """The variables that options of engines name as `key_env`."""
    options = (each for each in engine_options.values() if isinstance(each, Mapping))
    return tuple(name for each in options if isinstance(name := each.get("key_env"), str))


def _is_known(name: str) -> bool:
    return name in ENGINE_NAMES or (name.startswith(ENGINE_PREFIXES) and name not in SECRET_NAMES)
