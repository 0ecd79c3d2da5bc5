"""Real worker processes for tests: started, stopped, frozen and killed like in real life."""
