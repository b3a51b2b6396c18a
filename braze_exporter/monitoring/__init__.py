"""Generates the Grafana dashboard and the Prometheus alerting rules for a configuration.

It depends on the metric families, the plan and the alerts of the configuration. It needs no network, no API key and no
state file.
"""
