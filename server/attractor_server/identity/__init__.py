"""Principals and their grants, tokens, and the file that names them. No gRPC here."""
