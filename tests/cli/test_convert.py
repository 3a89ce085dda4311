"""``humo convert`` says what it wrote, what it dropped and why, and how far it is."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import SMALL, Humo


def test_a_model_folder_goes_to_the_published_names_and_back(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    released = humo("convert", tiny_model_folder, "released", "--to", "published", "--family", "humo-1.7b", "--json")
    assert released.code == 0
    (result,) = released.only("result")
    assert (result["naming"], result["preset"], result["path"]) == ("published", "humo-1.7b", "released")
    assert {part["part"] for part in result["parts"]} >= {"transformer", "vae", "text_encoder", "audio_encoder"}
    for part in result["parts"]:
        mine = [event for event in released.only("progress") if event["phase"] == part["part"]]
        assert mine[-1]["done"] == mine[-1]["total"] == part["bytes"]
        assert mine[-1]["unit"] == "bytes"

    back = humo("convert", "released", "model", "--head-dim", "24")
    assert back.code == 0
    assert back.out.startswith("model: humo-1.7b, ")
    assert "transformer" in back.out
    assert "MB" in back.err
    index = json.loads(Path("model/model_index.json").read_text())
    assert index["preset"] == "humo-1.7b"
    assert humo("generate", "--model", "model", "--prompt", "a", *SMALL, "--dry-run").code == 0


def test_a_destination_that_is_there_is_not_replaced_unasked(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    assert humo("convert", tiny_model_folder, "model", "--quiet").code == 0
    result = humo("convert", tiny_model_folder, "model")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert humo("convert", tiny_model_folder, "model", "--overwrite", "--dtype", "bf16", "--quiet").code == 0
