"""Where models and data come from: hub, object store, web server, claim or image."""
