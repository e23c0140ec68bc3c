"""Products with quantised weights that are faster than computing the weight first."""
