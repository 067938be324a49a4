"""What an operator types: one module for each family of `voxd` commands, called by `voxd.cli`.

May import everything below but the laboratory's torch; loads no model itself.  Begin with `service` (install, logs,
systemd) or `models` (pull, verify, bench-engine).  Not in the path.
"""
