"""Rows of campaigns and Canvases in the recorded formats: sent messages and the reactions to them."""

from collections.abc import Mapping
from hashlib import blake2b
from uuid import UUID

from braze_exporter.simulator.inventory import Campaign, Canvas

_PUSH = {"sent": 1.0, "direct_opens": 0.04, "total_opens": 0.07, "bounces": 0.01, "body_clicks": 0.03}
# The documented statistics by channel, as shares of sent messages. Two of email are from recorded responses.
_STATS: Mapping[str, Mapping[str, float]] = {
    "email": {
        "sent": 1.0,
        "delivered": 0.985,
        "opens": 0.41,
        "machine_open": 0.12,
        "machine_amp_open": 0.0,
        "unique_opens": 0.33,
        "clicks": 0.06,
        "unique_clicks": 0.05,
        "unsubscribes": 0.002,
        "bounces": 0.012,
        "reported_spam": 0.0004,
    },
    "ios_push": _PUSH,
    "android_push": _PUSH,
    "web_push": _PUSH,
    "sms": {"sent": 1.0, "sent_to_carrier": 0.99, "delivered": 0.97, "rejected": 0.01, "opt_out": 0.001},
    "webhook": {"sent": 1.0, "errors": 0.01},
    "in_app_message": {"impressions": 0.8, "clicks": 0.2, "first_button_clicks": 0.12, "second_button_clicks": 0.05},
}
_CONVERSION_RATE = 0.03
_CENTS_PER_CONVERSION = 4_950


def campaign_row(campaign: Campaign, day: str, sent: int) -> Mapping[str, object]:
    """Return the row of a campaign for a day on which it sent `sent` messages over each channel."""
    parts = campaign.variations or ("",)
    conversions = int(sent * _CONVERSION_RATE)
    # In recorded responses, an unused channel can have an empty list.
    channels: dict[str, list[Mapping[str, object]]] = {"sms": []}
    for channel in campaign.channels:
        channels[channel] = [
            {
                **({"variation_name": name} if name else {}),
                "variation_api_id": make_id(campaign.id, name),
                **_statistics(channel, sent // len(parts)),
                **({"conversions": conversions // len(parts), "revenue": 0.0} if name else {}),
            }
            for name in parts
        ]
        if campaign.has_control:  # in recorded responses, a control group has enrolled users, but no sent messages
            control = make_id(campaign.id, "Control")
            channels[channel].append(
                {"variation_name": "Control", "variation_api_id": control, "enrolled": sent // 10, "conversions": 0}
            )
    return {
        "time": day,
        "messages": channels,
        "unique_recipients": sent - sent // 50,
        "conversions": conversions,
        "conversions_by_send_time": conversions,
        "revenue": conversions * _CENTS_PER_CONVERSION / 100,
    }


def canvas_row(canvas: Canvas, day: str, entries: int, *, with_steps: bool) -> Mapping[str, object]:
    """Return the row of a Canvas for a day with `entries` entries. Each step has half the messages of the previous."""
    conversions = int(entries * _CONVERSION_RATE)
    totals = {
        "revenue": conversions * _CENTS_PER_CONVERSION / 100,
        "conversions": conversions,
        "conversions_by_entry_time": conversions,
        "entries": entries,
    }
    steps = {
        make_id(canvas.id, f"{index} {name}"): {
            "name": name,
            "revenue": 0.0,
            "conversions": 0,
            "conversions_by_entry_time": 0,
            "messages": {channel: [_statistics(channel, entries >> index)]} if channel else {},
        }
        for index, (name, channel) in enumerate(canvas.steps)
    }
    return {"time": day, "total_stats": totals, **({"step_stats": steps} if with_steps else {})}


def make_id(owner: str, name: str) -> str:
    """Return a stable id for the part `name` of the campaign or Canvas with the id `owner`."""
    return str(UUID(bytes=blake2b(f"{owner}/{name}".encode(), digest_size=16).digest()))


def _statistics(channel: str, sent: int) -> Mapping[str, object]:
    return {stat: int(sent * share) for stat, share in _STATS[channel].items()}
