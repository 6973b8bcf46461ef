from __future__ import annotations

import csv
from pathlib import Path

import pytest

from edgebus.lab import write_csv
from edgebus_telemetry.csvfiles import CsvTable

HEADER = b"a,b\n"


def table(folder: Path, *, max_bytes: int = 10_000, keep: int = 3) -> CsvTable:
    return CsvTable(folder, "t", ("a", "b"), max_bytes=max_bytes, keep=keep)


def write(target: CsvTable, *values: tuple[str, str]) -> None:
    for value in values:
        target.add(value)
    target.write(target.take())


def test_header_once_and_rows_in_order(tmp_path: Path) -> None:
    first = table(tmp_path / "deep" / "er")
    write(first, ("1", "x"), ("2", "y,z"))
    write(first, ("3", ""))
    assert first.path.read_bytes() == HEADER + b'1,x\n2,"y,z"\n3,\n'
    assert first.waiting == 0


def test_goes_on_after_a_restart_without_a_second_header(tmp_path: Path) -> None:
    write(table(tmp_path), ("1", "x"))
    write(table(tmp_path), ("2", "y"))
    assert table(tmp_path).path.read_bytes() == HEADER + b"1,x\n2,y\n"


def test_half_a_line_left_by_a_crash_is_cut_off(tmp_path: Path) -> None:
    write(table(tmp_path), ("1", "x"))
    with table(tmp_path).path.open("ab") as file:
        file.write(b"2,half of a li")
    write(table(tmp_path), ("3", "z"))
    assert table(tmp_path).path.read_bytes() == HEADER + b"1,x\n3,z\n"


def test_a_crash_in_the_middle_of_the_header_begins_anew(tmp_path: Path) -> None:
    table(tmp_path).path.write_bytes(b"a,")
    write(table(tmp_path), ("1", "x"))
    assert table(tmp_path).path.read_bytes() == HEADER + b"1,x\n"


def test_a_file_with_other_columns_is_put_aside(tmp_path: Path) -> None:
    table(tmp_path).path.write_bytes(b"old,columns\n1,2\n")
    write(table(tmp_path), ("1", "x"))
    assert table(tmp_path).path.read_bytes() == HEADER + b"1,x\n"
    assert (tmp_path / "t.1.csv").read_bytes() == b"old,columns\n1,2\n"


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    small = table(tmp_path, max_bytes=10, keep=3)
    for number in range(6):
        write(small, (str(number), "xx"))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["t.1.csv", "t.2.csv", "t.csv"]
    assert [(tmp_path / name).read_bytes() for name in ("t.csv", "t.1.csv", "t.2.csv")] == [
        HEADER + b"5,xx\n",
        HEADER + b"4,xx\n",
        HEADER + b"3,xx\n",
    ]


def test_line_breaks_in_a_value_do_not_tear_a_row(tmp_path: Path) -> None:
    first = table(tmp_path)
    write(first, ("one\ntwo", "three\r\nfour"))
    assert first.path.read_bytes().count(b"\n") == 2


def test_a_row_of_the_wrong_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="table t has 2 columns, the row has 1"):
        table(tmp_path).add(("1",))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-1+cmd", "'-1+cmd"),
        ("\t=1+1", "'\t=1+1"),
        ("  =1+1", "'  =1+1"),
        ("\n=1+1", "' =1+1"),
        ("-0.25", "-0.25"),
        ("+3e-5", "+3e-5"),
        ("-", "'-"),
        ("pi-01=front", "pi-01=front"),
        ("2026-11-30", "2026-11-30"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(tmp_path: Path, text: str, cell: str) -> None:
    write(first := table(tmp_path), ("1", text))
    write_csv(tmp_path / "report.csv", ("a", "b"), [("1", text)])
    for path in (first.path, tmp_path / "report.csv"):
        with path.open(newline="") as file:
            assert list(csv.reader(file)) == [["a", "b"], ["1", cell]]
