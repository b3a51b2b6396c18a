"""Writes the history of the queries of a config as OpenMetrics text, for import with promtool.

A backfill can run beside the exporter. This package uses parts of the scheduler and the metric families, but neither
the web server nor the dashboards and rules.
"""
