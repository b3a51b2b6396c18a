"""Prometheus exporter for Braze: exports the counts of every data series of Braze's REST API as metrics."""

__version__ = "0.1.0"
