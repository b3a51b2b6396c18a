"""The hourly counts of events that the simulated Braze has received by a given time.

`Traffic` generates realistic counts, which are reproducible with a seed.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol
from zoneinfo import ZoneInfo

from braze_exporter.simulator.inventory import SHOP_INVENTORY, VIP_SEGMENT_ID
from braze_exporter.simulator.times import HOUR_SECONDS

# Offline SDKs store events and send them later with the original time, so counts of past hours still grow.
MAX_DELAY_SECONDS = 2 * HOUR_SECONDS
_SATURDAY = 5
_DRAW_BYTES = 3  # few enough bits that a large count plus a draw below 1 is not rounded up


class Counts(Protocol):
    """The counts that the simulated Braze reports."""

    @property
    def events(self) -> Collection[str]:
        """The names of the events that exist."""

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return how many occurrences in the hour that starts at `hour_start` Braze has counted by `now`.

        Times are in seconds since the epoch. An empty id means no filter.
        """


@dataclass(frozen=True, slots=True)
class TrafficShape:
    """The volume of an event by hour and weekday.

    `peak_count` is the volume of the busiest hour of a weekday, which starts at `peak_hour` o'clock. Twelve hours away
    from it the volume is `peak_count` times `night_share`. On Saturdays and Sundays volumes are multiplied by
    `weekend_factor`. `apps` and `segments` map ids to shares. Events outside the shares of `apps` are sent by servers
    and have no app. `late_share` is the share that Braze receives after the end of the hour.
    """

    peak_count: float
    peak_hour: int = 20
    night_share: float = 0.1
    weekend_factor: float = 1.0
    apps: Mapping[str, float] = field(default_factory=dict)
    segments: Mapping[str, float] = field(default_factory=dict)
    late_share: float = 0.03

    def expected_count(self, local: datetime) -> float:
        """Return the expected volume of the hour that starts at the local time `local`."""
        swing = (1 + math.cos((local.hour - self.peak_hour) * math.tau / 24)) / 2
        week = self.weekend_factor if local.weekday() >= _SATURDAY else 1.0
        return self.peak_count * week * (self.night_share + (1 - self.night_share) * swing)

    def arrived_share(self, age: float) -> float:
        """Return the share, from 0 to 1, that is counted `age` seconds after the start of the hour."""
        if age >= HOUR_SECONDS + MAX_DELAY_SECONDS:
            return 1.0
        in_time = min(max(age / HOUR_SECONDS, 0.0), 1.0)
        waited = max(age - HOUR_SECONDS, 0.0) / MAX_DELAY_SECONDS
        return (1 - self.late_share) * in_time + self.late_share * (1 - (1 - waited) ** 2)


