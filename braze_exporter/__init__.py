"""Prometheus exporter for Braze: the newest counts of custom events as labelled gauges."""

__version__ = "0.1.0"
