"""The worker: takes events from the queue into the store, any number of processes beside each other."""
