"""`POST /v1/audio/transcriptions`: a whole file instead of a stream, through the same session and the same engine.
Steps 3 and 11 of a frame's path, for files.

It knows HTTP, forms and what the API says to a file; not containers (`shared.audio_file`), not the forms of a
transcript (`captions`), not who may come in (the gate), and of the gateway only what `Offer` holds.

A request is uploaded first (nothing touches a disk), then takes a slot as any session does, is fed no faster than its
turns are transcribed, and gives the slot back when it is answered or the client is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from shared import events
from shared.audio import RATE, to_ms
from shared.audio_file import KINDS, AudioFile, TooLong, Unreadable
from shared.events import Json, WireError
from shared.refusals import named
from shared.safe_text import safe_line
from shared.session_config import ServerVad
from voxd import messages as m
from voxd.gateway.connection import Closed, Connection
from voxd.session.turns import FRAME
from voxd.web import captions, file_request, form
from voxd.web.captions import Transcript
from voxd.web.file_request import Wanted, in_its_words
from voxd.web.gate import error_body

FILE = 25 << 20  # bytes, as the API
BODY = FILE + (1 << 20)  # the other fields of the form, and the form itself
HOURS = 4  # of sound in a file
STALL_S = 30.0  # without a byte of an upload
AHEAD = 30 * RATE  # samples fed past the start of the oldest turn whose text is owed: an engine keeps only minutes
PIECE = 4 * FRAME  # samples that are heard before more is sent: no engine hears a turn before the last one is ended
TAIL = RATE  # silence after a file, so that its last turn ends as any other, on top of the silence that ends a turn
NOTES = "x-voxd-notes"  # header of an answer
UPDATES = 2  # of a session: the first sets it up, the second tells that all was heard
NO_TRANSCRIBER = (
    "No engine fills the role `transcribe`. Start voxd with `--transcribe ENGINE` or set `engines.transcribe`."
)


class Problem(Exception):
    """The answer is an error object."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> Json:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return error_body(self.code, str(self), kind, self.param)


class _Turn(asyncio.Event):
    """`Connection.idle` of a file: the silence between its turns is no reason to end it."""

    def set(self) -> None:
        pass

    def end(self) -> None:
        super().set()


class Hearing(Connection):
    """A connection that also tells how far it was heard."""

    kind = "rest"

    def __init__(self, *args: Any, **more: Any) -> None:
        self.heard = 0
        self.moved = asyncio.Event()
        super().__init__(*args, **more)
        self.idle = self._turn = _Turn()

    def close(self, why: str) -> None:
        self._turn.end()
        super().close(why)

    def receive_output(self, output: m.Output) -> None:
        super().receive_output(output)
        if isinstance(output, m.Heard):
            self.heard = max(self.heard, output.start + len(output.probabilities) * FRAME)
        self.moved.set()

    def send(self, event: events.ClientEvent) -> None:
        self.receive_text(events.dump(event).decode())


@dataclass(frozen=True, slots=True)
class Offer:
    """What the gateway gives."""

    refusal: Callable[[], tuple[str, str] | None]  # (code, message)
    refused: Callable[[str], None]  # counts what was refused here
    transcriber: Callable[[], str | None]
    connect: Callable[[str], AbstractContextManager[Hearing]]  # by the name of the peer; the slot is held inside
    limit: Callable[[], int]  # requests at the same time, those that are still being uploaded included


# ── the form ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _bounded(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """A client that sends too much is heard out for a while: it reads no answer before it has sent its request."""
    size = 0
    while (chunk := await _next(chunks)) is not None and size <= 4 * BODY:
        size += len(chunk)
        if size <= BODY:
            yield chunk
    if size > BODY:
        raise _too_large()


async def _next(chunks: AsyncGenerator[bytes, None]) -> bytes | None:
    try:
        async with asyncio.timeout(STALL_S):
            return await anext(chunks, None)
    except TimeoutError:
        raise Problem(408, "upload_stalled", f"Nothing of the request came for {STALL_S:.0f} s.") from None


def _too_large() -> Problem:
    return Problem(413, "file_too_large", f"A file may have {FILE} bytes (25 MiB) at most.", "file")


async def read_form(request: Request) -> tuple[BinaryIO, Wanted]:
    """The file, and what is asked of it.  Raises Problem for what is not as the API wants it."""
    if not form.is_form(request.headers):
        message = "The request must be multipart/form-data with a part `file`."
        raise Problem(415, "unsupported_media_type", message)
    try:
        found = await form.read(request.headers, _bounded(request.stream()), size=BODY)
        return _file([value for name, value in found if name == "file"]), file_request.read(_texts(found))
    except WireError as error:
        raise Problem(400, error.code, error.message, error.param) from None


