"""An engine that says how loud an utterance was: small, and complete.

It shows the three things that every engine needs to get right: audio comes in pieces before, during and after an
utterance; text that was said stays said; and after `Close` a stream is never spoken of again.
"""

from collections.abc import Callable, Mapping, Sequence

from shared.audio import pcm16_to_float
from voxd.engine.contract import Capabilities, Engine, EngineCommand
from voxd.messages import Cancel, Close, Commit, Feed, Onset, Output, Said, Settled

KEEP = 16_000 * 10  # samples that are kept of each stream: an utterance may begin a little before it is noticed


class Shout(Engine):
    capabilities = Capabilities(roles=("transcribe",), summary="says how loud you were")

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None]) -> None:
        """`options`: `engine_options.shout` of config.yaml.  `wake`: a thread of yours that has news calls it."""
        super().__init__(options, wake)
        self._sound: dict[int, tuple[int, bytes]] = {}  # stream -> first sample, 16 kHz s16le
        self._open: dict[tuple[int, int], Onset] = {}
        self._out: list[Output] = []

    def load(self, progress: Callable[[str], None]) -> Sequence[str]:
        """Weights and warm-up would be here; what is returned are lines for the user."""
        progress("taking a deep breath")
        return ("shout: tells how loud you are, and no word",)

    def receive(self, command: EngineCommand) -> None:
        """Notes what is asked for.  Many commands may come before the next `step`; it never blocks."""
        match command:
            case Feed(stream, start, pcm):
                first, kept = self._sound.get(stream, (start, b""))
                kept += pcm
                over = max(0, len(kept) // 2 - KEEP)
                self._sound[stream] = first + over, kept[2 * over :]
            case Onset(stream, ref):
                self._open[stream, ref] = command
            case Commit(stream, ref, end) if onset := self._open.pop((stream, ref), None):
                text = onset.said or self._describe(stream, onset.start, end)  # `said`: told before an engine was lost
                if not onset.said:
                    self._out.append(Said(stream, ref, text))
                self._out.append(Settled(stream, ref, "completed", text))
            case Cancel(stream, ref):
                self._open.pop((stream, ref), None)
            case Close(stream):
                self._sound.pop(stream, None)
                self._open = {key: onset for key, onset in self._open.items() if key[0] != stream}
                self._out = [output for output in self._out if output.stream != stream]

    def step(self, now_us: int) -> Sequence[Output]:
        """The outputs since the last step, in order."""
        out, self._out = self._out, []
        return out

    def _describe(self, stream: int, start: int, end: int) -> str:
        first, kept = self._sound.get(stream, (0, b""))
        samples = pcm16_to_float(kept[max(0, 2 * (start - first)) : max(0, 2 * (end - first))])
        peak = float(abs(samples).max()) if samples.size else 0.0
        return f"{'HEY' if peak > 0.25 else 'hey'}: {round(100 * peak)} percent."
