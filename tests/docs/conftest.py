"""Fixture of the messages on the page of errors."""

from __future__ import annotations

import pytest

from tools.docs_reference.messages import Message, messages


@pytest.fixture(scope="session")
def known_messages() -> tuple[Message, ...]:
    """Return every message on the page of errors."""
    return messages()
