import json
import sys
import traceback
from collections.abc import Callable

import pytest

from broker_jobs.messages.error_fingerprint import fingerprint, is_own_code
from broker_jobs.messages.events import ErrorInfo


def raised(run: Callable[[], object]) -> ErrorInfo:
    try:
        run()
    except Exception as error:  # noqa: BLE001  # whatever it is
        return ErrorInfo(
            type=type(error).__name__, message=str(error), traceback="".join(traceback.format_exception(error))
        )
    raise AssertionError("it did not raise")


def of(error: ErrorInfo, job: str = "shop.mail") -> str:
    return fingerprint(error, job)


def written(*frames: str, error: str = "ValueError: no", head: str = "Traceback (most recent call last):") -> ErrorInfo:
    text = "\n".join(
        [head, *(f'  File "{file}", line 1, in {name}\n    x()' for file, name in map(str.split, frames)), error]
    )
    return ErrorInfo(type=error.partition(":")[0], message=error.partition(": ")[2], traceback=text)


def divide(by: int) -> float:
    return 1 / by


def parse(value: str) -> object:
    return json.loads(value)


def chained(value: str) -> None:
    try:
        parse(value)
    except ValueError as error:
        raise KeyError(value) from error


def down(depth: int) -> object:
    return down(depth - 1) if depth else divide(0)


def test_values_do_not_count() -> None:
    assert of(raised(lambda: parse("{"))) == of(raised(lambda: parse('["')))


def test_the_type_and_the_place_count() -> None:
    known = {of(raised(lambda: divide(0))), of(raised(lambda: parse("{"))), of(raised(lambda: chained("{")))}
    assert len(known) == 3


def test_lines_and_the_folders_of_an_installation_do_not_count() -> None:
    here = written("/srv/v1/shop/jobs.py mail", "/srv/v1/shop/smtp.py send")
    there = written("C:\\app\\v2\\shop\\jobs.py mail", "C:\\app\\v2\\shop\\smtp.py send")
    assert of(here) == of(there)
    assert of(here) == of(
        ErrorInfo.model_validate(here.model_dump() | {"traceback": here.traceback.replace("line 1,", "line 77,")})
    )


def test_frames_of_libraries_do_not_count_where_there_are_own_ones() -> None:
    library = "/venv/lib/python3.12/site-packages/httpx/client.py send"
    other = "/venv/lib/python3.12/site-packages/httpx/client.py request"
    assert of(written("/srv/shop/jobs.py mail", library)) == of(written("/srv/shop/jobs.py mail", other))
    assert of(written(library)) != of(written(other))


def test_how_deep_a_recursion_went_does_not_count() -> None:
    assert of(raised(lambda: down(3))) == of(raised(lambda: down(300)))


def test_a_traceback_whose_beginning_was_cut_has_the_fingerprint_of_the_whole() -> None:
    whole = written(*(f"/srv/shop/f{n}.py f" for n in range(60)))
    cut = whole.model_copy(update={"traceback": "…" + whole.traceback[-1_500:]})
    assert of(cut) == of(whole)


def test_what_a_message_says_is_not_read_as_frames() -> None:
    def mail(text: str) -> None:
        raise ValueError(text)

    remote = raised(lambda: divide(0)).traceback
    assert of(raised(lambda: mail("short"))) == of(raised(lambda: mail(f"remote error:\n{remote}")))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions came with 3.11")
def test_a_group_of_exceptions_has_a_fingerprint_of_its_frames() -> None:
    def fail(value: str) -> None:
        raise ExceptionGroup(value, [ValueError(value)])

    assert of(raised(lambda: fail("a"))) == of(raised(lambda: fail("b")))


def test_an_error_without_frames_is_told_apart_by_the_job() -> None:
    error = ErrorInfo(type="TimedOut", message="timed out after 3 s")
    assert of(error) == of(error.model_copy(update={"message": "timed out after 4 s"}))
    assert of(error) != of(error, "shop.pay")


def test_text_that_is_no_traceback_has_a_fingerprint() -> None:
    for text in ("", "\x00", "ü 🙂", 'File "', "Traceback (most recent call last):", "\n" * 9):
        assert len(of(ErrorInfo(type="E", message=text, traceback=text))) == 16


def test_a_fingerprint_is_the_same_in_every_process_and_version() -> None:
    assert of(ErrorInfo(type="TimedOut", message="")) == "2c71474ff824cd6d"


def test_own_code_is_told_from_libraries() -> None:
    assert is_own_code("/srv/shop/jobs.py")
    assert not is_own_code("/usr/lib/python3.11/json/__init__.py")
    assert not is_own_code("<frozen importlib._bootstrap>")
