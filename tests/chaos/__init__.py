"""Everything that breaks on purpose: attacks, faults, kills, and the proofs that nothing is lost by them.

`python -m tests.chaos.nemesis`: eight clients while everything around them breaks.
`python -m tests.chaos`: an honest client beside every attack at once.

    attacks    the table: a name, what one round does, how many peers do it at once
    attacker   a peer that does not behave: an address of its own, a way to the daemon, a count of what it was told
    siege      a process of attackers, at a low priority: they are to cost the daemon something, not the machine
    honest     the client that speaks and pings
    ordeal     a daemon, the client and the siege; what is read of them becomes Evidence
    judge      Evidence → verdicts   (pure)
"""
