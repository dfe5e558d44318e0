"""The scan: plan, protocol, scheduler, worker, shards, merge."""
