from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from certificates import Authority, Pair
from harness import wait_until

from pyfuncserver.errors import StartupError
from pyfuncserver.utils import renewal, tls
from pyfuncserver.utils.tls import ServerTls


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> list[Pair]:
    return [authority.issue("one"), authority.issue("two")]


@pytest.fixture
def pair(issued: list[Pair], tmp_path: Path) -> Pair:
    """Give a pair that a test may spoil."""
    mine = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    shutil.copy(issued[0].cert, mine.cert)
    shutil.copy(issued[0].key, mine.key)
    return mine


def server(pair: Pair, client_ca: str = "") -> ServerTls:
    return ServerTls(str(pair.cert), str(pair.key), client_ca)


def test_none_is_asked_for() -> None:
    assert tls.of("", "", "") is None
    tls.check("", "", "")


def test_a_pair(pair: Pair, authority: Authority) -> None:
    plain = server(pair)
    assert plain.material().context.verify_mode is ssl.CERT_NONE
    assert plain.material().context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert plain.material().key == pair.key.read_bytes()
    assert not plain.demands_client_certificates
    mutual = server(pair, str(authority.cert))
    assert mutual.material().context.verify_mode is ssl.CERT_REQUIRED
    assert mutual.material().client_ca == authority.cert.read_bytes()
    assert mutual.demands_client_certificates
    assert "PRIVATE" not in repr(mutual.material())


def test_files_that_will_not_do(pair: Pair, issued: list[Pair], tmp_path: Path) -> None:
    cert, key, other = str(pair.cert), str(pair.key), str(issued[1].key)
    broken = tmp_path / "broken"
    broken.write_text("not PEM")
    with pytest.raises(StartupError, match=rf"TLS_KEY='{other}' .* key values mismatch"):
        tls.check(cert, other, "")
    with pytest.raises(StartupError, match=rf"TLS_CERT='{broken}'"):
        tls.check(str(broken), key, "")
    with pytest.raises(StartupError, match=rf"TLS_CLIENT_CA='{broken}' cannot be used"):
        tls.check(cert, key, str(broken))
    with pytest.raises(StartupError, match=r"TLS_KEY='none' cannot be read"):
        tls.check(cert, "none", "")
    with pytest.raises(StartupError, match=r"TLS_CERT='none' cannot be read: No such file"):
        tls.check("none", key, "")


def test_nobody_is_asked_for_the_password_of_a_key(pair: Pair, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    arguments = ["-in", str(pair.key), "-aes128", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(["openssl", "ec", *arguments], check=True, capture_output=True, timeout=30)
    with pytest.raises(StartupError, match="the key is encrypted"):
        tls.check(str(pair.cert), str(locked), "")


def test_renewed_files_are_taken_up_when_both_are_there(
    pair: Pair,
    issued: list[Pair],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(renewal, "LOOK_INTERVAL_S", 0.01)
    running = server(pair)
    before = running.material()
    shutil.copy(issued[1].cert, pair.cert)
    wait_until(lambda: [running.material(), "stays in use" in caplog.text][-1], 30)
    assert running.material() is before
    assert caplog.text.count("stays in use") == 1
    new_key = pair.key.with_suffix(".new")
    shutil.copy(issued[1].key, new_key)
    new_key.replace(pair.key)
    wait_until(lambda: running.material() is not before, 30)
    assert running.material().key == issued[1].key.read_bytes()
    assert running.material() is running.material()
    assert "PRIVATE" not in caplog.text
