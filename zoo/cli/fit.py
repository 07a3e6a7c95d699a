"""The heavy verbs (`fit`, `validate`, `test`, `predict`) through LightningCLI, and what follows a fit."""

import inspect
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger

from zoo.contract.capabilities import Samples
from zoo.contract.method import Method
from zoo.contract.saved import class_name, refuse_unsavable, save_pretrained
from zoo.data.modules import ImageData
from zoo.errors import OneLine, UsageError, require
from zoo.files import write_bytes
from zoo.hub import RESULTS, RUN_MODEL
from zoo.methods import METHODS, method_class
from zoo.scores.evaluation import Evaluator, data_of, results_folder
from zoo.scores.results import Results
from zoo.training.callbacks import Grids, Predictions
from zoo.training.runs import (
    BEST,
    CONFIG,
    LAST,
    AtomicCheckpoints,
    Continuity,
    Progress,
    RunLog,
    TimeLimit,
    Unvalidated,
    _new_folder,
    changed,
    quieten,
    wandb_id,
)

WHOLLY_OTHER = ("16-true", "bf16-true", "64-true", "64", 64, "transformer-engine")
"""Precisions of weights that pixels, which are float32, do not have."""
KEPT = "run"
"""Where a checkpoint has what a resumed run is held to."""


