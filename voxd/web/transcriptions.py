"""`POST /v1/audio/transcriptions`: transcribes a whole file through a session, as if it were a stream.  Steps 3 and 11
of a packet's path, for files.

It knows HTTP, forms and what the API says about files; not containers (`shared.audio_file`), formats of a transcript
(`captions`) or who may come in (`gate`).

The file is uploaded first and kept in memory.  Then the request takes a slot as any session does, feeds the file as
fast as the session takes it, and frees the slot when it is answered or the client has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import BinaryIO

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from shared import events
from shared.audio import RATE, to_ms
from shared.audio_file import KINDS, AudioFile, TooLong, Unreadable
from shared.captions import srt, vtt
from shared.events import Json, WireError
from shared.refusals import named
from shared.safe_text import safe_line
from shared.session_config import ServerVad
from voxd import messages as m
from voxd.gateway.admission import Refusal
from voxd.gateway.connection import Connection
from voxd.gateway.outgoing import Closed
from voxd.gateway.sessions import SessionDesk
from voxd.session.turns import FRAME
from voxd.web import captions, file_request, form
from voxd.web.callers import peer_name
from voxd.web.captions import FileTranscript
from voxd.web.file_request import Wanted, in_its_words
from voxd.web.problem import HttpProblem

FILE = 25 << 20  # bytes, as the API
BODY = FILE + (1 << 20)  # the other fields of the form, and the form itself
HOURS = 4  # of sound in a file
STALL_S = 30.0  # without a byte of an upload
PIECE = RATE  # samples given to the session at once
TAIL = RATE  # samples of silence after a file, besides the silence that ends a turn, so that its last turn ends
NOTES = "x-voxd-notes"  # header of an answer
UPDATES = 2  # of a session: the first sets it up, the second tells that all was heard
ESTIMATED = "this engine does not tell when words were said: each has a share of its utterance's time"
NEVER_S = 300  # Retry-After where trying again is of no use, for clients that know no other header
NO_TRANSCRIBER = (
    "No engine fills the role `transcribe`. Start voxd with `--transcribe ENGINE` or set `engines.transcribe`."
)


class _Hearing:
    """How far the engines have heard a file."""

    def __init__(self) -> None:
        self.samples = 0
        self.moved = asyncio.Event()

    def receive_output(self, output: m.Output) -> None:
        if isinstance(output, m.Heard):
            self.samples = max(self.samples, output.start + len(output.probabilities) * FRAME)
        self.moved.set()


# ── the form ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _bounded(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The chunks of a body.  Of a body that is too large some more is read before it is refused, because a client reads
    no answer before it has sent its request.  Raises HttpProblem."""
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
        raise HttpProblem(408, "upload_stalled", f"Nothing of the request came for {STALL_S:.0f} s.") from None


def _too_large() -> HttpProblem:
    return HttpProblem(413, "file_too_large", f"A file may have {FILE} bytes (25 MiB) at most.", "file")


async def read_form(request: Request) -> tuple[BinaryIO, Wanted]:
    """The file, and what is asked of it.  Raises HttpProblem."""
    if not form.is_form(request.headers):
        message = "The request must be multipart/form-data with a part `file`."
        raise HttpProblem(415, "unsupported_media_type", message)
    try:
        found = await form.read(request.headers, _bounded(request.stream()), size=BODY)
        return _file([value for name, value in found if name == "file"]), file_request.read(_texts(found))
    except WireError as error:
        raise HttpProblem(400, error.code, error.message, error.param) from None


def _texts(found: list[tuple[str, str | form.File]]) -> Iterator[tuple[str, str]]:
    """Reads all fields but the file.  Raises WireError."""
    for name, value in found:
        if isinstance(value, str):
            yield name, value
        elif name != "file":
            (shown,) = named([name])
            raise WireError("invalid_value", f"'{shown}' came as a file: send it as text, without a file name.", shown)


def _file(found: Sequence[str | form.File]) -> BinaryIO:
    """Raises HttpProblem."""
    if not found:
        raise HttpProblem(400, "missing_required_parameter", "Missing required parameter: 'file'.", "file")
    first = found[0]
    if isinstance(first, str):
        message = "The part `file` came as text, for it has no file name; with curl: -F file=@talk.wav"
        raise HttpProblem(400, "invalid_value", message, "file")
    if len(found) > 1:
        raise HttpProblem(
            400, "invalid_value", f"There are {len(found)} parts `file`: send one file a request.", "file"
        )
    if first.size > FILE:
        raise _too_large()
    return first.data


# ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _FileAnswer:
    """The answer: server-sent events as text comes, or one body at the end.  The status is sent once it is known."""

    def __init__(self, wanted: Wanted, languages: tuple[str, ...], scope: Scope, receive: Receive, send: Send) -> None:
        """`languages`: that the transcriber knows; (): it does not say."""
        self._wanted, self._scope, self._receive, self._send = wanted, scope, receive, send
        self._only = languages[0] if len(languages) == 1 else None
        self._started = False

    async def text(self, new: str) -> None:
        if self._wanted.stream and new:
            await self._event({"type": "transcript.text.delta", "delta": new})

    async def done(self, transcript: FileTranscript, silence_ms: int, length_ms: int, notes: list[str]) -> None:
        """Ends the answer.  `notes`: what was unusual about the file.  The API has no place for them, so they are a
        header, or a field of the last event of a stream."""
        turns = transcript.turns(silence_ms, length_ms)
        if self._wanted.stream:
            if self._wanted.format == "diarized_json":
                for segment in captions.diarized(turns):
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
                language = transcript.language or self._wanted.language or self._only
                wanted = self._wanted.granularities
                response = JSONResponse(captions.verbose(transcript.text, turns, language, length_ms, wanted))
            case "diarized_json":
                told = {"task": "transcribe", "duration": length_ms / 1000, "text": transcript.text}
                told |= {"segments": captions.diarized(turns), "usage": captions.usage(length_ms)}
                response = JSONResponse(told)
            case "srt":
                response = Response(srt(turns), media_type="text/plain")
            case "vtt":
                response = Response(vtt(turns), media_type="text/vtt")
            case _:
                response = Response(transcript.text + "\n", media_type="text/plain")
        if notes:
            response.headers[NOTES] = safe_line("; ".join(notes)).encode("ascii", "backslashreplace").decode()
        await response(self._scope, self._receive, self._send)

    async def problem(self, problem: HttpProblem) -> None:
        if self._started:
            await self._event({"type": "error", **problem.body})
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


async def _tell(problem: HttpProblem, scope: Scope, receive: Receive, send: Send) -> None:
    await problem.response()(scope, receive, send)


# ── the work ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _ClientGone(Exception):
    """The client is no longer connected."""


class Transcriptions:
    """The endpoint, an ASGI application."""

    def __init__(self, desk: SessionDesk) -> None:
        self._desk = desk
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self._requests += 1
        try:
            self._admit()
            file, wanted = await read_form(request)
            clip = await asyncio.to_thread(_open, file)
            self._admit()  # again, because no slot is kept during the upload
            with clip:
                await self._serve(
                    clip, wanted, _FileAnswer(wanted, self._desk.languages, scope, receive, send), scope, receive
                )
        except HttpProblem as problem:
            await _tell(problem, scope, receive, send)
        except ClientDisconnect:
            return
        finally:
            self._requests -= 1

    def _admit(self) -> None:
        """Raises HttpProblem if the file cannot be transcribed now."""
        refusal, limit = self._desk.refusal(), self._desk.limit
        if refusal is None and self._requests > limit:
            refusal = Refusal("session_limit_reached", f"{limit} requests are at work; see server.max_sessions.")
        problem = _unavailable(*refusal) if refusal else None
        if problem is None and self._desk.transcriber is None:
            problem = HttpProblem(
                503, "no_transcriber", NO_TRANSCRIBER, retry_s=NEVER_S, headers={"X-Should-Retry": "false"}
            )
        if problem:
            self._desk.refused(problem.code)
            raise problem

    async def _serve(
        self, clip: AudioFile, wanted: Wanted, answer: _FileAnswer, scope: Scope, receive: Receive
    ) -> None:
        """Transcribes the file, until the answer is given or the client has gone; then the slot is free."""
        problem: HttpProblem | None = None
        why = "answered"
        hearing = _Hearing()
        connection = self._desk.open_file(peer_name(scope), hearing.receive_output)
        try:
            async with asyncio.TaskGroup() as tasks:
                leaving = tasks.create_task(_leave(receive))
                run = _FileRun(connection, hearing, clip, wanted)
                feeding = tasks.create_task(run.feed())
                await run.listen(answer)
                await feeding
                leaving.cancel()
        except* _ClientGone:
            why = "the client vanished"
        except* Closed as closed:
            reason = next(each for each in closed.exceptions if isinstance(each, Closed))
            problem = _unavailable("shutting_down" if reason.code == 1012 else "server_overloaded", str(reason))
        except* HttpProblem as found:
            problem = next(each for each in found.exceptions if isinstance(each, HttpProblem))
        finally:
            self._desk.end(connection, why if problem is None else str(problem))
        if problem:
            await answer.problem(problem)


