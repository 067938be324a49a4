"""Proofs and benches that load torch: the engines compared with transformers' own models, and their speed here.

May import the engines.  Begin with `verify_realtime`; `voxd.commands.models` is what calls these.
"""
