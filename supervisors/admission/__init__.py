"""How tasks come in: accepted, refused early, and held until they may begin."""
