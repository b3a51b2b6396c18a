"""The simulator: a simulated Braze for the command `demo` and the tests, with the data of a fictional online shop.

It implements Braze's documentation independently of the exporter, from which it imports only the units and pools of
`braze_exporter.braze`. Fault injection is part of the tests.
"""
