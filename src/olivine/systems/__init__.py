"""Where a job runs: a worker process, started here or elsewhere, that reads jobs and writes events."""
