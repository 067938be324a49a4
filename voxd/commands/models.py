"""The commands engines, pull, verify, bench-engine.  Not in the path.

They import nothing heavy before they run.  They know options and exit statuses; not what an engine computes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from shared.extras import lack
from shared.program import FAILED, Failure, OutputFile, written
from shared.terminal import say

EXTRA = ("torch", "transformers", "mistral_common", "huggingface_hub")
device_option = click.option(
    "--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True, help="Where it runs."
)


def _say(text: str) -> None:
    say(text, err=True)


def _die(message: str) -> NoReturn:
    raise Failure(message, FAILED)


def _needs_extra(needs: tuple[str, ...] = EXTRA, extra: str = "voxtral") -> str:
    """Ends the command with one sentence if a package is missing; returns the model that is meant if none is named."""
    from voxd.engine.realtime.interface import MODEL

    if missing := lack(needs, extra):
        _die(f"this {missing}")
    return MODEL


def _needs_weights(model: str) -> None:
    """Ends the command if the weights are missing, before torch is imported, which takes seconds."""
    from voxd.engine.gpu.weights import weights_absent

    if weights_absent(model, os.environ):
        _die(f"there is no model '{model}' on this machine; get it with: voxd pull {model}")


def _needs_gpu(advice: str) -> None:
    from voxd.engine.realtime.presence import GPU

    if not any(path.exists() for path in GPU):
        _die(f"there is no NVIDIA GPU here; {advice}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def engines(as_json: bool) -> None:
    """List installed engines, what they can do and what is missing for each."""
    from voxd.engine.registry import listing

    found = listing()
    if as_json:
        rows = [
            {
                "name": each.name,
                "package": each.package,
                "roles": list(each.capabilities.roles) if each.capabilities else [],
                "live": bool(each.capabilities and each.capabilities.live),
                "problem": each.problem,
            }
            for each in found
        ]
        say(json.dumps(rows, indent=1))
        return
    for each in found:
        say(f"{each.name}  ({each.package})  {'ready to use' if each.problem is None else each.problem}")
        if each.capabilities:
            live = " · text while you speak" if each.capabilities.live else ""
            say(f"    {' + '.join(each.capabilities.roles)}{live}")
            say(f"    {each.capabilities.summary}")


@click.command()
@click.argument("model", required=False)
@click.option("--revision", help="Branch, tag or commit (else the newest).")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take the files from this folder: for machines without internet.",
)
def pull(model: str | None, revision: str | None, source: Path | None) -> None:
    """Fetch MODEL (else the released Voxtral Realtime), so that voxd finds it when it starts.

    MODEL: a repository of the hub, or REPO:FILE for a GGUF file that the engine `llama` is to answer with."""
    from voxd.commands.pull import CannotPull, pull as fetch, size_text, take
    from voxd.engine.llama.weights import OPTION, repository

    gguf = model is not None and repository(model) is not None
    released = _needs_extra(("huggingface_hub",), "llama") if gguf else _needs_extra()
    model = model or released
    if gguf and source is not None:
        _die(f"a GGUF file needs no copy: set {OPTION} to its path")
    try:
        found = fetch(model, revision, _say) if source is None else take(model, source, _say)
    except CannotPull as reason:
        _die(str(reason))
    say(f"{model} is here, revision {found.revision[:12]} ({size_text(found.size)} new): {found.folder}")
    say(f"next: set {OPTION} to {model}" if gguf else f"next: voxd verify {model}")


@click.command()
@click.argument("model", required=False)
@click.option(
    "--audio",
    "audio",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A sound file, at most a minute of it; may be given often (else synthetic sound).",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the synthetic sound.")
@device_option
def verify(model: str | None, audio: tuple[Path, ...], seed: int, device: str) -> None:
    """Compare the engine with transformers' own generate(), token by token."""
    released = _needs_extra()
    model = model or released
    _needs_weights(model)
    if device == "cuda":
        _needs_gpu("--device cpu compares on the processor")
    from shared.audio_file import Unreadable
    from voxd.engine.contract import Unusable
    from voxd.engine.gpu.checkpoints import config_of, where
    from voxd.engine.mini.model import MiniCheckpoint
    from voxd.engine.realtime.model import RealtimeCheckpoint
    from voxd.lab import verify_mini as mini, verify_realtime as realtime

    try:
        clips = [realtime.SpeechClip.read(path) for path in audio] or realtime.SpeechClip.two(seed)
        if config_of(model, "voxtral") is None:
            found = realtime.verify(RealtimeCheckpoint.load(model, *where(device), _say), clips, _say)
        else:
            found = mini.verify(MiniCheckpoint.load(model, *where(device), _say), clips, _say)
    except (Unusable, Unreadable) as reason:
        _die(str(reason))
    for agreement in found:
        say(str(agreement))
    sys.exit(0 if all(agreement.holds for agreement in found) else 1)


