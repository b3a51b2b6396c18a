"""Test the web configuration files in `bad/` against their exact error messages, and how valid ones are read."""

import pickle
import re
import shutil
import ssl
from pathlib import Path

import docs
import pytest
from certificates import Pki, write_mistakes

from braze_exporter.config.document import ConfigError
from braze_exporter.web.config_file import WebConfig, read_web_config

CONFIG_DIRECTORY = Path(__file__).parent / "bad"
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
TLS = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
MUTUAL = f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with valid and invalid certificates."""
    directory = tmp_path_factory.mktemp("web")
    Pki.make(directory)
    write_mistakes(directory)
    return directory


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIG_DIRECTORY.glob("*.yaml")))
def test_invalid_file_has_expected_messages(name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each invalid file has exactly the expected messages with line numbers, and none shows a hash or password."""
    shutil.copy(CONFIG_DIRECTORY / f"{name}.yaml", directory)
    monkeypatch.chdir(directory)
    with pytest.raises(ConfigError) as raised:
        read_web_config(f"{name}.yaml")
    message = str(raised.value)
    assert message.splitlines() == (CONFIG_DIRECTORY / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    for secret in ("hunter2", HASH[29:], "qzxcvbnm"):
        assert secret not in message
        assert secret.encode() not in pickle.dumps(raised.value)


def test_every_expectation_has_a_file() -> None:
    """Every invalid file has an expectation, and every expectation has a file."""
    files, texts = ({path.stem for path in CONFIG_DIRECTORY.glob(f"*.{end}")} for end in ("yaml", "txt"))
    assert files == texts != set()


def loaded(directory: Path, text: str) -> WebConfig:
    """Return the configuration that a file with this text gives."""
    path = directory / "web.yaml"
    path.write_text(text, encoding="utf-8")
    return read_web_config(str(path))


@pytest.mark.parametrize(
    ("text", "protections"),
    [
        ("", ()),
        ("# nothing\n", ()),
        ("{}", ()),
        ("basic_auth_users: {}", ()),
        (f"basic_auth_users: {{älice: {HASH}}}", ("passwords",)),
        (TLS, ("TLS",)),
        (f"{TLS}  client_auth_type: NoClientCert\n", ("TLS",)),
        (f"{MUTUAL}basic_auth_users: {{a: {HASH}}}", ("TLS", "client certificates", "passwords")),
    ],
)
def test_protections_are_listed(directory: Path, text: str, protections: tuple[str, ...]) -> None:
    """A file enables only the protections it names; an empty file enables none, as for other Prometheus exporters."""
    assert loaded(directory, text).protections == protections


@pytest.mark.parametrize("pattern", [r"^  # (?!.*htpasswd)", "^$"], ids=["everything", "as written"])
def test_documented_example_is_valid(directory: Path, pattern: str) -> None:
    """The documented example is valid both as written and with its commented lines enabled."""
    (text,) = (block for block in docs.code_blocks("yaml") if block.startswith("tls_server_config:"))
    for name, file in {"server.pem": "cert.pem", "server-key.pem": "key.pem", "clients.pem": "ca.pem"}.items():
        shutil.copy(directory / file, directory / name)
    config = loaded(directory, re.sub(pattern, "  ", text, flags=re.MULTILINE))
    assert {"TLS", "passwords"} <= set(config.protections)
    assert ("client certificates" in config.protections) == (pattern != "^$")


def test_response_headers_are_read(directory: Path) -> None:
    """The configured response headers are read in lower case, and empty ones are omitted."""
    text = "http_server_config: {http2: false, headers: {X-Frame-Options: sameorigin, Content-Security-Policy: ''}}"
    assert loaded(directory, text).headers == {"x-frame-options": "sameorigin"}


def test_tls_versions_are_read(directory: Path) -> None:
    """The default minimum is TLS 1.2."""
    default_tls = loaded(directory, TLS).tls
    narrow = loaded(directory, f"{TLS}  min_version: TLS13\n  max_version: TLS13\n").tls
    assert default_tls is not None
    assert (default_tls.minimum_version, default_tls.maximum_version) == (
        ssl.TLSVersion.TLSv1_2,
        ssl.TLSVersion.TLSv1_3,
    )
    assert narrow is not None
    assert narrow.minimum_version == narrow.maximum_version == ssl.TLSVersion.TLSv1_3


def test_paths_are_relative_to_config_file(directory: Path) -> None:
    """A relative path starts at the directory of the configuration file, whatever the working directory."""
    config = loaded(directory, f"{TLS}  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n")
    assert config.files == tuple(directory / name for name in ("web.yaml", "cert.pem", "key.pem", "ca.pem"))
    absolute = TLS.replace("cert.pem", str(directory / "cert.pem"))
    assert loaded(directory, absolute).files[1] == directory / "cert.pem"


def test_hashes_are_not_printed(directory: Path) -> None:
    """A hash is printed as `***`."""
    config = loaded(directory, f"basic_auth_users: {{alice: {HASH}}}")
    assert HASH not in f"{config} {config!r} {config.users}"
    assert config.users["alice"].reveal() == HASH


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.yaml", "No such file or directory"),
        (".", "Is a directory"),
        ("/dev/zero", "Larger than 4,096 KiB"),
        ("latin-1.yaml", "not UTF-8 text"),
    ],
)
def test_unreadable_file_is_an_error(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    """An unreadable file is a one-line error with its name and the flag that sets it."""
    (directory / "latin-1.yaml").write_bytes("# Zürich".encode("latin-1"))
    monkeypatch.chdir(directory)
    with pytest.raises(ConfigError) as raised:
        read_web_config(name)
    remedy = "set --web.config.file to the path of the web configuration file"
    assert str(raised.value) == f"{name}: cannot be read ({reason}); {remedy}"
