"""The glossary in `shared/__init__.py` has each word once, the field's words among them; its numbers are the code's."""

from __future__ import annotations

import re

import pytest

import shared
from shared.audio import HOP, PACKET, RATE, VAD_FRAME
from shared.latency import METRICS
from voxd.engine.realtime.runs import FRAME

ROWS = re.findall(r"^([A-Za-z][\w ,-]*?)(?:  +)(\S.*)$", shared.__doc__ or "", re.MULTILINE)
MEANING = {term.strip(): meaning for terms, meaning in ROWS for term in terms.split(",")}
FIELD = (
    *("connection", "session", "stream", "slot", "turn", "utterance", "item", "response", "packet", "hop", "frame"),
    *("request", "conversation", "token ids", "KV cache", "block table", "sampled token", "prompt", "transcript"),
    *("stall", "prefill", "decode step", "admission", "lag", "delay", "VAD", "endpointing", "speculation", "commit"),
)


def test_every_word_of_the_field_is_there_once() -> None:
    terms = [term.strip() for terms, _ in ROWS for term in terms.split(",")]
    assert sorted(terms) == sorted(set(terms))
    assert set(FIELD) - set(terms) == set()


@pytest.mark.parametrize(
    ("term", "samples"), [("packet", PACKET), ("hop", HOP), ("VAD frame", VAD_FRAME), ("frame", FRAME)]
)
def test_the_numbers_are_those_of_the_code(term: str, samples: int) -> None:
    meaning = MEANING[term]
    assert f"{samples} samples" in meaning
    assert f"{samples * 1000 // RATE} ms" in meaning


def test_the_latency_words_are_not_listed_twice() -> None:
    """Their list is the table: a copy in the glossary would be one more place to forget."""
    assert "shared.latency" in (shared.__doc__ or "")
    assert [metric.name for metric in METRICS if metric.name in MEANING] == []
