"""How fast and how good supernets are."""
