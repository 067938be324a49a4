"""Which clients of others there are, what each has to get through, and which version of each is pinned.

A script under `python/` or `npm/` is what a stranger would write from that client's own documentation; it runs in an
environment that holds that client and nothing of voxd.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
LOCKS = ROOT / ".ci" / "lock" / "clients"
ENVIRONMENTS = ROOT / ".venv-clients"
RESULTS = ENVIRONMENTS / "results.json"
NPM = "npm"  # the group of everything for node; its lock is HERE/npm/package-lock.json
GROUPS = ("openai", "livekit", "pipecat")  # of Python, each with a lock of its own

SCENARIOS = {
    "turn_by_voice": "turn by voice",
    "turn_by_hand": "turn by hand",
    "typed": "typed turn",
    "interruption": "interruption",
    "history": "history restored",
    "instructions": "new instructions and tools",
    "errors": "errors",
    "secret": "client secret",
    "agent": "AgentSession",
    "guide": "guide for WebSockets",
    "transcription": "live transcription",
    "transcription_of_context": "live transcription with key words",
    "vllm": "vLLM's example client",
    "file": "files",
    "restart": "restart of voxd",
}


@dataclass(frozen=True, slots=True)
class Client:
    """`packages`: those whose versions count.  `tls`: it knows no other WebSockets than wss."""

    name: str
    group: str
    script: str
    packages: tuple[str, ...]
    scenarios: tuple[str, ...]
    tls: bool = False

    def version(self) -> str:
        """As the locks pin it."""
        return ", ".join(_locked(self.group, package) for package in self.packages)

    def command(self, scenario: str) -> list[str]:
        if self.group == NPM:
            return ["node", str(HERE / "npm" / self.script), scenario]
        return [str(ENVIRONMENTS / self.group / "bin" / "python"), str(HERE / "python" / self.script), scenario]


def _locked(group: str, package: str) -> str:
    if group == NPM:
        lock = json.loads((HERE / "npm" / "package-lock.json").read_text())
        return str(lock["packages"][f"node_modules/{package}"]["version"])
    found = re.search(rf"^{re.escape(package)}==(\S+)", (LOCKS / f"{group}.txt").read_text(), re.MULTILINE)
    assert found, f"{package} is not in the lock of {group}"
    return found[1]


TALK = ("turn_by_voice", "typed", "interruption")
CLIENTS = (
    Client(
        "openai (Python)",
        "openai",
        "openai_sdk.py",
        ("openai",),
        (*TALK, "turn_by_hand", "history", "instructions", "errors", "transcription", "secret", "file", "restart"),
    ),
    Client("openai-agents (Python)", "openai", "openai_agents.py", ("openai-agents",), TALK),
    Client(
        "websocket-client, websockets",
        "openai",
        "raw.py",
        ("websocket-client", "websockets"),
        ("guide", "transcription", "vllm"),
    ),
    Client(
        "LiveKit Agents",
        "livekit",
        "livekit_agents.py",
        ("livekit-agents",),
        (
            *(*TALK, "turn_by_hand", "history", "instructions", "agent"),
            *("transcription", "transcription_of_context", "file", "restart"),
        ),
    ),
    Client(
        "pipecat",
        "pipecat",
        "pipecat_ai.py",
        ("pipecat-ai",),
        (*TALK, "history", "instructions", "transcription"),
    ),
    Client(
        "openai (npm)",
        NPM,
        "openai_sdk.mjs",
        ("openai",),
        (*TALK, "errors", "secret", "file", "restart"),
        tls=True,
    ),
    Client(
        "@openai/agents-realtime",
        NPM,
        "agents_realtime.mjs",
        ("@openai/agents-realtime",),
        (*TALK, "history", "instructions"),
    ),
    Client("AI SDK", NPM, "ai_sdk.mjs", ("ai", "@ai-sdk/openai"), ("file", "transcription")),
)
