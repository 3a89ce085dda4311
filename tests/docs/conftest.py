"""The messages that the site's page of errors lists."""

from __future__ import annotations

import pytest

from tools.docs_reference.messages import Message, messages


@pytest.fixture(scope="session")
def known_messages() -> tuple[Message, ...]:
    """Return every message on the page of errors."""
    return messages()
