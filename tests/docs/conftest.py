"""The messages that the site's page of errors lists."""

from __future__ import annotations

import pytest

from tools.docs_reference.messages import Message, messages


@pytest.fixture(scope="session")
def known_messages() -> tuple[Message, ...]:
    """Every message that the page of errors has."""
    return messages()
