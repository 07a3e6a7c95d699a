"""Latent-variable models trained through a variational bound."""
