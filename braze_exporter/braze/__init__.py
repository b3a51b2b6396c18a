"""The REST client for Braze and its data model: the endpoint table, buckets, requests, response parsing and errors.

The endpoint table is the one source of metric names, config sections, simulator paths and documentation. Nothing here
knows Prometheus, scheduling or the configuration.
"""