@click.command("bench-engine")
@click.argument("model", required=False)
@click.option("--random-weights", is_flag=True, help="The released model's sizes without its weights.")
@click.option(
    "--engine",
    type=click.Choice(["voxtral-realtime", "voxtral-mini"]),
    default="voxtral-realtime",
    show_default=True,
    help="Which engine, with --random-weights; else MODEL decides.",
)
@click.option("--compare", type=click.Choice(["transformers"]), help="Measure transformers, too.")
@click.option("--quick", is_flag=True, help="Few sizes, a few seconds.")
@click.option("--json", "path", type=OutputFile(), help="Write all figures here.")
@device_option
def bench_engine(
    model: str | None,
    random_weights: bool,
    engine: str,
    compare: str | None,
    quick: bool,
    path: Path | None,
    device: str,
) -> None:
    """Measure the engine on this machine, each figure beside the least that the machine allows."""
    released = _needs_extra()
    if not random_weights:
        _needs_weights(model or released)
    if device != "cpu":
        _needs_gpu("--device cpu measures the processor, which takes many minutes for a model of this size")
    from voxd.engine.contract import Unusable
    from voxd.engine.gpu.checkpoints import config_of

    mini = engine == "voxtral-mini" if random_weights else config_of(model or released, "voxtral") is not None
    measure = _bench_mini if mini else _bench_realtime
    try:
        found = measure(None if random_weights else model or released, device, compare=compare is not None, quick=quick)
    except Unusable as reason:
        _die(str(reason))
    text = json.dumps(found, indent=1) + "\n"
    if path is None:
        say(text, nl=False)
    else:
        written(path, text)
        say(f"written: {path}")


def _bench_realtime(model: str | None, device: str, *, compare: bool, quick: bool) -> dict[str, Any]:
    """All figures of Voxtral Realtime.  `model` None: random weights.  Raises Unusable."""
    from voxd.engine.gpu.checkpoints import where
    from voxd.engine.realtime.interface import RealtimeOptions
    from voxd.engine.realtime.model import RealtimeCheckpoint
    from voxd.lab.bench_realtime import bench, random_checkpoint

    at, began = where(device), time.monotonic()
    checkpoint = random_checkpoint(*at) if model is None else RealtimeCheckpoint.load(model, *at, _say)
    load_s = round(time.monotonic() - began, 1)
    return {"load_s": load_s} | bench(checkpoint, RealtimeOptions(), _say, compare=compare, quick=quick)


def _bench_mini(model: str | None, device: str, *, compare: bool, quick: bool) -> dict[str, Any]:
    """All figures of Voxtral Mini, with Voxtral Realtime beside it if its weights are here."""
    from voxd.engine.gpu.checkpoints import config_of, where
    from voxd.engine.mini import model as mini_model
    from voxd.engine.mini.interface import MiniOptions
    from voxd.engine.realtime import model as realtime_model
    from voxd.engine.realtime.interface import MODEL
    from voxd.lab import bench_mini, bench_realtime as bench_engine

    at, began, live = where(device), time.monotonic(), None
    if model is None:
        checkpoint, live = bench_mini.random_checkpoint(*at), bench_engine.random_checkpoint(*at)
    else:
        checkpoint = mini_model.MiniCheckpoint.load(model, *at, _say)
        if config_of(MODEL, "voxtral_realtime") is not None:
            live = realtime_model.RealtimeCheckpoint.load(MODEL, *at, _say)
        else:
            _say(f"measured alone: {MODEL} is not on this machine")
    load_s = round(time.monotonic() - began, 1)
    return {"load_s": load_s} | bench_mini.bench(checkpoint, live, MiniOptions(), _say, compare=compare, quick=quick)


COMMANDS = (engines, pull, verify, bench_engine)
