"""Two players: one makes images, the other tells them from real ones."""
