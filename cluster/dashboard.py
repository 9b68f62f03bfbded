"""The way to a Ray cluster: the address of its dashboard, its token, and Ray's job client.

The dashboard is asked first, with the standard library: it tells in a moment whether anything
answers, and whether it asks for a token, before Ray is imported. The token is found as Ray finds
it: only with RAY_AUTH_MODE=token, and then in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH, or
in ~/.ray/auth_token. So no token goes to a cluster unasked.
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

Say = Callable[[str], None]
"""Tells the person at the keyboard a line."""
ANSWER_S = 10.0
"""Seconds in which a dashboard has to answer."""
EXAMPLE = "http://HEAD:8265"


def address_of(asked: str, key: str = "cluster.address") -> str:
    """The address of the cluster's dashboard: the one asked for, else RAY_ADDRESS.

    Args:
        asked: http://HOST:PORT, or HOST:PORT, or nothing.
        key: where it stood, for errors.

    Raises:
        ConfigError: there is none, or it is not the address of a dashboard.
    """
    address = asked or os.environ.get("RAY_ADDRESS", "")
    if not address:
        raise ConfigError.from_message(
            f"no cluster is named: set {key}, or RAY_ADDRESS, to the address of its dashboard, "
            f"{EXAMPLE}"
        )
    scheme, _, host = address.rpartition("://")
    if scheme not in ("", "http", "https") or (not scheme and ":" not in host):
        rule = f"the address of a dashboard was expected, {EXAMPLE}"
        raise ConfigError(key if asked else "RAY_ADDRESS", repr(address), rule)
    return f"{scheme or 'http'}://{host.rstrip('/')}"


def connect(address: str, say: Say) -> Any:
    """A `ray.job_submission.JobSubmissionClient` that has spoken with the dashboard.

    Raises:
        NmtError: none answers, or it refuses us.
    """
    asks_for_token = probe(address)
    place, has_token = _token()
    is_token_mode = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if asks_for_token and not is_token_mode:
        raise NmtError(
            f"the cluster at {address} asks for a token: set RAY_AUTH_MODE=token, with the token "
            f"of its head in {place}"
        )
    if is_token_mode and not has_token:
        raise NmtError(
            f"RAY_AUTH_MODE is token, but there is none in {place}: put the token of the "
            "cluster's head there"
        )
    if not asks_for_token:
        say(
            f"warning: the cluster at {address} asks for no token: whoever reaches it can run "
            "code there; start it with RAY_AUTH_MODE=token"
        )
    try:
        from ray.job_submission import JobSubmissionClient

        logging.disable(logging.INFO)  # Ray's client tells of each package and each connection.
        # Ray prefers its variables to the address it is given, and this one to RAY_ADDRESS.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        with speaking_to(address):
            return JobSubmissionClient(address)
    except ImportError as error:
        raise NmtError(f"no Ray job client here ({error}): pip install 'ray[default]'") from None


def probe(address: str) -> bool:
    """Whether the dashboard asks for a token.

    Raises:
        NmtError: nothing answers, or something that is not a dashboard.
    """
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_S) as reply:
            json.load(reply)["ray_version"]
            return False
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return True
        reason = f"HTTP status {error.code}"
    except (KeyError, TypeError, ValueError, http.client.HTTPException):
        reason = "its answer is not that of a dashboard"
    except OSError as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise NmtError(
        f"no Ray dashboard answers at {address} ({reason}): start the cluster, or name the address "
        f"of its dashboard, {EXAMPLE}"
    )


@contextlib.contextmanager
def speaking_to(address: str) -> Iterator[None]:
    """Inside, what Ray's client raises becomes an NmtError of one line."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise NmtError(
            f"the cluster at {address} refuses the token in {_token()[0]}: it is not the one that "
            "its head was started with"
        ) from None
    except BrokenPipeError:  # Ours: nobody reads what we print.
        raise
    except OSError as error:
        reason = _lines(error)[0]
        raise NmtError(f"the cluster at {address} does not answer any more: {reason}") from None
    except RuntimeError as error:
        # A dashboard sends the whole traceback of what went wrong there; its last line says it.
        reason = _lines(error)[-1]
        raise NmtError(f"the cluster at {address} refuses: {reason}") from None


def _lines(error: Exception) -> list[str]:
    lines = [line.strip(" .") for line in str(error).splitlines()]
    return [line for line in lines if line] or [repr(error)]


def _token() -> tuple[str, bool]:
    """Where Ray looks for the token, and whether there is one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN", True
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return str(path), path.is_file() and path.stat().st_size > 0
