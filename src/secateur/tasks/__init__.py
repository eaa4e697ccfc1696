"""One file a task: its rows and columns, answers from logits, and how answers are scored. Numpy only."""
