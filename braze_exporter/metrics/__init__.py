"""Metric families, the collector, counters, baselines and the exporter's own metrics.

This package renders what the scheduler fetched. It makes no requests and does not depend on the web server.
"""
