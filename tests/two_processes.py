"""As a script: fits the tiny methods of test_contract.py on two processes, prints what each learnt."""

import warnings

import torch.distributed
from test_contract import MatchingMeans, MeanByDescent, MeanInOnePass, trainer

from zoo.data import Digits


def main() -> None:
    warnings.simplefilter("ignore")
    for cls, weight in ((MatchingMeans, "right.weight"), (MeanInOnePass, "mean"), (MeanByDescent, "mean")):
        method = cls()
        data = Digits(binarize="none", batch_size=25)
        fitting = trainer(devices=2, strategy="ddp", max_epochs=3)
        fitting.fit(method, datamodule=data)
        learnt = method.state_dict()[weight].double().mean()
        both = fitting.strategy.all_gather(learnt)
        if fitting.is_global_zero:
            print(cls.__name__, *both.tolist())
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
