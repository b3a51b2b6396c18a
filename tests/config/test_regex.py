"""Test that `regex:` accepts and interprets regexes as Prometheus does, and that matching ends quickly."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from braze_exporter.config.regex import MAX_NAME_LENGTH, RegexError, compile_regex


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
        ("(a+)+", "repeats a group with +, which can be slow; use .* or a class such as [a-z_]*"),
        ("(a|b){2}", "repeats a group with {2}"),
        (
            ".*a.*b.*c.*",
            "repeats too often, which can be slow; use at most 3 of * + {}, and with 3 of them at most 2 of ?, or use",
        ),
        ("a?" * 11, "repeats too often"),
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
        ("a{2,1}", "is not a valid regex: min repeat greater than max repeat"),
        ("a{1001}", "repeats more than 1,000 times with {1001}"),
        ("(a", "is not a valid regex: missing ), unterminated subpattern"),
        ("a)", "is not a valid regex: unbalanced parenthesis"),
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


LETTERS = st.sampled_from(["a", "b", "_", ".", r"\.", r"\d", r"\W", "[a-z]", r"[^\w-]", "[&&|]", "é", " "])
ATOMS = st.tuples(LETTERS, st.sampled_from(["", "", "", "?", "*", "+", "{2}", "{0,2}"])).map("".join)
BRANCHES = st.lists(ATOMS, max_size=4).map("".join)
PATTERNS = st.lists(BRANCHES | BRANCHES.map("({}|b)".format), max_size=3).map("|".join)


@given(PATTERNS, st.text(alphabet="ab_.1&|é \n", max_size=6))
def test_regex_matches_as_re_does(text: str, name: str) -> None:
    """An accepted regex matches like Python's `re` with ASCII classes."""
    try:
        compiled = compile_regex(text)
    except RegexError as error:
        assert str(error).startswith("repeats")
        return
    plain = text.replace("[&&|]", r"[\&|]").replace(r"[^\w-]", "[^0-9A-Za-z_-]")
    assert compiled.matches(name) == (re.fullmatch(plain, name, re.ASCII | re.DOTALL) is not None)


@given(st.text(alphabet="ab.*+?|()[]{}^$\\,-:=<!&~0129dwsPi \n") | st.text())
@example("(?i)(?i)a")
@example("[\\")
def test_any_text_is_regex_or_refused(text: str) -> None:
    """Any text is a regex or a one-line error."""
    try:
        compile_regex(text).matches("a name")
    except RegexError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("text", [".*a.*a.*b", ".*.*.*x", "a?" * 10 + "a{0,1000}b", r"[\w]*[\w]*\d*-"])
def test_slowest_accepted_regex_is_fast(text: str) -> None:
    """The slowest accepted regexes take a second or two on a long name, and longer names never match."""
    worst, started = compile_regex(text), time.process_time()
    assert not worst.matches("a" * MAX_NAME_LENGTH)
    assert time.process_time() - started < 20
    assert not compile_regex(".*").matches("a" * (MAX_NAME_LENGTH + 1))
