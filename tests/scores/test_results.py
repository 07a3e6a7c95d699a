"""The record of a score: what it keeps, what it refuses, how its numbers print."""

import dataclasses
import json
import math

import pytest
from small_record import DYNAMIC, FID, changed, number, results

from zoo import files
from zoo.contract.capabilities import Side
from zoo.errors import UsageError
from zoo.scores.results import SCHEMA, Number, Results


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.json"


@pytest.fixture
def written(path):
    """The JSON of a good file, as a dict."""
    results().write(path)
    return json.loads(path.read_text())


# --- the file


def test_a_round_trip_changes_nothing(path):
    first = results()
    first.write(path)
    again = Results.read(path)
    assert again == first
    assert again.schema == SCHEMA
    again.write(path.with_name("again.json"))
    assert path.with_name("again.json").read_bytes() == path.read_bytes()


def test_what_is_not_known_is_none_or_empty(path):
    sparse = results(
        floors={}, warnings=[], train_seconds=None, peak_memory_mb=None, details={}, skipped={}, numbers={}
    )
    sparse.write(path)
    assert Results.read(path) == sparse


def test_the_file_says_side_error_and_interval(written):
    assert written["numbers"]["test/log_prob"] == {
        "value": -21.25,
        "unit": "nats/image",
        "side": ">=",
        "protocol": dataclasses.asdict(DYNAMIC),
        "error": 0.2,
        "interval": pytest.approx([-21.25 - 0.392, -21.25 + 0.392], abs=1e-4),
    }
    assert written["numbers"]["test/precision"]["interval"] == [0.85, 0.93]
    assert written["numbers"]["test/active_units"]["error"] is None
    assert written["numbers"]["test/active_units"]["interval"] is None
    assert written["schema"] == SCHEMA


def test_whole_numbers_written_by_hand_are_numbers(path, written):
    written["numbers"]["test/fid"]["value"] = 12
    written["seconds"]["fid"] = 3
    written["details"]["class_histogram"] = [5, 6]
    path.write_text(json.dumps(written))
    again = Results.read(path)
    assert type(again.numbers["test/fid"].value) is float
    assert again.details["class_histogram"] == [5.0, 6.0]


