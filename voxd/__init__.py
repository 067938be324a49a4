"""The daemon: a gateway process that owns sockets, sessions and turns, and an engine process that owns the models."""
