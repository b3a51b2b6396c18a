"""Writes the history of the configured queries as OpenMetrics text for promtool.

A backfill runs beside the exporter: it uses the scheduler's parts and the metric families, and knows neither the web
server nor the dashboards and rules.
"""
