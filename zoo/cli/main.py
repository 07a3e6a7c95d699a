"""The command line: `fit`, `validate`, `test` and `predict` through LightningCLI, light verbs beside it.

A user's mistake ends with one line on standard error and status 2; a run whose terms are no longer finite,
with one line and status 1.
"""

import os
import sys
from collections.abc import Sequence

from zoo.errors import NonFiniteError, UsageError, require

HEAVY = ("fit", "validate", "test", "predict")
USAGE = """\
usage: zoo VERB [options]          (python -m zoo VERB --help)

train and score, configured by YAML:
  fit       train a recipe, score it, save it:   zoo fit --config configs/variational/vae_digits.yaml
  test      score a checkpoint again:            zoo test --ckpt_path runs/vae-digits/version_0/best.ckpt
  validate  the validation terms of a checkpoint
  predict   codes and reconstructions of the test images, as safetensors

at hand:
  sample    draw images from a saved model:      zoo sample runs/vae-digits/version_0/model --n 64
  repair, interpolate, traverse, nearest, map
            fill in hidden pixels, walk through codes, find the training images behind samples, map codes
  score     score saved models from their weights: zoo score runs/vae-digits/version_0/model --metrics fid kid
  reproduce train and score recipes, collect them in checkpoints/
  leaderboard  checkpoints and runs ranked by protocol, in the terminal or as a page
  demo      a page in the browser: sample, walk, repair, compare
  publish   checkpoints on the Hugging Face Hub
  compare   results.json files side by side, two of them paired image by image
  list      methods and recipes
  data      prepare or show a data set
  features  train the features of one's own labelled data, for FID and its like
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit with 0, 1 (not finite) or 2 (a mistake)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return
    if argv[0] == "--version":
        import zoo

        sys.stdout.write(f"zoo {zoo.__version__}\n")
        return
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    try:
        if argv[0] in HEAVY:
            from zoo.cli.fit import run

            run(argv)
        else:
            from zoo.cli.light import VERBS, run

            known = ", ".join([*HEAVY, *VERBS])
            require(argv[0] in VERBS, f"unknown verb {argv[0]!r}: choose from {known}")
            run(argv)
    except UsageError as error:
        _stop(str(error), 2)
    except NonFiniteError as error:
        _stop(str(error), 1)
    except OSError as error:
        if error.errno is None or error.strerror is None:
            raise
        where = f": {error.filename}" if error.filename else ""
        _stop(f"{error.strerror}{where}", 2)
    except KeyboardInterrupt:
        _stop("interrupted", 130)


def _stop(message: str, status: int) -> None:
    sys.stderr.write(f"zoo: error: {' '.join(message.split())}\n")
    sys.exit(status)
