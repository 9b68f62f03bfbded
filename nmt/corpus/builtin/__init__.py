"""Built-in English-German corpus, generated from a small grammar."""
