"""The same interface on Dask."""