def _texts(found: list[tuple[str, str | form.File]]) -> Iterator[tuple[str, str]]:
    """All fields but the file.  Raises WireError."""
    for name, value in found:
        if isinstance(value, str):
            yield name, value
        elif name != "file":
            (shown,) = named([name])
            raise WireError("invalid_value", f"'{shown}' came as a file: send it as text, without a file name.", shown)


def _file(found: Sequence[str | form.File]) -> BinaryIO:
    """Raises Problem."""
    if not found:
        raise Problem(400, "missing_required_parameter", "Missing required parameter: 'file'.", "file")
    first = found[0]
    if isinstance(first, str):
        message = "The part `file` came as text, for it has no file name; with curl: -F file=@talk.wav"
        raise Problem(400, "invalid_value", message, "file")
    if len(found) > 1:
        raise Problem(400, "invalid_value", f"There are {len(found)} parts `file`: send one file a request.", "file")
    if first.size > FILE:
        raise _too_large()
    return first.data


# ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Answer:
    """Server-sent events as text comes, or one body at the end.  A status is sent once it is certain."""

    def __init__(self, wanted: Wanted, scope: Scope, receive: Receive, send: Send) -> None:
        self._wanted, self._scope, self._receive, self._send = wanted, scope, receive, send
        self._started = False

    async def text(self, new: str) -> None:
        if self._wanted.stream and new:
            await self._event({"type": "transcript.text.delta", "delta": new})

    async def done(self, transcript: Transcript, silence_ms: int, length_ms: int, notes: list[str]) -> None:
        """`notes`: what was odd about the file.  The API has no place for them: they are a header, or, behind a stream
        whose headers have long gone, a field of its last event."""
        segments = transcript.segments(silence_ms, length_ms)
        if self._wanted.stream:
            if self._wanted.format == "diarized_json":
                for segment in captions.diarized(segments):
                    await self._event(segment)
            done: Json = {"type": "transcript.text.done", "text": transcript.text, "usage": captions.usage(length_ms)}
            await self._event(done | ({"voxd": {"notes": notes}} if notes else {}))
            await self._end()
            return
        response: Response
        match self._wanted.format:
            case "json":
                response = JSONResponse({"text": transcript.text, "usage": captions.usage(length_ms)})
            case "verbose_json":
                response = JSONResponse(captions.verbose(transcript.text, segments, self._wanted.language, length_ms))
            case "diarized_json":
                told = {"task": "transcribe", "duration": length_ms / 1000, "text": transcript.text}
                told |= {"segments": captions.diarized(segments), "usage": captions.usage(length_ms)}
                response = JSONResponse(told)
            case "srt":
                response = Response(captions.srt(segments), media_type="text/plain")
            case "vtt":
                response = Response(captions.vtt(segments), media_type="text/vtt")
            case _:
                response = Response(transcript.text + "\n", media_type="text/plain")
        if notes:
            response.headers[NOTES] = safe_line("; ".join(notes)).encode("ascii", "backslashreplace").decode()
        await response(self._scope, self._receive, self._send)

    async def problem(self, problem: Problem) -> None:
        if self._started:
            await self._event({"type": "error", **problem.body()})
            await self._end()
        else:
            await _tell(problem, self._scope, self._receive, self._send)

    async def _event(self, body: Json) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        data = b"data: " + msgspec.json.encode(body) + b"\n\n"
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


