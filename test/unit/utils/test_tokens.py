from __future__ import annotations

from pathlib import Path

import pytest
from harness import wait_until

from pyfuncserver.errors import StartupError
from pyfuncserver.utils import renewal, tokens
from pyfuncserver.utils.tokens import Tokens


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_bytes(b"  first \r\n\nsecond\n\xc3\xbcmlaut")
    return path


@pytest.mark.parametrize(
    "authorization",
    ["Bearer first", "bearer second", "BEARER  first ", "Bearer Ã¼mlaut"],
)
def test_accepted(file: Path, authorization: str) -> None:
    assert Tokens(str(file)).accepts(authorization)


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "", "Bearer", "Bearer ", "first", "Basic first", "Bearer firs", "Bearer first2"),
        *("Bearer first,Bearer first", "Bearer first second", "Bearer \u20ac"),
    ],
)
def test_refused(file: Path, authorization: str | None) -> None:
    assert not Tokens(str(file)).accepts(authorization)


@pytest.mark.parametrize("content", [b"", b" \n\n"])
def test_a_file_without_a_token(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(StartupError, match=r"TOKEN_FILE='.*tokens' holds no token"):
        tokens.check(str(file))


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"TOKEN_FILE='.*none' cannot be read: No such file"):
        tokens.check(str(tmp_path / "none"))
    tokens.check("")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LOOK_INTERVAL_S", 0.01)


def test_a_renewed_file_is_taken_up(file: Path, impatient: None) -> None:
    known = Tokens(str(file))
    file.write_bytes(b"third")
    wait_until(lambda: known.accepts("Bearer third"), 30)
    assert not known.accepts("Bearer first")


def test_a_file_that_is_lost_changes_nothing_and_is_told_once(
    file: Path, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    known = Tokens(str(file))
    file.unlink()
    wait_until(lambda: [known.accepts("Bearer first"), "cannot be read" in caplog.text][-1], 30)
    for _ in range(100):
        assert known.accepts("Bearer first")
    assert caplog.text.count("stays in use") == 1
    assert "first" not in caplog.text
    file.write_bytes(b"third")
    wait_until(lambda: known.accepts("Bearer third"), 30)
