"""A row that is wrong costs that row and is named by its line; a file that is wrong is an error."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.demo.subscribers import SAMPLE, BadRow, Subscriber, parse, read_subscribers
from broker_jobs.errors import UsageError

GOOD = "name,email,digest\nAnn,ann@example.com,yes\n"


def file_of(folder: Path, data: bytes | str) -> Path:
    path = folder / "list.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_the_sample_shows_a_bad_row_and_some_that_bounce() -> None:
    subscriber_list = read_subscribers(SAMPLE)
    assert len(subscriber_list.subscribers) == 40
    assert [row.line for row in subscriber_list.bad] == [25]
    assert sum(each.email.startswith("bounce") for each in subscriber_list.subscribers) == 3
    assert subscriber_list.digest_readers


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Bob,,no", "no address"),
        ("Bob,bob(at)example.com,no", "'bob(at)example.com' is not an e-mail address"),
        ("Bob,bob@,no", "'bob@' is not an e-mail address"),
        ("Bob,bob@example.com\r\nBcc: all@example.com,no", "2 columns, the header has 3"),
        ('"Bob","bob@example.com\nx@example.com",no', "is not an e-mail address"),
        ("Bob,bob@example.com", "2 columns, the header has 3"),
        ("Bob,bob@example.com,no,more", "4 columns, the header has 3"),
        ("Other Ann,ANN@example.com,no", "ANN@example.com is on line 2 already"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_skipped(row: str, reason: str) -> None:
    subscriber_list = parse(f"{GOOD}{row}\nEve,eve@example.com,no\n")
    assert [each.name for each in subscriber_list.subscribers] == ["Ann", "Eve"] or "Bcc" in row
    assert subscriber_list.bad[0].line == 3
    assert any(reason in bad.reason for bad in subscriber_list.bad)


def test_lines_are_those_of_the_file_also_after_a_cell_of_two_lines() -> None:
    subscriber_list = parse('email,name\n\nann@example.com,"Ann\nof Example"\nbad,x\n')
    assert subscriber_list.subscribers == (Subscriber("Ann of Example", "ann@example.com", digest=True),)
    assert subscriber_list.bad == (BadRow(5, "'bad' is not an e-mail address"),)


def test_only_what_an_editor_counts_as_a_line_is_one() -> None:
    subscriber_list = parse("email,name\r\nann@example.com,Ann\x0b\u2028of\x0cExample\r\nbad,x\r\n")
    assert subscriber_list.subscribers == (Subscriber("Ann of Example", "ann@example.com", digest=True),)
    assert subscriber_list.bad == (BadRow(3, "'bad' is not an e-mail address"),)


def test_a_row_that_is_no_utf8_is_skipped_alone(tmp_path: Path) -> None:
    subscriber_list = read_subscribers(
        file_of(tmp_path, GOOD.encode() + b"J\xfcrgen,j@example.com,no\nEve,eve@example.com,no\n")
    )
    assert [each.name for each in subscriber_list.subscribers] == ["Ann", "Eve"]
    assert subscriber_list.bad == (BadRow(3, "not UTF-8"),)


def test_the_mark_a_spreadsheet_writes_first_is_no_part_of_the_header(tmp_path: Path) -> None:
    assert read_subscribers(file_of(tmp_path, b"\xef\xbb\xbfemail,name\nann@example.com,Ann\n")).subscribers


def test_semicolons_are_columns_too_where_the_header_has_them() -> None:
    assert parse("name;email;digest\nAnn, the first;ann@example.com;no\n").subscribers == (
        Subscriber("Ann, the first", "ann@example.com", digest=False),
    )


def test_without_a_column_digest_all_read_it_and_without_a_name_the_address_is_one() -> None:
    assert parse("E-Mail,EMAIL\nx,ann@example.com\n").subscribers == (
        Subscriber("ann", "ann@example.com", digest=True),
    )


@pytest.mark.parametrize(
    ("data", "content"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("Ann,ann@example.com\n", "has no header"),
        ("name,email,email\nAnn,a@example.com,b@example.com\n", "names 'email' twice"),
        ("name,email\n", "no usable row"),
        ("name,email\nAnn,ann\n", "no usable row; line 2: 'ann' is not an e-mail address"),
        ("name,email\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_a_file_that_is_wrong_is_an_error_that_says_why(tmp_path: Path, data: bytes | str, content: str) -> None:
    with pytest.raises(UsageError, match=content):
        read_subscribers(file_of(tmp_path, data))


def test_a_file_that_is_not_there_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_subscribers(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="directory"):
        read_subscribers(tmp_path)


@given(st.text())
def test_whatever_a_file_holds_it_is_read_or_refused_with_a_reason(text: str) -> None:
    try:
        subscriber_list = parse("email\n" + text)
    except UsageError:
        return
    assert len({each.email.lower() for each in subscriber_list.subscribers}) == len(subscriber_list.subscribers)
    assert all(not each.email.startswith("@") and "\n" not in each.email for each in subscriber_list.subscribers)
    assert all(bad.reason and bad.line >= 2 for bad in subscriber_list.bad)
