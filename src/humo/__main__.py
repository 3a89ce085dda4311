"""``python -m humo`` is the command ``humo``."""

from humo.cli import entry

if __name__ == "__main__":
    entry()
