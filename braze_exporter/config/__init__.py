"""The configuration: a YAML file and the environment become one frozen `Config`, or a list of every problem.

It knows the endpoint table of `braze`, and nothing of queries, metrics or the network.
"""
