"""From rows to token ids and labels: tokenizer, chat template, packing."""