@pytest.mark.parametrize("side", list(Side))
def test_every_side_survives(path, side):
    first = results(numbers={"test/fid": number(1.5, side=side)})
    first.write(path)
    assert Results.read(path).numbers["test/fid"].side is side


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    results().write(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        results(seconds={"fid": math.nan}).write(path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        results(seed=8).write(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


NUMBER = ("numbers", "test/fid")
FLOOR = ("floors", "train", "test/fid")
WRONG = [
    (("method",), 3, "method of PATH must be of type str, got 3"),
    (("method",), None, "method of PATH must be of type str, got None"),
    (("hardware",), ["cpu"], "hardware of PATH must be of type str, got ['cpu']"),
    (("weights_sha256",), 0, "weights_sha256 of PATH must be of type str, got 0"),
    (("seed",), "0", "seed of PATH must be of type int, got '0'"),
    (("seed",), 0.5, "seed of PATH must be of type int, got 0.5"),
    (("seed",), True, "seed of PATH must be of type int, got True"),
    (("skipped",), ["ais"], "skipped of PATH must be of type dict, got ['ais']"),
    (("skipped", "ais"), 1, "ais of skipped of PATH must be of type str, got 1"),
    (("data",), "digits", "data of PATH must be of type dict, got 'digits'"),
    (("data", "protocol"), None, "protocol of data of PATH must be of type str, got None"),
    (("versions",), None, "versions of PATH must be of type dict, got None"),
    (("versions", "torch"), 2.13, "torch of versions of PATH must be of type str, got 2.13"),
    (("seconds",), 3.5, "seconds of PATH must be of type dict, got 3.5"),
    (("seconds", "fid"), "fast", "fid of seconds of PATH must be of type float or int, got 'fast'"),
    (("seconds", "fid"), math.nan, "fid of seconds of PATH must be finite, got nan"),
    (("warnings",), "loose", "warnings of PATH must be of type list, got 'loose'"),
    (("warnings",), {}, "warnings of PATH must be of type list, got {}"),
    (("warnings", 0), 5, "an entry of warnings of PATH must be of type str, got 5"),
    (("details",), [1.0], "details of PATH must be of type dict, got [1.0]"),
    (
        ("details", "class_histogram"),
        1.0,
        "class_histogram of details of PATH must be of type list, got 1.0",
    ),
    (
        ("details", "class_histogram", 1),
        None,
        "an entry of class_histogram of details of PATH must be of type float or int, got None",
    ),
    (
        ("details", "class_histogram", 1),
        math.inf,
        "an entry of class_histogram of details of PATH must be finite, got inf",
    ),
    (("train_seconds",), "12", "train_seconds of PATH must be of type float or int, got '12'"),
    (("train_seconds",), math.nan, "train_seconds of PATH must be finite, got nan"),
    (("peak_memory_mb",), [], "peak_memory_mb of PATH must be of type float or int, got []"),
    (("peak_memory_mb",), math.inf, "peak_memory_mb of PATH must be finite, got inf"),
    (("numbers",), [], "numbers of PATH must be of type dict, got []"),
    (NUMBER, 12.5, "test/fid of numbers of PATH must be of type dict, got 12.5"),
    ((*NUMBER, "value"), "12", "value of test/fid of numbers of PATH must be of type float or int, got '12'"),
    (
        (*NUMBER, "value"),
        None,
        "value of test/fid of numbers of PATH must be of type float or int, got None",
    ),
    (
        (*NUMBER, "value"),
        True,
        "value of test/fid of numbers of PATH must be of type float or int, got True",
    ),
    ((*NUMBER, "value"), math.nan, "value of test/fid of numbers of PATH must be finite, got nan"),
    ((*NUMBER, "value"), -math.inf, "value of test/fid of numbers of PATH must be finite, got -inf"),
    ((*NUMBER, "error"), "0", "error of test/fid of numbers of PATH must be of type float or int, got '0'"),
    ((*NUMBER, "error"), math.nan, "error of test/fid of numbers of PATH must be finite, got nan"),
    ((*NUMBER, "unit"), 1, "unit of test/fid of numbers of PATH must be of type str, got 1"),
    ((*NUMBER, "protocol"), None, "protocol of test/fid of numbers of PATH must be of type dict, got None"),
    (
        (*NUMBER, "protocol", "num_images"),
        "9",
        "num_images of protocol of test/fid of numbers of PATH must be of type int, got '9'",
    ),
    (
        (*NUMBER, "side"),
        "about",
        "side of test/fid of numbers of PATH must be one of = >= <= >~ <~ ~, got 'about'",
    ),
    ((*NUMBER, "side"), [], "side of test/fid of numbers of PATH must be one of = >= <= >~ <~ ~, got []"),
    ((*NUMBER, "interval"), 0, "interval of test/fid of numbers of PATH must be of type list, got 0"),
    ((*NUMBER, "interval"), [1.0], "interval of test/fid of numbers of PATH must have 2 entries, got 1"),
    (
        (*NUMBER, "interval"),
        [1.0, math.nan],
        "an entry of interval of test/fid of numbers of PATH must be finite, got nan",
    ),
    (
        (*NUMBER, "interval"),
        [1.0, "2"],
        "an entry of interval of test/fid of numbers of PATH must be of type float or int, got '2'",
    ),
    (("floors",), None, "floors of PATH must be of type dict, got None"),
    (("floors", "train"), 1, "train of floors of PATH must be of type dict, got 1"),
    ((*FLOOR, "value"), math.nan, "value of test/fid of train of floors of PATH must be finite, got nan"),
    (("schema",), 1, "results must have schema 3, PATH has 1"),
    (("schema",), "3", "results must have schema 3, PATH has 3"),
    (("schema",), None, "results must have schema 3, PATH has None"),
]


def refusal(path, value):
    """The one line with which a JSON value is refused, its path shortened."""
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(UsageError) as error:
        Results.read(path)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(path), "PATH")


@pytest.mark.parametrize(("place", "value", "line"), WRONG)
def test_a_wrong_entry_is_refused_by_its_name(path, written, place, value, line):
    entry = written
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    assert refusal(path, written) == line


def test_the_wrong_entries_go_through_every_field():
    assert {place[0] for place, _, _ in WRONG} == {f.name for f in dataclasses.fields(Results)}
    number_fields = {place[2] for place, _, _ in WRONG if place[:2] == NUMBER and len(place) == 3}
    assert number_fields == {f.name for f in dataclasses.fields(Number)}


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Results)])
def test_a_missing_field_is_refused(path, written, name):
    del written[name]
    line = refusal(path, written)
    assert (
        line.endswith(f"differs in {name}") or line == "results file PATH cannot be read: KeyError: 'schema'"
    )


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Number)])
@pytest.mark.parametrize("place", [NUMBER, FLOOR])
def test_a_missing_part_of_a_number_is_refused(path, written, place, name):
    entry = written
    for key in place:
        entry = entry[key]
    del entry[name]
    where = " of ".join(reversed(place))
    rule = "must have the entries value, unit, side, protocol, error, interval, differs in"
    assert refusal(path, written) == f"{where} of PATH {rule} {name}"


