"""As a script: fits the methods of test_contract.py and all methods of the zoo on two processes."""

import warnings

import torch.distributed
from conftest import suited_digits, tiny
from test_contract import ALL, EPOCHS_OF_PHASES, MatchingMeans, MeanByDescent, MeanInOnePass, lasting, trainer

from zoo.data.sets import Digits


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
    for name in ALL:
        method = tiny(name)
        fitting = trainer(devices=2, strategy="ddp", max_epochs=EPOCHS_OF_PHASES, limit_train_batches=3)
        fitting.fit(method, datamodule=suited_digits(method, batch_size=25))
        shared = [value for key, value in lasting(method).items() if key not in method.per_process]
        one, two = fitting.strategy.all_gather(torch.cat([value.double().flatten() for value in shared]))
        if fitting.is_global_zero:
            print(name, float((one - two).abs().max()), float(one.sum() - two.sum()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
