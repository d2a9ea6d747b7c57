"""From a config to a result: the plan, the cache, the journal, and the engine that runs the plan."""
