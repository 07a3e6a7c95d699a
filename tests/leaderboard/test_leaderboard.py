"""The leaderboard: what may stand on one board, ranks with ties, the terminal, and the page in a browser."""

import json
import re
import shutil
from itertools import combinations
from pathlib import Path

import pytest
from support import ROOT

from zoo.cli.light import run
from zoo.contract.capabilities import Side
from zoo.errors import UsageError
from zoo.hub import CONFIG, METRICS
from zoo.leaderboard.page import write_page
from zoo.leaderboard.table import Board, Entry, boards, entrant
from zoo.publishing.checkpoints import checkpoints
from zoo.scores.results import Number, Protocol
from zoo.scores.sections import RANKED

PUBLISHED = list(checkpoints().values())
ENTRANTS = [entrant(one) for one in PUBLISHED]


def board(*spans: tuple[float, float], metric: str = "fid") -> Board:
    numbers = [
        Number((a + b) / 2, "u", Side.ESTIMATE, Protocol("p", "q"), (b - a) / 2 / 1.959964) for a, b in spans
    ]
    entries = tuple(Entry(str(i), "VAE", "variational", number, 1) for i, number in enumerate(numbers))
    return Board("digits", metric, "p", "u", "~", entries, {})


def test_intervals_that_overlap_share_a_rank():
    assert board((1, 2), (1.5, 3), (4, 5)).ranks() == [1, 1, 3]
    assert board((4, 5), (1.5, 3), (1, 2), metric="coverage").ranks() == [1, 2, 2]
    assert board((1, 1), (1, 1)).ranks() == [1, 1]


def test_a_wide_interval_ties_with_the_first_though_a_narrow_one_before_it_does_not():
    """Overlapping is not transitive: a rank counts those that are clearly better."""
    assert board((1, 2), (3, 4), (0, 9)).ranks() == [1, 2, 1]


def test_no_board_mixes_protocols_units_or_sides():
    shown = boards(ENTRANTS)
    assert shown
    for one in shown:
        assert {e.number.protocol for e in one.entries} == {one.protocol}
        floors = [number.protocol for number in one.floors.values()]
        assert all(floor == one.protocol or floor.refines(one.protocol) for floor in floors)
        assert {e.number.side.value for e in one.entries} == {one.side}
        assert {e.number.unit for e in one.entries} == {one.unit}
    places = [(one.data, one.metric, one.protocol, one.unit, one.side) for one in shown]
    assert len(set(places)) == len(places)


def test_every_ranked_number_is_on_exactly_one_board():
    listed = [(e.slug, one.metric) for one in boards(ENTRANTS) for e in one.entries]
    wanted = [
        (one.slug, key.removeprefix("test/"))
        for one in PUBLISHED
        for key in one.results.numbers
        if key.removeprefix("test/") in RANKED
    ]
    assert sorted(listed) == sorted(wanted)


def test_a_board_is_sorted_in_its_direction_and_ranks_agree_with_pairs():
    for one in boards(ENTRANTS, num_least=2):
        values = [entry.number.value for entry in one.entries]
        assert values == sorted(values, reverse=one.higher)
        spans = [entry.number.interval or (entry.number.value,) * 2 for entry in one.entries]
        ranks = dict(zip(spans, one.ranks(), strict=True))
        for a, b in combinations(spans, 2):
            if a[0] > b[1] or b[0] > a[1]:
                better = max(a, b) if one.higher else min(a, b)
                worse = min(a, b) if one.higher else max(a, b)
                assert ranks[better] < ranks[worse]


def test_another_treatment_of_the_pixels_is_another_board():
    likelihoods = boards(ENTRANTS, metric="log_prob_lower", data="digits")
    by_slug = {entry.slug: one for one in likelihoods for entry in one.entries}
    assert by_slug["vae-digits"] is by_slug["iwae-digits"]
    assert by_slug["vae-digits"].protocol != by_slug["diffusion-digits"].protocol


def test_the_published_weights_are_ranked_and_beside_them_stands_what_seeds_had(tmp_path):
    shutil.copytree(ROOT / "checkpoints/gan-digits", tmp_path / "gan-digits")
    (tmp_path / "gan-digits/seeds.json").write_text(json.dumps({"test/fid": [10.0, 20.0, 30.0]}))
    (one,) = boards(map(entrant, checkpoints(tmp_path).values()), metric="fid")
    (entry,) = one.entries
    assert entry.number == checkpoints(tmp_path)["gan-digits"].results.numbers["test/fid"]
    assert entry.seeds == "3 seeds: 20 ± 10"


