"""The HTTP server, TLS, basic authentication, and the status page at `/`.

It serves one exporter and reads its state without changing it.
"""
