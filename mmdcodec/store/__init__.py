"""Paths, files that are whole or absent, locks, jobs that resume."""
