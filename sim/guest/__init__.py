"""Real guests on the card: the pace of the simulation, the wire's far end, and the protocols."""
