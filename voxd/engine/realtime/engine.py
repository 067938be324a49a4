"""Voxtral Realtime: live text of hundreds of streams on one GPU.  Step 8.

Every stream that has an 80 ms frame ready goes into the next batch, those that have waited longest first, up to the
largest batch; then again.  There is no fixed tick: the batch settles at the size that the device keeps up with.  While
the device computes a batch, the token ids of the one before are read and published (`graphs`).

Admission: a stream is promised one slot of the device's memory, which holds `max_history_s` of speech; it is refused if
there is no slot, or if the device is behind.  What a stream does with its slot is in `streams`; this module knows
options, streams and batches, not tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from shared.audio import RATE, Ring, to_samples
from voxd.engine.contract import LONGEST, Capabilities, Demand, Engine, EngineCommand, Refuse
from voxd.engine.gpu.batch import Flight, Row
from voxd.engine.gpu.weights import NEEDS, weights_absent
from voxd.engine.realtime.admission import Load
from voxd.engine.realtime.interface import DELAY_MS, RealtimeDevice, RealtimeOptions
from voxd.engine.realtime.runs import FRAME, Form, Run
from voxd.engine.realtime.streams import Stream
from voxd.messages import Cancel, Close, Commit, Feed, Flush, Heard, Onset, Open, Output, Rollback

LoadDevice = Callable[[RealtimeOptions, Callable[[str], None]], RealtimeDevice]


class VoxtralRealtime(Engine):
    capabilities: ClassVar[Capabilities] = Capabilities(
        roles=("transcribe",),
        summary="Voxtral Realtime: live text in 13 languages, hundreds of streams on one GPU",
        needs=NEEDS,
        extra="voxtral",
        guided_by=(),
        live=True,
    )

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None], load: LoadDevice | None = None) -> None:
        super().__init__(options, wake)
        self._options, self._load_device = RealtimeOptions.parse(options), load or self._load_checkpoint
        self._granted: int | None = None
        self._device: RealtimeDevice | None = None
        self._streams: dict[int, Stream] = {}
        self._writes: set[int] = set()  # streams that this engine transcribes
        self._flight: tuple[Flight, list[tuple[Stream, Run]]] | None = None
        self._load = Load()
        self._now_us = 0
        self._waiting = False

    @classmethod
    def absent(cls, options: Mapping[str, object]) -> str | None:
        return weights_absent(RealtimeOptions.parse(options).model, os.environ)

    def demand(self) -> Demand | None:
        from voxd.engine.realtime.build import demand

        return demand(self._options)

    def grant(self, units: int) -> None:
        self._granted = units

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        self._device = self._load_device(self._options, progress)
        return self._device.notes

    def _load_checkpoint(self, options: RealtimeOptions, progress: Callable[[str], None]) -> RealtimeDevice:
        from voxd.engine.realtime.build import load

        eager = os.environ.get("VOXD_EAGER", "") not in ("", "0")
        return load(options, progress, eager=eager, streams=self._granted)

    @property
    def delay_ms(self) -> int | None:
        return self._loaded.form.delay * DELAY_MS.step

    def stop(self) -> None:
        self._streams.clear()
        self._device = self._flight = None

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Open):
            return self._open(command)
        stream = self._streams.get(command.stream)
        if stream is None:
            return None
        match command:
            case Feed():
                stream.feed(command)
            case Heard():
                stream.hear(command)
            case Onset() if command.stream in self._writes:
                stream.onset(command)
            case Flush() | Commit():
                stream.end(command)
            case Rollback():
                stream.rollback(command.ref)
            case Cancel():
                stream.cancel(command.ref)
            case Close():
                stream.close()
                del self._streams[command.stream]
        return None

    def _open(self, command: Open) -> None:
        form, number = self._form(command.delay_ms), command.stream
        if number not in self._streams:
            self._admit()
            history = self._options.max_history_s * RATE
            ring = Ring(LONGEST, command.start)
            self._streams[number] = Stream(number, self._loaded.pieces, form, history, self._drop, ring)
        self._streams[number].form = form
        (self._writes.add if "transcribe" in command.roles else self._writes.discard)(number)

    def _form(self, delay_ms: int | None) -> Form:
        delay_ms = self._options.delay_ms if delay_ms is None else delay_ms
        form = self._loaded.form
        if delay_ms is None:
            return form
        if delay_ms not in DELAY_MS:
            raise Refuse(f"a delay of {delay_ms} ms is not possible: choose a multiple of 80 from 80 to 2400", 0)
        return Form(form.bos, form.pad, form.left, form.tail, to_samples(delay_ms) // FRAME)

    def _admit(self) -> None:
        slots = self._loaded.slots.count
        if len(self._streams) >= slots:
            raise Refuse(f"all {slots} slots are taken: more do not fit into the device's memory")
        if self._load.behind(self._now_us):
            raise Refuse(f"the device is behind with the {len(self._streams)} sessions that it has", retry_after_s=10)

    def _drop(self, run: Run) -> None:
        """Frees the slot of a run that is not needed any more, for a run that waits for one."""
        self._waiting = True
        if run.slot is not None:
            self._loaded.slots.give(run.slot)
            run.slot = None

    # ── the device ──────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, now_us: int) -> Iterable[Output]:
        """Gives the device its next batch, then reads the token ids of the one before."""
        self._now_us = now_us
        flight = self._submit(now_us)
        if self._flight is not None:
            self._read(*self._flight)
        self._flight = flight
        return [output for stream in self._streams.values() for output in stream.outputs()]

    @property
    def deadline_us(self) -> int | None:
        """At once, as long as there is something to compute or to read."""
        return self._now_us if self._waiting or self._flight is not None else None

    def _submit(self, now_us: int) -> tuple[Flight, list[tuple[Stream, Run]]] | None:
        batch = self._batch(now_us)
        if not batch:
            return None
        rows = []
        for stream, run in batch:
            if run.slot is None:
                run.slot = self._loaded.slots.take()
                self._loaded.join(run.slot, run.form.delay)
            rows.append(Row((run.slot, run.n, run.token, run.form.delay), stream.samples(run)))
            self._load.note(now_us, now_us - (run.since_us or now_us))
            run.since_us = None
            run.take()
        return self._loaded.runner.submit(rows), batch

    def _batch(self, now_us: int) -> list[tuple[Stream, Run]]:
        """The runs of the next batch, those that have waited longest first.

        A run without a slot goes only if one is free.  There are as many slots as streams, so a slot that is missing is
        still held by an utterance that is about to end."""
        speculate = not self._load.behind(now_us)
        ready = [(stream, run) for stream in self._streams.values() for run in stream.ready(speculate=speculate)]
        for _, run in ready:
            run.since_us = now_us if run.since_us is None else run.since_us
        ready.sort(key=lambda each: each[1].since_us or 0)
        free = self._loaded.slots.free
        batch: list[tuple[Stream, Run]] = []
        for stream, run in ready:
            if len(batch) == self._loaded.runner.largest:
                break
            if run.slot is not None or free > 0:
                free -= run.slot is None
                batch.append((stream, run))
        self._waiting = len(batch) < len(ready)
        return batch

    def _read(self, flight: Flight, batch: list[tuple[Stream, Run]]) -> None:
        token_ids = flight.token_ids()
        share_us = flight.took_us // len(batch)
        for (stream, run), token in zip(batch, token_ids, strict=True):
            stream.take(run, token, share_us)

    @property
    def _loaded(self) -> RealtimeDevice:
        assert self._device is not None, "load() comes first"
        return self._device
