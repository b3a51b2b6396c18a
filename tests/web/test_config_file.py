"""A gallery beside this file: web configuration files that cannot be used, with the exact words for each fault."""

import pickle
import re
import shutil
import ssl
from pathlib import Path

import pytest
from certificates import Pki, write_mistakes

from braze_exporter.config.document import ConfigError
from braze_exporter.web.config_file import WebConfig, read_web_config

CONFIG_DIRECTORY = Path(__file__).parent / "bad"
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
TLS = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
MUTUAL = f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with certificates, good and bad."""
    directory = tmp_path_factory.mktemp("web")
    Pki.make(directory)
    write_mistakes(directory)
    return directory


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIG_DIRECTORY.glob("*.yaml")))
def test_invalid_file_has_expected_messages(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault is told in exactly the words beside it, with its line, and never with a hash or a password."""
    shutil.copy(CONFIG_DIRECTORY / f"{name}.yaml", folder)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as raised:
        read_web_config(f"{name}.yaml")
    info = str(raised.value)
    assert info.splitlines() == (CONFIG_DIRECTORY / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    for secret in ("hunter2", HASH[29:], "qzxcvbnm"):
        assert secret not in info
        assert secret.encode() not in pickle.dumps(raised.value)


def test_every_expectation_has_a_file() -> None:
    """Every file of the gallery has its text, and every text its file."""
    files, texts = ({path.stem for path in CONFIG_DIRECTORY.glob(f"*.{end}")} for end in ("yaml", "txt"))
    assert files == texts != set()


def loaded(folder: Path, text: str) -> WebConfig:
    """Return what a file holds."""
    path = folder / "web.yaml"
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
def test_protections_are_listed(folder: Path, text: str, protections: tuple[str, ...]) -> None:
    """A file asks for what it names, and an empty one for nothing, as for Prometheus's exporters."""
    assert loaded(folder, text).protections == protections


@pytest.mark.parametrize("pattern", [r"^  # (?!.*htpasswd)", "^$"], ids=["everything", "as it stands"])
def test_readme_example_is_valid(folder: Path, pattern: str) -> None:
    """What people copy out of the README works, with what is commented out and without."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```text\n(tls_server_config:.*?)^```", readme, re.DOTALL | re.MULTILINE)
    for name, file in {"server.pem": "cert.pem", "server-key.pem": "key.pem", "clients.pem": "ca.pem"}.items():
        shutil.copy(folder / file, folder / name)
    config = loaded(folder, re.sub(pattern, "  ", text, flags=re.MULTILINE))
    assert {"TLS", "passwords"} <= set(config.protections)
    assert ("client certificates" in config.protections) == (pattern != "^$")


def test_response_headers_are_read(folder: Path) -> None:
    """The headers of the file are those of the answers, in small letters; one that is empty is none."""
    text = "http_server_config: {http2: false, headers: {X-Frame-Options: sameorigin, Content-Security-Policy: ''}}"
    assert loaded(folder, text).headers == {b"x-frame-options": b"sameorigin"}


def test_tls_versions_are_read(folder: Path) -> None:
    """TLS begins at 1.2, unless the file says otherwise."""
    baseline = loaded(folder, TLS).tls
    narrow = loaded(folder, f"{TLS}  min_version: TLS13\n  max_version: TLS13\n").tls
    assert baseline is not None
    assert (baseline.minimum_version, baseline.maximum_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert narrow is not None
    assert narrow.minimum_version == narrow.maximum_version == ssl.TLSVersion.TLSv1_3


def test_paths_are_relative_to_config_file(folder: Path) -> None:
    """From wherever it is read, a name without a slash at its front begins where the file is."""
    config = loaded(folder, f"{TLS}  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n")
    assert config.files == tuple(folder / name for name in ("web.yaml", "cert.pem", "key.pem", "ca.pem"))
    absolute = TLS.replace("cert.pem", str(folder / "cert.pem"))
    assert loaded(folder, absolute).files[1] == folder / "cert.pem"


def test_hashes_are_not_printed(folder: Path) -> None:
    """However it is printed, a hash is `***`."""
    config = loaded(folder, f"basic_auth_users: {{alice: {HASH}}}")
    assert HASH not in f"{config} {config!r} {config.users}"
    assert config.users["alice"].reveal() == HASH


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.yaml", "No such file or directory"),
        (".", "Is a directory"),
        ("latin-1.yaml", "not a text file in UTF-8"),
    ],
)
def test_unreadable_file_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    """What cannot be read as text is one line that names it, and says how to give the file."""
    (folder / "latin-1.yaml").write_bytes("# Zürich".encode("latin-1"))
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as raised:
        read_web_config(name)
    assert (
        str(raised.value) == f"{name}: cannot be read ({reason}): give the web configuration file by --web.config.file"
    )
