"""Faults in how Braze sends a response: late, truncated, not at all, too large, or compressed."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import replace

from fault_injection import Exchange, Fault, with_name
from wsgi_server import Disconnect

from braze_exporter.simulator.reply import Reply

_MEGABYTE = 1_000_000
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK = b"\x03\x00"


@with_name
def delay(seconds: float | None) -> Fault:
    """Respond correctly, but after `seconds` (None: never)."""

    def fault(exchange: Exchange) -> Reply:
        exchange.wait(seconds)
        return exchange.reply

    return fault


@with_name
def hold() -> Fault:
    """Respond correctly, but only after this fault is cleared."""

    def fault(exchange: Exchange) -> Reply:
        exchange.wait_until_cleared()
        return exchange.reply

    return fault


@with_name
def hang() -> Fault:
    """Never respond, and keep the connection open until the simulation is closed."""
    return delay(None)


@with_name
def disconnect(*, reset: bool = True) -> Fault:
    """Break the connection before the first byte."""

    def fault(_: Exchange) -> Reply:
        raise Disconnect(reset=reset)

    return fault


@with_name
def truncated() -> Fault:
    """Send half of the body after a header that announces all of it, then close the connection normally."""

    def fault(exchange: Exchange) -> Reply:
        content = exchange.reply.read()
        headers = {**exchange.reply.headers, "Content-Length": str(len(content))}
        return replace(exchange.reply, headers=headers, body=content[: len(content) // 2])

    return fault


@with_name
def truncated_chunks() -> Fault:
    """Send half of the body in chunks, then close the connection normally, without the last chunk."""

    def half(content: bytes) -> Iterator[bytes]:
        yield content[: len(content) // 2]
        raise Disconnect(reset=False)

    return lambda exchange: replace(exchange.reply, body=half(exchange.reply.read()))


@with_name
def drip(interval: float) -> Fault:
    """Send the correct body one byte at a time, with waits in between, so that a socket timeout never ends it."""

    def drops(exchange: Exchange, content: bytes) -> Iterator[bytes]:
        for at in range(len(content)):
            yield content[at : at + 1]
            exchange.wait(interval)

    def fault(exchange: Exchange) -> Reply:
        content = exchange.reply.read()
        headers = {**exchange.reply.headers, "Content-Length": str(len(content))}
        return replace(exchange.reply, headers=headers, body=drops(exchange, content))

    return fault


@with_name
def huge(size: int = 200 * _MEGABYTE, *, announced: bool = False) -> Fault:
    """Respond correctly, but with white space up to `size` bytes, which is still valid JSON.

    If `announced`, the header gives the size; otherwise the body is sent in chunks.
    """

    def padded(content: bytes) -> Iterator[bytes]:
        yield content
        blank = b" " * 65_536
        for left in range(size - len(content), 0, -len(blank)):
            yield blank[:left]

    def fault(exchange: Exchange) -> Reply:
        length = {"Content-Length": str(size)} if announced else {}
        return replace(exchange.reply, headers={**exchange.reply.headers, **length}, body=padded(exchange.reply.read()))

    return fault


def _compressed(exchange: Exchange, content: bytes) -> Reply:
    return replace(exchange.reply, headers={**exchange.reply.headers, "Content-Encoding": "gzip"}, body=content)


@with_name
def gzipped() -> Fault:
    """Respond correctly, compressed with gzip."""
    return lambda exchange: _compressed(exchange, gzip.compress(exchange.reply.read()))


@with_name
def garbled_gzip() -> Fault:
    """Declare the body as gzip, but send the correct body uncompressed and with each bit inverted."""
    return lambda exchange: _compressed(exchange, bytes(byte ^ 0xFF for byte in exchange.reply.read()))


@with_name
def gzip_bomb(megabytes: int = 200) -> Fault:
    """Respond correctly, with megabytes of white space in one gzip stream of about a thousandth of that size."""

    def fault(exchange: Exchange) -> Reply:
        start, blank = exchange.reply.read(), b" " * _MEGABYTE
        # A full flush ends a block at a byte boundary and resets the compressor, so that a compressed block can be
        # repeated.
        head, block = (_deflated(part) for part in (start, blank))
        checksum = zlib.crc32(start)
        for _ in range(megabytes):
            checksum = zlib.crc32(blank, checksum)
        size = (len(start) + megabytes * _MEGABYTE) % 2**32
        trailer = checksum.to_bytes(4, "little") + size.to_bytes(4, "little")
        return _compressed(exchange, _GZIP_HEADER + head + block * megabytes + _LAST_BLOCK + trailer)

    return fault


def _deflated(content: bytes) -> bytes:
    stream = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS)
    return stream.compress(content) + stream.flush(zlib.Z_FULL_FLUSH)
