"""Methods whose samples end a learnt Markov chain that destroys, or makes, images step by step."""
