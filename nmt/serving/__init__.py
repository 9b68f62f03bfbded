"""HTTP server for translation; needs the extra `serve`."""
