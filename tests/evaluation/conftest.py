"""A small corpus with clips of both test splits, rendered once."""

from __future__ import annotations

from pathlib import Path

import pytest

from humo.synthetic.clip_plan import CorpusConfig
from humo.synthetic.corpus import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips with audio of each test split, and two to train on, of 25 frames."""
    folder = tmp_path_factory.mktemp("people") / "corpus"
    config = CorpusConfig(seed=3, frames=25, identities=60, silent_fraction=0.0)
    for split, count in (("test", 3), ("test-seen", 3), ("train", 2)):
        write_corpus(folder, config, clips=count, split=split, workers=1, progress=lambda done, total: None)  # type: ignore[arg-type]
    return folder
