"""config.yaml: what a person reads when it is wrong, and that nothing else can come out of it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from msgspec import structs

from shared import config
from shared.config import ConfigError, load
from shared.settings import Engines, Server, Settings, Streaming, Tcp, Vad, listener

DEFAULT_FILE = Path(__file__).parents[2] / "config.yaml"


@pytest.fixture(autouse=True)
def no_system_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own /etc/voxd and /run/voxd stay out of the tests."""
    monkeypatch.setattr(config, "SYSTEM_CONFIG", tmp_path / "etc" / "config.yaml")
    monkeypatch.setattr(config, "SYSTEM_SOCKET", tmp_path / "run" / "voxd.sock")


def parse(directory: Path, text: str | bytes, **environ: str) -> Settings:
    """The settings of a file `config.yaml` with this text."""
    path = directory / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path, environ).settings


def complaint(directory: Path, text: str | bytes, **environ: str) -> str:
    """The error text, without the folder."""
    with pytest.raises(ConfigError) as caught:
        parse(directory, text, **environ)
    return str(caught.value).replace(f"{directory}/", "")


def leaves(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from leaves(field.type, (*path, field.name))
        else:
            yield (*path, field.name)


# ---- the default file -----------------------------------------------------------------------------------------------


def test_the_default_file_says_exactly_the_defaults() -> None:
    assert load(DEFAULT_FILE, {}) == (Settings(), DEFAULT_FILE, ())


def test_the_default_file_names_every_setting(tmp_path: Path) -> None:
    """Turning one line `key: value` into a wrong one is noticed, for each key: so each is really there."""
    text = DEFAULT_FILE.read_text()
    for path in leaves(Settings):
        start = f"{'  ' * (len(path) - 1)}{path[-1]}:"
        broken = [text.replace(line, f"{start} [[]]") for line in text.splitlines() if line.startswith(start)]
        said = [complaint(tmp_path, wrong) for wrong in broken]
        assert any(re.search(rf": {re.escape('.'.join(path))}(\[0\])?: expected ", line) for line in said), path


def test_values_arrive(tmp_path: Path) -> None:
    text = """
engines: {transcribe: whisper, respond: "echo"}
engine_options:
  whisper: {threads: 2, words: [a, 1.5, true, null]}
server:
  listen: ["127.0.0.1:8000", unix:/tmp/v.sock]
vad:
  threshold: 1e-1
streaming:
"""
    got = parse(tmp_path, text)
    assert got.engines == Engines("whisper", "echo")
    assert got.engine_options == {"whisper": {"threads": 2, "words": ["a", 1.5, True, None]}}
    assert got.server == Server(listen=("127.0.0.1:8000", "unix:/tmp/v.sock"))
    assert got.vad == Vad(threshold=0.1)
    assert got.streaming == Streaming()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~", "{}", "\ufeffvad: {}\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert parse(tmp_path, text) == Settings()


# ---- what is wrong, and where ---------------------------------------------------------------------------------------

WRONG = {
    "word for a number": (
        "# targets\n\nstreaming:\n  latency_target_ms: fast\n",
        "config.yaml:4:3: streaming.latency_target_ms: expected an integer of at least 1, got 'fast'",
    ),
    "too low": (
        "streaming: {latency_target_ms: 0}",
        "config.yaml:1:13: streaming.latency_target_ms: expected an integer of at least 1, got 0",
    ),
    "out of range": (
        "vad:\n  onset_ms: 31\n",
        "config.yaml:2:3: vad.onset_ms: expected an integer from 32 to 1000, got 31",
    ),
    "a fraction for an integer": (
        "vad:\n  onset_ms: 64.0\n",
        "config.yaml:2:3: vad.onset_ms: expected an integer from 32 to 1000, got 64.0",
    ),
    "a quoted number": (
        "vad:\n  threshold: '0.5'\n",
        "config.yaml:2:3: vad.threshold: expected a number above 0 and below 1, got '0.5'",
    ),
    "not a number": (
        "vad:\n  threshold: .nan\n",
        "config.yaml:2:3: vad.threshold: expected a number above 0 and below 1, got '.nan'",
    ),
    "infinite": (
        "vad:\n  threshold: 1e999\n",
        "config.yaml:2:3: vad.threshold: expected a number above 0 and below 1, got '1e999'",
    ),
    "nothing": (
        "vad:\n  threshold:\n",
        "config.yaml:2:3: vad.threshold: expected a number above 0 and below 1, got nothing",
    ),
    "yes is a word": ("server:\n  token: yes\n", "config.yaml:2:3: server.token: expected true or false, got 'yes'"),
    "choice": (
        "log:\n  level: loud\n",
        "config.yaml:2:3: log.level: expected one of debug, error, info, warning, got 'loud'",
    ),
    "item of a list": (
        "server:\n  allow_origin:\n    - https://a.example\n    - a.example\n",
        "config.yaml:4:7: server.allow_origin[1]: expected http://HOST or https://HOST[:PORT], got 'a.example'",
    ),
    "text for a list": (
        "server:\n  listen: :8000\n",
        "config.yaml:2:3: server.listen: expected a list, each item text, got ':8000'",
    ),
    "a listener": (
        "server:\n  listen: ['[::1]:8000', 'unix:here']\n",
        "config.yaml:2:26: server.listen[1]: expected an absolute path for a socket, got 'here'",
    ),
    "a port": (
        "server:\n  listen: ['[::1]:65536']\n",
        "config.yaml:2:12: server.listen[0]: expected a port from 0 to 65535, got 65536",
    ),
    "a path or null": (
        "server:\n  tls_key: key.pem\n",
        "config.yaml:2:3: server.tls_key: expected an absolute path or null, got 'key.pem'",
    ),
    "options that are no mapping": (
        "engine_options:\n  whisper: fast\n",
        "config.yaml:2:3: engine_options.whisper: expected a mapping, got 'fast'",
    ),
    "unknown key": (
        "engines: {}\nvad:\n  treshold: 1\n",
        "config.yaml:3:3: vad.treshold: unknown key (did you mean threshold?); allowed here: threshold, "
        "prefix_padding_ms, silence_duration_ms, tentative_ms, onset_ms, hangover_ms, max_utterance_s",
    ),
    "unknown section": (
        "color: red\n",
        "config.yaml:1:1: color: unknown key; allowed here: engines, engine_options, server, engine_process, vad, "
        "streaming, performance_targets, chunked_response, webrtc, log",
    ),
    "merge key": ("<<: {vad: {}}\n", "config.yaml:1:1: '<<': unknown key; allowed here"),
    "key that a terminal would obey": (
        'vad: {"\\e[31m": 1}\n',
        r"config.yaml:1:7: vad.'\x1b[31m': unknown key; allowed",
    ),
    "key that is no text": ("vad:\n  3: 4\n", "config.yaml:2:3: vad: a key must be text"),
    "key that is a list": ("[a]: 4\n", "config.yaml:1:1: a key must be text; put it in quotes"),
    "section that is a value": (
        "log: info\n",
        "config.yaml:1:1: log: expected a mapping with the keys level; got 'info'",
    ),
    "a list at the top": ("- a\n", "config.yaml:1:1: expected a mapping with the keys engines, engine_options, server"),
    "duplicate key": (
        "vad: {}\nlog: {}\nvad: {}\n",
        "config.yaml:3:1: vad: duplicate key, first in line 1",
    ),
    "duplicate deep inside options": (
        "engine_options:\n  echo:\n    a: [{b: 1, b: 2}]\n",
        "config.yaml:3:16: engine_options.echo.a[0].b: duplicate key, first in line 3",
    ),
    "speculation after the end": (
        "vad:\n  tentative_ms: 600\n",
        "config.yaml:2:3: vad.tentative_ms: tentative_ms (600) must be below silence_duration_ms (500)",
    ),
    "end before the speculation": (
        "vad:\n  silence_duration_ms: 160\n  tentative_ms: 160\n",
        "config.yaml:3:3: vad.tentative_ms: tentative_ms (160) must be below silence_duration_ms (160)",
    ),
    "chunks": (
        "chunked_response:\n  min_words_per_chunk: 3\n",
        "config.yaml:2:3: chunked_response.min_words_per_chunk: min_words_per_chunk (3) must not be above "
        "max_words_per_chunk (2; 0 means no splitting)",
    ),
    "half of a pair": (
        "server:\n  tls_cert: /cert.pem\n",
        "config.yaml:2:3: server.tls_cert: tls_cert and tls_key go together",
    ),
    "tab": (
        "vad:\n\tthreshold: 1\n",
        r"config.yaml:2:1: found character '\t' that cannot start any token (indent with spaces, not with tabs)",
    ),
    "NUL": ("vad:\n  threshold: \0\n", "config.yaml:2:14: the character U+0000 is not allowed"),
    "not UTF-8": (b"# caf\xc3\xa9\nlog: {level: \xff}\n", "config.yaml:2:14: byte 0xFF is not UTF-8"),
    "tag": ("log: !!python/object/apply:os.abort []\n", "config.yaml:1:6: tags are not allowed"),
    "plain tag": ("log: ! x\n", "config.yaml:1:6: tags are not allowed"),
    "anchor": ("log: &a {}\nvad: *a\n", "config.yaml:1:6: anchors and aliases are not allowed"),
    "alias": ("log: *a\n", "config.yaml:1:6: anchors and aliases are not allowed"),
    "two documents": ("log: {}\n---\nlog: {}\n", "config.yaml:2:1: but found another document"),
    "colon missing": ("vad:\n  threshold 1\n  onset_ms: 1\n", "config.yaml:3:11: mapping values are not allowed here"),
    "open bracket": ("server:\n  listen: [a\n", "config.yaml:3:1: expected ',' or ']', but got '<stream end>'"),
    "deep": ("a: " + "[" * 5000, "config.yaml:1:11: nested deeper than 8 levels"),
    "deep by indentation": (
        "".join(" " * i + "a:\n" for i in range(200)),
        "config.yaml:8:8: nested deeper than 8 levels",
    ),
    "half a character": ('log: {level: "\\ud800"}\n', "config.yaml:1:14: half a surrogate pair is not text"),
    "an escape that is no character": ('log: {level: "\\UFFFFFFFF"}\n', "config.yaml:1:1: not readable as YAML"),
    "64 KiB": ("# " + "x" * 65_536, "config.yaml: more than 64 KiB"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert complaint(tmp_path, text).startswith(message)


@pytest.mark.parametrize("name", ["too low", "out of range", "unknown key", "duplicate key", "tab", "choice", "NUL"])
def test_the_message_is_the_whole_message(tmp_path: Path, name: str) -> None:
    text, message = WRONG[name]
    assert complaint(tmp_path, text) == message


def test_long_values_are_shortened_and_one_line(tmp_path: Path) -> None:
    said = complaint(tmp_path, "log: {level: '" + "ä\x85" * 9000 + "'}")
    assert len(said) < 200
    assert "\n" not in said
    assert said.isascii()


def test_a_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9))
    assert complaint(tmp_path, bomb) == "config.yaml:1:4: anchors and aliases are not allowed"


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file or directory"):
        load(missing, {})
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load(None, {"VOXD_CONFIG": str(missing)})


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening one for reading would wait for a writer
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ConfigError, match=f"{path}: (not a regular file|cannot be read: Is a directory)"):
            load(path, {})


