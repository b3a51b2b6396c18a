"""The HTTP server, its TLS and passwords, and the status page at `/`.

It serves one exporter, and reads its state without changing it.
"""
