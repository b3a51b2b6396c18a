"""Test that `regex:` accepts and interprets regexes as Prometheus does, and that matching takes linear time."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from braze_exporter.config.regex import MAX_NAME_LENGTH, MAX_STATES, Regex, RegexError, compile_regex


@pytest.mark.parametrize(
    ("text", "matched", "others"),
    [
        ("checkout", ["checkout"], ["checkout_", "a checkout", "Checkout", "checkout\n", ""]),
        ("checkout_.*", ["checkout_", "checkout_a b\n"], ["checkout", "xcheckout_"]),
        ("(?i)login", ["LOGIN", "Login"], ["logins"]),
        ("(app|web)_[a-z]+", ["app_opened", "web_a"], ["app_", "app_A", "app_opened|web_a"]),
        (r"a\.b", ["a.b"], ["axb"]),
        (r"\d{2,3}", ["12", "123"], ["1", "1234", "١٢"]),
        (r"[^\s]\w\W", ["äb!", "a_ä"], ["\tb!", "aä!"]),
        (r"[\w-]+", ["a-_9"], ["ä", "a b"]),
        (r"[a&&b|~\]]", ["a", "&", "b", "|", "~", "]"], ["ab", ""]),
        (r"(?:a|)", ["a", ""], ["|"]),
        (r"\(\[\{\*", ["([{*"], []),
        ("Größe.?", ["Größe", "Größe!"], ["größe"]),
        (".*a.*b.*c.*", ["abc", "xaxbxcx"], ["acb"]),
        ("(app_(ios|web)_?)+", ["app_ios_app_web", "app_web"], ["", "app_"]),
        ("(a|b){2}c{0}", ["ab", "bb"], ["a", "abc", "aba"]),
        ("(a{2}){2,}", ["aaaa", "aaaaaa"], ["aa", "aaaaa"]),
        ("(?:a*|b?)*", ["", "ab", "bbba"], ["c"]),
        ("(?:aa|a)" * 30 + "b", ["a" * 60 + "b", "a" * 30 + "b"], ["a" * 60, "a" * 29 + "b"]),
    ],
)
def test_regex_matches_whole_names(text: str, matched: list[str], others: list[str]) -> None:
    r"""A regex matches the whole name, and `\w` and `\d` match only ASCII."""
    compiled = compile_regex(text)
    assert compiled.text == text
    assert [name for name in (*matched, *others) if compiled.matches(name)] == matched


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("((a{10}){10}){11}", "repeats more than 1,000 times with {11}"),
        ("(((a{600}|b){0,1})x){2}", "repeats more than 1,000 times with {2}"),
        ("((a{2,}){600})", "repeats more than 1,000 times with {600}"),
        (
            "(?:a|b){900}" * 2,
            "is too large; use at most 5,000 characters after repeated parts are written out, or use",
        ),
        ("(" * 51 + ")" * 51, "nests more than 50 groups; use fewer"),
        ("(?=a)b", "unsupported group that starts with (?; use (?:…), or (?i) at the start"),
        ("(?P<name>a)", "unsupported group that starts with (?"),
        (r"(a)\1", r"unsupported escape \1; use \d \s \w \D \S \W or escape punctuation"),
        (r"\bword", r"unsupported escape \b;"),
        (r"\pL", r"unsupported escape \p;"),
        ("\\", "unsupported escape \\;"),
        ("^checkout", "^ is not allowed, because a regex always matches the whole name; remove it"),
        ("checkout$", "$ is not allowed"),
        ("*", r"* has nothing to repeat; write \* for the literal character"),
        ("a**", "* has nothing to repeat"),
        ("a++", "+ has nothing to repeat"),
        ("a+?", "? has nothing to repeat"),
        ("(|+)", "+ has nothing to repeat"),
        ("a{,3}", r"unexpected {; write \{ for the literal character"),
        ("a}", "unexpected };"),
        ("a{2,1}", "is not a valid regex: {2,1} has a minimum that exceeds its maximum"),
        ("a{1001}", "repeats more than 1,000 times with {1001}"),
        ("a{0,1001}", "repeats more than 1,000 times with {0,1001}"),
        ("a{1001,}", "repeats more than 1,000 times with {1001,}"),
        ("a{" + "9" * 5_000 + "}", "repeats more than 1,000 times with {99"),
        ("(a", "is not a valid regex: ( without )"),
        ("a)", "is not a valid regex: ) without ("),
        ("[a-z", r"[ does not start a valid class such as [a-z_]; write \[ for the literal character"),
        ("[[:alpha:]]", "[ does not start a valid class"),
        ("[]a]", "[ does not start a valid class"),
        ("[z-a]", "is not a valid regex: bad character range z-a"),
        ("[a--b]", r"ambiguous - in [a--b]; write \- for the literal character"),
        (r"[\w-z]", "ambiguous - in"),
        (r"[!-\d]", "ambiguous - in"),
    ],
)
def test_regex_unlike_prometheus_is_refused(text: str, problem: str) -> None:
    """A regex that Prometheus interprets differently, or that could take too long, is refused with advice."""
    with pytest.raises(RegexError) as caught:
        compile_regex(text)
    assert str(caught.value).startswith(problem)


LETTERS = st.sampled_from(
    ["a", "b", "_", ".", r"\.", r"\d", r"\W", "[a-z]", r"[^\w-]", "[&&|]", "é", "É", "\u017f", " "]
)
QUANTIFIERS = st.sampled_from(["", "", "", "?", "*", "+", "{2}", "{0,2}", "{1,}", "{0}"])


def _larger(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    branches = st.lists(st.tuples(parts, QUANTIFIERS).map("".join), max_size=3).map("".join)
    return st.lists(branches, min_size=1, max_size=3).map(lambda alternatives: f"(?:{'|'.join(alternatives)})")


PATTERNS = st.tuples(st.sampled_from(["", "(?i)"]), st.recursive(LETTERS, _larger, max_leaves=8)).map("".join)


@given(PATTERNS, st.text(alphabet="abAB_.1&|éÉ\u017fS \n", max_size=6))
def test_regex_matches_as_re_does(text: str, name: str) -> None:
    """Every regex of the supported syntax is accepted, and matches like Python's `re` with ASCII classes."""
    plain = text.replace("[&&|]", r"[\&|]").replace(r"[^\w-]", "[^0-9A-Za-z_-]").replace(r"\W", "[^0-9A-Za-z_]")
    expected = re.fullmatch(plain.replace(r"\d", "[0-9]"), name, re.DOTALL)
    assert compile_regex(text).matches(name) == (expected is not None)


