"""As a script: fits the tiny methods of test_contract.py on two processes, prints what each learnt."""

import warnings

from test_contract import MatchingMeans, MeanByDescent, MeanInOnePass, trainer

from zoo.data import Digits


def main() -> None:
    warnings.simplefilter("ignore")
    for cls, weight in ((MatchingMeans, "right.weight"), (MeanInOnePass, "mean"), (MeanByDescent, "mean")):
        method = cls()
        data = Digits(binarize="none", batch_size=25)
        trainer(devices=2, strategy="ddp_spawn", max_epochs=3).fit(method, datamodule=data)
        print(cls.__name__, method.state_dict()[weight].mean().item())


if __name__ == "__main__":
    main()
