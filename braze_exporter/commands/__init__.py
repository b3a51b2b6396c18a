"""The subcommands, one module each, and the code that they share.

A command reads the config, creates the components that it needs and returns an exit code. Commands do not import each
other, with one exception: `demo` uses functions of `serve`.
"""
