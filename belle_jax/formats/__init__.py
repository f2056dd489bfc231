"""Published layouts of models: Hugging Face's, Meta's, PaddleNLP's."""
