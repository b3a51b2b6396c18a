"""Faults in Braze's responses: another status, other headers, or an invalid document."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Literal

from fault_injection import Exchange, Fault, with_name
from wsgi_server import status_phrase

from braze_exporter.simulator.rate_limit import EMPTY_HEADERS, LIMIT_HEADER, REMAINING_HEADER, RESET_HEADER
from braze_exporter.simulator.reply import Reply, encode_json

_MESSAGES: Mapping[int, str] = {
    404: "Invalid URL",
    429: "Rate limit exceeded",
}
_HTML = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center></body>\r\n</html>\r\n"


@with_name
def status(code: int, message: str | None = None, errors: Sequence[str] = ()) -> Fault:
    """Respond with the status and Braze's error document.

    A 401 repeats the key and has empty rate-limit headers, as Braze's does.
    """

    def fault(exchange: Exchange) -> Reply:
        refused = code == HTTPStatus.UNAUTHORIZED
        default_message = (
            f"Invalid API key: {exchange.request.key}" if refused else _MESSAGES.get(code, status_phrase(code))
        )
        document = {"message": message or default_message, **({"errors": list(errors)} if errors else {})}
        return Reply(code, {**exchange.reply.headers, **(EMPTY_HEADERS if refused else {})}, encode_json(document))

    return fault


@with_name
def rate_limited(
    headers: Literal["present", "absent", "garbled", "relative"] = "present", *, retry_after: str | None = None
) -> Fault:
    """Respond with a 429, with the given variant of the rate limit headers.

    The headers of a real 429 were never recorded. They may be missing, unreadable, or give seconds until the reset.
    """

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
    """Respond with 202 "queued", which older Braze documentation describes for maintenance."""
    return status(202, "queued")


@with_name
def no_content() -> Fault:
    """Respond with 204, without a body."""
    return lambda exchange: Reply(204, exchange.reply.headers)


@with_name
def redirect(location: str, code: int = 302) -> Fault:
    """Respond with a redirect to another URL."""
    return lambda exchange: Reply(code, {**exchange.reply.headers, "Location": location})


@with_name
def html(code: int = 200) -> Fault:
    """Respond with an HTML page, as an edge server in front of Braze does."""
    page = _HTML.format(f"{code} {status_phrase(code)}").encode()
    return lambda _: Reply(code, {"Content-Type": "text/html"}, page)


@with_name
def with_headers(changes: Mapping[str, str | None]) -> Fault:
    """Respond correctly, with some headers replaced, or removed where the value is None."""

    def fault(exchange: Exchange) -> Reply:
        headers = {**exchange.reply.headers, **changes}
        return replace(exchange.reply, headers={name: text for name, text in headers.items() if text is not None})

    return fault


@with_name
def body(content: bytes, content_type: str = "application/json") -> Fault:
    """Respond with 200 and these bytes."""
    return lambda exchange: Reply(200, {**exchange.reply.headers, "Content-Type": content_type}, content)


@with_name
def empty_body() -> Fault:
    """Respond with 200 and an empty body."""
    return body(b"")


@with_name
def document(value: object) -> Fault:
    """Respond with 200 and this JSON value."""
    return body(encode_json(value))


def _with_member(insert: bytes) -> Fault:
    """Add another member to the correct document, so that only its presence can be wrong."""
    return lambda exchange: replace(exchange.reply, body=b"{" + insert + b"," + exchange.reply.read()[1:])


@with_name
def deeply_nested(depth: int = 100_000) -> Fault:
    """Respond correctly, with an additional member of lists nested `depth` deep."""
    return _with_member(b'"note":' + b"[" * depth + b"]" * depth)


@with_name
def invalid_utf8() -> Fault:
    """Respond correctly, with an additional text that is not UTF-8."""
    return _with_member(b'"note":"\xff\xfe\xc3"')


@with_name
def edited(change: Callable[[dict[str, Any]], None]) -> Fault:
    """Respond with the correct document after `change` was applied to it; a status other than 200 is not changed."""

    def fault(exchange: Exchange) -> Reply:
        if exchange.reply.status != HTTPStatus.OK:
            return exchange.reply
        content = json.loads(exchange.reply.read())
        change(content)
        return replace(exchange.reply, body=encode_json(content))

    return fault


@with_name
def message(value: object) -> Fault:
    """Respond with 200 and another `message`."""
    return edited(lambda content: content.update(message=value))


@with_name
def data(value: object) -> Fault:
    """Respond with 200 and other `data`."""
    return edited(lambda content: content.update(data=value))


@with_name
def no_data() -> Fault:
    """Respond with 200 without `data`."""
    return edited(lambda content: content.pop("data"))


@with_name
def count(value: object, row: int = -1) -> Fault:
    """Respond with `value` for each field except `time` of one row (by default the newest)."""

    def change(content: dict[str, Any]) -> None:
        rows = content["data"]
        rows[row] = {name: text if name == "time" else value for name, text in rows[row].items()}

    return edited(change)


@with_name
def time(value: object, row: int = -1) -> Fault:
    """Respond with another time in one row (by default the newest)."""
    return edited(lambda content: content["data"][row].update(time=value))


@with_name
def missing(name: str, row: int = -1) -> Fault:
    """Respond without one field of one row (by default the newest)."""
    return edited(lambda content: content["data"][row].pop(name))


@with_name
def duplicated(row: int = -1, *, contradicting: bool = False) -> Fault:
    """Respond with one row (by default the newest) twice; if `contradicting`, the second has values higher by 1."""

    def change(content: dict[str, Any]) -> None:
        again = {
            name: value + 1 if contradicting and name != "time" else value
            for name, value in content["data"][row].items()
        }
        content["data"].append(again)

    return edited(change)


@with_name
def shuffled(seed: int = 0) -> Fault:
    """Respond correctly with the rows in another order: Braze does not document their order."""

    def change(content: dict[str, Any]) -> None:
        before = list(content["data"])
        random.Random(seed).shuffle(content["data"])  # noqa: S311 - does not need to be secure
        if content["data"] == before:
            content["data"].reverse()

    return edited(change)
