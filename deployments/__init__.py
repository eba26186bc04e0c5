"""Ray Serve applications: HTTP and nothing else."""
