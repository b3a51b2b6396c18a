"""Decides which queries exist, when each is fetched, and which calls Braze's rate limits allow.

The package holds the state of every query and of Braze's lists, and calls the client in `braze`. It does not depend on
Prometheus.
"""
