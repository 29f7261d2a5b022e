"""eventcore: event analytics that you own, exact and in milliseconds."""
