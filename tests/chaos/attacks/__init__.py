"""The table of attacks.  A new one is a function of an Attacker and its name here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.attacker import Attacker
from tests.chaos.attacks import bodies, calls, frames, sessions, sounds


@dataclass(frozen=True, slots=True)
class Attack:
    """`act` is one round; `peers` do it at once, each with an address of its own, and again after `between_s`."""

    act: Callable[[Attacker], Awaitable[None]]
    peers: int = 2
    between_s: float = 0.5

    @property
    def name(self) -> str:
        return self.act.__name__


ATTACKS = {
    attack.name: attack
    for attack in (
        Attack(sessions.great_updates),
        Attack(sessions.large_items),
        Attack(sessions.emoji_items),
        Attack(sessions.many_items),
        Attack(sessions.parts),
        Attack(sessions.retrievals),
        Attack(sessions.questions),
        Attack(sessions.updates),
        Attack(sessions.absurd_numbers),
        Attack(sessions.nested),
        Attack(sessions.great_pings),
        Attack(sessions.junk),
        Attack(sessions.guessed_tokens),
        Attack(sessions.takeovers),
        Attack(sessions.vllm, peers=1),
        Attack(sessions.never_reads),
        Attack(sessions.reads_slowly, peers=1),
        Attack(sounds.far_offsets),
        Attack(sounds.great_appends),
        Attack(sounds.great_companded_appends, peers=1),
        Attack(sounds.tiny_appends),
        Attack(sounds.odd_bytes, peers=1),
        Attack(sounds.formats),
        Attack(sounds.binary, peers=1),
        Attack(sounds.commits),
        Attack(sounds.held_buttons),
        Attack(sounds.everything_is_speech),
        Attack(sounds.clips_in_items),
        Attack(sounds.vanish, between_s=0.1),
        Attack(frames.held_messages, peers=4),
        Attack(frames.fragments),
        Attack(frames.broken_frames, peers=1),
        Attack(frames.ping_frames),
        Attack(frames.small_messages),
        Attack(frames.come_and_go, between_s=0.1),
        Attack(frames.mass_connects, peers=4, between_s=0.1),
        Attack(frames.loris, peers=8),
        Attack(frames.wrong_keys, peers=4, between_s=0.1),
        Attack(frames.wrong_names, peers=1),
        Attack(frames.pipelines),
        Attack(frames.read_pipelines, peers=1),
        Attack(frames.great_heads),
        Attack(frames.great_paths, peers=1),
        Attack(frames.crowds),
        Attack(bodies.held_uploads, peers=16),
        Attack(bodies.dripped_uploads, peers=8),
        Attack(bodies.unfinished_secrets, peers=8),
        Attack(bodies.unfinished_calls, peers=8),
        Attack(bodies.unknown_uploads),
        Attack(bodies.broken_files, peers=1),
        Attack(bodies.long_silence, peers=1),
        Attack(bodies.long_silence_left, peers=1),
        Attack(bodies.many_fields, peers=1),
        Attack(bodies.chunks),
        Attack(bodies.secrets, peers=1),
        Attack(calls.refused_calls),
        Attack(calls.unanswered_calls),
        Attack(calls.broken_offers, peers=1),
        Attack(calls.hang_ups, peers=1),
        Attack(calls.guessed_legs, peers=1),
        Attack(calls.datagrams, peers=1),
    )
}
