"""The HTTP server, TLS, basic authentication, and the status page at `/`.

It serves one exporter. A scrape starts the due fetches; the status page only reads.
"""
