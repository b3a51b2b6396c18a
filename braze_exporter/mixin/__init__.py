"""What others make of the metrics, generated from the catalog and the plan: plain dicts, for Grafana and Prometheus."""
