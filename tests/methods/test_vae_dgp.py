"""Facts of the deep Gaussian process with a recognition chain."""

TINY = {"latent_dims": (3, 2), "hidden_dims": (9,), "num_inducing": 4, "frozen_noise_epochs": 1, "repair_steps": 3}
