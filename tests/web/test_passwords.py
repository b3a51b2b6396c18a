"""Passwords in this process: which are good, what each costs, and that a flood of wrong ones delays no good one."""

import asyncio
import base64
import time
from collections.abc import Mapping

import bcrypt
import pytest

from braze_exporter.config.secrets import Secret
from braze_exporter.web.passwords import MAX_PENDING_CHECKS, MAX_REMEMBERED, BusyError, PasswordChecker

PASSWORD = "correct: horse é"  # noqa: S105 - of this test
LONG = "x" * 100


def hashed(password: str, cost: int = 4) -> Secret:
    """Return the hash of a password, of which bcrypt takes 72 bytes."""
    return Secret(bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode())


def basic(user: str, password: str, scheme: str = "Basic") -> str:
    """Return what a client sends."""
    return f"{scheme} {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


USERS = {"älice": hashed(PASSWORD), "long": hashed(LONG), "empty": hashed(""), "": hashed("nobody")}


def admitted(users: Mapping[str, Secret], *headers: str | None, passwords: PasswordChecker | None = None) -> list[bool]:
    """Return for each header whether it admits, one after the other."""

    async def ask() -> list[bool]:
        requested = passwords or PasswordChecker()
        return [await requested.check(users, header) for header in headers]

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "header",
    [
        basic("älice", PASSWORD),
        basic("älice", PASSWORD, scheme="bASIC"),
        basic("älice", PASSWORD, scheme="Basic  "),
        basic("long", LONG),
        basic("long", LONG[:72]),
        basic("long", LONG[:72] + "anything"),
        basic("empty", ""),
    ],
)
def test_correct_password_is_accepted(header: str) -> None:
    """User and password are UTF-8, a password may hold colons, and of a long one 72 bytes count, as for Prometheus."""
    assert admitted(USERS, header, header) == [True, True]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !",
        "Basic é",
        "Basic YQ",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode("älice:".encode("latin-1") + PASSWORD.encode()).decode(),
        basic("älice", PASSWORD, scheme="Bearer"),
        basic("älice", PASSWORD) + "!",
        basic("älice", PASSWORD[:-1]),
        basic("älice", PASSWORD + " "),
        basic("älice", ""),
        basic("alice", PASSWORD),
        basic("Älice", PASSWORD),
        basic("long", LONG[:71]),
        basic("empty", PASSWORD),
        basic("somebody", ""),
    ],
)
def test_invalid_credentials_are_refused(header: str | None) -> None:
    """A wrong password, another user, and whatever is no basic authentication are the same: no."""
    assert admitted(USERS, header, header) == [False, False]


def test_password_of_another_user_is_refused() -> None:
    """The first user's password admits nobody who is unknown, and whoever becomes known is not held to that."""
    passwords = PasswordChecker()
    users = {"a": hashed("secret")}
    assert admitted(users, basic("b", "secret"), basic("a", "secret"), passwords=passwords) == [False, True]
    assert admitted(users | {"b": users["a"]}, basic("b", "secret"), passwords=passwords) == [True]


def test_changed_hash_refuses_old_password() -> None:
    """What is remembered of a password is no longer true once its user has another, or is gone."""
    passwords = PasswordChecker()
    old, new = basic("a", "old"), basic("a", "new")
    assert admitted({"a": hashed("old")}, old, new, passwords=passwords) == [True, False]
    assert admitted({"a": hashed("new")}, old, new, passwords=passwords) == [False, True]
    assert admitted({"b": hashed("new")}, old, new, passwords=passwords) == [False, False]


def test_password_is_checked_once_and_not_stored() -> None:
    """The second time costs nothing, good or bad, also where many ask at once; and the password is nowhere."""
    users = {"a": hashed(PASSWORD, cost=11)}

    async def ask() -> list[float]:
        passwords, seconds = PasswordChecker(), []
        for header in (basic("a", PASSWORD), basic("a", "wrong"), basic("b", PASSWORD)):
            for _ in range(2):
                started = time.monotonic()
                await asyncio.gather(*(passwords.check(users, header) for _ in range(50)))
                seconds.append(time.monotonic() - started)
        assert not any(secret in f"{vars(passwords)}" for secret in (PASSWORD, "wrong"))
        return seconds

    for first, second in zip(*[iter(asyncio.run(ask()))] * 2, strict=True):
        assert 0.03 < first < 50 * 0.03
        assert second < first / 3


def test_wrong_passwords_delay_no_correct_one() -> None:
    """One that is remembered is admitted at once; of those who wait for a check, the last are told to come again."""
    users = {"a": hashed(PASSWORD, cost=10)}

    async def ask() -> tuple[float, list[bool | BaseException]]:
        passwords = PasswordChecker()
        assert await passwords.check(users, basic("a", PASSWORD))
        wrong = [asyncio.ensure_future(passwords.check(users, basic("a", f"{number}"))) for number in range(100)]
        await asyncio.sleep(0)
        started = time.monotonic()
        assert await passwords.check(users, basic("a", PASSWORD))
        return time.monotonic() - started, await asyncio.gather(*wrong, return_exceptions=True)

    seconds, responses = asyncio.run(ask())
    assert seconds < 0.05
    assert responses.count(False) == MAX_PENDING_CHECKS
    assert sum(isinstance(response, BusyError) for response in responses) == 100 - MAX_PENDING_CHECKS


def test_remembered_passwords_are_limited() -> None:
    """However many wrong passwords are tried, so many are remembered, and the right one always is."""
    passwords = PasswordChecker()
    right = basic("a", PASSWORD)
    wrong = [basic("a", f"{number}") for number in range(MAX_REMEMBERED + 50)]
    responses = admitted({"a": hashed(PASSWORD)}, right, *wrong, passwords=passwords)
    assert responses == [True] + [False] * len(wrong)
    assert (len(passwords._good), len(passwords._bad)) == (1, MAX_REMEMBERED)  # noqa: SLF001 - what it is about
