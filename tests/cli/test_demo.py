"""The demo: what its buttons do, and the page in a browser."""

import importlib
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from PIL import Image
from support import ROOT

from zoo.cli.light import run
from zoo.errors import UsageError
from zoo.hub import model_folder
from zoo.publishing.opened import opened

MODELS = ("gan-digits", "pca-digits", "rbm-digits", "vae-digits")


def test_without_gradio_the_demo_says_what_to_install():
    script = "import sys; sys.modules['gradio'] = None; from zoo.cli.main import main; main(['demo'])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    line = 'zoo: error: the demo needs gradio: pip install "generative-zoo[demo]"\n'
    assert (result.returncode, result.stderr) == (2, line)


@pytest.fixture
def demo():
    """The module, which needs gradio."""
    return importlib.import_module("zoo.cli.demo")


@pytest.mark.browser
def test_models_are_offered_where_they_can_do_something(demo):
    assert demo.able(MODELS, demo.Repairs) == ["rbm-digits"]
    assert demo.able(MODELS, demo.Samples) == list(MODELS)
    assert demo.ways("vae-digits") == [demo.BETWEEN, demo.ALONG]
    assert demo.ways("rbm-digits") == [demo.BETWEEN, demo.ALONG, demo.CHAIN]
    assert demo.ways("gan-digits") == []


@pytest.mark.browser
def test_samples_are_those_of_the_command_line(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(["sample", "vae-digits", "--n", "9", "--seed", "3"])
    assert demo.sampled("vae-digits", 9, 3).tobytes() == Image.open("samples.png").tobytes()


@pytest.mark.browser
def test_a_chain_is_filmed_and_codes_are_walked(demo):
    with Image.open(demo.walked("rbm-digits", demo.CHAIN, 0, 1, 0)) as film:
        assert film.n_frames == demo.FRAMES
    strip = demo.walked("vae-digits", demo.BETWEEN, 0, 1, 0)
    assert strip.width == 10 * 59 + 3
    assert demo.walked("pca-digits", demo.ALONG, 0, 1, 0).height == 8 * 59 + 3


@pytest.mark.browser
def test_only_what_is_drawn_over_is_filled_in(demo):
    drawn = Image.new("RGBA", (336, 336), (0, 0, 0, 0))
    drawn.paste((217, 83, 79, 255), (0, 0, 126, 336))  # three columns of eight
    x = opened(model_folder("rbm-digits"))[1].split("test").x[:1]
    hidden = demo._covered(drawn, x)
    assert hidden[0, 0, :, :3].all()
    assert not hidden[0, 0, :, 3:].any()
    picture = demo.repaired("rbm-digits", 0, {"layers": [drawn]}, demo.NOTHING, 0)
    known = torch.where(hidden.bool(), 0.5, x)[0, 0]
    size = picture.width / 3 / 8
    for row in range(8):
        for column in range(8):
            place = (picture.width / 3 + (column + 0.5) * size, picture.height * (row + 0.5) / 8)
            shown = picture.getpixel(tuple(map(int, place)))
            assert abs(shown - 255 * float(known[row, column])) < 1
            if not hidden[0, 0, row, column]:
                filled = picture.getpixel((int(place[0] + picture.width / 3), int(place[1])))
                assert abs(filled - 255 * float(x[0, 0, row, column])) < 1


@pytest.mark.browser
def test_two_methods_are_compared_under_one_protocol_only(demo):
    text = demo.compared("vae-digits", "pca-digits")
    assert "| fid | distance | ~ " in text
    assert "log_prob" not in text
    with pytest.raises(UsageError, match="choose two different models, got vae-digits twice"):
        demo.compared("vae-digits", "vae-digits")
    assert "not scored on the same images" in demo.compared("vae-digits", "pca-mnist")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda demo: demo.sampled("vae-digits", 9, None), "seed must be a whole number from 0 .*, got None"),
        (lambda demo: demo.sampled("vae-digits", 0, 0), "images must be a whole number from 1 to 100, got 0"),
        (lambda demo: demo.canvas("rbm-digits", 359), "test image must be a whole number from 0 to 358"),
        (
            lambda demo: demo.repaired("rbm-digits", 0, None, demo.NOTHING, 0),
            "draw over what is to be filled",
        ),
        (lambda demo: demo.page([]), "at least one checkpoint"),
        (lambda demo: demo.page(["nothing"]), "no folder and no checkpoint 'nothing'"),
    ],
)
def test_mistakes_are_one_line(demo, call, line, monkeypatch):
    monkeypatch.delenv("ZOO_HUB_ORG", raising=False)
    with pytest.raises(UsageError, match=line):
        call(demo)


