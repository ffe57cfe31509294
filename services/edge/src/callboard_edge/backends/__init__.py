"""What the edge reaches over the bus: jobs, their frames and results, workers and quota."""
