"""Generates the Grafana dashboard and the Prometheus alerting rules for a configuration.

The input is the plan of the configuration, with its alerts. The package uses no network, no API key and no state file.
"""
