"""What runs on Ray, and the only place in the library that imports it."""