@pytest.mark.parametrize("place", [(), NUMBER, FLOOR])
def test_an_unknown_entry_is_refused(path, written, place):
    entry = written
    for key in place:
        entry = entry[key]
    entry["colour"] = "blue"
    assert refusal(path, written).endswith("differs in colour")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "results file PATH cannot be read: JSONDecodeError"),
        ("{", "results file PATH cannot be read: JSONDecodeError"),
        ("[]", "results file PATH cannot be read: TypeError"),
        ("2", "results file PATH cannot be read: TypeError"),
        ('"schema"', "results file PATH cannot be read: TypeError"),
        ("null", "results file PATH cannot be read: TypeError"),
        ("{}", "results file PATH cannot be read: KeyError: 'schema'"),
        ('{"schema": 3}', "PATH must have the entries method, numbers"),
    ],
)
def test_what_is_no_results_file_is_refused(path, text, line):
    assert refusal(path, text).startswith(line)


def test_a_number_too_large_for_a_float_is_refused(path, written):
    text = json.dumps(written).replace("12.5", "1e999")
    assert refusal(path, text).endswith("must be finite, got inf")


def test_a_missing_or_unreadable_file_is_refused(path):
    with pytest.raises(UsageError, match=r"results.json cannot be read: FileNotFoundError"):
        Results.read(path)
    with pytest.raises(UsageError, match="cannot be read: IsADirectoryError"):
        Results.read(path.parent)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read: UnicodeDecodeError"):
        Results.read(path)


# --- numbers


def test_the_interval_is_1_96_standard_errors_unless_it_is_given():
    low, high = number(10.0, error=2.0).interval
    assert (low, high) == pytest.approx((10 - 3.92, 10 + 3.92), abs=1e-3)
    assert number(10.0).interval is None
    assert number(10.0, error=0.0).interval == (10.0, 10.0)
    assert number(0.9, error=0.1, interval=(0.5, 1.0)).interval == (0.5, 1.0)


