"""What it costs, side by side with the hand-written equivalent in one run. See `benchmarks.table` to add one."""
