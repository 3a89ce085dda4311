"""Convert the errors of a connection to a hub to one line with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from humo.errors import CheckpointError

RESUME = "run the command again, which resumes the download, or use a mirror with --endpoint"
"""Remedy for a connection that failed."""

LOG_IN = "log in to this network in a browser, or check the proxy and --endpoint"
"""Remedy for a web page in place of a file, as captive portals send it."""

WEB_PAGE = "a web page came in place of the hub's answer"
"""Problem of a request that a captive portal or a proxy answers."""


class WebPageError(Exception):
    """A web page came in place of a hub's answer."""


class ShortBodyError(Exception):
    """Fewer bytes arrived than the hub lists; the text says how many."""


@contextmanager
def hub_errors(field: str, token_variable: str) -> Iterator[None]:
    """Convert every error of a request to a hub to a CheckpointError of one line.

    Args:
        field: the repository or file, for messages.
        token_variable: environment variable of the hub's access token.
    """
    from huggingface_hub import errors

    # HTTPError is that of the HTTP library that huggingface_hub uses
    http_error: Any = getattr(errors, "HTTPError", errors.HfHubHTTPError)
    try:
        yield
    except CheckpointError:
        raise
    except errors.OfflineModeIsEnabled as error:
        problem = "is not available locally, and HF_HUB_OFFLINE forbids downloads"
        remedy = "unset HF_HUB_OFFLINE, or run `humo models import FOLDER`"
        raise CheckpointError(field, problem, remedy) from error
    except (http_error, OSError, ValueError, ImportError, KeyError, TypeError, WebPageError, ShortBodyError) as error:
        problem, remedy = _explain(error, token_variable)
        raise CheckpointError(field, f"cannot be downloaded: {problem}", remedy) from error


def _explain(error: BaseException, token_variable: str) -> tuple[str, str]:
    """Return what went wrong, and the remedy."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return _explain(error.__cause__, token_variable)  # not in the cache, because the hub could not be asked
    if isinstance(error, WebPageError | errors.FileMetadataError) or type(error).__name__ == "JSONDecodeError":
        return WEB_PAGE, LOG_IN
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, ImportError):
        return "a SOCKS proxy needs the package socksio", "pip install socksio, or unset ALL_PROXY and HTTPS_PROXY"
    if isinstance(error, ValueError) and "proxy" in text.lower():
        return text, "set HTTPS_PROXY to http://HOST:PORT, or unset it"
    if isinstance(error, ShortBodyError) or "Consistency check failed" in text:
        return text.partition(" (")[0], RESUME
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        remedy = f"accept its terms on its page, and set {token_variable} to a token of that account"
        return "the hub refuses access (403)", remedy
    if status == 401:
        remedy = f"set {token_variable} to an access token, or check the name of the repository"
        return "the hub wants an access token (401), or has no such repository", remedy
    if status == 404:
        return "the hub has no such repository or file", "check the name, or use another --endpoint"
    if status == 407:
        return "the proxy wants a name and a password (407)", "set HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT"
    if type(error).__name__ == "ProxyError":
        return f"the proxy cannot be used ({text})", "check HTTPS_PROXY, or unset it"
    return text, RESUME
