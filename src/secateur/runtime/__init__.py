"""A checkpoint at work: lowering to a plan, the engine, and texts in, labels out. Free of torch."""
