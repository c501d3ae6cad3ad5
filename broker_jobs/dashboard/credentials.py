"""Checks tokens and passwords in constant time, limits failed logins, and derives the key that signs sessions."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from broker_jobs.clock import Clock
from broker_jobs.errors import UsageError

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 10
"""Failed logins from one address in WINDOW_SECONDS; after that, even a correct login is refused."""
WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 10_000
"""Addresses remembered at once; the oldest is dropped first."""


@dataclass(frozen=True)
class Credentials:
    """The configured login: a token, a user and password, both, or nothing."""

    token: str = ""
    user: str = ""
    password: str = ""

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.password):
            raise UsageError("the dashboard's user and password belong together: set both or none")

    def __bool__(self) -> bool:
        return bool(self.token or self.user)

    def is_token(self, token: str) -> bool:
        """Whether this is the token. Takes constant time."""
        return bool(self.token) and same_secret(token, self.token)

    def is_user(self, user: str, password: str) -> bool:
        """Whether these are the user and password. Takes constant time."""
        right = [same_secret(user, self.user), same_secret(password, self.password)]
        return bool(self.user) and all(right)


class LoginAttempts:
    """The failed logins of the last minute, by address. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def too_many(self, address: str) -> bool:
        """Whether this address has to wait."""
        with self._lock:
            return len(self._recent(address)) >= MAX_ATTEMPTS

    def add_failure(self, address: str) -> None:
        """Count a failed login."""
        with self._lock:
            self._failed[address] = [*self._recent(address), self._clock.monotonic()][-MAX_ATTEMPTS:]
            if len(self._failed[address]) == MAX_ATTEMPTS:
                logger.warning(
                    "%d failed logins to the dashboard from %r in a minute: further ones are refused for a minute",
                    MAX_ATTEMPTS,
                    address,
                )
            self._failed.move_to_end(address)
            while len(self._failed) > MAX_ADDRESSES:
                self._failed.popitem(last=False)

    def _recent(self, address: str) -> list[float]:
        since = self._clock.monotonic() - WINDOW_SECONDS
        return [at for at in self._failed.get(address, []) if at > since]


def same_secret(given: str, expected: str) -> bool:
    """Whether two secrets are equal. The time taken does not reveal how much of them is."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def signing_key(*secret: str) -> bytes:
    """A key derived from the installation's secrets: the same in all its processes, and slow to guess.

    A new password gives a new key, and so ends every session. Without any secret the key is random.
    """
    if not any(secret):
        return secrets.token_bytes(32)
    return hashlib.scrypt(json.dumps(secret).encode(), salt=b"broker_jobs dashboard", n=2**14, r=8, p=1, dklen=32)
