"""Proofs and benches that load torch: the engines compared with transformers' own models, and their speed on this
machine.

Not in the path.  This room may import the engines and knows no gateway.  Begin with `verify_realtime`;
`voxd.commands.models` is what calls these.
"""
