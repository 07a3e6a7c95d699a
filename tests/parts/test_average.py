"""The moving average of weights."""

import torch
from support import batch, begun


def test_the_average_of_a_constant_stream():
    method = begun("Diffusion", ema_decay=0.5)
    with torch.no_grad():
        for p in method.average.network.parameters():
            p.zero_()
        for p in method.chain.parameters():
            p.fill_(1.0)
    weight = 0.0
    for k in range(6):
        method.on_train_batch_end(None, batch(), k)
        decay = min(0.5, (1 + k) / (10 + k))
        weight = decay * weight + 1 - decay
        for p in method.average.network.parameters():
            torch.testing.assert_close(p, torch.full_like(p, weight))
