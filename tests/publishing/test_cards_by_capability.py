"""A card says of a method what it can do, and of one that draws no images never how to draw some."""

import pytest
from support import having

import zoo
from zoo.contract.capabilities import Samples
from zoo.publishing import cards
from zoo.publishing.checkpoints import checkpoints

PUBLISHED = checkpoints()
SILENT = [slug for slug, one in PUBLISHED.items() if one.config["class"] not in having(Samples)]


@pytest.mark.parametrize("slug", SILENT)
def test_a_card_of_what_draws_no_images_promises_none(slug):
    text = cards.card(PUBLISHED[slug])
    assert "method.sample" not in text
    assert "samples.png" not in text
    assert "image-generation" not in text
    assert "It draws" not in text
    picture = text.split("](")[1].split(")")[0]
    assert (PUBLISHED[slug].folder / picture).is_file()


@pytest.mark.parametrize(
    ("name", "task", "call"),
    [
        ("VAE", "unconditional-image-generation", "images = method.sample(64, "),
        ("LabelDBN", "unconditional-image-generation", "images = method.sample(64, "),
        (
            "VIB",
            "image-classification",
            "log_p = method.classify(x)  # [B, classes] of images x [B, 1, 8, 8]",
        ),
        ("DeepAutoencoder", "image-feature-extraction", "codes = method.encode(x)  # [B, D] of images x"),
    ],
)
def test_the_task_and_the_example_follow_from_what_a_method_can_do(name, task, call):
    said = cards.use(zoo.method_class(name), "1, 8, 8")
    assert said["task"] == task
    assert said["example"].startswith(call)
