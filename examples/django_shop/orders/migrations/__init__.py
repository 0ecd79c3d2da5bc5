"""The tables of the shop's own."""