@given(st.text(alphabet="ab.*+?|()[]{}^$\\,-:=<!&~0129dwsPi \n") | st.text())
@example("(?i)(?i)a")
@example("[\\")
def test_any_text_is_regex_or_refused(text: str) -> None:
    """Any text is a regex or a one-line error."""
    try:
        compile_regex(text).matches("a name")
    except RegexError as error:
        assert len(str(error).splitlines()) == 1


def find_states(regex: Regex) -> list[Any]:
    """Return all states of the automaton of a regex."""
    found = dict.fromkeys(regex._start)  # noqa: SLF001 - steps are exact, unlike seconds
    pending = [*found]
    while pending:
        new = [state for state in pending.pop().targets if state not in found]
        found |= dict.fromkeys(new)
        pending += new
    return [*found]


def count_steps(text: str, name: str) -> tuple[int, int]:
    """Return how many comparisons of a state with a character a match of `name` takes, and the number of states."""
    regex = compile_regex(text)
    states, count = find_states(regex), 0

    def counting(test: Callable[[str], object]) -> Callable[[str], object]:
        def compare(character: str) -> object:
            nonlocal count
            count += 1
            return test(character)

        return compare

    for state in states:
        state.test = state.test and counting(state.test)
    regex.matches(name)
    return count, len(states)


@given(PATTERNS, st.lists(st.sampled_from("ab_é"), min_size=1, max_size=3).map("".join))
@example("(?:aa|a)" * 30 + "b", "a")
@example("(?:a*)*b", "a")
def test_matching_takes_linear_time(text: str, repeated: str) -> None:
    """A match takes at most one step for each state and character, on repeated text too."""
    for length in (10, 100, MAX_NAME_LENGTH):
        steps, states = count_steps(text, (repeated * length)[:length])
        assert steps <= states * length


@pytest.mark.parametrize(
    "text",
    [".*a.*a.*a.*z", "(.*)(.*)(.*)x", "a?" * 500 + "a{0,1000}b", "(?:aa|a)" * 300 + "b", "(.{0,3}a.{0,300}){3}z"],
)
def test_regex_that_backtracks_much_takes_linear_time(text: str) -> None:
    """Names without repeating parts, whose steps are not remembered, take no more steps."""
    name = "".join(chr(97 + number * number % 7) for number in range(MAX_NAME_LENGTH))
    steps, states = count_steps(text, name)
    assert steps <= states * MAX_NAME_LENGTH
    assert states <= MAX_STATES
    assert not compile_regex(text).matches(name)


def test_many_names_match_after_steps_are_forgotten() -> None:
    """More names match correctly than the regex remembers steps for."""
    compiled = compile_regex("(.{0,40}x|.{3}y){2}")
    for number in range(3_000):
        name = f"{number * 7919 % 10_007:b}".replace("0", "x")
        assert compiled.matches(name) == (re.fullmatch("(.{0,40}x|.{3}y){2}", name) is not None)


def test_long_name_never_matches() -> None:
    """A name that is longer than any name in Braze never matches."""
    assert compile_regex(".*").matches("a" * MAX_NAME_LENGTH)
    assert not compile_regex(".*").matches("a" * (MAX_NAME_LENGTH + 1))
