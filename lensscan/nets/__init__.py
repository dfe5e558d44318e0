"""Networks: blocks and heads, the model file and its card, and the scorer that runs models over batches."""
