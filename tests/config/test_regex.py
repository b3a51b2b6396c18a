"""Test that `match:` accepts and interprets regexes as Prometheus does, and that matching ends quickly."""

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
    result = compile_regex(text)
    assert result.text == text
    assert [name for name in (*matched, *others) if result.matches(name)] == matched


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(a+)+", "repeats a group by +, which can take for ever: use .* or a class such as [a-z_]*"),
        ("(a|b){2}", "repeats a group by {2}"),
        (
            ".*a.*b.*c.*",
            "repeats too much, which can take for ever: at most 3 of * + {}, and beside 3 of them 2 of ?, or several",
        ),
        ("a?" * 11, "repeats too much"),
        ("(?=a)b", "has a group that begins with (?: only (?:…) is known"),
        ("(?P<name>a)", "has a group that begins with (?"),
        (r"(a)\1", r"has \1, which is not known"),
        (r"\bword", r"has \b, which is not known"),
        (r"\pL", r"has \p, which is not known"),
        ("\\", "has \\, which is not known"),
        ("^checkout", "has ^: leave it out, a name is always matched as a whole"),
        ("checkout$", "has $: leave it out"),
        ("*", r"has * where nothing stands that it could repeat: write \* for the character"),
        ("a**", "has * where nothing stands"),
        ("a++", "has + where nothing stands"),
        ("a+?", "has ? where nothing stands"),
        ("(|+)", "has + where nothing stands"),
        ("a{,3}", r"has { where it means nothing: write \{ for the character"),
        ("a}", r"has } where it means nothing"),
        ("a{2,1}", "is not a regular expression: min repeat greater than max repeat"),
        ("a{1001}", "repeats more than 1,000 times by {1001}"),
        ("(a", "is not a regular expression: missing ), unterminated subpattern"),
        ("a)", "is not a regular expression: unbalanced parenthesis"),
        ("[a-z", r"has a [ that begins no class such as [a-z_]: write \[ for the character"),
        ("[[:alpha:]]", "has a [ that begins no class"),
        ("[]a]", "has a [ that begins no class"),
        ("[z-a]", "is not a regular expression: bad character range z-a"),
        ("[a--b]", r"has a - in [a--b] that is neither a range nor a character: write \- for the character"),
        (r"[\w-z]", "has a - in"),
        (r"[!-\d]", "has a - in"),
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
        result = compile_regex(text)
    except RegexError as error:
        assert str(error).startswith("repeats")
        return
    plain = text.replace("[&&|]", r"[\&|]").replace(r"[^\w-]", "[^0-9A-Za-z_-]")
    assert result.matches(name) == (re.fullmatch(plain, name, re.ASCII | re.DOTALL) is not None)


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
