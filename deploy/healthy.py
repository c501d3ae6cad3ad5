"""Checks /healthz of a process in this container; the exit code is 0 if it is healthy. Images have no curl.

python healthy.py            # on BROKER_JOBS_METRICS_PORT
python healthy.py 8700       # on this port: the dashboard
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

SECONDS = 4.0


def main() -> int:
    port = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BROKER_JOBS_METRICS_PORT", "9100")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{int(port)}/healthz", timeout=SECONDS) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as refused:
        print(refused.read().decode())
        return 1
    except (OSError, ValueError) as error:
        print(f"no answer: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
