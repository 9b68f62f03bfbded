"""Connection to a Ray cluster: address of its dashboard, authentication token, Ray's job client.

The dashboard is probed with the standard library first: the answer comes within moments and shows
whether a token is required, before Ray is imported. The token is looked up as Ray does it: only
with RAY_AUTH_MODE=token, in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH, or in
~/.ray/auth_token. A cluster without authentication never receives a token.
"""

import contextlib
import http.client
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nmt.errors import ConfigError, NmtError

PrintLine = Callable[[str], None]
"""Print a line for the user."""
TIMEOUT_S = 10.0
"""Deadline for an answer of the dashboard."""
EXAMPLE = "http://HEAD:8265"


def resolve_address(configured: str, key: str = "cluster.address") -> str:
    """Return the address of the cluster's dashboard: the configured one, or else RAY_ADDRESS.

    Args:
        configured: http://HOST:PORT, HOST:PORT, or empty.
        key: setting that holds it, for error messages.

    Raises:
        ConfigError: no address is set, or it is not that of a dashboard.
    """
    address = configured or os.environ.get("RAY_ADDRESS", "")
    if not address:
        raise ConfigError.from_message(
            f"no cluster address: set {key} or RAY_ADDRESS to the address of the dashboard, "
            f"{EXAMPLE}"
        )
    scheme, _, host = address.rpartition("://")
    if scheme not in ("", "http", "https") or (not scheme and ":" not in host):
        rule = f"it must be the address of a dashboard, {EXAMPLE}"
        raise ConfigError(key if configured else "RAY_ADDRESS", repr(address), rule)
    return f"{scheme or 'http'}://{host.rstrip('/')}"


def connect(address: str, print_line: PrintLine) -> Any:
    """Return a `ray.job_submission.JobSubmissionClient` that has reached the dashboard.

    Raises:
        NmtError: no dashboard answers, or it rejects the token.
    """
    is_token_required = requires_token(address)
    location, has_token = _find_token()
    is_token_mode = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if is_token_required and not is_token_mode:
        raise NmtError(
            f"the cluster at {address} requires a token: set RAY_AUTH_MODE=token, with the token "
            f"of its head in {location}"
        )
    if is_token_mode and not has_token:
        raise NmtError(
            f"RAY_AUTH_MODE is token, but {location} contains no token: put the token of the "
            "cluster's head there"
        )
    if not is_token_required:
        print_line(
            f"warning: the cluster at {address} requires no token: anyone who can connect to it "
            "can run code there; start it with RAY_AUTH_MODE=token"
        )
    try:
        from ray.job_submission import JobSubmissionClient

        logging.disable(logging.INFO)  # Ray's client logs every upload and every connection.
        # Ray prefers its variables to the argument, and this variable to RAY_ADDRESS.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        with translate_errors(address):
            return JobSubmissionClient(address)
    except ImportError as error:
        raise NmtError(
            f"Ray's job client is not installed ({error}): pip install 'ray[default]'"
        ) from None


def requires_token(address: str) -> bool:
    """Return True if the dashboard requires a token.

    Raises:
        NmtError: nothing answers, or something that is not a dashboard.
    """
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=TIMEOUT_S) as reply:
            json.load(reply)["ray_version"]
            return False
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return True
        reason = f"HTTP status {error.code}"
    except (KeyError, TypeError, ValueError, http.client.HTTPException):
        reason = "not the answer of a Ray dashboard"
    except OSError as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise NmtError(
        f"no Ray dashboard at {address} ({reason}): start the cluster, or set the address of its "
        f"dashboard, {EXAMPLE}"
    )


@contextlib.contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Turn exceptions of Ray's client into an NmtError of one line."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise NmtError(
            f"the cluster at {address} rejected the token in {_find_token()[0]}: use the token "
            "that its head was started with"
        ) from None
    except BrokenPipeError:  # Of our standard output, not of the connection.
        raise
    except OSError as error:
        raise NmtError(f"lost connection to the cluster at {address}: {_lines(error)[0]}") from None
    except RuntimeError as error:
        # A dashboard sends a whole traceback; its last line names the error.
        raise NmtError(f"error of the cluster at {address}: {_lines(error)[-1]}") from None


def _lines(error: Exception) -> list[str]:
    return [line for each in str(error).splitlines() if (line := each.strip(" ."))] or [repr(error)]


def _find_token() -> tuple[str, bool]:
    """Return where Ray looks for the token, and True if there is one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN", True
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return str(path), path.is_file() and path.stat().st_size > 0
