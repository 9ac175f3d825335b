"""What stands in the cells of tables."""

from __future__ import annotations

import pytest

from llmgate.web.tables import Cell, Column, Kind, Table, amounts, share


def test_amounts_are_exact_and_stand_under_each_other() -> None:
    assert amounts([1_234_500_000_000, 0, 1, -2_500_000]) == [
        Cell("1234.5", "$1,234.50", "0000000"),
        Cell("0", "$0.00", "0000000"),
        Cell("0.000000001", "$0.00", "0000001"),
        Cell("-0.0025", "-$0.00", "2500000"),
    ]


def test_cents_are_always_there_and_nothing_finer_without_need() -> None:
    assert amounts([5_000_000_000, 250_000_000]) == [Cell("5", "$5.00"), Cell("0.25", "$0.25")]
    assert amounts([]) == []


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (1, 3, "33.3%"),
        (2, 3, "66.7%"),
        (5, 5, "100.0%"),
        (0, 7, "0.0%"),
        (1, 2001, "<0.1%"),
        (1, 2000, "0.1%"),
        (0, 0, ""),
    ],
)
def test_shares(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


def test_a_table_is_read_row_by_row_and_ends_with_its_total() -> None:
    table = Table(["a", "b"], [Column("n", Kind.NUMBER, [1000, 2, 1002]), Column("share", Kind.SHARE, [1000, 2, 1002])])
    assert [(name, [cell.text for cell in cells]) for name, cells in table.cells] == [
        ("a", ["1,000", "99.8%"]),
        ("b", ["2", "0.2%"]),
        ("total", ["1,002", "100.0%"]),
    ]
