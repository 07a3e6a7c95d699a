"""As a script: scores a tiny VAE on two processes and writes what each rank found into the folder given."""

import sys
import warnings

import torch.distributed
from conftest import tiny
from test_contract import trainer

from zoo.data.sets import Digits
from zoo.scores.evaluation import Evaluator


def main(folder: str) -> None:
    warnings.simplefilter("ignore")
    evaluator = Evaluator(num_samples=3, out=f"{folder}/two.json")
    testing = trainer(devices=2, strategy="ddp", callbacks=[evaluator])
    testing.test(tiny("VAE"), datamodule=Digits(), verbose=False)
    evaluator.results.write(f"{folder}/rank{testing.global_rank}.json")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
