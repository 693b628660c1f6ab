"""Programs that write generated files, build images and check the code."""
