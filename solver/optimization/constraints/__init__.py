"""Constraint programming: whole numbers, booleans and intervals under constraints of many kinds."""
