"""A simulated Braze: a company's made-up events, answered as Braze answers, with faults on request.

    braze = SimulatedBraze(key="…", traffic=DEMO.traffic(seed=1, zone=zone), clock=time.time, zone=zone)
    with serve(braze) as server:
        …  # ask server.url
        braze.fail(faults.status(503), event="purchase_completed", times=2)

It is an independent reading of Braze's documentation: it shares no code with the reader of Braze's answers.
"""

from braze_exporter.demo import faults
from braze_exporter.demo.braze import SimulatedBraze, UnknownEvent
from braze_exporter.demo.config import KEY, KEY_VARIABLE, ZONE, config, shop
from braze_exporter.demo.logbook import Request
from braze_exporter.demo.reply import Disconnect, Reply
from braze_exporter.demo.serving import Server, serve
from braze_exporter.demo.times import DayFormat, HourFormat
from braze_exporter.demo.traffic import DEMO, Counts, Recorded, Shape, Traffic, Workspace
from braze_exporter.demo.world import Campaign, Canvas, Segment, World

__all__ = [
    "DEMO",
    "KEY",
    "KEY_VARIABLE",
    "ZONE",
    "Campaign",
    "Canvas",
    "Counts",
    "DayFormat",
    "Disconnect",
    "HourFormat",
    "Recorded",
    "Reply",
    "Request",
    "Segment",
    "Server",
    "Shape",
    "SimulatedBraze",
    "Traffic",
    "UnknownEvent",
    "Workspace",
    "World",
    "config",
    "faults",
    "serve",
    "shop",
]
