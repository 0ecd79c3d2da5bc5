"""A small shop: its settings, its orders, and the workflows that fulfil them."""
