"""Runs a private Prometheus, so that tests ask it what it understood of our metrics."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.process import Lodging, ServerFailedError, ServerMissingError, end_of, free_port
from tests.support.wait import eventually


def find_prometheus() -> str:
    """Return the program's path."""
    found = shutil.which("prometheus")
    if found is None:
        raise ServerMissingError("Prometheus is not installed; on Debian: sudo apt-get install prometheus")
    return found


class Prometheus:
    """A Prometheus of one's own, running from the start. `close` ends it for good; once more does no harm.

    `scrape_configs` and `rule_files` are what prometheus.yml has under these names. Scraped every half second unless a
    scrape configuration says otherwise.
    """

    def __init__(self, scrape_configs: Sequence[dict[str, Any]], rule_files: Sequence[Path] = ()) -> None:
        self._program = find_prometheus()
        self._lodging = Lodging("prometheus")
        configuration = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(path.resolve()) for path in rule_files],
            "scrape_configs": list(scrape_configs),
        }
        # JSON is YAML.
        (self._lodging.folder / "prometheus.yml").write_text(json.dumps(configuration))
        try:
            self.port = self._boot()
        except BaseException:
            self._lodging.close()
            raise

    @property
    def url(self) -> str:
        """The address of its pages and its API."""
        return f"http://127.0.0.1:{self.port}"

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Return the result of an instant query: a list of {"metric": labels, "value": [time, text]}."""
        data = self._get("/api/v1/query", {"query": promql})
        result = data["result"]
        assert isinstance(result, list), f"not a vector: {data}"
        return result

    def value(self, promql: str) -> float | None:
        """Return the one number that a query gives; None if it gives none."""
        result = self.query(promql)
        assert len(result) <= 1, f"{promql} gives more than one number: {result}"
        return float(result[0]["value"][1]) if result else None

    def targets(self) -> list[dict[str, Any]]:
        """Return what is scraped, each with its "health" and "lastError"."""
        found: list[dict[str, Any]] = self._get("/api/v1/targets")["activeTargets"]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing."""
        found: list[dict[str, Any]] = self._get("/api/v1/alerts")["alerts"]
        return found

    def close(self) -> None:
        """End it and remove all it wrote."""
        self._lodging.close()

    # --- inside ---

    def _boot(self) -> int:
        log = self._lodging.folder / "log"
        for _ in range(3):  # a port can be taken between its choice and its use
            port = free_port()
            process = self._lodging.start(
                [
                    self._program,
                    f"--config.file={self._lodging.folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._lodging.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--log.level=warn",
                ],
                log=log,
            )
            if self._comes_up(process, port):
                return port
            self._lodging.kill(process)
        raise ServerFailedError(f"Prometheus did not come up:\n{end_of(log)}")

    @staticmethod
    def _comes_up(process: subprocess.Popen[bytes], port: int) -> bool:
        def ready_or_dead() -> bool:
            if process.poll() is not None:
                return True
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5):
                    return True
            except OSError:
                return False

        eventually(ready_or_dead, timeout=60, what="Prometheus is ready")
        return process.poll() is None

    def _get(self, path: str, parameters: dict[str, str] | None = None) -> dict[str, Any]:
        address = f"{self.url}{path}?{urllib.parse.urlencode(parameters or {})}"
        try:
            with urllib.request.urlopen(address, timeout=20) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise ServerFailedError(f"{path} {parameters}: {error.code} {error.read().decode()}") from None
        data: dict[str, Any] = answer["data"]
        return data
