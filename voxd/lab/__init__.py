"""Proofs and benches that load torch: the engines beside transformers' own models, and how fast they are here.

May import the engines.  Begin with `verify_realtime`; `voxd.commands.models` is what calls these.
"""
