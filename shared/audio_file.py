"""Reads a sound file of any common kind as 16 kHz mono PCM, a piece at a time.  Step 1 (voxtui), before step 5 (voxd).

Both programs read files with this and with nothing else.

The containers and codecs are FFmpeg's, through PyAV, whose wheels bring them; no `ffmpeg` program is needed.
libsndfile, which is a twentieth of its size, stops at the first part of a chained Ogg or of joined mp3 files, gives
nothing of an Ogg Opus without an end mark, and reads no m4a, mp4 or webm.

Files come from strangers.  A file is read through the given object only, and only the containers and codecs named here
are allowed: no playlists, which would open other files, and no pictures.  All that can be decoded is returned, and
`notes` says what was odd, wrong or left out.  This module does not know who sent the file nor what it is for.  Calls
take milliseconds, or as long as the file's own `read` takes, and belong on a thread.

Bound: half a second of sound and one packet, whatever the length of the file.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet

from shared import riff
from shared.audio import RATE
from shared.mono import Mono
from shared.ogg import MARK, Links, Reader

KINDS = "wav, flac, mp3, ogg, opus, m4a, mp4, 3gp, webm, mkv, aiff, au, caf"  # for people; a few more are let in
DEMUXERS = "aac,aiff,amr,asf,au,avi,caf,flac,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav"
CODECS = {
    *("aac", "alac", "flac", "opus", "vorbis", "mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float"),
    *("ac3", "eac3", "amrnb", "amrwb", "gsm", "gsm_ms", "wmav1", "wmav2"),
}
TOLD = {"aiff", "au", "caf", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "w64"}  # their headers tell a length
TAGS = b"ID3", b"TAG", b"APETAGEX"  # joined mp3 files have them in between: they are no damage
COPIED = 4 << 30  # bytes of a pipe that are kept in a file; a WAV cannot have more
SHORT_S = 0.1  # a file that is shorter than it says by less is not worth a word

Frame = tuple[npt.NDArray[np.generic], int]  # [channels, n], Hz


class Unreadable(ValueError):
    """The file gives no sound; the text says why and begins with a small letter."""


class TooLong(Unreadable):
    """The file has more sound than the limit."""


class AudioFile:
    """An open sound file: call `read` until it returns nothing, then `close`.

    `file`: an open file or pipe; it is closed by `close`.  `limit`: samples at `RATE` that are given at most.  Raises
    Unreadable and OSError, as does `read`."""

    def __init__(self, file: BinaryIO, *, limit: int | None = None) -> None:
        self.samples = 0  # decoded so far, at `RATE`
        self.expected_s = 0.0  # how long it may be, as far as its first part's header tells or its size hints
        self._file, self._limit = file, limit
        self._mono = Mono()
        self._notes: list[str] = []
        self._damaged = 0  # packets that could not be decoded
        self._broken = False  # no further packet could be found
        self._pieces: Generator[bytes] = self._decoded()
        with contextlib.ExitStack() as failing:
            failing.callback(self.close)
            self._first = next(self._pieces, b"")
            failing.pop_all()

    @property
    def notes(self) -> list[str]:
        """What was odd, wrong or left out so far: sentences without the file's name or a full stop."""
        count = self._damaged
        damaged = [f"{count} damaged packet{'s' if count > 1 else ''} of it could not be decoded"] if count else []
        return [*self._notes, *damaged, *self._mono.notes]

    def read(self) -> bytes:
        """The next piece as s16le mono at `RATE`; empty at the end."""
        if self._first:
            piece, self._first = self._first, b""
            return piece
        return next(self._pieces, b"")

    def close(self) -> None:
        self._pieces.close()
        self._file.close()

    def _started(self) -> tuple[bytes, Reader]:
        """The first 12 bytes of the file, and the file as FFmpeg is to read it."""
        start = b""
        while len(start) < 12 and (more := self._file.read(12 - len(start))):
            start += more
        if not self._file.seekable() and _needed_whole(start):
            copy = _copied(start, self._file)
            self._file.close()
            self._file = copy
        elif self._file.seekable():
            self._file.seek(-len(start), os.SEEK_CUR)
        return start, _Plain(self._file) if self._file.seekable() else _Peeked(start, self._file)

    # ── parts of a file ─────────────────────────────────────────────────────────────────────────────────────────────

    def _decoded(self) -> Generator[bytes]:
        for frame, rate in self._frames():
            try:
                pcm = self._mono.push(frame, rate)
            except ValueError as error:
                raise Unreadable(str(error)) from None
            yield from self._counted(pcm)
        yield from self._counted(self._mono.finish())
        if not self.samples:
            if self._damaged or self._broken:
                raise Unreadable("all of its sound is damaged")
            self._notes.append("there is no sound in it")

    def _counted(self, pcm: bytes) -> Iterator[bytes]:
        self.samples += len(pcm) // 2
        if self._limit is not None and self.samples > self._limit:
            raise self._too_long(self._limit)
        if pcm:
            yield pcm

    def _frames(self) -> Iterator[Frame]:
        """The decoded frames of all parts of the file."""
        start, file = self._started()
        if not start:
            raise Unreadable("it is empty")
        if start.startswith(MARK):
            yield from self._links(Links(file))
            return
        options = {}
        if riff.is_wav(start):
            options = {"max_size": "65536", **self._wav_options()}
        yield from self._part(file, start, options)

    def _links(self, links: Links) -> Iterator[Frame]:
        """The decoded frames of all links of an Ogg file; one that cannot be read does not cost the others."""
        failures, parts = [], 0
        more = True
        while more:
            parts += 1
            try:
                yield from self._part(links, MARK, {})
            except Unreadable as failure:
                failures.append(failure)
            more = links.go_on()
        if len(failures) == parts:
            raise failures[0]
        if failures:
            self._notes.append(f"{len(failures)} of its {parts} parts were left out: {failures[0]}")
        if links.cut:
            self._notes.append("it has no end mark, so it may have been cut short; what is there was read")

    def _wav_options(self) -> dict[str, str]:
        header = riff.read_header(self._file) if self._file.seekable() else None
        if header is None:
            return {}
        if header.missing_s > SHORT_S:
            self._cut_short(header.there / header.rate + header.missing_s, header.there / header.rate)
        if header.another:
            self._notes.append("another WAV file follows in it, which was left out")
        if header.runs_on:
            if header.size is not None:
                self._notes.append("its header tells a wrong length; it was read to its end")
            return {"ignore_length": "1"}
        return {}

    def _cut_short(self, told_s: float, there_s: float) -> None:
        self._notes.append(f"it was cut short: of the {told_s:.1f} s that its header tells, {there_s:.1f} s are there")

    # ── one part ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _part(self, file: Reader, start: bytes, options: dict[str, str]) -> Iterator[Frame]:
        with _opened(file, start, options) as container:
            stream = container.streams.best("audio")
            if not isinstance(stream, AudioStream):
                raise Unreadable("there is no sound in it, only other things")
            name = stream.codec_context.name
            if name not in _codecs():
                raise Unreadable(f"its codec is {name}, which is not read")
            told_s = _told_s(container)
            self.expected_s = self.expected_s or (container.duration or 0) / av.time_base
            if self._limit is not None and told_s * RATE > self._limit:
                raise self._too_long(self._limit)
            stream.codec_context.thread_count = 1
            there_s = 0.0
            for packet in self._packets(container, stream):
                for frame in self._decode(packet):
                    there_s += frame.samples / frame.sample_rate
                    yield _samples(frame), frame.sample_rate
            if there_s and told_s - there_s > SHORT_S:
                self._cut_short(told_s, there_s)

    def _packets(self, container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream]]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self._broken, seconds = True, self.samples / RATE
                self._notes.append(f"it is damaged from {seconds:.1f} s on; the rest was left out ({error.strerror})")
                return
            if packet is None:
                return
            yield packet

    def _decode(self, packet: Packet[AudioStream]) -> list[AudioFrame]:
        try:
            return [frame for frame in packet.decode() if frame.sample_rate]
        except FFmpegError:
            self._damaged += not bytes(packet)[:8].startswith(TAGS)
            return []

    @staticmethod
    def _too_long(limit: int) -> TooLong:
        return TooLong(f"it holds more than {limit / RATE / 3600:.3g} hours of sound")

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_whole(path: Path, most: int | None = None) -> bytes:
    """Reads a short file as s16le at `RATE`, at most its first `most` samples.  Raises Unreadable and OSError."""
    pcm = bytearray()
    with AudioFile(path.open("rb")) as file:
        while (most is None or len(pcm) < 2 * most) and (piece := file.read()):
            pcm += piece
    return bytes(pcm if most is None else pcm[: 2 * most])


