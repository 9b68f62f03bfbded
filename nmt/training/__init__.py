"""How the weights are learnt."""
