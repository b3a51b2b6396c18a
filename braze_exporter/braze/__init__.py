"""The REST client for Braze and its data model: the endpoint table, buckets, requests, response parsing and errors.

The endpoint table (`kinds.KINDS`) is the single source of metric names, config sections and documentation. This package
does not depend on Prometheus, the scheduler or the config.
"""
