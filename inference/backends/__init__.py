"""Where the runs of a comparison are trained: here, in processes, on many machines."""
