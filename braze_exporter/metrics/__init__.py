"""What Prometheus scrapes: metric families, the collector, counters, baselines and the exporter's own metrics.

It renders what the scheduler fetched. It never makes a request, and it does not know the web server.
"""
