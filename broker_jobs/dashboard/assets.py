"""Gives each static file an address with its content's hash in it, so that a browser may keep it for ever."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Asset:
    """A static file."""

    body: bytes
    media_type: str


class Assets:
    """All static files, read once: they are few and small."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._hashed: dict[str, str] = {}
        self._found: dict[str, Asset] = {}
        for file in sorted(folder.iterdir()):
            body = file.read_bytes()
            name = f"{file.stem}.{hashlib.sha256(body).hexdigest()[:12]}{file.suffix}"
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self._hashed[file.name] = name
            self._found[name] = Asset(body, kind)

    def hashed(self, name: str) -> str:
        """The name with its hash. Raises KeyError for a file that is not there."""
        return self._hashed[name]

    def find(self, hashed: str) -> Asset | None:
        """The file of a name with a hash, or None."""
        return self._found.get(hashed)


ASSETS = Assets()
"""Ours."""
