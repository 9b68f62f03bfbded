"""The corpus that comes with nmt: English-German pairs from a small synchronous grammar."""
