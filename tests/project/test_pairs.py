"""Numbers and names that stand in two places, in Python and in the page's JavaScript or in a document, are the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import msgspec
import pytest

from shared import events
from shared.audio import PACKET, RATE, VAD_FRAME, to_ms
from shared.settings import Server, Settings, Vad
from voxd.cli import CONFIGURATION
from voxd.engine.contract import LOOK_BACK
from voxd.engine.realtime.interface import RealtimeOptions
from voxd.engine.realtime.runs import FRAME
from voxd.engine.realtime.streams import AHEAD, GRACE, STUCK_BLANKS, STUCK_DBFS
from voxd.gateway.connection import OUTBOUND
from voxd.gateway.parking import WAIT_S
from voxd.gateway.supervision import STOP_MARGIN_S
from voxd.session.listening import INBOUND, WINDOW
from voxd.web.server import MESSAGE_LIMIT, PING_S
from voxtui.link import client
from voxtui.link.replay import KEEP
from voxtui.link.websocket import FINAL, PING_S as CLIENT_PING_S, SILENT_S
from voxtui.session.transcript import ENDINGS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "voxd" / "web" / "page"
SERVICE = (ROOT / "systemd" / "voxd.service").read_text(encoding="utf-8")
VAD = Vad()


def text(path: str) -> str:
    """A document as one line, so that a sentence may be broken anywhere."""
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())


def constant(script: str, name: str) -> str:
    """The text of a constant of a module of the page, up to its semicolon."""
    found = re.search(rf"const (?:\[(?P<names>[^\]]+)\]|{name}) = (?P<value>[^;]+);", script_after(script, name))
    assert found is not None, f"{name} in {script}"
    return found["value"]


def script_after(script: str, name: str) -> str:
    """The lines of a module that declare this constant."""
    lines = (PAGE / script).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if re.match(rf"(export )?const .*\b{name}\b.* = ", line))


def number(script: str, name: str) -> float:
    return float(constant(script, name).replace("_", ""))


def numbers(script: str, name: str) -> list[float]:
    """`[1000, 2_000]` -> its numbers."""
    return [float(each.replace("_", "")) for each in re.findall(r"[\d_]+", constant(script, name))]


def unit(name: str) -> float:
    """Seconds of a limit of the service, such as `45` or `30min`."""
    found = re.search(rf"^{name}=(\d+)(min)?$", SERVICE, re.MULTILINE)
    assert found is not None, name
    return float(found[1]) * (60 if found[2] else 1)


def limits(kind: type, name: str) -> tuple[int, int]:
    """The range of a setting."""
    meta = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"][name]
    return meta["minimum"], meta["maximum"]


def test_both_clients_keep_as_much_sound() -> None:
    kept_ms, packet_ms = constant("kept.js", "KEPT").split(" / ")
    assert packet_ms == "PACKET_MS"
    assert number("framer.js", "PACKET_MS") == to_ms(PACKET)
    assert float(kept_ms.replace("_", "")) == to_ms(KEEP)
    said = f"{KEEP // RATE} s"
    assert f"keeps what you say ({said})" in text("docs/USE.md")
    assert f"up to {said} of what you say" in text("docs/USE.md")
    assert f"`kept` has the sound of {said}" in text("docs/ARCHITECTURE.md")
    assert f"memory, the last {said}" in text("docs/PRIVACY.md")


def test_clients_try_for_as_long_as_the_daemon_waits_for_them() -> None:
    assert client.PATIENCE_S == WAIT_S == number("link.js", "PATIENCE_MS") / 1000
    assert f"the session waits {WAIT_S:.0f} s" in text("docs/PROTOCOL.md")
    assert f"comes back within {WAIT_S:.0f} s" in text("docs/ARCHITECTURE.md")


def test_both_clients_try_again_at_the_same_times() -> None:
    assert numbers("link.js", "FIRST_MS") == [client.FIRST_S * 1000, client.MOST_S * 1000]
    said = f"{client.FIRST_S / 2:g}", f"{client.MOST_S:g} s"
    assert f"({said[0]} to {said[1]} apart)" in text("docs/USE.md")
    assert f"({said[0]} s to {said[1]} apart)" in text("docs/ARCHITECTURE.md")


def test_both_clients_replay_at_the_same_pace() -> None:
    assert number("link.js", "PACE") == to_ms(PACKET) / 1000 / client.PACE_S == 4
    assert text("docs/ARCHITECTURE.md").count("at four times its own speed at most") == 2


def test_both_clients_find_a_dead_link_as_soon() -> None:
    gone_s = number("main.js", "GONE_MS") / 1000
    assert gone_s >= CLIENT_PING_S + SILENT_S
    assert f"a ping has had no answer for {gone_s:.0f} s" in text("docs/ARCHITECTURE.md")


def test_both_clients_give_up_at_the_same_close_codes() -> None:
    """1000 is the end of a session and no failure.  1001 is voxd's word for a session that another link has taken over,
    which voxtui does itself; a proxy that restarts says it, too, so voxtui tries again."""
    assert numbers("link.js", "FINAL") == [1000, 1001, *FINAL]
    for code in FINAL:
        assert str(code) in text("docs/PROTOCOL.md").partition("Close codes:")[2][:400]


def test_the_page_says_why_an_answer_ended_in_the_words_of_the_screen() -> None:
    said = dict(re.findall(r'(\w+): "([^"]+)"', constant("transcript.js", "WORDS")))
    assert said == ENDINGS


def test_the_page_knows_the_turn_rules() -> None:
    said = dict(re.findall(r"(\w+): (\d+)", constant("meter.js", "VAD")))
    assert said == {name: str(getattr(VAD, name)) for name in ("prefix_padding_ms", "silence_duration_ms")}
    assert VAD.silence_duration_ms == client.SILENCE_MS
    found = limits(Vad, "silence_duration_ms")
    assert (number("main.js", "SHORTEST_MS"), number("main.js", "LONGEST_MS")) == found


@pytest.mark.parametrize("path", sorted(PAGE.glob("*.js")), ids=lambda path: path.name)
def test_the_page_names_only_events_that_there_are(path: Path) -> None:
    """An event that was renamed on the server would be passed over without a word."""
    script = path.read_text(encoding="utf-8")
    named = set(re.findall(r'(?:case|\btype ===|\btype !==) "([a-z_.]+\.[a-z_.]+)"', script))
    assert named <= server_events(), named - server_events()


def server_events() -> set[str]:
    """The types of all events that the server sends."""
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.ServerBase)]
    return {str(kind.__struct_config__.tag) for kind in kinds}


def logged() -> set[str]:
    """The events of the journal, from the calls that write them."""
    found = {"log.lost", *(f"{scope}.done" for scope in ("transcription", "response"))}  # made by name, not by a call
    for path in (ROOT / "voxd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in {"fields", "_fields"}:
                    words = (each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant))
                    found |= {word for word in words if isinstance(word, str) and re.fullmatch(r"[a-z]+\.[a-z]+", word)}
    return found


def test_the_events_of_the_journal_are_those_that_operators_read_of() -> None:
    row = next(line for line in (ROOT / "docs/OPERATE.md").read_text("utf-8").splitlines() if line[:10] == "| `EVENT` ")
    assert set(re.findall(r"`([a-z]+\.[a-z]+)`", row)) == logged()
    head = ast.get_docstring(ast.parse((ROOT / "voxd/telemetry/log.py").read_text("utf-8"))) or ""
    listed = head.partition("EVENT")[2].partition("SESSION_ID")[0]
    assert set(re.findall(r"[a-z]+\.[a-z]+", listed)) == logged() - {"log.lost"}


def test_the_service_gives_the_daemon_the_time_that_it_takes() -> None:
    server = Server()
    assert unit("TimeoutStopSec") == server.drain_s + STOP_MARGIN_S
    assert unit("StartLimitIntervalSec") > unit("StartLimitBurst") * (unit("TimeoutStartSec") + unit("RestartSec"))
    assert unit("RestartPreventExitStatus") == CONFIGURATION
    assert unit("WatchdogSec") >= Settings().engine_process.heartbeat_timeout_s


HISTORY = RealtimeOptions().max_history_s
NUMBERS = (
    f"VAD frame {to_ms(VAD_FRAME)} ms",
    f"onset {VAD.onset_ms // to_ms(VAD_FRAME)} voiced frames",
    f"tentative end at the first frame end ≥ {VAD.tentative_ms} ms of quiet",
    f"end ≥ {VAD.silence_duration_ms} ms",
    f"hangover {VAD.hangover_ms} ms",
    f"prefix padding {VAD.prefix_padding_ms} ms",
    f"utterance at most {VAD.max_utterance_s // 60} min",
    f"audio an engine keeps before an onset {LOOK_BACK // RATE} s",
    f"in the engine process at most {WINDOW // RATE} s",
    f"history {HISTORY} s and {GRACE // RATE} s of grace",
    f"{to_ms(AHEAD)} ms decoded ahead",
    f"a stuck run {STUCK_BLANKS * FRAME // RATE} s at {STUCK_DBFS:.0f} dBFS",
    f"inbound {INBOUND >> 20} MiB",
    f"outbound {OUTBOUND >> 20} MiB",
    f"WebSocket message {MESSAGE_LIMIT >> 20} MiB",
    f"ping every {PING_S:.0f} s",
)


@pytest.mark.parametrize("said", NUMBERS)
def test_the_numbers_of_the_architecture_are_those_of_the_code(said: str) -> None:
    assert said in text("docs/ARCHITECTURE.md").partition("## Numbers in the code")[2]