async def _tell(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse(problem.body(), problem.status, problem.headers)(scope, receive, send)


# ── the work ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Gone(Exception):
    """The client is no longer there."""


class Transcriptions:
    """The endpoint, an ASGI application."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self._requests += 1
        try:
            self._admit()
            file, wanted = await read_form(request)
            clip = await asyncio.to_thread(_open, file)
            self._admit()  # again: a slot is not kept for a client that takes its time
            peer = "unix socket" if scope["server"][1] is None else str(request.client and request.client.host)
            with clip, self._offer.connect(peer) as hearing:
                await _serve(hearing, clip, wanted, _Answer(wanted, scope, receive, send), receive)
        except Problem as problem:
            await _tell(problem, scope, receive, send)
        except ClientDisconnect:
            return
        finally:
            self._requests -= 1

    def _admit(self) -> None:
        """Raises Problem when there is nobody to do the work."""
        refusal = self._offer.refusal()
        if refusal is None and self._requests > self._offer.limit():
            refusal = "session_limit_reached", f"{self._offer.limit()} requests are at work; see server.max_sessions."
        problem = _unavailable(*refusal) if refusal else None
        if problem is None and self._offer.transcriber() is None:
            # Trying again is of no use: clients that know these headers do not.
            problem = Problem(503, "no_transcriber", NO_TRANSCRIBER, Retry_After="300", X_Should_Retry="false")
        if problem:
            self._offer.refused(problem.code)
            raise problem


def _unavailable(code: str, message: str) -> Problem:
    return Problem(503, code, message, Retry_After="2")


def _open(file: BinaryIO) -> AudioFile:
    try:
        return AudioFile(file, limit=HOURS * 3600 * RATE)
    except Unreadable as error:
        raise _unreadable(error) from error


def _unreadable(error: Unreadable) -> Problem:
    if isinstance(error, TooLong):
        message = f"A file may hold {HOURS} hours of sound at most: {error}. Send it in parts."
        return Problem(413, "file_too_long", message, "file")
    message = f"The file was not understood: {error}. Supported are: {KINDS}."
    return Problem(400, "invalid_value", message, "file")


async def _serve(hearing: Hearing, clip: AudioFile, wanted: Wanted, answer: _Answer, receive: Receive) -> None:
    """Until the answer is given, or nobody waits for it; then the slot is free."""
    problem: Problem | None = None
    why = "answered"
    try:
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(_leave(receive))
            run = _Run(hearing, clip, wanted)
            feeding = tasks.create_task(run.feed())
            await run.listen(answer)
            await feeding
            leaving.cancel()
    except* _Gone:
        why = "the client vanished"
    except* Closed as closed:
        reason = next(each for each in closed.exceptions if isinstance(each, Closed))
        problem = _unavailable("shutting_down" if reason.code == 1012 else "server_overloaded", str(reason))
    except* Problem as found:
        problem = next(each for each in found.exceptions if isinstance(each, Problem))
    finally:
        hearing.close(why if problem is None else str(problem))
    if problem:
        await answer.problem(problem)


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _Gone


class _Run:
    """One file on its way through a session."""

    def __init__(self, hearing: Hearing, clip: AudioFile, wanted: Wanted) -> None:
        self._hearing, self._clip = hearing, clip
        self._notes = list(wanted.notes)  # about what was asked
        self._transcript = Transcript()
        self._sent = 0  # samples
        self._length = 0  # of the file
        self._silence_ms = 0
        sound = {"format": {"type": "audio/pcm", "rate": RATE}, **wanted.sound}
        hearing.send(events.SessionUpdate(session={"audio": {"input": sound}}))

    async def feed(self) -> None:
        """The file, the silence that ends its last turn, and an update that changes nothing: its answer comes after all
        events that the audio has caused."""
        try:
            while pcm := await asyncio.to_thread(self._clip.read):
                await self._put(pcm)
        except Unreadable as error:
            raise _unreadable(error) from error
        self._length = self._sent
        await self._put(bytes(2 * (TAIL + RATE * self._silence_ms // 1000)))
        self._hearing.send(events.SessionUpdate(session={}))

    async def _put(self, pcm: bytes) -> None:
        for at in range(0, len(pcm), 2 * PIECE):
            piece = pcm[at : at + 2 * PIECE]
            self._hearing.receive_audio(piece)
            self._sent += len(piece) // 2
            await self._hearing.readable.wait()
            await self._until(self._may_send)

    def _may_send(self) -> bool:
        owed_ms = self._transcript.owed_from_ms
        in_time = owed_ms is None or self._sent <= AHEAD + owed_ms * RATE // 1000
        return in_time and self._hearing.heard > self._sent - FRAME

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            self._hearing.moved.clear()
            await self._hearing.moved.wait()

    async def listen(self, answer: _Answer) -> None:
        """Until all is heard and every turn has its text.  Raises Problem."""
        updates = 0
        while not (updates == UPDATES and self._transcript.settled):
            waiting = await self._hearing.next_event()
            self._hearing.written(waiting)
            updates += self._receive(waiting.event)
            if updates == UPDATES and self._transcript.open:  # noise to its end, and the silence was not taken for one
                self._hearing.send(events.AudioCommit())
            await answer.text(self._transcript.receive(waiting.event))
            self._hearing.moved.set()
        notes = [*self._clip.notes, *self._notes]
        if self._length and not self._transcript.text:
            notes.append("no speech was found in it")
        self._hearing.log.file(notes)
        await answer.done(self._transcript, self._silence_ms, to_ms(self._length), notes)

    def _receive(self, event: events.ServerEvent) -> bool:
        """Is this the answer to an update?  Raises Problem."""
        match event:
            case events.SessionUpdated():
                self._notes += [in_its_words(each.message) for each in event.voxd_warnings or ()]
                detection = event.session.audio.input.turn_detection
                self._silence_ms = detection.silence_duration_ms if isinstance(detection, ServerVad) else 0
                return True
            case events.TranscriptionFailed():
                raise _unavailable(event.error.code, event.error.message)
            case events.Error(error=error):
                if error.type == "server_error":
                    raise _unavailable(error.code or "server_error", error.message)
                raise Problem(
                    400, "invalid_value", in_its_words(error.message), in_its_words(error.param or "") or None
                )
        return False
