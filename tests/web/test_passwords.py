"""Test which passwords are accepted, what a check costs, and that many wrong passwords delay no correct one."""

import asyncio
import base64
import time
from collections.abc import Mapping

import bcrypt
import pytest

from braze_exporter.config.secrets import Secret
from braze_exporter.web.passwords import MAX_PENDING_CHECKS, MAX_REMEMBERED, BusyError, PasswordChecker

PASSWORD = "correct: horse é"  # noqa: S105 - used only in this test
LONG = "x" * 100


def hashed(password: str, cost: int = 4) -> Secret:
    """Return the hash of a password, of which bcrypt uses the first 72 bytes."""
    return Secret(bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode())


def basic(user: str, password: str, scheme: str = "Basic") -> str:
    """Return the `Authorization` header for a user and a password."""
    return f"{scheme} {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


USERS = {"älice": hashed(PASSWORD), "long": hashed(LONG), "empty": hashed(""), "": hashed("nobody")}


def accepted(users: Mapping[str, Secret], *headers: str | None, passwords: PasswordChecker | None = None) -> list[bool]:
    """Return for each header, checked in order, whether it is accepted."""

    async def run_checks() -> list[bool]:
        checker = passwords or PasswordChecker()
        return [await checker.check(users, header) for header in headers]

    return asyncio.run(run_checks())


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
    """Users and passwords are UTF-8, a password may contain colons, and its first 72 bytes count, as in Prometheus."""
    assert accepted(USERS, header, header) == [True, True]


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
    """A wrong password, an unknown user, and any header that is not basic authentication are all refused."""
    assert accepted(USERS, header, header) == [False, False]


def test_password_of_another_user_is_refused() -> None:
    """The password of one user is refused for an unknown user, and accepted once that user has it, too."""
    passwords = PasswordChecker()
    users = {"a": hashed("secret")}
    assert accepted(users, basic("b", "secret"), basic("a", "secret"), passwords=passwords) == [False, True]
    assert accepted(users | {"b": users["a"]}, basic("b", "secret"), passwords=passwords) == [True]


def test_changed_hash_refuses_old_password() -> None:
    """A remembered password is refused once its user's hash changes or the user is removed."""
    passwords = PasswordChecker()
    old, new = basic("a", "old"), basic("a", "new")
    assert accepted({"a": hashed("old")}, old, new, passwords=passwords) == [True, False]
    assert accepted({"a": hashed("new")}, old, new, passwords=passwords) == [False, True]
    assert accepted({"b": hashed("new")}, old, new, passwords=passwords) == [False, False]


def test_password_is_checked_once_and_not_stored() -> None:
    """A correct or wrong password is hashed once, also for concurrent checks, and is not stored."""
    users = {"a": hashed(PASSWORD, cost=11)}

    async def run_checks() -> list[float]:
        passwords, seconds = PasswordChecker(), []
        headers = basic("a", PASSWORD), basic("a", "wrong"), basic("b", PASSWORD)
        for header in headers:
            for _ in range(2):
                started = time.monotonic()
                await asyncio.gather(*(passwords.check(users, header) for _ in range(50)))
                seconds.append(time.monotonic() - started)
        stored = f"{vars(passwords)}"
        assert not any(
            secret in stored for secret in ("correct: horse", "wrong", *(each.split()[1] for each in headers))
        )
        return seconds

    for first, second in zip(*[iter(asyncio.run(run_checks()))] * 2, strict=True):
        assert 0.03 < first < 50 * 0.03
        assert second < first / 3


@pytest.mark.alone
def test_wrong_passwords_delay_no_correct_one() -> None:
    """A remembered password is accepted at once; beyond `MAX_PENDING_CHECKS` further checks raise `BusyError`."""
    users = {"a": hashed(PASSWORD, cost=10)}

    async def run_checks() -> tuple[float, list[bool | BaseException]]:
        passwords = PasswordChecker()
        assert await passwords.check(users, basic("a", PASSWORD))
        wrong = [asyncio.ensure_future(passwords.check(users, basic("a", f"{number}"))) for number in range(100)]
        await asyncio.sleep(0)
        started = time.monotonic()
        assert await passwords.check(users, basic("a", PASSWORD))
        return time.monotonic() - started, await asyncio.gather(*wrong, return_exceptions=True)

    seconds, responses = asyncio.run(run_checks())
    assert seconds < 0.05
    assert responses.count(False) == MAX_PENDING_CHECKS
    assert sum(isinstance(response, BusyError) for response in responses) == 100 - MAX_PENDING_CHECKS


def test_remembered_passwords_are_limited() -> None:
    """At most `MAX_REMEMBERED` wrong passwords are remembered, and correct ones are never displaced."""
    passwords = PasswordChecker()
    right = basic("a", PASSWORD)
    wrong = [basic("a", f"{number}") for number in range(MAX_REMEMBERED + 50)]
    responses = accepted({"a": hashed(PASSWORD)}, right, *wrong, passwords=passwords)
    assert responses == [True] + [False] * len(wrong)
    assert (len(passwords._accepted), len(passwords._rejected)) == (1, MAX_REMEMBERED)  # noqa: SLF001 - limits of the caches
