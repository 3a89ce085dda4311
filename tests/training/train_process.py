"""Train a recipe in JSON in a process of its own: one to be killed, or one of several."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from humo.training.recipe_file import parse_recipe
from humo.training.train import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    train(parse_recipe(json.loads(Path(sys.argv[1]).read_text())), resume="--resume" in sys.argv)