def _unavailable(code: str, message: str) -> HttpProblem:
    return HttpProblem(503, code, message)


def _open(file: BinaryIO) -> AudioFile:
    try:
        return AudioFile(file, limit=HOURS * 3600 * RATE)
    except Unreadable as error:
        raise _unreadable(error) from error


def _unreadable(error: Unreadable) -> HttpProblem:
    if isinstance(error, TooLong):
        message = f"A file may hold {HOURS} hours of sound at most: {error}. Send it in parts."
        return HttpProblem(413, "file_too_long", message, "file")
    message = f"The file was not understood: {error}. Supported are: {KINDS}."
    return HttpProblem(400, "invalid_value", message, "file")


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _ClientGone


class _FileRun:
    """Feeds a file to a session, and collects its transcript."""

    def __init__(self, connection: Connection, hearing: _Hearing, clip: AudioFile, wanted: Wanted) -> None:
        self._connection, self._hearing, self._clip = connection, hearing, clip
        self._wanted = wanted
        self._notes = list(wanted.notes)  # about what was asked for
        self._transcript = FileTranscript()
        self._sent = 0  # samples
        self._length = 0  # of the file
        self._silence_ms = 0
        sound = {"format": {"type": "audio/pcm", "rate": RATE}, **wanted.sound}
        self._send(events.SessionUpdate(session={"audio": {"input": sound}}))

    async def feed(self) -> None:
        """Feeds the file, then the silence that ends its last turn, then an update that changes nothing.  The answer to
        that update comes after every event that the audio has caused."""
        try:
            while pcm := await asyncio.to_thread(self._clip.read):
                await self._put(pcm)
        except Unreadable as error:
            raise _unreadable(error) from error
        self._length = self._sent
        await self._put(bytes(2 * (TAIL + RATE * self._silence_ms // 1000)))
        while self._hearing.samples <= self._sent - FRAME:
            self._hearing.moved.clear()
            await self._hearing.moved.wait()
        self._send(events.SessionUpdate(session={}))

    def _send(self, event: events.ClientEvent) -> None:
        self._connection.receive_text(events.dump(event).decode())

    async def _put(self, pcm: bytes) -> None:
        for at in range(0, len(pcm), 2 * PIECE):
            piece = pcm[at : at + 2 * PIECE]
            self._connection.receive_audio(piece)
            self._sent += len(piece) // 2
            await self._connection.readable.wait()  # the session takes no more than its engine can keep

    async def listen(self, answer: _FileAnswer) -> None:
        """Collects events until everything is heard and every turn has its text.  Raises HttpProblem."""
        updates = 0
        while not (updates == UPDATES and self._transcript.settled):
            message = await self._connection.next_event()
            self._connection.written(message)
            updates += self._receive(message.event)
            if updates == UPDATES and self._transcript.open:  # a turn that even the silence at the end has not ended
                self._send(events.AudioCommit())
            await answer.text(self._transcript.receive(message.event))
        notes = [*self._clip.notes, *self._notes]
        if self._length and not self._transcript.text:
            notes.append("no speech was found in it")
        if "word" in self._wanted.granularities and self._transcript.estimated:
            notes.append(ESTIMATED)
        self._connection.log.file(notes)
        await answer.done(self._transcript, self._silence_ms, to_ms(self._length), notes)

    def _receive(self, event: events.ServerEvent) -> bool:
        """Handles an event; returns whether it is the answer to an update.  Raises HttpProblem."""
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
                raise HttpProblem(
                    400, "invalid_value", in_its_words(error.message), in_its_words(error.param or "") or None
                )
        return False
