"""``humo serve`` and ``humo ui`` before anything is served: options, keys, refusals."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from humo.cli.doctor import CHECKS, Severity
from humo.cli.main import main
from humo.environment import DEFAULT_HOST, DEFAULT_PORT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--host", "0.0.0.0"],
            "--host: 0.0.0.0 can be reached from other machines, but there is no API key;",
        ),
        (["--host", "example.invalid", "--data", "{}/with-key"], "cannot be bound at example.invalid"),
        (["--port", "x"], "--port: 'x' is not allowed; allowed: 0 to 65535"),
        (["--port", "1.5"], "--port: '1.5' is not allowed; allowed: a whole number"),
        (["--retention-days", "nan"], "--retention-days: 'nan' is not allowed"),
        (["--device", "tpu"], "--device: 'tpu' is unknown; known are auto, cpu"),
        (["--device", "cpu:1"], "--device: 'cpu:1' is unknown"),
        (["--model", "nothing"], "nothing"),
        (["--database", "mysql://x"], "--database: 'mysql://x' is not supported; give postgresql://"),
        (["keys"], "keys: is unknown; use keys add NAME"),
        (["locks"], "locks: is not an argument of humo serve"),
        (["keys", "remove", "me"], "name: 'me' has no key; there are no keys"),
        (["--bogus"], "--bogus"),
    ],
)
def test_bad_options_get_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--data", str(tmp_path / "with-key"), "keys", "add", "me"]) == 0
    capsys.readouterr()
    data = [] if "--data" in arguments else ["--data", str(tmp_path / "data")]
    assert main(["serve", *data, *(word.format(tmp_path) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert not out


def test_a_port_that_is_taken_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind((DEFAULT_HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--data", str(tmp_path), "--port", str(port)]) == 2
    assert f"--port {port}: cannot be bound at 127.0.0.1 (Address already in use)" in capsys.readouterr().err


def test_keys_are_added_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def say(*arguments: str) -> str:
        assert main(["serve", "--data", str(tmp_path), "keys", *arguments]) == 0
        return capsys.readouterr().out

    key = say("add", "me").strip()
    assert key.startswith("humo-")
    assert key not in (tmp_path / "keys.json").read_text()
    assert say("list") == "me\n"
    say("remove", "me")
    assert say("list") == ""


def test_the_doctor_looks_at_the_port() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((DEFAULT_HOST, DEFAULT_PORT))
            taken.listen()
        except OSError:
            pass  # somebody else has it, which is what is to be seen
        ((state, text, remedy),) = CHECKS["port"](None)
    assert (state, bool(remedy)) == (Severity.WARNING, True)
    assert str(DEFAULT_PORT) in text
