"""The demo: one local page to sample, walk, repair what one draws over, and compare two methods side by side.

Its pictures are those of the functions that the command line calls; the page only asks for them. Nothing is
loaded before it is asked for, and nothing leaves this machine.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from gradio.themes import Base  # pyright: ignore[reportMissingImports]
from PIL import Image
from torch import Tensor

from zoo.contract.capabilities import Decodes, Encodes, Repairs, Samples, Walks
from zoo.errors import UsageError, require
from zoo.hub import list_models, model_folder
from zoo.leaderboard.table import SIGNS, boards, entrant
from zoo.methods import from_folder, method_class
from zoo.pictures.grids import grid, save_film
from zoo.pictures.walks import CODES, EDGES, interpolate, mask, traverse
from zoo.publishing.checkpoints import Checkpoint
from zoo.publishing.opened import opened

MOST_IMAGES, SIDE_BY_SIDE = 100, 36
STEPS, DIRECTIONS = 10, 8
FRAMES, CHAINS = 40, 16
CANVAS = 336
"""Pixels of the picture that one draws on, and of an image that is shown filled in."""
NOTHING = "nothing more"
BETWEEN, ALONG, CHAIN = "from one test image to another", "along principal directions", "chains, filmed"
CSS = "img { image-rendering: pixelated; }"


@cache
def _opened(model: str) -> tuple[Any, Any]:
    return opened(model_folder(model))


@cache
def _checkpoint(model: str) -> Checkpoint:
    return Checkpoint(model, model_folder(model))


@cache
def _scratch() -> tempfile.TemporaryDirectory:
    """Where films lie until the demo ends."""
    return tempfile.TemporaryDirectory(prefix="zoo-demo-")


def able(models: Sequence[str], *abilities: type) -> list[str]:
    """Of these models, those that can do all of this."""
    kinds = {model: method_class(_checkpoint(model).config["class"]) for model in models}
    return [model for model, kind in kinds.items() if all(issubclass(kind, one) for one in abilities)]


def sampled(model: str, n: int, seed: int | None) -> Image.Image:
    """Samples as one picture."""
    n = _whole(n, "images", 1, MOST_IMAGES)
    method: Any = from_folder(model_folder(model))
    return grid(method.sample(n, generator=_stream(seed)), max(1, round(n**0.5)))


def walked(
    model: str, way: str, first: int | None, second: int | None, seed: int | None
) -> Image.Image | Path:
    """A walk as a picture, or as the file of a film."""
    method, data = _opened(model)
    if way == CHAIN:
        handle, name = tempfile.mkstemp(".gif", dir=_scratch().name)
        os.close(handle)
        save_film(method.walk(CHAINS, generator=_stream(seed)), name, round(CHAINS**0.5), FRAMES)
        return Path(name)
    x = data.split("test").x
    if way == BETWEEN:
        one, two = (x[_whole(place, "test image", 0, len(x) - 1)][None] for place in (first, second))
        images = interpolate(method, one, two, STEPS)
    else:
        images = traverse(method, x[:CODES], _directions(method, x), STEPS)
    return grid(images.flatten(0, 1), STEPS)


def canvas(model: str, place: int | None) -> Image.Image:
    """A test image, large enough to draw on."""
    x = _opened(model)[1].split("test").x
    image = x[_whole(place, "test image", 0, len(x) - 1)]
    array = (image.clamp(0, 1) * 255).round().byte().numpy().transpose(1, 2, 0)
    picture = Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)
    return picture.resize((CANVAS, CANVAS), Image.Resampling.NEAREST)


def repaired(
    model: str, place: int | None, drawn: dict[str, Any] | None, also: str, seed: int | None
) -> Image.Image:
    """The image, what is known of it, and what the method makes of that; hidden is what was drawn over.

    Args:
        model: Repairs.
        place: Which test image.
        drawn: `layers`, pictures with an opacity: what is opaque is hidden.
        also: A side that is hidden too, or `NOTHING`.
        seed: Seed of the repair.
    """
    method, data = _opened(model)
    images = data.split("test").x
    x = images[_whole(place, "test image", 0, len(images) - 1)][None]
    known = torch.ones_like(x) if also == NOTHING else mask(data.image_shape, also).expand_as(x)  # pyright: ignore
    for layer in (drawn or {}).get("layers", []):
        known = known * (1 - _covered(layer, x))
    require(bool((known == 0).any()), "draw over what is to be filled in, or hide a side")
    filled = method.repair(x, known, generator=_stream(seed))
    shown = grid(torch.cat((x, torch.where(known.bool(), x, 0.5), filled)), 3)
    return shown.resize((3 * CANVAS, 3 * CANVAS * shown.height // shown.width), Image.Resampling.NEAREST)


def compared(one: str, other: str) -> str:
    """The numbers that two checkpoints have under one protocol, as a Markdown table."""
    require(one != other, f"choose two different models, got {one} twice")
    shown = boards(map(entrant, (_checkpoint(one), _checkpoint(other))), num_least=2)
    if not shown:
        return (
            f"{one} and {other} have no number under one protocol: they were not scored on the same images."
        )
    lines = [f"| number | unit | {one} | {other} | clearly better |", "|---|---|---|---|---|"]
    for board in shown:
        cells = {entry.slug: str(entry.number) for entry in board.entries}
        ranks = dict(zip((entry.slug for entry in board.entries), board.ranks(), strict=True))
        best = min(ranks, key=lambda slug: ranks[slug]) if len(set(ranks.values())) > 1 else "neither"
        lines.append(f"| {board.metric} | {board.unit} | {cells[one]} | {cells[other]} | {best} |")
    return "\n".join([*lines, "", f"Clearly better: the 95 % intervals do not overlap. {SIGNS}"])


def page(models: Sequence[str]) -> gr.Blocks:
    """The page over these models, not yet served.

    Raises:
        UsageError: If a model is not there, or there is none.
    """
    require(bool(models), "the demo needs at least one checkpoint, found none")
    samplers, repairers = able(models, Samples), able(models, Repairs)
    walkers = [model for model in models if ways(model)]
    with gr.Blocks(title="zoo: demo", analytics_enabled=False) as blocks:
        gr.Markdown("# zoo\nThe classic deep generative models, from their published weights.")
        if samplers:
            _sample_tab(samplers)
        if walkers:
            _walk_tab(walkers)
        if repairers:
            _repair_tab(repairers)
        if len(samplers) > 1:
            _compare_tab(samplers)
    return blocks


def ways(model: str) -> list[str]:
    """How one can walk through a model."""
    codes, chains = able([model], Encodes, Decodes), able([model], Walks)
    return [*([BETWEEN, ALONG] if codes else []), *([CHAIN] if chains else [])]


def serve(models: Sequence[str], host: str, port: int) -> None:
    """Serve the page until interrupted.

    Raises:
        UsageError: If there is no such model, or the port is taken.
    """
    blocks = page(models or list_models(pretrained=True))
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            theme=Base(font="system-ui", font_mono="ui-monospace"),
            css=CSS,
            footer_links=[],
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UsageError(f"port must be free on {host}, got {port}: {error}") from error
    sys.stdout.write(f"demo: {blocks.local_url} (Ctrl-C ends it)\n")
    sys.stdout.flush()
    blocks.block_thread()


def _sample_tab(models: Sequence[str]) -> None:
    with gr.Tab("Sample"):
        with gr.Row():
            model = gr.Dropdown(models, label="Model")
            n = gr.Slider(1, MOST_IMAGES, 64, step=1, label="Images")
            seed = _seed()
        button, shown = gr.Button("Draw", variant="primary"), _picture("Samples")
        button.click(_told(sampled), [model, n, seed], shown)


def _walk_tab(models: Sequence[str]) -> None:
    with gr.Tab("Walk"):
        with gr.Row():
            model = gr.Dropdown(models, label="Model")
            way = gr.Radio(ways(models[0]), value=ways(models[0])[0], label="Way")
        with gr.Row():
            first, second = _place("From test image", 0), _place("To test image", 1)
            seed = _seed()
        model.change(lambda name: gr.Radio(ways(name), value=ways(name)[0]), model, way)
        button, shown = gr.Button("Walk", variant="primary"), _picture("Walk")
        button.click(_told(walked), [model, way, first, second, seed], shown)


def _repair_tab(models: Sequence[str]) -> None:
    with gr.Tab("Repair"):
        with gr.Row():
            model, place = gr.Dropdown(models, label="Model"), _place("Test image", 0)
            also, seed = gr.Dropdown([NOTHING, *EDGES], label="Hide also"), _seed()
        begin = gr.Button("Show the image")
        with gr.Row():
            editor = gr.ImageEditor(
                type="pil",
                label="Draw over what is to be filled in",
                brush=gr.Brush(colors=["#d9534f"], default_size=CANVAS // 8, color_mode="fixed"),
                sources=(),
                transforms=(),
                layers=False,
                canvas_size=(CANVAS, CANVAS),
                format="png",
            )
            shown = _picture("The image, what is known of it, filled in")
        gr.on([begin.click, model.change, place.change], _told(canvas), [model, place], editor)
        button = gr.Button("Fill in", variant="primary")
        button.click(_told(repaired), [model, place, editor, also, seed], shown)


def _compare_tab(models: Sequence[str]) -> None:
    data = {model: _checkpoint(model).config["data"] for model in models}
    rival = next((model for model in models[1:] if data[model] == data[models[0]]), models[1])
    with gr.Tab("Compare"):
        with gr.Row():
            one = gr.Dropdown(models, value=models[0], label="One model")
            other = gr.Dropdown(models, value=rival, label="Another model")
            seed = _seed()
        button = gr.Button("Compare", variant="primary")
        with gr.Row():
            left, right = _picture("One"), _picture("Another")
        numbers = gr.Markdown()

        def both(one: str, other: str, seed: int | None) -> tuple[Image.Image, Image.Image, str]:
            text = compared(one, other)
            return sampled(one, SIDE_BY_SIDE, seed), sampled(other, SIDE_BY_SIDE, seed), text

        button.click(_told(both), [one, other, seed], [left, right, numbers])


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is wrong is told on the page, in one line."""

    @wraps(function)
    @torch.no_grad()
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UsageError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return call


