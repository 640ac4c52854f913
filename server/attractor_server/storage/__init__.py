"""The backend store: memories in a database, and what is too large for its rows in an artifact store."""
