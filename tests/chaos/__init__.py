"""One honest client is measured beside every attack at once: `python -m tests.chaos --seconds 300 --seed N`.

attacks    the table: a name, what one round does, how many peers do it at once
sessions, sounds, frames, requests, bodies, calls      what they do, by what they send
attacker   a peer that does not behave: an address of its own, a way to the daemon, a count of what it was told
siege      a process of attackers, at the lowest priority: they are to cost the daemon something, not the machine
honest     the client that speaks, pings and counts
ordeal     a daemon, the client and the siege; what is read of them becomes Evidence
bounds     the table of docs/RELIABILITY.md
judge      Evidence → verdicts   (pure)
"""
