"""A simulated Braze for the command `demo` and for the tests: a made-up shop behind Braze's REST API.

It is an independent reading of Braze's documentation: of the exporter it imports the endpoint table alone. Fault
injection lives in the tests.
"""
