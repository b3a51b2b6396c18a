"""The subcommands, one module each, and the code that they share.

A command reads the configuration, creates the components that it needs and returns an exit code. Commands do not import
each other. The exceptions are `check` and `demo`, which use parts of `check_live` and `serve`.
"""
