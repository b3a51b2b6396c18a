"""Test which proxies of the environment are used and which are refused."""

from pathlib import Path

import pytest
from backfills import backfill_arguments
from support import KEY, run_program, workspace_yaml, write_file

from braze_exporter.commands.proxies import find_proxies

PROXY = "http://proxy.test:3128"
INVALID = [
    ("HTTPS_PROXY", "socks5h://proxy.test:1080"),
    ("ALL_PROXY", "socks5://user:hunter2@proxy.test:1080"),
    ("https_proxy", "http://user:hun#ter2@proxy.test:3128"),
    ("https_proxy", "http://user:hun/ter2@proxy.test:3128"),
    ("https_proxy", "http://us/er:hunter2@proxy.test:3128"),
    ("all_proxy", "http://us?er:hunter2@proxy.test:3128"),
    ("HTTPS_PROXY", "http://user:hunter2@proxy.test:http"),
    ("HTTPS_PROXY", "http://user:hunter2@proxy.test:0"),
    ("HTTPS_PROXY", "http://proxy..test"),
    ("HTTPS_PROXY", "http://"),
    ("HTTPS_PROXY", "ftp://proxy.test"),
    ("HTTPS_PROXY", "http://user:hunter2@proxy.test\n"),
    ("HTTPS_PROXY", "http://us\ner:hunter2@proxy.test"),
    ("HTTPS_PROXY", " http://proxy.test"),
    ("HTTPS_PROXY", "http://proxy test"),
    ("HTTPS_PROXY", " "),
]
# The value of NO_PROXY, the url, and whether a proxy is used.
NO_PROXY = [
    ("", "https://rest.braze.test", True),
    ("*", "https://rest.braze.test", False),
    ("braze.test", "https://rest.braze.test", False),
    ("REST.braze.TEST", "https://rest.braze.test", False),
    (".braze.test.", "https://braze.test.", False),
    ("raze.test", "https://braze.test", True),
    ("*.test", "https://rest.braze.test", False),
    ("*.test", "https://test.com", True),
    ("braze.test:443", "https://braze.test", False),
    ("braze.test:8443", "https://braze.test:8443", False),
    ("braze.test:8443", "https://braze.test", True),
    ("other.test , ,braze.test", "https://braze.test", False),
    ("other.test braze.test", "https://braze.test", False),
    ("10.0.0.0/8", "https://10.1.2.3", False),
    ("10.0.0.0/8", "https://11.1.2.3", True),
    ("10.0.0.0/8", "https://10.braze.test", True),
    ("10.1.2.3", "https://10.1.2.3", False),
    ("10.1.2.3:443", "https://10.1.2.3", False),
    ("10.1.2.3:80", "https://10.1.2.3", True),
    ("fd00::/8", "https://[fd00::1]", False),
    ("fd00::1", "https://[fd00::1]", False),
    ("[fd00::1]", "https://[fd00:0::1]:8443", False),
    ("[fd00::1]:443", "https://[fd00::1]", False),
    ("[fd00::1]:443", "https://[fd00::1]:8443", True),
    ("fd00::/8", "https://10.1.2.3", True),
]


def write_config(directory: Path) -> str:
    """Write a config with a host that is reached through a proxy."""
    return write_file(directory / "config.yaml", workspace_yaml("https://rest.braze.test", "{event: purchase}"))


@pytest.mark.parametrize(("variable", "proxy"), INVALID)
def test_unusable_proxy_is_refused(tmp_path: Path, variable: str, proxy: str) -> None:
    """The exporter refuses to start with a proxy that cannot work: one line names the variable, not the password."""
    done = run_program(
        f"--config.file={write_config(tmp_path)}",
        "--web.listen-address=127.0.0.1:0",
        BRAZE_API_KEY=KEY,
        **{variable: proxy},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{variable}: is not the URL of an HTTP proxy; set it to one such as http://")
    assert done.stderr.count("\n") == 1
    assert "ter2" not in done.stderr


@pytest.mark.parametrize("command", ["check --live", "discover", "backfill"])
def test_unusable_proxy_is_refused_by_command(tmp_path: Path, command: str) -> None:
    """Every command that makes calls to Braze refuses a proxy that cannot work."""
    config = write_config(tmp_path)
    arguments = [*command.split(), f"--config.file={config}"]
    if command == "backfill":
        arguments = [*backfill_arguments(config, tmp_path / "h.om", "2026-01-01", "2026-01-03")]
    done = run_program(*arguments, BRAZE_API_KEY=KEY, ALL_PROXY="socks5h://proxy.test")
    assert done.returncode == 1
    assert done.stderr.startswith("ALL_PROXY: is not the URL of an HTTP proxy; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("no_proxy", "url", "is_proxied"), NO_PROXY)
def test_no_proxy_is_read_as_by_curl_and_go(no_proxy: str, url: str, *, is_proxied: bool) -> None:
    """NO_PROXY has names, networks and ports; a proxy is used for all other hosts."""
    found = find_proxies([url], {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy})
    assert [*found.values()] == [PROXY] * is_proxied


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({"https_proxy": "", "HTTPS_PROXY": PROXY, "ALL_PROXY": "socks5://other.test"}, PROXY),
        ({"https_proxy": "https://first.test", "HTTPS_PROXY": PROXY}, "https://first.test"),
        ({"ALL_PROXY": "proxy.test:3128"}, PROXY),
        ({"no_proxy": "other.test", "NO_PROXY": "*", "all_proxy": PROXY}, PROXY),
        ({"HTTP_PROXY": PROXY, "FTP_PROXY": PROXY}, None),
    ],
)
def test_first_variable_that_is_set_counts(environment: dict[str, str], proxy: str | None) -> None:
    """An empty variable is ignored, and lower case precedes upper case."""
    expected = {} if proxy is None else {"https://rest.braze.test": proxy}
    assert (
        find_proxies(["https://rest.braze.test:8443", "http://[::1]:80", "http://localhost"], environment) == expected
    )
