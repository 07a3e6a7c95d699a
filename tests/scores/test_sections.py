"""What is known of a metric stands in its section, once."""

from collections import Counter

import pytest
import torch
from support import tiny

from zoo.data import Digits
from zoo.errors import UsageError
from zoo.scores.evaluation import Evaluator
from zoo.scores.results import Measure, Protocol
from zoo.scores.scene import Scene
from zoo.scores.section import Section
from zoo.scores.sections import HEADLINES, MEASURES, RANKED, SECTIONS, run_sections, said_of


def test_what_is_ranked_says_which_way_is_better_and_has_a_place_of_its_own():
    for name, measure in MEASURES.items():
        assert (measure.better is None) == (measure.board is None), name
    for places in ((MEASURES[n].board for n in RANKED), (MEASURES[n].headline for n in HEADLINES)):
        assert max(Counter(places).values()) == 1


def test_sections_that_write_one_number_agree_about_it():
    for section in SECTIONS.values():
        for name, measure in section.numbers.items():
            assert measure == MEASURES[name]


def test_every_number_is_explained_and_every_section_needs_something():
    assert all(said_of(name) for name in MEASURES)
    assert all(section.needs and section.text and section.numbers for section in SECTIONS.values())


def scene(**options) -> Scene:
    return Scene(tiny("VAE"), Digits(), 0, 5, 10, **options)


def test_a_section_writes_only_the_numbers_that_it_names(monkeypatch):
    section = Section(
        (torch.nn.Module,), lambda s: s.put("other", 1.0, Protocol("", "")), {"one": Measure("of 1")}, ""
    )
    monkeypatch.setitem(SECTIONS, "new", section)
    with pytest.raises(KeyError, match="other"):
        list(run_sections(scene(), ["new"]))


def test_a_new_section_is_a_metric_like_the_others(monkeypatch):
    """The unit counts, the side may depend on the method, and what is read of a batch is read once."""
    calls = []

    def reading(method, x, k):
        calls.append(len(x))
        return {"brightness": x.mean((1, 2, 3))}

    def run(s):
        s.put("brightness", float(s.per_image["brightness"].mean()), s.treated("all"), of=64)

    section = Section(
        (torch.nn.Module,), run, {"brightness": Measure("of {} pixels")}, "how bright", (reading,)
    )
    monkeypatch.setitem(SECTIONS, "one", section)
    monkeypatch.setitem(SECTIONS, "two", section)
    evaluator = Evaluator(metrics=["one", "two"])
    evaluator._refused = {}
    batch = Digits().split("test")
    values = evaluator._read(tiny("VAE"), batch)
    assert calls == [len(batch.x)]
    s = scene(per_image=values)
    assert list(run_sections(s, ["one"])) == [("one", None)]
    number = s.numbers["test/brightness"]
    assert number.unit == "of 64 pixels"
    assert number.value == pytest.approx(float(batch.x.mean()), rel=1e-6)
    assert str(number.protocol) == f"{Digits().protocol}; all"


def test_what_cannot_be_read_refuses_every_section_that_reads_it(monkeypatch):
    def reading(method, x, k):
        raise UsageError("no such thing")

    section = Section((torch.nn.Module,), lambda s: None, {}, "", (reading,))
    for name in ("one", "two"):
        monkeypatch.setitem(SECTIONS, name, section)
    evaluator = Evaluator(metrics=["one", "two"])
    evaluator._refused = {}
    assert evaluator._read(tiny("VAE"), Digits().split("test")) == {}
    s = scene(refused=evaluator._refused)
    assert list(run_sections(s, ["one", "two"])) == [("one", "no such thing"), ("two", "no such thing")]


def test_a_number_per_layer_has_the_layer_in_its_key():
    s = scene(measures={"active_units": MEASURES["active_units"]})
    s.put("active_units", 3.0, s.untreated("here"), of=8, layer=2)
    assert s.numbers["test/active_units_layer_2"].unit == "of 8"
