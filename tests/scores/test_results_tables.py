"""Tables of results: protocols, floors, units and headings."""

import copy
import dataclasses
import io
import re

import pytest
from rich.console import Console
from small_record import DYNAMIC, FID, REAL, changed, number, results

from zoo.contract.capabilities import Side
from zoo.scores.results import Protocol, side_by_side


def shown(table):
    """A table as lines of text."""
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue().splitlines()


def line_of(lines, start):
    (line,) = [line for line in lines if re.sub(r"^\W+", "", line).startswith(start)]
    return line


def test_the_table_shows_every_number_its_floors_its_unit_and_its_protocol():
    lines = shown(results().table())
    fid = line_of(lines, "fid (2)")
    for part in ("~ 12.50 ± 0.50", "~ 1.50 ± 0.25", "~ 300.2 ± 4.0", "squared distance"):
        assert part in fid
    assert fid.index("12.50") < fid.index("1.50 ± 0.25") < fid.index("300.2 ±") < fid.index("squared")
    assert ">= -21.25 ± 0.20" in line_of(lines, "log_prob (1)")
    assert "= 4" in line_of(lines, "active_units (1)")
    assert "300.2" not in line_of(lines, "precision (2)")
    heading = line_of(lines, "metric (protocol)")
    assert heading.index("value") < heading.index("train") < heading.index("independent pixels")
    assert any(line.strip() == f"(1) {DYNAMIC}" for line in lines)
    assert any(line.strip() == f"(2) {FID}" for line in lines)
    assert "VAE on digits 1x8x8" in lines[0]


def test_a_floor_under_another_protocol_has_a_row_of_its_own():
    floors = {"raw_pixels": {"test/fid": number(0.5, Protocol("", "raw"))}}
    lines = shown(results(floors=floors).table())
    rows = [line for line in lines if " fid (" in line]
    assert len(rows) == 2
    assert "12.50 ± 0.50" in rows[0]
    assert "~ 0.5 " in rows[1]
    assert "12.50" not in rows[1]


def test_a_protocol_with_brackets_is_printed_as_it_is():
    name = "photos [bold]x[/bold] 1x8x8"
    data = {"protocol": name, "test_sha256": "ab" * 32}
    lines = shown(
        results(numbers={"test/fid": number(1.5, Protocol(name, ""))}, data=data, floors={}).table()
    )
    assert lines[0].startswith(f"VAE on {name}")
    assert lines[-1].strip() == f"(1) {name}"


def test_remarks_are_what_was_skipped_by_reason_and_the_warnings():
    assert results().remarks() == [
        "skipped conditional: needs Conditions",
        "skipped clusters: needs Clusters",
        "skipped csl, ais: needs Emits",
        "warning: the bound is loose",
    ]
    assert results(skipped={}, warnings=[]).remarks() == []


def test_two_models_under_one_protocol_share_rows():
    other = changed(20.25)
    lines = shown(side_by_side([results(), other], ["first", "second"]))
    fid = line_of(lines, "fid")
    values = ["12.50 ± 0.50", "20.25 ± 0.50", "1.50 ± 0.25", "300.2 ± 4.0"]
    assert [fid.index(v) for v in values] == sorted(fid.index(v) for v in values)
    heading = line_of(lines, "metric (protocol)")
    order = ["first", "second", "train", "independent pixels", "unit"]
    assert [heading.index(v) for v in order] == sorted(heading.index(v) for v in order)


@pytest.mark.parametrize("name", ["version_0", "runs[1]", "[/x]"])
def test_the_heading_of_a_model_is_printed_as_it_is(name):
    heading = line_of(shown(side_by_side([results(), results()], [name, "other"])), "metric (protocol)")
    assert f" {name} " in heading


def test_two_protocols_never_share_a_row():
    real = number(-5.5, REAL, 0.1, side=Side.LOWER, unit="nats/image")
    other = dataclasses.replace(results(), numbers={"test/log_prob": real})
    lines = shown(side_by_side([results(), other], ["binary", "grey"]))
    rows = [line for line in lines if "log_prob (" in line]
    assert len(rows) == 2
    for row in rows:
        assert ("-21.25" in row) != ("-5.50" in row)
    stated = {f"({i}) {protocol}" for i in range(1, 5) for protocol in (REAL, DYNAMIC)}
    legend = {line.strip() for line in lines} & stated
    assert {line[4:] for line in legend} == {str(REAL), str(DYNAMIC)}
    for line in legend:
        (row,) = [row for row in rows if f"log_prob {line[:3]}" in row]
        assert ("-5.50" in row) == (line[4:] == str(REAL))


def test_two_units_never_share_a_row():
    bits = dataclasses.replace(results(), numbers={"test/fid": number(2.25, FID, unit="bits")})
    rows = [line for line in shown(side_by_side([results(), bits], ["a", "b"])) if "fid (" in line]
    assert len(rows) == 2
    assert all(("12.50" in row) != ("2.25 " in row) for row in rows)


def test_floors_of_two_protocols_are_both_shown():
    few = dataclasses.replace(FID, how=FID.how.replace("359", "100"), num_images=100)
    other = dataclasses.replace(
        results(),
        numbers={"test/fid": number(60.5, few, 2.0)},
        floors={"train": {"test/fid": number(7.75, few, 1.0)}},
    )
    rows = [line for line in shown(side_by_side([results(), other], ["many", "few"])) if "fid (" in line]
    assert len(rows) == 2
    for row in rows:
        assert ("1.50 ± 0.25" in row) == ("12.50 ± 0.50" in row)
        assert ("7.75 ± 1.00" in row) == ("60.50 ± 2.00" in row)


def test_every_model_needs_a_name():
    with pytest.raises(ValueError, match="zip"):
        side_by_side([results(), results()], ["only one"])


def test_tables_do_not_change_the_results():
    first = results()
    before = copy.deepcopy(first)
    side_by_side([first, first], ["a", "b"])
    first.table()
    assert first == before