@pytest.mark.browser
def test_a_port_that_is_taken_is_one_line(zoo_cli, tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        result = zoo_cli("demo", "pca-digits", f"--port={port}", cwd=tmp_path)
    assert result.returncode == 2
    assert f"zoo: error: port must be free on 127.0.0.1, got {port}" in result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a demo is served, by a process of its own."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    cwd = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "zoo", "demo", *MODELS, "--port", str(port)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        yield re.search(r"demo: (http://127\.0\.0\.1:\d+)", line)[1]
        process.terminate()


@pytest.fixture
def tab(address):
    """The page in Chromium; what it asks of other hosts ends up in `tab.outside`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        one = browser.new_page(viewport={"width": 1100, "height": 900})
        one.outside = []
        one.on("request", lambda r: one.outside.append(r.url) if r.url.startswith("http") else None)
        one.goto(address)
        one.get_by_role("button", name="Draw").wait_for(timeout=60_000)
        yield one
        assert one.outside
        assert all(url.startswith(address) for url in one.outside)
        browser.close()


def picture(tab, name: str):
    """The picture of that name, once it is there."""
    image = tab.get_by_role("img", name=name, exact=True)
    image.wait_for(timeout=60_000)
    tab.wait_for_function(
        "name => document.querySelector(`img[alt='${name}']`)?.naturalWidth > 0", arg=name, timeout=60_000
    )
    return image


@pytest.mark.browser
def test_a_person_samples_on_a_phone(tab):
    tab.set_viewport_size({"width": 375, "height": 800})
    tab.get_by_role("button", name="Draw").click()
    assert picture(tab, "Samples").evaluate("image => image.clientWidth") <= 375
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= 375
    tab.locator(".overflow-menu > button").click()
    tab.locator(".overflow-dropdown").get_by_text("Compare").click()
    tab.get_by_label("Another model").wait_for()


@pytest.mark.browser
def test_a_person_samples_walks_and_compares(tab):
    tab.get_by_role("button", name="Draw").click()
    assert picture(tab, "Samples").evaluate("image => image.naturalWidth") == 8 * 59 + 3
    tab.get_by_role("tab", name="Walk").click()
    tab.get_by_role("button", name="Walk").click()
    assert picture(tab, "Walk").evaluate("image => image.naturalWidth") == 10 * 59 + 3
    tab.get_by_role("tab", name="Compare").click()
    tab.get_by_role("button", name="Compare").click()
    picture(tab, "One")
    picture(tab, "Another")
    headings = tab.get_by_role("columnheader").all_inner_texts()
    assert headings == ["number", "unit", "gan-digits", "pca-digits", "clearly better"]


@pytest.mark.browser
def test_a_person_draws_a_mask_and_a_mistake_is_told_on_the_page(tab):
    tab.get_by_role("tab", name="Repair").click()
    tab.get_by_role("button", name="Show the image").click()
    tab.wait_for_timeout(3000)
    tab.get_by_role("button", name="Fill in").click()
    tab.get_by_text("draw over what is to be filled in, or hide a side").wait_for(timeout=60_000)
    box = tab.locator("canvas").last.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y - 40)
    tab.mouse.down()
    tab.mouse.move(x, y + 40, steps=20)
    tab.mouse.up()
    tab.wait_for_timeout(1000)
    tab.get_by_role("button", name="Fill in").click()
    filled = picture(tab, "The image, what is known of it, filled in")
    assert filled.evaluate("image => image.naturalWidth") == 3 * 336
