"""Passwords against their hashes of bcrypt, which are slow by design: one at a time, and each once."""

import asyncio
import base64
import binascii
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from braze_exporter.config.secrets import Secret

try:
    import bcrypt
except ImportError:  # an extra of the package
    bcrypt = None  # type: ignore[assignment] # as `is_available` says

# bcrypt takes no more of a password, in every library; that of Python refuses longer ones.
_MAX_PASSWORD_BYTES = 72
# At 60 ms each, the last of them waits for half a second. Beyond, one is told to come again.
MAX_PENDING_CHECKS = 8
MAX_REMEMBERED = 1_000


def is_available() -> bool:
    """Return whether passwords can be checked here."""
    return bcrypt is not None


class BusyError(Exception):
    """Too many passwords wait for their check."""


class PasswordChecker:
    """Tells good passwords from bad ones.

    What was checked is remembered under a keyed hash, so that no password stays in memory. A flood of wrong passwords
    delays no one whose right one is remembered: those are apart, and wait for nothing.
    """

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._key = secrets.token_bytes(32)
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._bad: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")

    async def check(self, users: Mapping[str, Secret], authorization: str | None) -> bool:
        """Return whether an `Authorization` header names one of `users` with the right password.

        Raise `BusyError` if that cannot be known soon.
        """
        credentials = _parse_credentials(authorization)
        if credentials is None:
            return False
        user, password = credentials
        # One who is unknown costs the same time, so that nobody learns who is known.
        known = users.get(user)
        hashed = (known or next(iter(users.values()))).reveal().encode()
        digest = self._digest(b"known" if known else b"", user.encode(), hashed, password)
        if digest in self._good:
            self._good.move_to_end(digest)
            return True
        if digest in self._bad:
            return False
        if digest not in self._pending:
            if len(self._pending) >= MAX_PENDING_CHECKS:
                raise BusyError
            self._pending[digest] = asyncio.ensure_future(self._check(digest, hashed, password, known is not None))
        return await asyncio.shield(self._pending[digest])

    def close(self) -> None:
        """Check no more; a check under way ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _check(self, digest: bytes, hashed: bytes, password: bytes, is_known: bool) -> bool:  # noqa: FBT001
        try:
            loop = asyncio.get_running_loop()
            is_right = await loop.run_in_executor(self._thread, bcrypt.checkpw, password, hashed) and is_known
            remembered = self._good if is_right else self._bad
            remembered[digest] = None
            if len(remembered) > MAX_REMEMBERED:
                remembered.popitem(last=False)
            return is_right
        finally:
            del self._pending[digest]

    def _digest(self, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            digest.update(len(part).to_bytes(8))
            digest.update(part)
        return digest.digest()


def _parse_credentials(authorization: str | None) -> tuple[str, bytes] | None:
    """Return user and password of a header for basic authentication, or None if it is none."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode("utf-8"), password[:_MAX_PASSWORD_BYTES]) if colon else None
    except (binascii.Error, ValueError):  # no Base64, not ASCII, not UTF-8
        return None
