"""Fast weights of pages: in the bank, in fewer bits, and spilled to a file."""