@pytest.mark.parametrize(
    ("bad", "finite"),
    [
        (number(1.0), True),
        (number(1.0, error=0.0), True),
        (number(math.nan), False),
        (number(math.inf, error=1.0), False),
        (number(1.0, error=math.nan), False),
        (number(1.0, error=math.inf), False),
        (number(1.0, interval=(0.0, math.inf)), False),
    ],
)
def test_a_number_knows_whether_it_is_finite(bad, finite):
    assert bad.finite is finite


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0, None, "~ 0"),
        (0.0, 0.0, "~ 0 ± 0"),
        (0.0, 0.02, "~ 0.000 ± 0.020"),
        (4.0, None, "~ 4"),
        (1000.0, None, "~ 1000"),
        (5.0, 0.0, "~ 5 ± 0"),
        (0.5, None, "~ 0.5"),
        (0.03125, None, "~ 0.03125"),
        (0.001, 0.0004, "~ 0.00100 ± 0.00040"),
        (-0.0002, 0.0001, "~ -0.00020 ± 0.00010"),
        (12.3456, 0.5, "~ 12.35 ± 0.50"),
        (-21.25, 0.0213, "~ -21.250 ± 0.021"),
        (-88.0, 0.25, "~ -88.00 ± 0.25"),
        (123456.789, 1234.0, "~ 123457 ± 1234"),
        (1e-12, None, "~ 1e-12"),
        (3e-05, 1e-05, "~ 0.000030 ± 0.000010"),
        (math.nan, None, "~ nan"),
        (math.inf, None, "~ inf"),
        (-math.inf, math.nan, "~ -inf ± nan"),
        (1.5, math.inf, "~ 1.5 ± inf"),
    ],
)
def test_a_number_prints_as_many_digits_as_its_error_deserves(value, error, text):
    assert str(number(value, error=error)) == text


@pytest.mark.parametrize("side", list(Side))
def test_a_number_prints_its_side(side):
    assert str(number(1.5, side=side)) == f"{side.value} 1.5"


def test_a_score_agrees_with_itself():
    assert results().agreement(results()) == (list(results().numbers), [])


@pytest.mark.parametrize("value", [12.5, 12.5 * (1 + 0.9e-4), 12.5 * (1 - 0.9e-4)])
def test_small_differences_agree(value):
    same, different = results().agreement(changed(value))
    assert "test/fid" in same
    assert different == []


@pytest.mark.parametrize("value", [12.5 * (1 + 1.2e-4), 12.5 * (1 - 1.2e-4), -12.5, 0.0])
def test_larger_differences_do_not(value):
    same, different = results().agreement(changed(value))
    assert "test/fid" not in same
    assert different == [f"test/fid: ~ 12.50 ± 0.50 now, {number(value, error=0.5)} recorded"]


def test_differences_near_zero_are_absolute():
    one, other = (results(numbers={"test/kid": number(value)}) for value in (1e-7, -7e-7))
    assert one.agreement(other) == (["test/kid"], [])
    assert results(numbers={"test/kid": number(2e-6)}).agreement(other)[0] == []


def test_numbers_of_two_protocols_or_of_one_side_are_not_held_against_each_other():
    same, different = results().agreement(changed(99.0, protocol=dataclasses.replace(FID, how="again")))
    assert "test/fid" not in same
    assert different == []
    assert results(numbers={"test/kid": number(1.0)}).agreement(results()) == ([], [])


def test_a_later_score_adds_what_the_record_lacks_and_changes_nothing():
    recorded = results()
    later = results(
        numbers={"test/fid": number(13.0, FID, 0.5), "test/csl": number(-30.0, DYNAMIC, 0.1)},
        skipped={"ais": "needs Emits"},
        seconds={"csl": 2.0, "fid": 9.0},
        floors={"train": {"test/fid": number(1.6), "test/csl": number(-20.0)}, "raw": {"a": number(1.0)}},
        warnings=["the bound is loose", "another"],
        train_seconds=None,
    )
    both = recorded.with_more(later)
    assert both.numbers == recorded.numbers | {"test/csl": later.numbers["test/csl"]}
    assert both.skipped.keys() == {"conditional", "clusters", "ais"}
    assert both.seconds == {"fid": 0.25, "per_image": 3.0, "csl": 2.0}
    assert both.floors["train"] == recorded.floors["train"] | {"test/csl": number(-20.0)}
    assert both.floors["raw"] == {"a": number(1.0)}
    assert both.warnings == ["the bound is loose", "another"]
    assert both.train_seconds == 12.5
    with pytest.raises(UsageError, match="same weights"):
        recorded.with_more(results(weights_sha256="ef" * 32))