class Traffic:
    """Realistic counts that depend only on the seed, the event, the hour, the time and the filters.

    At any time, the count without an app filter is the sum of the counts of the apps and of events sent by servers. The
    count of a segment is a part of either. A count never decreases. It is final three hours after the start of its
    hour.
    """

    def __init__(self, seed: int, zone: ZoneInfo, events: Mapping[str, TrafficShape]) -> None:
        """Generate counts of `events`, with days and weeks in the company's `zone`."""
        self.events: Mapping[str, TrafficShape] = events
        self._seed = seed
        self._zone = zone
        # A query of 100 days needs 2,400 hours, and final counts are requested repeatedly.
        self._final = lru_cache(maxsize=2**17)(self._count)
        self._level = lru_cache(maxsize=2**17)(self._expected)

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return the count by `now`, as defined by `Counts.count`, or 0 for an unknown event."""
        if now >= hour_start + HOUR_SECONDS + MAX_DELAY_SECONDS:
            return self._final(event, hour_start, app_id, segment_id)
        shape = self.events.get(event)
        arrived = shape.arrived_share(now - hour_start) if shape else 0.0
        return self._count(event, hour_start, app_id, segment_id, arrived) if arrived else 0

    def _count(self, event: str, hour: int, app_id: str, segment_id: str, arrived: float = 1.0) -> int:
        shape = self.events.get(event)
        if shape is None:
            return 0
        level = self._level(event, hour)
        shares = {**shape.apps, "": max(0.0, 1 - sum(shape.apps.values()))}
        total = 0
        for app, share in shares.items():
            if app_id not in ("", app):
                continue
            noise, rounding, order = self._draws(event, hour, app)
            mean = level * share
            # The spread of a Poisson count, and a little more so that large counts vary too.
            spread = min(1.0, 0.05 + math.sqrt(3 / mean)) if mean else 0.0
            final = int(mean * (1 + spread * (2 * noise - 1)) + rounding)
            part = int(final * arrived + order)  # `order` determines when a single occurrence arrives
            if segment_id:
                rounding, *_ = self._draws(event, hour, app, segment_id)
                part = int(part * shape.segments.get(segment_id, 0.0) + rounding)
            total += part
        return total

    def _expected(self, event: str, hour: int) -> float:
        return self.events[event].expected_count(datetime.fromtimestamp(hour, self._zone))

    def _draws(self, *keys: object) -> tuple[float, float, float]:
        """Return three pseudo-random numbers, at least 0 and less than 1, that depend on the seed and `keys`."""
        key = "\0".join(map(str, (self._seed, *keys))).encode()
        digest = blake2b(key, digest_size=3 * _DRAW_BYTES).digest()
        first, second, third = (int.from_bytes(digest[at : at + _DRAW_BYTES], "big") for at in range(0, 9, _DRAW_BYTES))
        return first / 2**24, second / 2**24, third / 2**24


_IOS, _ANDROID = "5f3a9c1e-7d42-4b86-9e0f-2c61d8a4b793", "c8e17b50-26f9-4d3a-b1c4-90a7e5d2f618"
_MOBILE = {_IOS: 0.58, _ANDROID: 0.42}
_ALL_PLATFORMS = {_IOS: 0.44, _ANDROID: 0.31}
_FEW_VIPS, _MORE_VIPS = {VIP_SEGMENT_ID: 0.06}, {VIP_SEGMENT_ID: 0.19}

# An online shop: busy evenings and weekends, a funnel of five events, and a rare event with empty hours at night. The
# columns are the fields of `TrafficShape`, in this order.
SHOP_EVENTS: Mapping[str, TrafficShape] = {
    "app_opened": TrafficShape(5_200, 20, 0.08, 1.15, _MOBILE, _FEW_VIPS),
    "product_viewed": TrafficShape(9_400, 20, 0.06, 1.25, _ALL_PLATFORMS, _FEW_VIPS),
    "added_to_cart": TrafficShape(1_350, 21, 0.05, 1.2, _ALL_PLATFORMS, _MORE_VIPS),
    "checkout_started": TrafficShape(610, 21, 0.05, 1.1, _ALL_PLATFORMS, _MORE_VIPS),
    "purchase_completed": TrafficShape(390, 21, 0.05, 1.1, _ALL_PLATFORMS, _MORE_VIPS, 0.05),
    "newsletter_signup": TrafficShape(7, 12, 0.02, 0.6, _ALL_PLATFORMS, _FEW_VIPS),
}
# The other series, by the names that `simulator.series` lists.
SHOP_SERIES: Mapping[str, TrafficShape] = {
    "sessions": TrafficShape(6_100, 20, 0.07, 1.15, _MOBILE, _FEW_VIPS),
    "purchases": TrafficShape(470, 21, 0.05, 1.1, _ALL_PLATFORMS),
    "purchases/Gift card": TrafficShape(21, 18, 0.04, 1.4, _ALL_PLATFORMS),
    "purchases/Beans: House blend, 1 kg": TrafficShape(96, 20, 0.05, 1, _ALL_PLATFORMS),
    "revenue": TrafficShape(1_650_000, 21, 0.05, 1.1, _ALL_PLATFORMS),
    f"segments/{VIP_SEGMENT_ID}": TrafficShape(12_400, night_share=1, late_share=0),
    "new_users": TrafficShape(72, 20, 0.1, 1.2, _MOBILE),
    "uninstalls": TrafficShape(31, 22, 0.3, 1, _MOBILE),
    "daily_active_users": TrafficShape(2_900, 19, 0.1, 1.1, _MOBILE),
    "monthly_active_users": TrafficShape(318_000, 20, 1, 1, _MOBILE, late_share=0),
    **{
        f"campaigns/{campaign.id}": TrafficShape(sent, 17, 0, 0.9)
        for campaign, sent in zip(SHOP_INVENTORY.campaigns, (70, 480, 310, 0, 40, 55, 2_100, 90), strict=True)
    },
    **{
        f"canvases/{canvas.id}": TrafficShape(entries)
        for canvas, entries in zip(SHOP_INVENTORY.canvases, (68, 290, 410, 0), strict=True)
    },
}
# The ids of the apps and segments by name.
SHOP_APPS = {"ios": _IOS, "android": _ANDROID}
SHOP_SEGMENTS = {"vip": VIP_SEGMENT_ID}
