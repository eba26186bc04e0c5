"""Nonlinear programs: read as expressions or .nl files, solved locally or globally, and checked."""
