"""Cards rendered from records only."""
