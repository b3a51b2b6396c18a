"""Prometheus exporter for Braze: the newest counts of all that it has series of, as labelled gauges."""

__version__ = "0.1.0"
