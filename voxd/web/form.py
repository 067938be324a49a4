"""Reads a multipart form whole and within bounds: names and values in the order in which they came.  Beside step 3.

It knows multipart; not what any field means, nor who sends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import BinaryIO

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from shared.refusals import WireError, named

KIND = "multipart/form-data"
FIELDS = 1000  # of a form: lists, such as `keywords[]`, have one for each of their values
FILES = 8
FIELD = 64 << 10  # bytes of one field that is no file
PIECE = 8 << 10  # bytes parsed in one go: as tiny fields they are 5 ms


@dataclass(frozen=True, slots=True)
class File:
    """A part with a file name; `size` in bytes."""

    data: BinaryIO  # in memory, at its start
    size: int


def is_form(headers: Headers) -> bool:
    """Whether the request says that it is a form."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == KIND


class _Parser(MultiPartParser):
    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """The library's error names no field."""
        part = self._current_part
        if part.file is None and len(part.data) + end - start > self.max_part_size:
            (name,) = named([part.field_name])
            message = f"The field '{name}' is longer than {self.max_part_size} bytes."
            raise WireError("invalid_value", message, name)
        super().on_part_data(data, start, end)


async def read(
    headers: Headers, chunks: AsyncGenerator[bytes, None], *, size: int, field: int = FIELD
) -> list[tuple[str, str | File]]:
    """`size`: bytes of the whole, which the caller sees to; `field`: bytes of a part that is no file.  Raises
    WireError."""
    parser = _Parser(headers, _in_pieces(chunks), max_files=FILES, max_fields=FIELDS, max_part_size=field)
    parser.spool_max_size = size + 1  # nothing touches a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise WireError("invalid_form", f"The form cannot be read: {error.message}") from None
    except UnicodeError:  # of a charset that is one for names only
        raise WireError("invalid_form", "The form cannot be read: its charset is not UTF-8.") from None
    return [(name, _taken(value)) for name, value in form.multi_items()]


async def _in_pieces(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async for chunk in chunks:
        for begin in range(0, len(chunk), PIECE):
            yield chunk[begin : begin + PIECE]
            await asyncio.sleep(0)  # others have their turn


def _taken(value: str | UploadFile) -> str | File:
    return File(value.file, value.size or 0) if isinstance(value, UploadFile) else value
