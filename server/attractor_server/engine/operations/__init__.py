"""One module for each operation on memories."""