def test_search_order(tmp_path: Path) -> None:
    home, system, named = tmp_path / "home", config.SYSTEM_CONFIG, tmp_path / "named.yaml"
    user = home / ".config" / "voxd" / "config.yaml"
    environ = {"HOME": str(home)}
    assert load(None, environ) == (Settings(), None, ())
    for path in (user, system, named):  # each goes over the one before
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("log: {level: debug}\n")
        if path == named:
            environ["VOXD_CONFIG"] = str(named)
        assert load(None, environ).source == path
    assert load(DEFAULT_FILE, environ).source == DEFAULT_FILE
    system.unlink()
    xdg = {"HOME": str(home), "XDG_CONFIG_HOME": str(tmp_path / "nowhere")}
    assert load(None, xdg).source is None
    assert load(None, xdg | {"XDG_CONFIG_HOME": "relative"}).source == user


# ---- the environment ------------------------------------------------------------------------------------------------


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    got = parse(
        tmp_path,
        "engines: {transcribe: echo}\nvad: {onset_ms: 96}\n",
        VOXD_ENGINES_TRANSCRIBE="whisper",
        VOXD_VAD_SILENCE_DURATION_MS="700",
        VOXD_SERVER_LISTEN="[':8000']",
        VOXD_ENGINE_OPTIONS="{whisper: {threads: 1}}",
        VOXD_SERVER_TOKEN="false",
        VOXD_LOG_LEVEL="",  # empty: as if unset
    )
    assert got.engines.transcribe == "whisper"
    assert got.vad == Vad(onset_ms=96, silence_duration_ms=700)
    assert got.server == Server(listen=(":8000",), token=False)
    assert got.engine_options == {"whisper": {"threads": 1}}
    assert got.log.level == "info"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VOXD_VAD_ONSET_MS", "x", "VOXD_VAD_ONSET_MS: vad.onset_ms: expected an integer from 32 to 1000, got 'x'"),
        ("VOXD_VAD_TENTATIVE_MS", "800", "VOXD_VAD_TENTATIVE_MS: vad.tentative_ms: tentative_ms (800) must be below"),
        ("VOXD_LOG_LEVEL", "!x y", "VOXD_LOG_LEVEL: tags are not allowed"),
        ("VOXD_LOG_LEVEL", "[", "VOXD_LOG_LEVEL: expected the node content"),
        ("VOXD_LOG_LEVEL", "a\udcff", "VOXD_LOG_LEVEL: the character U+DCFF is not allowed"),
        ("VOXD_LOG_LEVEL", "x" * 70_000, "VOXD_LOG_LEVEL: more than 64 KiB"),
        ("VOXD_SERVER_LISTEN", "[1]", "VOXD_SERVER_LISTEN: server.listen[0]: expected text, got 1"),
    ],
)
def test_errors_name_the_variable(tmp_path: Path, name: str, value: str, message: str) -> None:
    assert complaint(tmp_path, "", **{name: value}).startswith(message)


