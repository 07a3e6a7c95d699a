TINY = {
    "hidden_dims": (7, 5),
    "pretrain_epochs": (1, 1),
    "num_chains": 5,
    "tracking_steps": 4,
    "walk_steps": 10,
}
