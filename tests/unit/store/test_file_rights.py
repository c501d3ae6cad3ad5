"""Making a store's file private leaves alone what other connections of the process hold on it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from broker_jobs.store.database import prepare_file


@pytest.mark.skipif(os.name != "posix", reason="rights and locks of files are those of POSIX")
def test_the_locks_of_this_process_stay(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    holder = sqlite3.connect(store, isolation_level=None)
    code = f"import sqlite3; sqlite3.connect({str(store)!r}, timeout=0).execute('BEGIN EXCLUSIVE')"
    try:
        holder.execute("BEGIN EXCLUSIVE")
        store.chmod(0o644)
        prepare_file(store)  # to open and close the file here would drop them
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    finally:
        holder.close()
    assert "locked" in other.stderr
    assert store.stat().st_mode & 0o777 == 0o600
