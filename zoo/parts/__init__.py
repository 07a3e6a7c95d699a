"""Mathematics without a paper: networks, distributions, estimators, annealing."""
