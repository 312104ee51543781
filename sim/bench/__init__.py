"""How far the card is from what is physically possible: points, limits, results."""
