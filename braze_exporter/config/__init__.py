"""Loads a YAML file and the environment into one frozen `Config`, or reports every problem.

This package imports the endpoint table of `braze`, but nothing about queries, metrics or the network.
"""
