"""Faults in what Braze says: another status, or a document that is not what it should be."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Literal

from fault_injection import Exchange, Fault, with_name

from braze_exporter.simulator.rate_limit import EMPTY_HEADERS, LIMIT_HEADER, REMAINING_HEADER, RESET_HEADER
from braze_exporter.simulator.reply import Reply, encode_json, status_phrase

_MESSAGES: Mapping[int, str] = {
    404: "Invalid URL",
    429: "Rate limit exceeded",
}
_HTML = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center></body>\r\n</html>\r\n"


@with_name
def status(code: int, message: str | None = None, errors: Sequence[str] = ()) -> Fault:
    """Answer with the status and Braze's error document; a 401 repeats the key and empties the quota, as Braze does."""

    def fault(exchange: Exchange) -> Reply:
        refused = code == HTTPStatus.UNAUTHORIZED
        baseline = f"Invalid API key: {exchange.request.key}" if refused else _MESSAGES.get(code, status_phrase(code))
        document = {"message": message or baseline, **({"errors": list(errors)} if errors else {})}
        return Reply(code, {**exchange.reply.headers, **(EMPTY_HEADERS if refused else {})}, encode_json(document))

    return fault


@with_name
def rate_limited(
    headers: Literal["present", "absent", "garbled", "relative"] = "present", *, retry_after: str | None = None
) -> Fault:
    """Answer 429. Its headers were never recorded, so they may be missing, garbled, or count the seconds to go."""

    def fault(exchange: Exchange) -> Reply:
        kept = dict(exchange.reply.headers)
        match headers:
            case "present":
                kept[REMAINING_HEADER] = "0"
            case "absent":
                kept = {name: value for name, value in kept.items() if name not in EMPTY_HEADERS}
            case "garbled":
                kept |= {LIMIT_HEADER: "unlimited", REMAINING_HEADER: "none", RESET_HEADER: "soon"}
            case "relative":
                kept |= {
                    REMAINING_HEADER: "0",
                    RESET_HEADER: str(int(float(kept[RESET_HEADER]) - exchange.request.time)),
                }
        if retry_after is not None:
            kept["Retry-After"] = retry_after
        return Reply(429, kept, encode_json({"message": _MESSAGES[429]}))

    return fault


@with_name
def queued() -> Fault:
    """Answer 202 "queued", which older docs name for times of maintenance."""
    return status(202, "queued")


@with_name
def no_content() -> Fault:
    """Answer 204, without a body."""
    return lambda exchange: Reply(204, exchange.reply.headers)


@with_name
def redirect(location: str, code: int = 302) -> Fault:
    """Answer that the same is to be found at another URL."""
    return lambda exchange: Reply(code, {**exchange.reply.headers, "Location": location})


@with_name
def html(code: int = 200) -> Fault:
    """Answer with a page of HTML, as an edge in front of Braze does."""
    page = _HTML.format(f"{code} {status_phrase(code)}").encode()
    return lambda _: Reply(code, {"Content-Type": "text/html"}, page)


@with_name
def with_headers(changes: Mapping[str, str | None]) -> Fault:
    """Answer truly, with some headers replaced, or left out where the value is None."""

    def fault(exchange: Exchange) -> Reply:
        headers = {**exchange.reply.headers, **changes}
        return replace(exchange.reply, headers={name: text for name, text in headers.items() if text is not None})

    return fault


@with_name
def body(content: bytes, content_type: str = "application/json") -> Fault:
    """Answer 200 with these bytes."""
    return lambda exchange: Reply(200, {**exchange.reply.headers, "Content-Type": content_type}, content)


@with_name
def empty_body() -> Fault:
    """Answer 200 with nothing."""
    return body(b"")


@with_name
def document(value: object) -> Fault:
    """Answer 200 with this JSON value."""
    return body(encode_json(value))


def _with_member(insert: bytes) -> Fault:
    """Put another member into the true document, so that only its being there can be wrong."""
    return lambda exchange: replace(exchange.reply, body=b"{" + insert + b"," + exchange.reply.read()[1:])


@with_name
def deeply_nested(depth: int = 100_000) -> Fault:
    """Answer truly, beside lists in lists, so many deep."""
    return _with_member(b'"note":' + b"[" * depth + b"]" * depth)


@with_name
def invalid_utf8() -> Fault:
    """Answer truly, beside a text that is not UTF-8."""
    return _with_member(b'"note":"\xff\xfe\xc3"')


@with_name
def edited(change: Callable[[dict[str, Any]], None]) -> Fault:
    """Answer with the true document after `change` was done to it; an answer other than 200 stays as it is."""

    def fault(exchange: Exchange) -> Reply:
        if exchange.reply.status != HTTPStatus.OK:
            return exchange.reply
        content = json.loads(exchange.reply.read())
        change(content)
        return replace(exchange.reply, body=encode_json(content))

    return fault


@with_name
def message(value: object) -> Fault:
    """Answer 200 with another `message`."""
    return edited(lambda content: content.update(message=value))


@with_name
def data(value: object) -> Fault:
    """Answer 200 with another `data`."""
    return edited(lambda content: content.update(data=value))


@with_name
def no_data() -> Fault:
    """Answer 200 without `data`."""
    return edited(lambda content: content.pop("data"))


@with_name
def count(value: object, row: int = -1) -> Fault:
    """Answer with another value in one row (the newest), whatever the field is called."""

    def change(content: dict[str, Any]) -> None:
        rows = content["data"]
        rows[row] = {name: text if name == "time" else value for name, text in rows[row].items()}

    return edited(change)


@with_name
def time(value: object, row: int = -1) -> Fault:
    """Answer with another time in one row (the newest)."""
    return edited(lambda content: content["data"][row].update(time=value))


@with_name
def missing(name: str, row: int = -1) -> Fault:
    """Answer without one field of one row (the newest)."""
    return edited(lambda content: content["data"][row].pop(name))


@with_name
def duplicated(row: int = -1, *, contradicting: bool = False) -> Fault:
    """Answer with one row (the newest) twice; the second one with the same values, or with one more of each."""

    def change(content: dict[str, Any]) -> None:
        again = {
            name: value + 1 if contradicting and name != "time" else value
            for name, value in content["data"][row].items()
        }
        content["data"].append(again)

    return edited(change)


@with_name
def shuffled(seed: int = 0) -> Fault:
    """Answer truly, in another order: nothing says that Braze sorts."""

    def change(content: dict[str, Any]) -> None:
        before = list(content["data"])
        random.Random(seed).shuffle(content["data"])  # noqa: S311 - an order, not a secret
        if content["data"] == before:
            content["data"].reverse()

    return edited(change)