def test_filters_choose_data_family_and_metric():
    shown = boards(ENTRANTS, data="digits", metric="fid", family="energy")
    assert {entry.slug for one in shown for entry in one.entries} == {
        "rbm-digits",
        "dbn-digits",
        "label-dbn-digits",
        "boltzmann-machine-digits",
        "dbm-digits",
        "helmholtz-digits",
        "helmholtz-rws-digits",
        "helmholtz-darn-digits",
        "hopfield-digits",
    }
    with pytest.raises(UsageError, match=r"metric must be one of fid, .*, got 'fidd'"):
        boards(ENTRANTS, metric="fidd")


def test_the_terminal_shows_side_error_floors_and_protocol_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run(["leaderboard", "--data", "digits", "--metric", "fid"])
    text = capsys.readouterr().out
    assert re.search(r"1 │ glo-digits +│ +~ 1\d\.\d ± \d", text)
    assert "independent pixels" in text
    assert "digits-cnn-128@" in text
    assert "lower is better" in text
    with pytest.raises(UsageError, match="nothing has such numbers: data nothing"):
        run(["leaderboard", "--data", "nothing"])


def test_a_folder_without_checkpoints_and_broken_metrics_are_one_line(tmp_path):
    with pytest.raises(UsageError, match="root must hold checkpoints, found none"):
        run(["leaderboard", "--root", str(tmp_path)])
    shutil.copytree(ROOT / "checkpoints/pca-digits", tmp_path / "pca-digits")
    (tmp_path / "pca-digits" / METRICS).write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        run(["leaderboard", "--root", str(tmp_path)])
    assert (tmp_path / "pca-digits" / CONFIG).is_file()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return write_page([one for one in PUBLISHED if "-digits" in one.slug], tmp_path_factory.mktemp("page"))


def test_the_page_needs_no_network_and_shows_every_number(page):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "http" not in re.sub(r"data:image/\S+", "", text)
    for one in boards(one for one in ENTRANTS if "-digits" in one.slug):
        for entry in one.entries:
            assert str(entry.number).replace(">", "&gt;").replace("<", "&lt;") in text


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield one
        one.close()


@pytest.mark.browser
def test_sorting_filtering_and_the_keyboard(page, browser):
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(page.as_uri())
    rows = "section[data-set=digits] tbody.ranked tr:not([hidden]) td:first-child"
    assert tab.locator(rows).all_inner_texts() == sorted(
        one.slug for one in PUBLISHED if "-digits" in one.slug
    )
    button = tab.locator("th button", has_text="fid").first
    button.focus()
    tab.keyboard.press("Enter")
    assert button.locator("xpath=..").get_attribute("aria-sort") == "ascending"
    (fid,) = boards(ENTRANTS, metric="fid", data="digits")
    assert tab.locator(rows).all_inner_texts() == [entry.slug for entry in fid.entries]
    tab.keyboard.press("Enter")
    assert button.locator("xpath=..").get_attribute("aria-sort") == "descending"
    assert tab.locator(rows).all_inner_texts() == [entry.slug for entry in fid.entries][::-1]
    tab.get_by_label("Filter").fill("gan")
    assert tab.locator(rows).all_inner_texts() == ["gan-digits"]
    assert tab.locator("article:visible h3").all_inner_texts() == ["gan-digits"]
    tab.get_by_label("Filter").fill("")
    tab.get_by_label("Family").select_option("energy")
    assert set(tab.locator(rows).all_inner_texts()) == {"rbm-digits", "dbn-digits", "label-dbn-digits"}
    tab.close()


@pytest.mark.browser
def test_dark_mode_follows_the_system_and_the_button(page, browser):
    tab = browser.new_page(color_scheme="dark")
    tab.goto(page.as_uri())
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(colour)
    tab.get_by_role("button", name="Light mode").click()
    assert tab.evaluate(colour) != dark
    tab.get_by_role("button", name="Dark mode").click()
    assert tab.evaluate(colour) == dark
    tab.close()


@pytest.mark.browser
def test_a_phone_scrolls_the_tables_and_not_the_page(page, browser):
    tab = browser.new_page(viewport={"width": 375, "height": 800})
    tab.goto(page.as_uri())
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= 375
    assert tab.evaluate("document.querySelector('.scroll').scrollWidth") > 375
    assert tab.evaluate("[...document.images].every(i => i.alt)")
    tab.close()