def run(argv: list[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict`."""
    quieten()
    for name in METHODS:
        method_class(name)
    # `limit_train_batches: 1` must mean one batch: jsonargparse would try float first and read 100 %.
    for name in ("train", "val", "test", "predict"):
        Trainer.__init__.__annotations__[f"limit_{name}_batches"] = int | float | None
    sys.argv = ["zoo", *_with_config_of_run(argv)]
    try:
        ZooCLI(
            Method,
            ImageData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "prog": "zoo",
                "allow_abbrev": False,
                **{
                    verb: {"usage": f"zoo {verb} [--config FILE] [options]"}
                    for verb in LightningCLI.subcommands()
                },
            },
            trainer_defaults={
                "inference_mode": False,
                "deterministic": "warn",
                "max_epochs": 100,
                "enable_model_summary": False,
            },
        )
    except MisconfigurationException as error:
        raise UsageError(str(error)) from error
    except ValueError as error:  # jsonargparse buries a constructor's own line
        cause = error
        while cause.__cause__ is not None and not isinstance(cause, (UsageError, ModuleNotFoundError)):
            cause = cause.__cause__
        if isinstance(cause, ModuleNotFoundError):  # a logger or a plugin that is not installed
            raise UsageError(str(cause)) from None
        raise (cause if isinstance(cause, UsageError) else error) from None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # its threads may abort a process that ends without this


def _with_config_of_run(argv: list[str]) -> list[str]:
    """`--ckpt_path` alone is enough: the run's own config.yaml lies beside the checkpoint."""
    if any(a in ("--config", "-c") or a.startswith("--config=") for a in argv):
        return argv
    for i, argument in enumerate(argv):
        value = argument.removeprefix("--ckpt_path=") if argument.startswith("--ckpt_path=") else None
        if argument == "--ckpt_path" and i + 1 < len(argv):
            value = argv[i + 1]
        if value not in (None, "last", "best") and (config := Path(value).parent / CONFIG).is_file():
            return [argv[0], "--config", str(config), *argv[1:]]
    return argv


class Parser(OneLine, LightningArgumentParser):
    """LightningCLI's parser; of an unknown class it says which there are."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message on one line."""
        found = re.search(r"Expected a dot import path string: (\S+)", message)
        key = message.removeprefix("Parser key ").split(":")[0]
        if found and key in ('"model"', '"data"'):
            known = METHODS if key == '"model"' else _data_modules()
            message = f"unknown class {found[1]}, choose from {', '.join(sorted(known))}"
        super().error(message, ex)


def _data_modules(base: type = ImageData) -> set[str]:
    children = set().union(*map(_data_modules, base.__subclasses__()))
    return children if inspect.isabstract(base) else children | {base.__name__}


class SaveConfig(SaveConfigCallback):
    """config.yaml of a fit, where another one is never overwritten, and the settings in its checkpoints.

    A checkpoint has what a resumed run is held to: the settings, the hashes of the images, and how many
    processes share a batch.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write on the first process, at the start of a fit."""
        folder = trainer.log_dir
        if stage != "fit" or not trainer.is_global_zero or folder is None:
            return
        text = self.parser.dump(self.config, skip_none=False)
        path, number = Path(folder) / CONFIG, 0
        while path.is_file() and path.read_text() != text:
            number += 1
            path = Path(folder) / f"config_resumed_{number}.yaml"
        write_bytes(path, text.encode())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What checkpoints will keep."""
        self._kept = {
            "settings": _settings(self.parser, self.config),
            "images": _hashes(data_of(trainer)),
            "num_processes": trainer.world_size,
        }

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep it."""
        checkpoint[KEPT] = self._kept


def _settings(parser: LightningArgumentParser, config: Namespace) -> dict[str, Any]:
    """All settings as plain values."""
    return yaml.safe_load(parser.dump(config, skip_none=False))


def _hashes(data: ImageData) -> dict[str, str]:
    return {"training": data.train_hash(), "test": data.test_hash()}


class SaveModel(Callback):
    """Saves the weights that are about to be scored: no score and no picture can lose them."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save on the first process."""
        if trainer.is_global_zero:
            assert isinstance(pl_module, Method)
            save_pretrained(pl_module, results_folder(trainer) / RUN_MODEL, data_of(trainer).recipe())


class ZooCLI(LightningCLI):
    """LightningCLI with the zoo's run folder, score and saved model."""

    folder: Path | None = None
    """Where this fit keeps its files; None where it keeps none."""
    _kept: dict[str, Any] = {}
    """What the checkpoint says of the run that this fit goes on with."""
    _of_wandb: tuple[type[Exception], ...] = ()
    """What W&B raises against a key, a name or a network."""
    _new = False
    """Whether this fit made its folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the score, the pictures and the W&B switch; link the image shape."""
        parser.add_lightning_class_args(Evaluator, "score")
        parser.add_lightning_class_args(Grids, "grids")
        parser.add_argument(
            "--wandb", type=bool | str, default=False, help="Log to W&B too: true, or the name of a project."
        )
        parser.link_arguments("data.image_shape", "model.init_args.image_shape", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Resolve `last` and `best`, and refuse a checkpoint whose model contradicts the config."""
        config = self.config[self.config.subcommand]
        given = config.get("ckpt_path")
        if given is None:
            verb = self.config.subcommand
            require(
                verb == "fit", f"{verb} needs --ckpt_path FILE, last or best: there are no weights otherwise"
            )
            return
        path = self._resolve(given)
        config["ckpt_path"] = str(path)
        try:
            checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise UsageError(f"ckpt_path must be a checkpoint of a fit, {path} is not") from error
        saved = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
        require(bool(saved), f"ckpt_path must be a checkpoint of a fit, {path} holds no hyper-parameters")
        fitting = self.config.subcommand == "fit"
        asked = _settings(self._parser(self.config.subcommand), config)
        as_saved = asked["model"] | {"init_args": {name: _plain(value) for name, value in saved.items()}}
        kept = checkpoint.get(KEPT, {"settings": {"model": as_saved}})
        parts = asked if fitting else {"model": asked["model"]}
        differences = "; ".join(changed(kept["settings"], parts))
        require(not differences, f"settings must be those of {path}: {differences}")
        self._kept = kept if fitting else {}
        most, begun = config.trainer.max_epochs, checkpoint.get("epoch", 0) + 1
        require(
            not fitting or most in (None, -1) or begun <= most,
            f"trainer.max_epochs must be at least {begun}, the epochs of {path}, got {most}",
        )

    def _resolve(self, given: str) -> Path:
        if given in ("last", "best"):
            name = LAST if given == "last" else BEST
            found = sorted(
                self._recipe_folder().glob(f"version_*/{name}"), key=lambda path: path.stat().st_mtime
            )
            require(
                bool(found), f"ckpt_path: {given} needs an earlier run, found none in {self._recipe_folder()}"
            )
            return found[-1]
        path = Path(given)
        require(path.is_file(), f"ckpt_path must be a file, last or best, got {given!r}")
        return path

    def _recipe_folder(self) -> Path:
        """`runs/<slug>`, the slug from the name of the recipe."""
        config = self.config[self.config.subcommand]
        files = [str(path) for path in config.get("config") or []]
        if files:
            slug = Path(files[-1]).stem
            if slug == "config":
                slug = Path(files[-1]).resolve().parent.parent.name
        else:
            slug = "-".join(config[part].class_path.rsplit(".", 1)[-1].lower() for part in ("model", "data"))
        return Path(config.trainer.default_root_dir or "runs") / slug.replace("_", "-")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer around the folder of this run."""
        config = self.config_init[str(self.subcommand)]
        callbacks = _listed(config.trainer.callbacks)
        require(
            config.trainer.precision not in WHOLLY_OTHER,
            f"trainer.precision must be 32-true, 16-mixed or bf16-mixed, got {config.trainer.precision}",
        )
        settings: dict[str, Any] = {"plugins": [*_listed(config.trainer.plugins), AtomicCheckpoints()]}
        bar = config.trainer.enable_progress_bar is not False and sys.stdout.isatty()
        settings["enable_progress_bar"] = bar
        if bar:
            callbacks.append(Progress(leave=False))
        if config.trainer.max_time is not None:
            callbacks.append(TimeLimit(config.trainer.max_time, verbose=False))
            settings["max_time"] = None
        if self.subcommand == "predict":
            callbacks.append(Predictions())
        if self.subcommand == "fit":
            self._refuse_other_shape(config.get("config") or [])
            self.datamodule.setup()
            self.model.refuse_unsuitable(self.datamodule)
            refuse_unsavable(self.model)
            self._refuse_other_images()
        if self.subcommand == "fit" and not config.trainer.fast_dev_run:
            watched = self._watched(config)
            checkpoint = config.get("ckpt_path")
            self.folder = Path(checkpoint).parent if checkpoint else _new_folder(self._recipe_folder())
            self._new = checkpoint is None
            callbacks += [*self._checkpoints(self.folder, watched), Continuity(), Unvalidated(), SaveModel()]
            settings["default_root_dir"] = self.folder
        else:
            settings["enable_checkpointing"] = False
        try:
            settings["logger"] = self._loggers(config)
            trainer = super().instantiate_trainer(**settings, callbacks=callbacks, **kwargs)
        except UsageError:
            self._remove_empty_run()
            raise
        except (ModuleNotFoundError, MisconfigurationException, RuntimeError, ValueError) as error:
            self._remove_empty_run()
            raise UsageError(f"the trainer cannot be set up: {error}") from error
        before = self._kept.get("num_processes", trainer.world_size)
        require(
            trainer.world_size == before,
            f"a run must go on with as many processes as before, {before}, got {trainer.world_size}",
        )
        return trainer

    def _refuse_other_images(self) -> None:
        """A resumed run goes on with the images that it began with."""
        if "images" in self._kept:
            now = _hashes(self.datamodule)
            other = " and ".join(name for name, value in self._kept["images"].items() if now[name] != value)
            require(
                not other,
                f"a run must go on with its own images, the {other} images of {self.datamodule.source.name} "
                "are others now: start a new run",
            )

    def _loggers(self, config: Namespace) -> list[Logger] | Logger | bool:
        """metrics.csv, what the config adds, and W&B if asked for; none with `trainer.logger: false`."""
        asked, folder = config.trainer.logger, self.folder
        if folder is None:
            return asked or False
        if asked is False:
            return []
        loggers: list[Logger] = [RunLog(folder), *([] if asked in (None, True) else _listed(asked))]
        if config.wandb:
            import wandb

            self._of_wandb = (wandb.Error,)
            project = config.wandb if isinstance(config.wandb, str) else "zoo"
            name = f"{folder.parent.name}-{folder.name}"
            loggers.append(WandbLogger(project=project, name=name, save_dir=str(folder), id=wandb_id(folder)))
        return loggers

    def _remove_empty_run(self) -> None:
        """A mistake that shows before the first checkpoint leaves no folder behind."""
        if self.folder and self._new and not any(self.folder.glob("*.ckpt")):
            shutil.rmtree(self.folder)

    def _refuse_other_shape(self, files: list[Any]) -> None:
        """The model's shape is linked to the data's: a shape that was asked for must be that one."""
        texts = [*sys.argv, *(Path(str(file)).read_text() for file in files)]
        asked = self.config[str(self.subcommand)].model.init_args.get("image_shape")
        if asked is not None and any("image_shape" in text for text in texts):
            shape = self.datamodule.image_shape
            require(
                tuple(asked) == shape, f"model.image_shape must be that of the data, {shape}, got {asked}"
            )

    def _watched(self, config: Namespace) -> dict[str, Any] | None:
        """What picks the best checkpoint, and of which epochs; None where the last is kept."""
        score_every = config.score.every_n_epochs
        if self.datamodule.num_validation == 0 or config.trainer.limit_val_batches == 0:
            require(
                not score_every,
                f"score.every_n_epochs must be 0 where nothing is validated, got {score_every}",
            )
            return None
        if self.model.monitor is not None:
            metric, mode = self.model.monitor
            return {"monitor": metric, "mode": mode}
        if score_every and isinstance(self.model, Samples):
            return {"monitor": "val/fid", "mode": "min", "every_n_epochs": score_every}
        return None

    def _checkpoints(self, folder: Path, watched: dict[str, Any] | None) -> list[Callback]:
        settings = {"dirpath": folder, "enable_version_counter": False, "auto_insert_metric_name": False}
        last = ModelCheckpoint(filename=Path(LAST).stem, save_on_train_epoch_end=True, **settings)
        if watched is None:
            return [last]
        return [ModelCheckpoint(filename=Path(BEST).stem, **settings, **watched), last]

    def before_test(self) -> None:
        """Refuse to write over a score on other images."""
        config = self.config[str(self.subcommand)]
        record = Path(config.ckpt_path).parent / RESULTS
        try:
            before = Results.read(record).data.get("test_sha256")
        except UsageError:  # there is none to lose
            return
        require(
            config.score.out is not None or before == self.datamodule.test_hash(),
            f"{record} is the score on other test images: score.out must name another file",
        )

    def before_fit(self) -> None:
        """Say what is about to happen."""
        if self.trainer.is_global_zero:
            size = sum(p.numel() for p in self.model.parameters())
            name, where = type(self.model).__name__, self.folder or "a trial run, nothing is kept"
            sys.stdout.write(f"{name}, {size:,} parameters, on {self.datamodule.protocol}: {where}\n")
            sys.stdout.flush()

    def fit(self, **arguments: Any) -> None:
        """Train; say how to go on with what was interrupted."""
        try:
            for split in ("val", "test") if self.datamodule.num_validation != 0 else ("test",):
                self.datamodule.refuse_idle(split, self.trainer.world_size)
            self.trainer.fit(**arguments)
        except UsageError:
            self._remove_empty_run()
            raise
        except self._of_wandb as error:
            self._remove_empty_run()
            raise UsageError(f"W&B: {error}") from error
        except SystemExit:  # Lightning's answer to Ctrl-C
            if self.folder and (self.folder / LAST).is_file() and self.trainer.is_global_zero:
                sys.stderr.write(f"zoo: interrupted; go on with --ckpt_path {self.folder / LAST}\n")
            raise

    def after_fit(self) -> None:
        """Save the best weights as a model, score them, and say how to load them."""
        trainer = self.trainer
        if self.folder is None:
            return
        best = self.folder / BEST
        chosen = best if best.is_file() else self.folder / LAST
        trainer.test(self.model, datamodule=self.datamodule, ckpt_path=str(chosen), verbose=False)
        if trainer.is_global_zero:
            folder = self.folder
            sys.stdout.write(f"\nresults: {folder / 'results.json'}\n{self._what_next(folder / RUN_MODEL)}")

    def _what_next(self, folder: Path) -> str:
        """The lines that load the saved method and draw from it, or score it where it does not sample."""
        path = class_name(type(self.model))
        module, _, name = path.rpartition(".")
        imports = f"import zoo; from {module} import {name}" if module else "import zoo"
        loaded = f"zoo.from_pretrained('{folder}'{f', code={name}' if module else ''})"
        code = f" --code {path}" if module else ""
        if not isinstance(self.model, Samples):
            return (
                f'load:    python -c "{imports}; print({loaded})"\n'
                f"score:   python -m zoo score {folder}{code}\n"
            )
        return (
            f"samples: {folder.parent / 'samples.png'}\n"
            f'load:    python -c "{imports}; print({loaded}.sample(4).shape)"\n'
            f"sample:  python -m zoo sample {folder}{code} --n 64 --out samples.png\n"
        )


def _listed(value: Any) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
