"""The pure parts of the screen: bars, folding, entries, figures; and when it paints."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from rich.cells import cell_len

from shared.events import OutputTextDelta, ResponseCreated
from shared.latency import TurnMetrics
from tests.support.scenes import MARKUP, Scene, answered, opening, response, settle, until
from voxtui.events import Measured
from voxtui.screen.widgets.blocks import BREACH, bars, graph
from voxtui.screen.widgets.conversation import Conversation
from voxtui.screen.widgets.entry import EntryRows
from voxtui.screen.widgets.figures import course, graphed, number
from voxtui.screen.widgets.folding import Folded
from voxtui.session.transcript import Entry, EntryProgress, State, Voice, reduce

TARGETS = (("total_ms", 1000.0),)


def test_bars() -> None:
    assert bars([0, 4, 8], 4, 1, 8) == [" ▁▄█"]
    assert bars([1, 2, 3, 4], 2, 2, 4) == ["▄█", "██"]
    assert bars([], 3, 1, 0) == ["   "]
    assert bars([1], 0, 1, 1) == [""]


def test_a_graph_with_a_target_has_a_line_and_marks_what_is_beyond() -> None:
    rows = graph([100, 50, 200], 4, 5, 100)
    assert rows[0] == "   ✗"
    assert [row[0] for row in rows].count("┄") == 1
    assert all(row[3] == "█" for row in rows[1:])
    assert graph([100, 50, 200], 4, 1, 100)[0][3] == BREACH
    assert len(graph([], 4, 5, 100)) == 5
    assert graph([3.0], 2, 1, None) == [" █"]


# ── folding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def fold(text: str, width: int) -> list[str]:
    folded = Folded(width)
    folded.update(text, 0)
    return [folded.row(at)[1] for at in range(len(folded))]


@pytest.mark.parametrize(
    ("text", "width", "rows"),
    [
        ("", 10, [""]),
        ("one two three", 7, ["one two", "three"]),
        ("one  two", 4, ["one", "two"]),
        ("a\n\n  b", 9, ["a", "", "  b"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("ab cdefgh", 4, ["ab", "cdef", "gh"]),
        ("本を読む人", 4, ["本を", "読む", "人"]),
        ("本", 1, ["本"]),
    ],
)
def test_folding(text: str, width: int, rows: list[str]) -> None:
    assert fold(text, width) == rows


TEXT = st.text(alphabet="ab \n本", max_size=40)


@given(TEXT, st.integers(2, 12))
def test_nothing_is_lost_and_nothing_sticks_out(text: str, width: int) -> None:
    rows = fold(text, width)
    assert "".join("".join(rows).split()) == "".join(text.split())
    assert all(cell_len(row.lstrip()) <= width for row in rows)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6), st.integers(2, 12))
def test_text_that_grows_is_folded_as_if_it_had_always_been_there(steps: list[tuple[str, str]], width: int) -> None:
    folded, solid = Folded(width), ""
    for more, provisional in steps:
        same, solid = len(solid), solid + more
        whole = f"{solid} {provisional}"
        first = folded.update(whole, same)
        assert [folded.row(at)[1] for at in range(len(folded))] == fold(whole, width)
        assert 0 <= first < len(folded)


# ── entries ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_of(entry: Entry, width: int = 60) -> list[list[tuple[str, str]]]:
    rows = EntryRows(entry, width, TARGETS)
    assert rows.row(len(rows) - 1) == []
    return [rows.row(at) for at in range(len(rows) - 1)]


@pytest.mark.parametrize(
    ("entry", "rows"),
    [
        (
            Entry("a", Voice.USER, "One", " two"),
            [[("One", "text"), (" two ", "provisional"), ("▍", "open")]],
        ),
        (Entry("a", Voice.USER), [[("", "provisional"), ("▍", "open")]]),
        (Entry("a", Voice.USER, heard=True, progress=EntryProgress.DONE), [[("(spoken)", "provisional")]]),
        (
            Entry("a", Voice.USER, MARKUP, progress=EntryProgress.BROKEN, remark="lost"),
            [[(MARKUP, "text")], [("lost", "remark")]],
        ),
        (
            Entry("a", Voice.USER, "x", progress=EntryProgress.DONE, metrics=TurnMetrics(final_ms=640.4, rtf=0.217)),
            [[("x", "text")], [("final 640 ms", "latency"), ("  ·  ", "latency"), ("rtf 0.22", "latency")]],
        ),
        (
            Entry("a", Voice.MODEL, "x", progress=EntryProgress.DONE, metrics=TurnMetrics(total_ms=1210.0)),
            [[("x", "text")], [("✗ total 1210 ms, over 1000", "breach")]],
        ),
        (
            Entry("a", Voice.MODEL, "x", metrics=TurnMetrics(ttft_user_ms=316.0, total_ms=0.6)),
            [[("x", "text"), (" ", "provisional"), ("▍", "model")], [("ttft 316 ms", "latency")]],
        ),
        (Entry("a", Voice.NOTE, "a\tb", progress=EntryProgress.DONE), [[("a    b", "aside")]]),
    ],
)
def test_an_entry(entry: Entry, rows: list[list[tuple[str, str]]]) -> None:
    assert rows_of(entry) == rows


def test_what_is_under_an_entry_is_folded_between_its_parts() -> None:
    metrics = TurnMetrics(first_text_ms=480.0, final_ms=640.0, rtf=0.2)
    narrow = rows_of(Entry("a", Voice.USER, "x", progress=EntryProgress.DONE, metrics=metrics), 20)
    assert ["".join(text for text, _ in row) for row in narrow] == [
        "x",
        "first text 480 ms",
        "final 640 ms",
        "rtf 0.20",
    ]


def test_an_entry_that_grows_says_from_where_on_it_has_changed() -> None:
    rows = EntryRows(Entry("a", Voice.MODEL, "one two three four"), 10, ())
    assert rows.update(Entry("a", Voice.MODEL, "one two three four five"), ()) == 1
    assert rows.update(Entry("a", Voice.MODEL, "One two three four five"), ()) == 0
    assert rows.update(Entry("a", Voice.MODEL, "One two three four five", progress=EntryProgress.DONE), ()) == 0


# ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def after(*events: object) -> State:
    state = State()
    for event in events:
        state = reduce(state, event)  # type: ignore[arg-type]
    return state


def test_which_metrics_are_drawn() -> None:
    assert graphed(after(*opening("mini"))) == ("ttft_engine_ms", "ttft_user_ms")
    assert graphed(after(*opening())) == ("final_ms",)
    lagging = Measured("a", TurnMetrics(final_ms=600.0, lag_over_delay_ms=12.0), complete=True)
    assert graphed(after(*opening(), lagging)) == ("final_ms", "lag_over_delay_ms")


def test_a_value_is_there_before_its_turn_is_over_and_once() -> None:
    early = Measured("r", TurnMetrics(ttft_user_ms=700.0), complete=False)
    state = after(*opening("mini"), *answered("q"), early)
    assert course(state, "ttft_user_ms") == [718.0, 700.0]
    whole = Measured("r", TurnMetrics(ttft_user_ms=700.0, ttft_engine_ms=80.0), complete=True)
    assert course(reduce(state, whole), "ttft_user_ms") == [718.0, 700.0]
    assert course(reduce(state, whole), "ttft_server_ms") == []


def test_numbers() -> None:
    assert [number("final_ms", 640.4), number("render_ms", 3.14), number("rtf", 0.217)] == ["640", "3.1", "0.22"]


# ── cost ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_tokens_of_one_moment_are_painted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what does not change is not drawn anew: a token costs no more in a long conversation."""
    shows: list[State] = []
    show = Conversation.show
    monkeypatch.setattr(Conversation, "show", lambda view, state: (shows.append(state), show(view, state)))
    scene = Scene([*opening("mini"), *[event for n in range(100) for event in answered(f"r{n}")]])
    async with scene.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        before = len(shows)
        scene._post(ResponseCreated("", response("in_progress", "new")))
        for number in range(1000):
            scene._post(OutputTextDelta("", "new", "i", 0, 0, f"w{number} "))
        await settle(pilot)
        view = scene.query_one(Conversation)
        await until(pilot, lambda: "w999" in "".join(view.render_line(y).text for y in range(view.size.height)))
        assert len(shows) - before < 20
