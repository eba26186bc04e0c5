"""Linear, mixed-integer and quadratic programs: read, solved by the engine that suits, and checked.

Nothing is imported here: the process that solves starts with what it needs, and no more.
"""
