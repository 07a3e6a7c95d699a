"""As a script: an RBM with persistent chains on two processes, stopped and resumed; prints what it finds."""

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed
from conftest import tiny
from test_contract import trainer

from zoo.data.sets import Digits


def main() -> None:
    warnings.simplefilter("ignore")
    path = str(Path(sys.argv[1]) / "last.ckpt")

    def fit(epochs: int, ckpt_path: str | None = None):
        method = tiny("RBM")
        fitting = trainer(devices=2, strategy="ddp", max_epochs=epochs, limit_train_batches=3)
        fitting.fit(method, datamodule=Digits(batch_size=25), ckpt_path=ckpt_path)
        return method, fitting

    method, fitting = fit(2)
    fitting.save_checkpoint(path)
    weights = fitting.strategy.all_gather(method.weight.detach())
    fast = fitting.strategy.all_gather(method.fast_weight)
    chains = fitting.strategy.all_gather(method.chains)
    assert torch.equal(*weights)
    assert torch.equal(*fast)
    assert not torch.equal(*chains)
    if fitting.is_global_zero:
        print("weights equal, chains differ")
    fitting.strategy.barrier()
    resumed, fitting = fit(2, path)  # nothing is left to train: what was saved is what is there
    assert torch.equal(resumed.chains, chains[fitting.global_rank])
    if fitting.is_global_zero:
        print("resumed: every process has its own")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