def _picture(label: str) -> gr.Image:
    with gr.Column():
        picture = gr.Image(
            alt_text=label,
            show_label=False,
            format="png",
            interactive=False,
            buttons=["download", "fullscreen"],
        )
        gr.Markdown(label)
    return picture


def _seed() -> gr.Number:
    return gr.Number(0, label="Seed", precision=0)


def _place(label: str, value: int) -> gr.Number:
    return gr.Number(value, label=label, precision=0)


def _whole(value: int | None, name: str, least: int, most: int) -> int:
    fits = value is not None and value % 1 == 0 and least <= value <= most
    require(fits, f"{name} must be a whole number from {least} to {most}, got {value}")
    return int(value or 0)


def _stream(seed: int | None) -> torch.Generator:
    return torch.Generator().manual_seed(_whole(seed, "seed", 0, 2**31 - 1))


def _directions(method: Any, x: Tensor) -> int:
    return min(DIRECTIONS, method.encode(x[:1]).shape[1])


def _covered(layer: Image.Image, x: Tensor) -> Tensor:
    """Pixels [1, 1, H, W] over which the drawing lies for more than half."""
    height, width = x.shape[-2:]
    opacity = layer.convert("RGBA").getchannel("A").resize((width, height), Image.Resampling.BOX)
    return (torch.from_numpy(np.asarray(opacity).copy()) > 127).to(x).expand(1, 1, height, width)
