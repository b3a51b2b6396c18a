"""Writes the history of the configured queries as OpenMetrics text for promtool.

A backfill can run beside the exporter. It uses parts of the scheduler and the metric families, but neither the web
server nor the dashboards and rules.
"""
