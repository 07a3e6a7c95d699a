"""As a script: codes of all images, learnt on two processes; prints each one's largest error."""

import warnings

import torch.distributed
from test_contract import trainer
from test_latent import exact_glo

from zoo.data.sets import Digits
from zoo.methods.autoencoders.glo import into_ball


def main() -> None:
    warnings.simplefilter("ignore")
    method, data = exact_glo(batch_size=25), Digits(binarize="none", batch_size=25, subset=1250)
    fitting = trainer(devices=2, strategy="ddp", max_epochs=1)
    fitting.fit(method, datamodule=data)
    x = data.originals("train").flatten(1).float() / 255
    errors = fitting.strategy.all_gather((method.codes.detach() - into_ball(x)).abs().max())
    if fitting.is_global_zero:
        print(*errors.tolist())
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
