"""Facts of the nCRP-VAE."""

TINY = {
    "latent_dim": 3,
    "hidden_dims": (6,),
    "branching": (2, 2),
    "node_std": 2.0,
    "concentration": 1.0,
    "pretrain_epochs": 1,
    "num_sweeps": 2,
}
