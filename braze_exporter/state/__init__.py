"""The state file: an SQLite database that one process at a time can open.

A process uses the database only while it holds a lock on `<state_file>.lock`, an empty file that is never deleted. It
opens the database once, since closing a second descriptor of a file drops all POSIX locks on it.
"""
