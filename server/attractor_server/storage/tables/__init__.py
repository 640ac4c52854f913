"""The tables of the backend store: one module for each kind of row."""
