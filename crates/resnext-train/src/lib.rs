//! Training loop, optimizer, schedules, metrics and resumable checkpoints for candle networks.
