"""How long a job is kept that says so for itself, and an interval in words: on the pages, in the API, in a terminal."""

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from broker_jobs.cli import main
from tests.unit.dashboard.shop import shop_in


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["broker-jobs", *words])
    with pytest.raises(SystemExit) as end:
        main()
    output = capsys.readouterr()
    assert not end.value.code, output
    return output.out


def test_a_job_shows_how_long_it_and_its_result_are_kept_and_an_interval_is_shown_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    with shop_in(tmp_path) as shop:

        @shop.jobs.job(keep=timedelta(days=30), keep_result=timedelta(hours=2))
        def invoice() -> str:
            return "paid"

        receipt, other = invoice.enqueue(), invoice.using(keep=None, keep_result=None).enqueue()
        shop.ends(receipt, other)
        visitor = shop.visitor()
        job = json.loads(visitor.see(f"/api/v1/jobs/{receipt.id}"))
        ended = shop.store.reader.jobs.get(receipt.id)
        assert ended is not None
        kept = datetime.fromisoformat(job["expires_at"]).timestamp() - ended.changed_at
        result = datetime.fromisoformat(job["result_until"]).timestamp() - ended.changed_at
        assert (round(kept), round(result)) == (30 * 86_400, 7_200)
        page = visitor.see(f"/jobs/{receipt.id}")
        assert "Kept until" in page
        assert "Result kept until" in page
        assert "Result kept until" not in visitor.see(f"/jobs/{other.id}")
        assert "kept until" in printed(capsys, monkeypatch, "jobs", "show", receipt.id, "--store", store)

        shop.jobs.recurring.put("often", timedelta(minutes=5), invoice)
        shop.jobs.recurring.put("last friday", "0 9 * * FRIL", invoice)
        for page in (visitor.see("/recurring"), visitor.see("/recurring/often")):
            assert "every 5 minutes" in page
        assert 'value="@every 5m"' in visitor.see("/recurring/often")
        assert "0 9 * * FRIL" in visitor.see("/recurring/last%20friday")
        preview = json.loads(visitor.see("/api/v1/cron-preview?cron=%40every%2090s"))["times"]
        assert [datetime.fromisoformat(at).timestamp() % 90 for at in preview] == [0] * 5
        shown = printed(capsys, monkeypatch, "recurring", "list", "--store", store)
        assert "often\tevery 5 minutes" in shown
        shown = printed(capsys, monkeypatch, "recurring", "show", "often", "--store", store)
        assert "every 5 minutes" in shown
        assert "next 5" in shown