class _Peeked:
    """A file that cannot seek; its first bytes were read and are given again."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        self._start = start
        self._read = getattr(file, "read1", file.read)  # what is there by now

    def read(self, size: int) -> bytes:
        if self._start:
            given, self._start = self._start[:size], self._start[size:]
            return given
        more: bytes = self._read(size)
        return more


class _Plain:
    """A file as FFmpeg sees it: without its name, which may be valid in no encoding."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _copied(start: bytes, file: Reader) -> BinaryIO:
    """Copies a pipe into a temporary file without a name."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # AudioFile closes it
    copy.write(start)
    while more := file.read(1 << 20):
        copy.write(more)
        if copy.tell() > COPIED:
            copy.close()
            raise Unreadable(f"more than {COPIED >> 30} GiB of its kind cannot be read from a pipe; give it as a file")
    copy.seek(0)
    return copy


def _needed_whole(start: bytes) -> bool:
    """Whether it is an mp4 or a finished WAV: these are decoded with seeks, and have an end that a pipe will reach."""
    (size,) = struct.unpack("<I", start[4:8].ljust(4, b"\0"))
    return start[4:8] == b"ftyp" or (riff.is_wav(start) and 0 < size < riff.UNKNOWN)


def _opened(file: Reader, start: bytes, options: dict[str, str]) -> InputContainer:
    allowed = {"format_whitelist": DEMUXERS, "codec_whitelist": ",".join(sorted(_codecs()))}
    try:
        return av.open(file, mode="r", options=allowed | options, metadata_errors="ignore")
    except FFmpegError as error:
        if start[4:8] == b"ftyp":
            where = (
                "comes before its sound only if it was made for streaming"
                if isinstance(file, _Peeked)
                else "is missing"
            )
            raise Unreadable(f"its index (moov), without which nothing can be read, {where}") from error
        raise Unreadable("it is not a sound file that can be read") from error


@cache
def _codecs() -> set[str]:
    """The decoders that are allowed."""
    return CODECS | {name for name in av.codecs_available if name.startswith(("pcm_", "adpcm_"))}


def _told_s(container: InputContainer) -> float:
    """The length in seconds if the header of such a file states it; else 0."""
    stream = container.streams.best("audio")
    if container.format.name not in TOLD or stream is None:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / av.time_base if alone and container.duration else 0.0


def _samples(frame: AudioFrame) -> npt.NDArray[np.generic]:
    """The samples of a frame as [channels, n], whether it holds them planar or interleaved."""
    found = frame.to_ndarray()
    return found if frame.format.is_planar else found.reshape(-1, len(frame.layout.channels)).T