def test_variables_that_mean_nothing_are_told() -> None:
    environ = {"VOXD_VAD_TRESHOLD": "1", "VOXD_QQQ": "1", "VOXD_TOKEN": "t", "VOXD_EAGER": "1", "VOXDX": "1"}
    assert load(DEFAULT_FILE, environ).warnings == (
        "VOXD_QQQ: no such setting",
        "VOXD_VAD_TRESHOLD: no such setting; did you mean VOXD_VAD_THRESHOLD?",
    )


# ---- anything at all ------------------------------------------------------------------------------------------------

yamlish = st.lists(
    st.sampled_from([*"{}[]:,-?|>&*!%@`'\"#~\n\t \\", "vad", "log: ", "\n  ", "---", "0x", "1e", "!!", "\\x", "\ufeff"])
    | st.text(max_size=3),
    max_size=40,
).map("".join)
fuzz = settings(max_examples=200, deadline=60_000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(st.binary(max_size=300) | yamlish.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"a: \xed\xa0\x80")
@example(b'"\\ud800": 1')
@example(b'log: {level: "\\ud800"}')
@example(b"0b_: 1")
@example(b"vad: {onset_ms: " + b"9" * 60_000 + b"}")
@example(b"%YAML " + b"9" * 5000 + b".1\n---\n{}")
@example(b"? " * 20_000)
@example(b"- " * 30_000)
@example(b"{" * 60_000)
@example(b'"' + b"\\\n" * 30_000)
@example(b"a: " + b"x: " * 20_000)
@example(b"a: >\n" + b" \n" * 30_000)
@example(b"\n".join(b"k%d: 1" % i for i in range(4000)))
def test_any_bytes_load_or_are_refused(tmp_path: Path, data: bytes) -> None:
    try:
        assert isinstance(parse(tmp_path, data), Settings)
    except ConfigError as error:
        assert str(error).startswith(f"{tmp_path}/config.yaml")  # noqa: PT017  (either outcome is right)


@fuzz
@given(st.sampled_from(list(leaves(Settings))), yamlish)
def test_any_value_loads_or_is_refused(path: tuple[str, ...], value: str) -> None:
    name = "VOXD_" + "_".join(path).upper()
    try:
        load(DEFAULT_FILE, {name: value})
    except ConfigError as error:
        assert str(error).startswith(name)  # noqa: PT017


# ---- sockets and the token ------------------------------------------------------------------------------------------


def test_the_runtime_directory() -> None:
    home = {"HOME": "/home/ann"}
    assert config.runtime_dir(home | {"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/voxd")
    assert config.runtime_dir(home) == Path("/home/ann/.local/state/voxd/run")
    assert config.runtime_dir(home | {"XDG_RUNTIME_DIR": "relative"}) == Path("/home/ann/.local/state/voxd/run")
    assert config.runtime_dir(home | {"RUNTIME_DIRECTORY": "/run/other:/run/voxd"}) == Path("/run/voxd")
    assert config.runtime_dir(home | {"RUNTIME_DIRECTORY": "/run/other"}).is_relative_to("/home/ann")


def test_the_token_file() -> None:
    assert config.token_path({"HOME": "/home/ann"}) == Path("/home/ann/.local/state/voxd/token")
    assert config.token_path({"XDG_STATE_HOME": "/s"}) == Path("/s/voxd/token")
    assert config.token_path({"STATE_DIRECTORY": "/var/lib/voxd"}) == Path("/var/lib/voxd/token")


def test_a_socket_path_is_measured_before_it_is_bound() -> None:
    assert config.control_socket({"XDG_RUNTIME_DIR": "/" + "x" * 87}) == Path("/" + "x" * 87 + "/voxd/voxd.sock")
    with pytest.raises(ConfigError, match=r"at most 103 bytes, got 104: /x+/voxd/voxd.sock; set XDG_RUNTIME_DIR"):
        config.control_socket({"XDG_RUNTIME_DIR": "/" + "x" * 88})


def test_a_client_takes_the_first_socket_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "login")}
    places = [config.SYSTEM_SOCKET, tmp_path / ".local/state/voxd/run/voxd.sock", tmp_path / "login/voxd/voxd.sock"]
    assert config.client_socket(environ, uid=4_000_000) == places[-1]
    for place in places:  # each goes over the one before
        place.parent.mkdir(parents=True)
        monkeypatch.chdir(place.parent)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(place.name)  # relative: the path of a test's folder may be longer than a socket's may be
        assert config.client_socket(environ, uid=4_000_000) == place


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Tcp("127.0.0.1", 80)),
        ("localhost", Tcp("localhost", 8000)),
        (":0", Tcp("127.0.0.1", 0)),
        ("[::1]:9", Tcp("::1", 9)),
        ("unix:/run/x.sock", Path("/run/x.sock")),
    ],
)
def test_listeners(text: str, address: Tcp | Path) -> None:
    assert listener(text) == address


@pytest.mark.parametrize(
    "text", ["", "::1:80", "a b:1", "http://x:1", "x:", "x:99999", "unix:", "unix:x", "unix:/" + "y" * 104]
)
def test_not_listeners(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|at most"):
        listener(text)
