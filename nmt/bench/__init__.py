"""How fast it is: figures with their unit, what they count, and what they are measured against."""
