"""Checks passwords against bcrypt hashes.

A check is slow by design. So only one runs at a time, and each password is checked once.
"""

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
except ImportError:  # an optional dependency
    bcrypt = None  # type: ignore[assignment] # see `is_available`

# bcrypt uses only the first 72 bytes of a password. The Python library rejects longer ones.
_MAX_PASSWORD_BYTES = 72
# The maximum number of pending checks. At 60 ms for each, the last one waits half a second. Further requests get a 503.
MAX_PENDING_CHECKS = 8
# The maximum number of accepted passwords, and of rejected ones, that are remembered.
MAX_REMEMBERED = 1_000


def is_available() -> bool:
    """Return whether the bcrypt package is installed."""
    return bcrypt is not None


class BusyError(Exception):
    """Too many passwords are waiting to be checked."""


class PasswordChecker:
    """Checks passwords and remembers the results.

    Results are stored under a keyed hash, so that no password stays in memory. Accepted and rejected passwords are
    stored separately. So a client that sends many wrong passwords does not delay users with an accepted password.
    """

    def __init__(self) -> None:
        """Start without results."""
        self._key = secrets.token_bytes(32)
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._rejected: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")

    async def check(self, users: Mapping[str, Secret], authorization: str | None) -> bool:
        """Return whether an `Authorization` header contains one of `users` with the correct password.

        Raises `BusyError` if too many passwords are waiting to be checked.
        """
        credentials = _parse_credentials(authorization)
        if credentials is None:
            return False
        user, password = credentials
        # An unknown user is checked too, so that the response time does not reveal user names.
        known = users.get(user)
        hashed = (known or next(iter(users.values()))).reveal().encode()
        digest = self._digest(b"known" if known else b"", user.encode(), hashed, password)
        if digest in self._accepted:
            self._accepted.move_to_end(digest)
            return True
        if digest in self._rejected:
            return False
        if digest not in self._pending:
            if len(self._pending) >= MAX_PENDING_CHECKS:
                raise BusyError
            self._pending[digest] = asyncio.ensure_future(self._check(digest, hashed, password, known is not None))
        return await asyncio.shield(self._pending[digest])

    def close(self) -> None:
        """Stop checking. A running check ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _check(self, digest: bytes, hashed: bytes, password: bytes, is_known: bool) -> bool:  # noqa: FBT001
        try:
            loop = asyncio.get_running_loop()
            is_correct = await loop.run_in_executor(self._thread, bcrypt.checkpw, password, hashed) and is_known
            remembered = self._accepted if is_correct else self._rejected
            remembered[digest] = None
            if len(remembered) > MAX_REMEMBERED:
                remembered.popitem(last=False)
            return is_correct
        finally:
            del self._pending[digest]

    def _digest(self, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            digest.update(len(part).to_bytes(8))
            digest.update(part)
        return digest.digest()


def _parse_credentials(authorization: str | None) -> tuple[str, bytes] | None:
    """Return user and password of a basic authentication header, or None for any other header."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode("utf-8"), password[:_MAX_PASSWORD_BYTES]) if colon else None
    except (binascii.Error, ValueError):  # not Base64, not ASCII, or not UTF-8
        return None
