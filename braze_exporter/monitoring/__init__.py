"""Generates the Grafana dashboard and the Prometheus alerting rules for a configuration.

It knows the metric families, the plan and the alerts of the configuration. It needs no network, no API key and no
state.
"""
