"""The subcommands, one module each, and the context that they share.

A command reads the configuration, wires what it needs and returns an exit code. Commands do not import each other,
except `check` and `demo`, which run parts of `check_live` and `serve`.
"""
