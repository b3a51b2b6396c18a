"""Passwords in this process: which are good, what each costs, and that a flood of wrong ones delays no good one."""

import asyncio
import base64
import time
from collections.abc import Mapping

import bcrypt
import pytest

from braze_exporter.config.secrets import Secret
from braze_exporter.web.passwords import MOST_REMEMBERED, MOST_WAITING, BusyError, Passwords

PASSWORD = "correct: horse é"  # noqa: S105 - of this test
LONG = "x" * 100


def hashed(password: str, cost: int = 4) -> Secret:
    """Return the hash of a password, of which bcrypt takes 72 bytes."""
    return Secret(bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode())


def basic(user: str, password: str, scheme: str = "Basic") -> str:
    """Return what a client sends."""
    return f"{scheme} {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


USERS = {"älice": hashed(PASSWORD), "long": hashed(LONG), "empty": hashed(""), "": hashed("nobody")}


def admitted(users: Mapping[str, Secret], *headers: str | None, passwords: Passwords | None = None) -> list[bool]:
    """Return for each header whether it admits, one after the other."""

    async def ask() -> list[bool]:
        asked = passwords or Passwords()
        return [await asked.admit(users, header) for header in headers]

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
def test_a_good_password(header: str) -> None:
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
def test_what_admits_nobody(header: str | None) -> None:
    """A wrong password, another user, and whatever is no basic authentication are the same: no."""
    assert admitted(USERS, header, header) == [False, False]


def test_the_password_of_another_user_is_wrong() -> None:
    """The first user's password admits nobody who is unknown, and whoever becomes known is not held to that."""
    passwords = Passwords()
    users = {"a": hashed("secret")}
    assert admitted(users, basic("b", "secret"), basic("a", "secret"), passwords=passwords) == [False, True]
    assert admitted(users | {"b": users["a"]}, basic("b", "secret"), passwords=passwords) == [True]


def test_a_new_hash_ends_the_old_password() -> None:
    """What is remembered of a password is no longer true once its user has another, or is gone."""
    passwords = Passwords()
    old, new = basic("a", "old"), basic("a", "new")
    assert admitted({"a": hashed("old")}, old, new, passwords=passwords) == [True, False]
    assert admitted({"a": hashed("new")}, old, new, passwords=passwords) == [False, True]
    assert admitted({"b": hashed("new")}, old, new, passwords=passwords) == [False, False]


def test_each_password_is_checked_once_and_not_kept() -> None:
    """The second time costs nothing, good or bad, also where many ask at once; and the password is nowhere."""
    users = {"a": hashed(PASSWORD, cost=11)}

    async def ask() -> list[float]:
        passwords, seconds = Passwords(), []
        for header in (basic("a", PASSWORD), basic("a", "wrong"), basic("b", PASSWORD)):
            for _ in range(2):
                started = time.monotonic()
                await asyncio.gather(*(passwords.admit(users, header) for _ in range(50)))
                seconds.append(time.monotonic() - started)
        assert not any(secret in f"{vars(passwords)}" for secret in (PASSWORD, "wrong"))
        return seconds

    for first, second in zip(*[iter(asyncio.run(ask()))] * 2, strict=True):
        assert 0.03 < first < 50 * 0.03
        assert second < first / 3


def test_a_flood_of_wrong_passwords_delays_no_good_one() -> None:
    """One that is remembered is admitted at once; of those who wait for a check, the last are told to come again."""
    users = {"a": hashed(PASSWORD, cost=10)}

    async def ask() -> tuple[float, list[bool | BaseException]]:
        passwords = Passwords()
        assert await passwords.admit(users, basic("a", PASSWORD))
        wrong = [asyncio.ensure_future(passwords.admit(users, basic("a", f"{number}"))) for number in range(100)]
        await asyncio.sleep(0)
        started = time.monotonic()
        assert await passwords.admit(users, basic("a", PASSWORD))
        return time.monotonic() - started, await asyncio.gather(*wrong, return_exceptions=True)

    seconds, answers = asyncio.run(ask())
    assert seconds < 0.05
    assert answers.count(False) == MOST_WAITING
    assert sum(isinstance(answer, BusyError) for answer in answers) == 100 - MOST_WAITING


def test_what_is_remembered_is_bounded() -> None:
    """However many wrong passwords are tried, so many are remembered, and the right one always is."""
    passwords = Passwords()
    right = basic("a", PASSWORD)
    wrong = [basic("a", f"{number}") for number in range(MOST_REMEMBERED + 50)]
    answers = admitted({"a": hashed(PASSWORD)}, right, *wrong, passwords=passwords)
    assert answers == [True] + [False] * len(wrong)
    assert (len(passwords._good), len(passwords._bad)) == (1, MOST_REMEMBERED)  # noqa: SLF001 - what it is about
