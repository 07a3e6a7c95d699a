"""Methods that give images an energy: Boltzmann machines and stacks of them."""
