"""As a script: all that is checked on two processes, in one pair of them; what they find goes to a folder."""

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed
from support import (
    ALL,
    EPOCHS_OF_PHASES,
    MatchingMeans,
    MeanByDescent,
    MeanInOnePass,
    lasting,
    suited_digits,
    tiny,
    trainer,
)
from test_glo import exact_glo
from test_metric_classes import on_this_process

from zoo.data.sets import Digits
from zoo.methods.autoencoders.glo import into_ball
from zoo.scores.evaluation import Evaluator


def two(**options):
    return trainer(devices=2, strategy="ddp", **options)


def ways_of_learning(folder: Path) -> list[str]:
    """The mean that each of the smallest methods has learnt, on both processes."""
    lines = []
    for cls, weight in ((MatchingMeans, "right.weight"), (MeanInOnePass, "mean"), (MeanByDescent, "mean")):
        method, fitting = cls(), two(max_epochs=3)
        fitting.fit(method, datamodule=Digits(binarize="none", batch_size=25))
        both = fitting.strategy.all_gather(method.state_dict()[weight].double().mean())
        lines.append(" ".join([cls.__name__, *map(str, both.tolist())]))
    return lines


def methods(folder: Path) -> list[str]:
    """The largest difference of the shared state of each method, and that of its sum."""
    lines = []
    for name in ALL:
        method, fitting = tiny(name), two(max_epochs=EPOCHS_OF_PHASES, limit_train_batches=3)
        fitting.fit(method, datamodule=suited_digits(method, batch_size=25))
        shared = [value for key, value in lasting(method).items() if key not in method.per_process]
        one, other = fitting.strategy.all_gather(torch.cat([value.double().flatten() for value in shared]))
        lines.append(f"{name} {float((one - other).abs().max())} {float(one.sum() - other.sum())}")
    return lines


def chains(folder: Path) -> list[str]:
    """An RBM with persistent chains, stopped and resumed: which states the two processes share."""
    path = str(folder / "last.ckpt")

    def fit(ckpt_path: str | None = None):
        method, fitting = tiny("RBM"), two(max_epochs=2, limit_train_batches=3)
        fitting.fit(method, datamodule=Digits(batch_size=25), ckpt_path=ckpt_path)
        return method, fitting

    method, fitting = fit()
    fitting.save_checkpoint(path)
    weights = fitting.strategy.all_gather(method.weight.detach())
    fast = fitting.strategy.all_gather(method.fast_weight)
    states = fitting.strategy.all_gather(method.chains)
    assert torch.equal(*weights)
    assert torch.equal(*fast)
    assert not torch.equal(*states)
    fitting.strategy.barrier()
    resumed, fitting = fit(path)  # nothing is left to train: what was saved is what is there
    assert torch.equal(resumed.chains, states[fitting.global_rank])
    return ["weights equal, chains differ", "resumed: every process has its own"]


def codes(folder: Path) -> list[str]:
    """The largest error of the codes of all images, on each process."""
    method, data = exact_glo(batch_size=25), Digits(binarize="none", batch_size=25, subset=1250)
    fitting = two(max_epochs=1)
    fitting.fit(method, datamodule=data)
    x = data.originals("train").flatten(1).float() / 255
    errors = fitting.strategy.all_gather((method.codes.detach() - into_ball(x)).abs().max())
    return [" ".join(map(str, errors.tolist()))]


def scores(folder: Path) -> list[str]:
    """What each process found when they scored a tiny VAE together, as rank0.json and rank1.json."""
    evaluator = Evaluator(num_samples=3, out=str(folder / "two.json"))
    testing = two(callbacks=[evaluator])
    testing.test(tiny("VAE"), datamodule=Digits(), verbose=False)
    evaluator.results.write(str(folder / f"rank{testing.global_rank}.json"))
    return []


def metrics(folder: Path) -> list[str]:
    """What each metric gives on each process, as metrics0.pt and metrics1.pt."""
    rank = torch.distributed.get_rank()
    torch.save(on_this_process(rank), folder / f"metrics{rank}.pt")
    return []


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    for job in (ways_of_learning, methods, chains, codes, scores, metrics):
        torch.manual_seed(0)
        lines = job(folder)
        if torch.distributed.get_rank() == 0:
            (folder / f"{job.__name__}.txt").write_text("\n".join(lines))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
