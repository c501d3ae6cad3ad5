"""Gathers the pages: each module is one, with its list of routes."""

from __future__ import annotations

import importlib
import pkgutil

from starlette.routing import Route


def routes() -> list[Route]:
    """The routes of every page."""
    found: list[Route] = []
    for module in pkgutil.iter_modules(__path__):
        found += getattr(importlib.import_module(f"{__name__}.{module.name}"), "ROUTES", [])
    return found
