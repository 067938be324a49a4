"""The promises of the wire and of the engine contract, held against what really left: independent of how it is made.

`WireChecker` reads server events as dicts, from a session core or from a socket; `EngineChecker` reads the commands of
one stream.  Both raise AssertionError at the first broken promise and know nothing of `voxd.session`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shared.audio import RATE
from voxd import messages as m

Json = dict[str, Any]
LOOK_BACK = 5 * RATE  # samples that an engine keeps for the next onset
AUDIO = "conversation.item.input_audio_transcription."
OWN_FIELDS = {"type", "message", "code", "param", "event_id"}


@dataclass(slots=True)
class Reply:
    """One response as a client has seen it so far."""

    kept: bool  # part of the conversation
    item_id: str | None = None
    text: str = ""
    done: bool = False


@dataclass(slots=True)
class Speech:
    """One item of user audio."""

    started: bool = False
    stopped: bool = False
    committed: bool = False
    text: str = ""
    final: str | None = None  # "completed" or "failed"


class WireChecker:
    """Order, pairing and texts of everything that one client is sent."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.speeches: dict[str, Speech] = {}
        self.items: set[str] = set()  # announced, ever
        self._present: set[str] = set()  # announced and not deleted
        self._event_ids: set[str] = set()
        self._next: deque[tuple[str, str]] = deque()  # (type, id): what must follow at once
        self._open: str | None = None  # the item between speech_started and its end

    def receive(self, event: Json) -> None:
        kind = event["type"]
        assert event["event_id"] not in self._event_ids, f"event id {event['event_id']} came twice"
        assert (kind == "session.created") is (not self._event_ids), "session.created comes first and once"
        self._event_ids.add(event["event_id"])
        if kind.startswith("voxd."):
            return
        if self._next:
            assert (kind, _id(event)) == self._next.popleft(), f"{kind} came in between"
        if "previous_item_id" in event:
            assert event["previous_item_id"] is None or event["previous_item_id"] in self.items, (
                "an unknown predecessor"
            )
        if kind.startswith("response."):
            self._response(kind, event)
        elif kind.startswith(AUDIO):
            self._transcription(kind.removeprefix(AUDIO), event)
        elif kind.startswith("input_audio_buffer."):
            self._buffer(kind.removeprefix("input_audio_buffer."), event)
        elif kind.startswith("conversation.item."):
            self._item(kind.removeprefix("conversation.item."), event)
        elif kind == "error":
            assert set(event["error"]) == OWN_FIELDS

    # ── responses ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _response(self, kind: str, event: Json) -> None:
        reply_id = _id(event)
        if kind == "response.created":
            assert reply_id not in self.replies, "a response was created twice"
            self.replies[reply_id] = Reply(event["response"]["conversation_id"] is not None)
            assert event["response"]["output"] in ([], ()), "no output before the first text"
            return
        reply = self.replies[reply_id]
        assert not reply.done, f"{kind} after response.done"
        match kind:
            case "response.output_item.added":
                assert reply.item_id is None, "a second output item"
                reply.item_id = event["item"]["id"]
                kept = [("conversation.item.added", event["item"]["id"])] if reply.kept else []
                self._next.extend([*kept, ("response.content_part.added", reply_id)])
            case "response.content_part.added":
                assert event["part"]["text"] == ""
                self._next.append(("response.output_text.delta", reply_id))
            case "response.output_text.delta":
                assert reply.item_id == event["item_id"], "a delta before its item"
                assert event["delta"], "an empty delta"
                reply.text += event["delta"]
            case "response.output_text.done":
                assert event["text"] == reply.text, "deltas make the text"
                item = [("conversation.item.done", event["item_id"])] if reply.kept else []
                ends = ("response.content_part.done", "response.output_item.done", "response.done")
                self._next.extend([(ends[0], reply_id), *item, *((end, reply_id) for end in ends[1:])])
            case "response.content_part.done":
                assert event["part"]["text"] == reply.text
            case "response.output_item.done":
                assert event["item"]["content"][0]["text"] == reply.text
            case "response.done":
                self._done(reply, event["response"])

    def _done(self, reply: Reply, response: Json) -> None:
        reply.done = True
        status = response["status"]
        assert status in ("completed", "cancelled", "incomplete", "failed")
        assert (reply.item_id is not None) == bool(response["output"]), "output shows what was announced"
        for item in response["output"]:
            assert item["id"] == reply.item_id
            assert item["status"] == ("completed" if status == "completed" else "incomplete")
            assert item["content"][0]["text"] == reply.text
        usage = response["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        if status != "completed":
            assert response["status_details"]["type"] == status

    # ── user audio ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _buffer(self, kind: str, event: Json) -> None:
        if kind == "cleared":
            self._open = None
            return
        speech = self.speeches.setdefault(event["item_id"], Speech())
        match kind:
            case "speech_started":
                assert self._open is None, "speech started within speech"
                assert not speech.started
                assert not speech.committed
                speech.started, self._open = True, event["item_id"]
            case "speech_stopped":
                assert speech.started, "speech stopped that had not started"
                assert not speech.stopped, "speech stopped twice"
                speech.stopped = True
                self._next.append(("input_audio_buffer.committed", event["item_id"]))
            case "committed":
                assert not speech.committed, "an item was committed twice"
                assert self._open in (None, event["item_id"]), "something else was committed than what was spoken"
                speech.committed, self._open = True, None
                self._next.extend((f"conversation.item.{what}", event["item_id"]) for what in ("added", "done"))

    def _transcription(self, kind: str, event: Json) -> None:
        speech = self.speeches.setdefault(event["item_id"], Speech())
        assert speech.final is None, f"{kind} of an item after its {speech.final}"
        assert event["content_index"] == 0
        if kind == "delta":
            assert event["delta"], "an empty delta"
            speech.text += event["delta"]
            return
        assert speech.committed, f"{kind} before committed"
        speech.final = kind
        if kind == "completed":
            assert event["transcript"] == speech.text, "deltas make the transcript"
        else:
            assert None not in event["error"].values()

    # ── items ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _item(self, kind: str, event: Json) -> None:
        item_id = _id(event)
        match kind:
            case "added":
                assert item_id not in self._present, "an item was added twice"
                self._present.add(item_id)
                self.items.add(item_id)
                if event["item"]["status"] != "in_progress" and not self._next:
                    self._next.append(("conversation.item.done", item_id))
            case "done":
                assert item_id in self.items, "an item was done that had not been added"
            case "deleted":
                self._present.discard(item_id)

    def finish(self, *, transcribed: bool) -> None:
        """The engine has answered everything.  `transcribed`: each committed item is owed a final text."""
        assert not self._next, f"{self._next} did not come"
        assert all(reply.done for reply in self.replies.values()), "a response has not ended"
        owed = [item_id for item_id, speech in self.speeches.items() if speech.committed and speech.final is None]
        assert not (transcribed and owed), f"no final text of {owed}"


def _id(event: Json) -> str:
    """What an event is about."""
    if "response" in event:
        return str(event["response"]["id"])
    if "response_id" in event:
        return str(event["response_id"])
    return str(event["item"]["id"] if "item" in event else event.get("item_id"))


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class EngineChecker:
    """One stream towards one engine process; `audio` is what the client has sent, None: it was resampled on the way.

    Also the engine's memory: `utterances` and `responses` that it owes something, `spoken` what it has said of each."""

    stream: int
    audio: bytearray | None
    opened: bool = False
    fed: int = 0
    start: int = 0  # of the life that the last first Open began
    speaking: m.Onset | None = None
    flushed: m.Flush | None = None
    speculated: set[int] = field(default_factory=set)
    utterances: dict[int, str] = field(default_factory=dict)  # spoken or committed, and what was said of each
    committed: set[int] = field(default_factory=set)
    responses: dict[int, str] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)  # refs, ever

    def forget(self) -> None:
        """The process is gone, or has given the slot back."""
        self.opened, self.speaking, self.flushed = False, None, None
        for held in (self.speculated, self.utterances, self.committed, self.responses):
            held.clear()

    def receive(self, command: m.Command) -> None:
        assert isinstance(command, m.StreamMessage)
        assert command.stream == self.stream, "a command for somebody else's stream"
        assert self.opened or isinstance(command, m.Open), f"{command} before Open"
        match command:
            case m.Open():
                self._open(command)
            case m.Feed():
                self._feed(command)
            case m.Onset() | m.Flush() | m.Rollback() | m.Commit():
                self._utterance(command)
            case m.Speculate() | m.Crop() | m.Respond():
                self._response(command)
            case m.Cancel():
                self._cancel(command.ref)

    def _open(self, command: m.Open) -> None:
        if self.opened:
            assert command.start == self.fed
        self.start = self.start if self.opened else command.start
        self.opened, self.fed = True, command.start

    def _feed(self, feed: m.Feed) -> None:
        assert feed.start == self.fed, "audio is fed without gaps"
        assert 0 < len(feed.pcm) <= 2 * RATE
        assert len(feed.pcm) % 2 == 0
        self.fed += len(feed.pcm) // 2
        if self.audio is not None:
            assert feed.pcm == self.audio[2 * feed.start : 2 * self.fed], "audio is fed as it was sent"

    def _utterance(self, command: m.Onset | m.Flush | m.Rollback | m.Commit) -> None:
        if isinstance(command, m.Onset):
            self._use(command.ref)
            assert self.speaking is None, "an onset within an utterance"
            assert self.fed - LOOK_BACK <= command.start <= self.fed, "the onset lies in audio that the engine keeps"
            self.speaking, self.flushed = command, None
            self.utterances[command.ref] = command.said
            return
        assert self.speaking is not None, f"{command} without an onset"
        assert self.speaking.ref == command.ref
        if isinstance(command, m.Rollback):
            assert self.flushed is not None, "a rollback without a flush"
            self.flushed = None
            return
        assert self.speaking.start < command.end <= self.fed, "it ends in audio that was fed, after it began"
        if isinstance(command, m.Flush):
            assert self.flushed is None, "a second flush"
            self.flushed = command
        else:
            self.committed |= {command.ref} & set(self.utterances)  # else it has failed before
            self.speaking = self.flushed = None

    def _response(self, command: m.Speculate | m.Crop | m.Respond) -> None:
        match command:
            case m.Speculate():
                self._use(command.ref)
                assert not self.speculated, "a second speculation"
                assert self.flushed is not None
                assert (command.utterance, command.end) == (self.flushed.ref, self.flushed.end)
                self.speculated.add(command.ref)
            case m.Crop():
                self.speculated.remove(command.ref)
            case m.Respond():
                if command.ref in self.speculated:
                    self.speculated.remove(command.ref)
                else:
                    self._use(command.ref)
                self.responses[command.ref] = ""

    def _cancel(self, ref: int) -> None:
        if self.speaking is not None and self.speaking.ref == ref:
            self.speaking = self.flushed = None
            self.utterances.pop(ref, None)
            return
        assert ref in self.used, "a cancel of something the engine never heard of"
        self.responses.pop(ref, None)

    def _use(self, ref: int) -> None:
        assert ref not in self.used, f"ref {ref} was used before"
        self.used.add(ref)


def check_all(frames: Iterable[Json], *, transcribed: bool) -> WireChecker:
    """A whole conversation."""
    checker = WireChecker()
    for frame in frames:
        checker.receive(frame)
    checker.finish(transcribed=transcribed)
    return checker
